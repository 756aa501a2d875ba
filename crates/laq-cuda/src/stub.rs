//! What takes the place of a GPU in a build without the feature `driver`: the same names, and an error that says so.

use std::path::Path;

use laq_tensor::{BackendError, ConvolutionShape};

use crate::device::{Device, Launch, Pass, Product};
use crate::{LibraryFound, MemoryFound, Precision, Probe};

const MISSING: &str = "this program was built without CUDA; build it with the feature `cuda`";

/// A GPU, of which there is none.
#[derive(Debug)]
pub enum Cuda {}

impl Cuda {
    /// There is none.
    ///
    /// # Errors
    /// Always: [`BackendError::Device`].
    pub fn open(
        index: usize,
        _precision: Precision,
        _cache: Option<&Path>,
    ) -> Result<Self, BackendError> {
        Err(BackendError::Device {
            device: format!("cuda:{index}"),
            what: MISSING.to_owned(),
        })
    }

    /// Nobody can ask.
    pub fn has_cudnn(&self) -> bool {
        match *self {}
    }

    /// There is none.
    ///
    /// # Errors
    /// Never, as nobody can ask.
    pub fn memory(&self) -> Result<MemoryFound, BackendError> {
        match *self {}
    }
}

/// Finds nothing.
pub fn probe() -> Probe {
    Probe {
        libraries: vec![LibraryFound {
            name: "driver",
            version: Err(MISSING.to_owned()),
        }],
        cudnn: Err(MISSING.to_owned()),
        devices: Vec::new(),
    }
}

impl Device for Cuda {
    type Memory = ();
    type Convolution = ();
    type Graph = ();

    fn describe(&self) -> String {
        match *self {}
    }

    fn allocate(&self, _bytes: usize) -> Result<(), BackendError> {
        match *self {}
    }

    fn address(&self, _memory: &()) -> u64 {
        match *self {}
    }

    fn upload(&self, _bytes: &[u8], _offset: usize, _memory: &mut ()) -> Result<(), BackendError> {
        match *self {}
    }

    fn download(&self, _memory: &(), _bytes: &mut [u8]) -> Result<(), BackendError> {
        match *self {}
    }

    unsafe fn launch(&self, _launch: &Launch<'_>) -> Result<(), BackendError> {
        match *self {}
    }

    unsafe fn multiply(&self, _product: &Product) -> Result<(), BackendError> {
        match *self {}
    }

    fn convolution(&self, _shape: ConvolutionShape) -> Result<Option<()>, BackendError> {
        match *self {}
    }

    unsafe fn convolve(&self, _convolution: &(), _pass: &Pass) -> Result<(), BackendError> {
        match *self {}
    }

    fn begin_graph(&self) -> Result<(), BackendError> {
        match *self {}
    }

    fn end_graph(&self) -> Result<(), BackendError> {
        match *self {}
    }

    unsafe fn replay(&self, _graph: &mut ()) -> Result<(), BackendError> {
        match *self {}
    }
}
