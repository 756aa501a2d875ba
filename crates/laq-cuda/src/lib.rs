//! CUDA kernels: what a CUDA backend will be made of. So far there are those of batch normalization, pooling, losses, ReLU
//! and Adam, and no host side; nothing uses them yet but the tests, which run every one on the CPU.

/// The sources of all kernels, by file name; `common.cuh` is what they include.
pub const KERNEL_SOURCES: [(&str, &str); 5] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("elementwise.cu", include_str!("../kernels/elementwise.cu")),
    ("loss.cu", include_str!("../kernels/loss.cu")),
    ("norm.cu", include_str!("../kernels/norm.cu")),
    ("pool.cu", include_str!("../kernels/pool.cu")),
];
