//! What the backend asks of a GPU: memory, copies, kernels, products, and recordings of them.
//!
//! [`Device`] is the seam between the backend, which knows what to compute and in which order, and the driver, which does
//! it. Tests put in its place a device that runs the same kernels on the CPU.

use std::fmt::Debug;

use laq_tensor::{BackendError, ConvolutionShape};

use crate::Settings;

/// A GPU, or what stands for one.
///
/// Everything but [`Device::download`] may be done later, in the order in which it was asked for.
pub trait Device: Send + Sync + Debug {
    /// A piece of the device's memory, given back when it is dropped.
    type Memory: Send + Debug;
    /// A convolution that a library does, made ready for one shape.
    type Convolution: Send + Debug;
    /// Launches and products that were noted, to be repeated.
    type Graph: Send + Debug;

    /// The device's name, and what else changes its numbers.
    fn describe(&self) -> String;

    /// How the backend is to work on it.
    fn settings(&self) -> Settings {
        Settings::default()
    }

    /// How it does its work; see [`Memory::diagnostics`](laq_tensor::Memory::diagnostics).
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many blocks can run at the same time whatever they need, and so wait for each other; none where products are not to
    /// be in TF32, or a kernel cannot be launched like that.
    fn blocks_together(&self) -> usize {
        0
    }

    /// Memory of so many bytes, all zero; of one byte where none is asked for.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when there is no room.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, BackendError>;

    /// The address of the first byte, as kernels see it.
    fn address(&self, memory: &Self::Memory) -> u64;

    /// Copies bytes to `memory`, from its byte `offset` on; what they are read from may change as soon as the call returns.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn upload(
        &self,
        bytes: &[u8],
        offset: usize,
        memory: &mut Self::Memory,
    ) -> Result<(), BackendError>;

    /// Waits for all that was asked for, and copies the start of `memory` to the host.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails, now or in what was asked for before.
    fn download(&self, memory: &Self::Memory, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Launches a kernel of [`KERNEL_SOURCES`](crate::KERNEL_SOURCES).
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// The arguments are those that the kernel takes, and the memory that they point to is large enough for what it does
    /// with it, and lives until the device has done it.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError>;

    /// C ← A B + β C.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// As for [`Device::launch`].
    unsafe fn multiply(&self, product: &Product) -> Result<(), BackendError>;

    /// A convolution of this shape by a library, where there is one for it.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when there is no room.
    fn convolution(
        &self,
        shape: ConvolutionShape,
    ) -> Result<Option<Self::Convolution>, BackendError>;

    /// One pass of such a convolution.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// As for [`Device::launch`]; the convolution lives until the device has done it.
    unsafe fn convolve(
        &self,
        convolution: &Self::Convolution,
        pass: &Pass,
    ) -> Result<(), BackendError>;

    /// From here on launches and products are noted instead of done.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn begin_graph(&self) -> Result<(), BackendError>;

    /// What was noted; nothing is noted any more.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn end_graph(&self) -> Result<Self::Graph, BackendError>;

    /// Does what was noted.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Safety
    /// As for [`Device::launch`], for everything that was noted.
    unsafe fn replay(&self, graph: &mut Self::Graph) -> Result<(), BackendError>;
}

/// What is computed of a convolution, with the addresses of its operands.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The operands have the names that `Convolution::convolution_forward` and `backward` give them.
pub enum Pass {
    /// y from x and W, on top of what is in y where `add` says so.
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

/// A kernel, how many blocks and threads it gets, and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name.
    pub kernel: &'static str,
    /// Blocks, along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, along x, y and z.
    pub block: [u32; 3],
    /// Its arguments, in order.
    pub arguments: &'a [Argument],
    /// Whether all blocks have to run at the same time, because they wait for each other.
    pub together: bool,
}

/// An argument of a kernel: its bytes, from the first on.
#[derive(Clone, Copy, Debug)]
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

/// A matrix in the device's memory, dense and row-major.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Of the first number.
    pub address: u64,
    /// Whether it is taken by columns, as the transposed of what is stored.
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
    /// A, m × k; k × m as stored where it is transposed.
    pub a: Operand,
    /// B, k × n; n × k as stored where it is transposed.
    pub b: Operand,
    /// The address of C.
    pub c: u64,
    /// Whether C is added to what is there (β = 1), or written (β = 0).
    pub add: bool,
}
