//! The seam between the backend and a driver: memory, copies, launches, products, captures.
//!
//! The backend decides what is computed and in which order; a [`Device`] does it. Tests substitute
//! a device that runs the same kernels on the CPU.

use std::fmt::Debug;

use laq_tensor::{BackendError, ConvolutionShape};

use crate::Settings;

/// A GPU, or a substitute for one.
///
/// All calls except [`Device::download`] may execute after they return, in the order of submission.
pub trait Device: Send + Sync + Debug + 'static {
    /// An allocation, freed when it is dropped, after all work submitted before.
    type Memory: Send + Sync + Debug + 'static;
    /// A convolution of one shape, prepared by a library.
    type Convolution: Send + Sync + Debug + 'static;
    /// Captured launches and products, to be replayed.
    type Graph: Send + Debug;

    /// The device, and what else determines the bits of its results.
    fn name(&self) -> String;

    /// The settings of the backend on this device.
    fn settings(&self) -> Settings {
        Settings::default()
    }

    /// See [`Memory::diagnostics`](laq_tensor::Memory::diagnostics).
    fn diagnostics(&self) -> Vec<String> {
        Vec::new()
    }

    /// The number of blocks that are certain to be resident together and so may wait for each
    /// other; 0 without TF32 products or cooperative launches.
    fn max_cooperative_blocks(&self) -> usize {
        0
    }

    /// Allocates `bytes` bytes of zeros, and at least one byte.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, BackendError>;

    /// The address of the first byte on the device.
    fn address(&self, memory: &Self::Memory) -> u64;

    /// Copies `bytes` to `memory` from byte `offset` on; `bytes` may change once the call returns.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn upload(
        &self,
        bytes: &[u8],
        offset: usize,
        memory: &Self::Memory,
    ) -> Result<(), BackendError>;

    /// Waits for all submitted work and copies the start of `memory` to the host.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails, now or in work submitted before.
    fn download(&self, memory: &Self::Memory, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Launches a kernel of [`KERNEL_SOURCES`](crate::KERNEL_SOURCES).
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// The arguments have the types of the kernel's parameters. The memory that they point to is
    /// large enough for the kernel, and is not freed before a later call.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError>;

    /// C ← A B + β C.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// As for [`Device::launch`].
    unsafe fn multiply(&self, product: &Product) -> Result<(), BackendError>;

    /// Prepares a convolution of this shape; `None` if no library computes it.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn convolution(
        &self,
        shape: ConvolutionShape,
    ) -> Result<Option<Self::Convolution>, BackendError>;

    /// Computes one pass of a prepared convolution.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// As for [`Device::launch`].
    unsafe fn convolve(
        &self,
        convolution: &Self::Convolution,
        pass: &Pass,
    ) -> Result<(), BackendError>;

    /// Captures the launches and products that follow instead of executing them.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn begin_capture(&self) -> Result<(), BackendError>;

    /// Ends a capture, whether or not it succeeds.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails, or a captured call cannot be captured.
    fn end_capture(&self) -> Result<Self::Graph, BackendError>;

    /// Executes a graph.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// All memory and all convolutions that the captured calls used still exist.
    unsafe fn replay(&self, graph: &mut Self::Graph) -> Result<(), BackendError>;
}

/// A pass of a convolution, with the addresses of its operands.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The operands are those of `laq_tensor::Convolution`.
pub enum Pass {
    /// y, or y + what is in `output` if `add`.
    Output {
        input: u64,
        weight: u64,
        output: u64,
        add: bool,
    },
    /// ∂x from ∂y and W.
    Input {
        output_gradient: u64,
        weight: u64,
        input_gradient: u64,
    },
    /// ∂W from x and ∂y.
    Weight {
        input: u64,
        output_gradient: u64,
        weight_gradient: u64,
    },
}

/// A kernel with its grid, block and arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The name of the kernel.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// The arguments, in order.
    pub arguments: &'a [Argument],
    /// Whether all blocks must be resident together, because they wait for each other.
    pub cooperative: bool,
}

/// The bytes of a kernel's argument, followed by zeros.
#[derive(Clone, Copy, Debug, Default)]
pub struct Argument(pub [u8; 8]);

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument(value.to_ne_bytes())
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Argument(value.to_ne_bytes())
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&value.to_ne_bytes());
        Argument(bytes)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        value.to_bits().into()
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        u32::from(value).into()
    }
}

/// A dense row-major matrix in the device's memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// The address of the first element.
    pub address: u64,
    /// Whether the operand is the transpose of the stored matrix.
    pub transposed: bool,
}

/// C ← A B + β C with A m × k, B k × n, C m × n, of f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// A, m × k; stored as k × m if transposed.
    pub a: Operand,
    /// B, k × n; stored as n × k if transposed.
    pub b: Operand,
    /// The address of C.
    pub c: u64,
    /// β: 1 if true, 0 if false.
    pub add: bool,
}
