//! The API of `cuda/` in a build without the feature `driver`: opening a GPU is an error.

use std::path::Path;

use laq_tensor::{BackendError, ConvolutionShape};

use crate::device::{Device, Launch, Pass, Product};
use crate::{LibraryInfo, MemoryInfo, Precision, Probe};

const MISSING: &str = "this program was built without CUDA; build it with the feature `cuda`";

/// A GPU; uninhabited.
#[derive(Debug)]
pub enum Cuda {}

impl Cuda {
    /// Fails.
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

    /// Never called, as there is no value.
    pub fn has_cudnn(&self) -> bool {
        match *self {}
    }

    /// Never called, as there is no value.
    ///
    /// # Errors
    /// None.
    pub fn memory(&self) -> Result<MemoryInfo, BackendError> {
        match *self {}
    }
}

/// Reports that the build has no CUDA.
pub fn probe() -> Probe {
    Probe {
        libraries: vec![LibraryInfo {
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

    fn name(&self) -> String {
        match *self {}
    }

    fn allocate(&self, _bytes: usize) -> Result<(), BackendError> {
        match *self {}
    }

    fn address(&self, _memory: &()) -> u64 {
        match *self {}
    }

    fn upload(&self, _bytes: &[u8], _offset: usize, _memory: &()) -> Result<(), BackendError> {
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

    fn begin_capture(&self) -> Result<(), BackendError> {
        match *self {}
    }

    fn end_capture(&self) -> Result<(), BackendError> {
        match *self {}
    }

    unsafe fn replay(&self, _graph: &mut ()) -> Result<(), BackendError> {
        match *self {}
    }
}
