#![doc = include_str!("../README.md")]

mod backend;
mod buffer;
#[cfg(feature = "driver")]
mod cuda;
mod device;
mod info;
pub mod kernels;
mod layout;
#[cfg(not(feature = "driver"))]
mod stub;

pub use backend::{
    ConvolutionWorkspace, CudaBackend, LstmWorkspace, NormWorkspace, QuantizeWorkspace, Quantizer,
    Settings, StepGraph, StepLog, UpdateWorkspace,
};
pub use buffer::{Address, Buffer, DeviceElement, Slice, SliceMut};
#[cfg(feature = "driver")]
pub use cuda::{Compiled, Convolution, Cuda, Graph, Memory, compile, probe};
pub use device::{Argument, Device, Launch, Operand, Pass, Product};
pub use info::{DeviceInfo, LibraryInfo, MemoryInfo, Precision, Probe};
#[cfg(not(feature = "driver"))]
pub use stub::{Cuda, probe};

/// The kernels' sources by file name. The others include the `.cuh` files.
pub const KERNEL_SOURCES: [(&str, &str); 19] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("lstm.cuh", include_str!("../kernels/lstm.cuh")),
    ("solve.cuh", include_str!("../kernels/solve.cuh")),
    ("exact.cuh", include_str!("../kernels/exact.cuh")),
    ("blocks.cu", include_str!("../kernels/blocks.cu")),
    ("convolution.cu", include_str!("../kernels/convolution.cu")),
    ("dense.cu", include_str!("../kernels/dense.cu")),
    ("elementwise.cu", include_str!("../kernels/elementwise.cu")),
    ("exact.cu", include_str!("../kernels/exact.cu")),
    ("gather.cu", include_str!("../kernels/gather.cu")),
    ("gradient.cu", include_str!("../kernels/gradient.cu")),
    ("losses.cu", include_str!("../kernels/losses.cu")),
    ("lstm.cu", include_str!("../kernels/lstm.cu")),
    ("norm.cu", include_str!("../kernels/norm.cu")),
    ("optimizer.cu", include_str!("../kernels/optimizer.cu")),
    ("pool.cu", include_str!("../kernels/pool.cu")),
    ("sequence.cu", include_str!("../kernels/sequence.cu")),
    ("solve.cu", include_str!("../kernels/solve.cu")),
    ("steps.cu", include_str!("../kernels/steps.cu")),
];

/// The constants that the kernels share with the host, as C++ before the first source.
pub fn header() -> String {
    layout::header()
}

/// Assertions that structs have the layout of the host, as C++ after the last source.
pub fn layout_assertions() -> String {
    layout::assertions()
}

/// Header, sources and assertions as one translation unit.
pub fn program() -> String {
    let mut program = header();
    let lines = KERNEL_SOURCES.iter().flat_map(|(_, source)| source.lines());
    let own = lines.filter(|line| !line.starts_with("#include") && *line != "#pragma once");
    program.extend(own.flat_map(|line| [line, "\n"]));
    program + &layout_assertions()
}

/// The names of the kernels in a source.
pub fn kernels_in(source: &str) -> impl Iterator<Item = &str> {
    let beginnings = source.split("extern \"C\" __global__ void ").skip(1);
    beginnings.filter_map(|beginning| beginning.split('(').next())
}
