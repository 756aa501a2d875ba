//! The CPU backend: all operations on the threads of the current rayon pool.
//!
//! The instruction set is selected once at run time from the features of the processor; the
//! environment variable `LAQ_KERNEL` (`portable`, `avx2`, `avx512`) forces one. Reductions across
//! threads are split at boundaries that depend on the sizes alone, and combined in order: the
//! results have the same bits for any number of threads. Instruction sets round differently.

mod convolution;
mod dense;
mod gather;
mod gemm;
mod kernel;
mod losses;
mod lstm;
mod math;
mod memory;
mod norm;
mod optimizer;
mod pool;
mod quantize;
mod shared;
mod steps;

use crate::BackendError;
pub use kernel::{KERNEL_VARIABLE, Kernel};
pub use lstm::LstmWorkspace;
pub use memory::Buffer;
pub use norm::NormWorkspace;
pub use quantize::ParameterQuantizer;
pub use steps::StepLog;

/// Computes on the processor, in f32, with rayon.
#[derive(Clone, Copy, Debug)]
pub struct CpuBackend {
    kernel: Kernel,
}

impl CpuBackend {
    /// The backend with the fastest kernel of this processor, or the one named by `LAQ_KERNEL`.
    ///
    /// # Errors
    /// [`BackendError::UnknownKernel`] when `LAQ_KERNEL` names none of [`Kernel::available`].
    pub fn new() -> Result<Self, BackendError> {
        Ok(CpuBackend {
            kernel: Kernel::from_environment()?,
        })
    }

    /// The backend with a kernel of [`Kernel::available`].
    pub fn with_kernel(kernel: Kernel) -> Self {
        CpuBackend { kernel }
    }

    /// The kernel in use.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
}
