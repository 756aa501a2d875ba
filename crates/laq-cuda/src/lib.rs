//! The CUDA backend.

/// The sources of all kernels, by file name; `common.cuh` is what they include.
pub const KERNEL_SOURCES: [(&str, &str); 5] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("elementwise.cu", include_str!("../kernels/elementwise.cu")),
    ("loss.cu", include_str!("../kernels/loss.cu")),
    ("norm.cu", include_str!("../kernels/norm.cu")),
    ("pool.cu", include_str!("../kernels/pool.cu")),
];
