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
mod limits;
mod losses;
mod lstm;
mod memory;
mod norm;
mod optimizer;
mod pool;
mod quantize;
mod shared;
mod steps;
#[cfg(test)]
mod test_values;

pub use laq_simd::Isa;

use crate::BackendError;
pub use limits::Limits;
pub use lstm::LstmWorkspace;
pub use memory::Buffer;
pub use norm::NormWorkspace;
pub use quantize::CpuQuantizer;
pub use steps::StepLog;

/// Computes on the processor, in f32, with rayon.
#[derive(Clone, Copy, Debug)]
pub struct CpuBackend {
    isa: Isa,
}

impl CpuBackend {
    /// The backend with the fastest instruction set of this processor, or the one that `LAQ_KERNEL`
    /// names.
    ///
    /// # Errors
    /// [`BackendError::Isa`] if `LAQ_KERNEL` names none of [`Isa::available`].
    pub fn new() -> Result<Self, BackendError> {
        Ok(CpuBackend {
            isa: Isa::from_environment()?,
        })
    }

    /// The backend with an instruction set of [`Isa::available`].
    pub fn with_isa(isa: Isa) -> Self {
        CpuBackend { isa }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}
