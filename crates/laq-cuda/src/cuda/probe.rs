//! Detection of NVIDIA's software and hardware; nothing panics where it is missing.

use cudarc::cudnn;
use cudarc::driver::{result, sys};

use crate::{DeviceInfo, LibraryInfo, Probe};

pub(super) const MISSING_NVRTC: &str = "libnvrtc not found; install the CUDA toolkit or `pip install \
     nvidia-cuda-nvrtc`, and add its folder to LD_LIBRARY_PATH";
const MISSING_CUBLAS: &str = "libcublas not found; install the CUDA toolkit or `pip install \
     nvidia-cublas`, and add its folder to LD_LIBRARY_PATH";
const MISSING_DRIVER: &str = "libcuda not found; install NVIDIA's driver";

/// The functions of the driver that are called.
const DRIVER: [&str; 35] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchCooperativeKernel",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];
/// The functions of cuBLAS that are called.
const CUBLAS: [&str; 6] = [
    "cublasCreate_v2",
    "cublasDestroy_v2",
    "cublasGemmEx",
    "cublasGetProperty",
    "cublasSetStream_v2",
    "cublasSetWorkspace_v2",
];
/// The functions of NVRTC that are called.
const NVRTC: [&str; 8] = [
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcVersion",
];
/// The functions of cuDNN that are called.
const CUDNN: [&str; 23] = [
    "cudnnConvolutionBackwardData",
    "cudnnConvolutionBackwardFilter",
    "cudnnConvolutionForward",
    "cudnnCreate",
    "cudnnCreateConvolutionDescriptor",
    "cudnnCreateFilterDescriptor",
    "cudnnCreateTensorDescriptor",
    "cudnnDestroy",
    "cudnnDestroyConvolutionDescriptor",
    "cudnnDestroyFilterDescriptor",
    "cudnnDestroyTensorDescriptor",
    "cudnnGetConvolutionBackwardDataAlgorithm_v7",
    "cudnnGetConvolutionBackwardDataWorkspaceSize",
    "cudnnGetConvolutionBackwardFilterAlgorithm_v7",
    "cudnnGetConvolutionBackwardFilterWorkspaceSize",
    "cudnnGetConvolutionForwardAlgorithm_v7",
    "cudnnGetConvolutionForwardWorkspaceSize",
    "cudnnGetVersion",
    "cudnnSetConvolution2dDescriptor",
    "cudnnSetConvolutionMathType",
    "cudnnSetFilter4dDescriptor",
    "cudnnSetStream",
    "cudnnSetTensor4dDescriptor",
];

/// The first function that an installed library lacks, if any; a call of it would panic.
macro_rules! first_missing {
    ($library:path, $names:expr) => {{
        let lacks = |name: &&str| {
            // SAFETY: the library is installed, and no symbol is called.
            unsafe { $library().get::<*const std::ffi::c_void>(name.as_bytes()) }.is_err()
        };
        $names.iter().copied().find(lacks)
    }};
}

/// The error of a library that lacks a function.
fn incomplete(library: &str, missing: &str) -> String {
    format!("{library} has no function {missing}; it is too old or another library: update it")
}

/// The oldest supported version of cuDNN: 9.0.
const MIN_CUDNN: usize = 90_000;

/// Detects driver, libraries and GPUs.
pub fn probe() -> Probe {
    let mut devices = Vec::new();
    let driver = driver(&mut devices);
    let library = |name, version: Result<String, String>| LibraryInfo { name, version };
    Probe {
        libraries: vec![
            library("driver", driver),
            library("cuBLAS", cublas()),
            library("NVRTC", nvrtc()),
        ],
        cudnn: cudnn_version(),
        devices,
    }
}

/// The version of cuDNN, or why it cannot be used.
pub(super) fn cudnn_version() -> Result<String, String> {
    // SAFETY: loading the library has no other effect.
    if !unsafe { cudnn::sys::is_culib_present() } {
        return Err(
            "libcudnn not found, so convolutions use cuBLAS; install it from NVIDIA or with `pip install \
             nvidia-cudnn-cu13` and add its folder to LD_LIBRARY_PATH"
                .to_owned(),
        );
    }
    if let Some(missing) = first_missing!(cudnn::sys::culib, CUDNN) {
        return Err(incomplete("libcudnn", missing));
    }
    let version = cudnn::result::get_version();
    if version < MIN_CUDNN {
        return Err(format!(
            "cuDNN version {version} is too old, expected {MIN_CUDNN} (9.0) or later, so convolutions use \
             cuBLAS"
        ));
    }
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    Ok(format!("{major}.{minor}.{patch}"))
}

/// The driver's version; appends its devices.
fn driver(devices: &mut Vec<DeviceInfo>) -> Result<String, String> {
    // SAFETY: loading the library has no other effect.
    if !unsafe { sys::is_culib_present() } {
        return Err(MISSING_DRIVER.to_owned());
    }
    if let Some(missing) = first_missing!(sys::culib, DRIVER) {
        return Err(incomplete("libcuda", missing));
    }
    result::init().map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda is a stub for linking; remove the folder of stubs from \
             LD_LIBRARY_PATH"
                .to_owned()
        }
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            "the driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)".to_owned()
        }
        _ => format!("cannot initialize the driver: {}", super::message(error)),
    })?;
    let mut version = 0;
    // SAFETY: the driver is initialized.
    let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if version < 12_000 {
        return Err(format!(
            "the driver supports CUDA {}.{}, expected 12.0 or later; update it",
            version / 1000,
            version % 1000 / 10
        ));
    }
    let count = result::device::get_count()
        .map_err(|error| format!("cannot count the devices: {}", super::message(error)))?;
    for index in 0..count {
        if let Some(device) = device(index) {
            devices.push(device);
        }
    }
    if devices.is_empty() {
        return Err("the driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)".to_owned());
    }
    Ok(format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
}

fn device(index: i32) -> Option<DeviceInfo> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index).ok()?;
    // SAFETY: the index is below the driver's count.
    unsafe {
        Some(DeviceInfo {
            name: result::device::get_name(device).ok()?,
            memory_bytes: result::device::total_mem(device).ok()? as u64,
            compute_capability: format!(
                "{}.{}",
                result::device::get_attribute(device, MAJOR).ok()?,
                result::device::get_attribute(device, MINOR).ok()?
            ),
        })
    }
}

fn cublas() -> Result<String, String> {
    // SAFETY: loading the library has no other effect.
    if !unsafe { cudarc::cublas::sys::is_culib_present() } {
        return Err(MISSING_CUBLAS.to_owned());
    }
    if let Some(missing) = first_missing!(cudarc::cublas::sys::culib, CUBLAS) {
        return Err(incomplete("libcublas", missing));
    }
    let part = |kind| {
        let mut value = 0;
        // SAFETY: the function writes one integer.
        let got = unsafe { cudarc::cublas::sys::cublasGetProperty(kind, &raw mut value) };
        got.result().map(|()| value)
    };
    use cudarc::cublas::sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION};
    match (part(MAJOR_VERSION), part(MINOR_VERSION)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}.{minor}")),
        _ => Ok("unknown version".to_owned()),
    }
}

fn nvrtc() -> Result<String, String> {
    // SAFETY: loading the library has no other effect.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(MISSING_NVRTC.to_owned());
    }
    if let Some(missing) = first_missing!(cudarc::nvrtc::sys::culib, NVRTC) {
        return Err(incomplete("libnvrtc", missing));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the function writes two integers.
    let got = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    got.result()
        .map(|()| format!("{major}.{minor}"))
        .map_err(|error| format!("cannot query the version: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fake driver defines the listed functions, and a few for debugging.
    #[test]
    fn the_lists_name_every_function_that_is_called() {
        let fake = concat!(
            include_str!("../../tests/emulated/emulator/driver.h"),
            include_str!("../../tests/emulated/emulator/cublas.h"),
            include_str!("../../tests/emulated/emulator/nvrtc.h"),
            include_str!("../../tests/emulated/emulator/cudnn.h"),
        );
        let defined = fake.lines().filter_map(|line| {
            let words = line.strip_prefix("API ")?.split('(').next()?;
            words.split(' ').next_back()
        });
        let others = ["cuCtxSynchronize", "cuGetErrorName"];
        let mut defined: Vec<_> = defined.filter(|name| !others.contains(name)).collect();
        let mut expected = [&DRIVER[..], &CUBLAS, &NVRTC, &CUDNN].concat();
        defined.sort_unstable();
        expected.sort_unstable();
        assert_eq!(defined, expected);
    }
}
