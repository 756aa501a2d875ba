#![doc = include_str!("../README.md")]

mod backend;
mod device;
mod quantize;
mod record;

pub use backend::{
    ConvolutionSpace, CudaBackend, LstmSpace, NormSpace, Record, Recording, Symbols, Tensor,
};
pub use device::{Argument, Device, Launch, Operand, Product};
pub use quantize::{QuantizeSpace, Quantizer};
pub use record::{NOT_STOPPED, RawRecord};

/// The sources of all kernels, by file name; those with `.cuh` are what the others include.
pub const KERNEL_SOURCES: [(&str, &str); 14] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("solve.cuh", include_str!("../kernels/solve.cuh")),
    ("exact.cuh", include_str!("../kernels/exact.cuh")),
    ("convolution.cu", include_str!("../kernels/convolution.cu")),
    ("dense.cu", include_str!("../kernels/dense.cu")),
    ("elementwise.cu", include_str!("../kernels/elementwise.cu")),
    ("exact.cu", include_str!("../kernels/exact.cu")),
    ("gradient.cu", include_str!("../kernels/gradient.cu")),
    ("loss.cu", include_str!("../kernels/loss.cu")),
    ("lstm.cu", include_str!("../kernels/lstm.cu")),
    ("norm.cu", include_str!("../kernels/norm.cu")),
    ("pool.cu", include_str!("../kernels/pool.cu")),
    ("record.cu", include_str!("../kernels/record.cu")),
    ("solve.cu", include_str!("../kernels/solve.cu")),
];
