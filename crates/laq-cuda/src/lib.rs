#![doc = include_str!("../README.md")]

mod backend;
#[cfg(feature = "driver")]
mod cuda;
mod device;
mod found;
mod record;
#[cfg(not(feature = "driver"))]
mod stub;

pub use backend::{
    Buffer, ConvolutionSpace, CudaBackend, LstmSpace, NormSpace, QuantizeSpace, Quantizer, Record,
    Recording, Settings, UpdateSpace,
};
#[cfg(feature = "driver")]
pub use cuda::{Compiled, Convolution, Cuda, Graph, Memory, compile, probe};
pub use device::{Argument, Device, Launch, Operand, Pass, Product};
pub use found::{DeviceFound, LibraryFound, MemoryFound, Precision, Probe};
#[cfg(not(feature = "driver"))]
pub use stub::{Cuda, probe};

/// The sources of all kernels, by file name; those with `.cuh` are what the others include.
pub const KERNEL_SOURCES: [(&str, &str); 18] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("lstm.cuh", include_str!("../kernels/lstm.cuh")),
    ("solve.cuh", include_str!("../kernels/solve.cuh")),
    ("exact.cuh", include_str!("../kernels/exact.cuh")),
    ("batch.cu", include_str!("../kernels/batch.cu")),
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
    ("sequence.cu", include_str!("../kernels/sequence.cu")),
    ("solve.cu", include_str!("../kernels/solve.cu")),
    ("update.cu", include_str!("../kernels/update.cu")),
];

/// All sources as one, for the compiler.
pub fn program() -> String {
    let lines = KERNEL_SOURCES.iter().flat_map(|(_, source)| source.lines());
    let own = lines.filter(|line| !line.starts_with("#include") && *line != "#pragma once");
    own.flat_map(|line| [line, "\n"]).collect()
}

/// The names of the kernels in a source.
pub fn kernels_in(source: &str) -> impl Iterator<Item = &str> {
    let beginnings = source.split("extern \"C\" __global__ void ").skip(1);
    beginnings.filter_map(|beginning| beginning.split('(').next())
}
