//! What there is of NVIDIA's software and hardware, found out without a panic where something is missing.

use cudarc::driver::{result, sys};

use crate::{DeviceFound, LibraryFound, Probe};

pub(super) const MISSING_NVRTC: &str = "libnvrtc is not there; it comes with the CUDA toolkit, and with `pip install \
     nvidia-cuda-nvrtc` (put its folder on LD_LIBRARY_PATH)";
const MISSING_CUBLAS: &str = "libcublas is not there; it comes with the CUDA toolkit, and with `pip install \
     nvidia-cublas` (put its folder on LD_LIBRARY_PATH)";
const MISSING_DRIVER: &str = "libcuda is not there; it comes with NVIDIA's driver";

/// What is called of the driver.
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
/// What is called of cuBLAS.
const CUBLAS: [&str; 6] = [
    "cublasCreate_v2",
    "cublasDestroy_v2",
    "cublasGemmEx",
    "cublasGetProperty",
    "cublasSetStream_v2",
    "cublasSetWorkspace_v2",
];
/// What is called of NVRTC.
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
/// What is called of cuDNN.
pub(super) const CUDNN: [&str; 23] = [
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

/// The first function that a library, of which it is known that it is there, does not have. To call it would be a panic.
macro_rules! first_missing {
    ($library:path, $names:expr) => {{
        let lacks = |name: &&str| {
            // SAFETY: the library is there; nothing that is found in it is called.
            unsafe { $library().get::<*const std::ffi::c_void>(name.as_bytes()) }.is_err()
        };
        $names.iter().copied().find(lacks)
    }};
}
pub(super) use first_missing;

/// What is said of a library that has not all that is called.
pub(super) fn incomplete(library: &str, missing: &str) -> String {
    format!("{library} has no function {missing}: it is too old, or no such library; update it")
}

/// Looks for driver, libraries and GPUs.
pub fn probe() -> Probe {
    let mut devices = Vec::new();
    let driver = driver(&mut devices);
    let library = |name, version: Result<String, String>| LibraryFound { name, version };
    Probe {
        libraries: vec![
            library("driver", driver),
            library("cuBLAS", cublas()),
            library("NVRTC", nvrtc()),
        ],
        cudnn: super::convolution::version(),
        devices,
    }
}

/// The driver's version; fills in its devices.
fn driver(devices: &mut Vec<DeviceFound>) -> Result<String, String> {
    // SAFETY: loading the library does nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Err(MISSING_DRIVER.to_owned());
    }
    if let Some(missing) = first_missing!(sys::culib, DRIVER) {
        return Err(incomplete("libcuda", missing));
    }
    result::init().map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda is a stub, made for linking alone; take the folder of stubs off \
             LD_LIBRARY_PATH"
                .to_owned()
        }
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            "there is a driver but no GPU that it shows (CUDA_VISIBLE_DEVICES may hide it)"
                .to_owned()
        }
        _ => format!("the driver does not start: {}", super::told(error)),
    })?;
    let mut version = 0;
    // SAFETY: the driver has started.
    let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if version < 12_000 {
        return Err(format!(
            "the driver is for CUDA {}.{}, expected 12.0 or later; update it",
            version / 1000,
            version % 1000 / 10
        ));
    }
    let count = result::device::get_count().map_err(|error| {
        format!(
            "the driver does not count its devices: {}",
            super::told(error)
        )
    })?;
    for index in 0..count {
        if let Some(device) = device(index) {
            devices.push(device);
        }
    }
    if devices.is_empty() {
        return Err(
            "there is a driver but no GPU that it shows (CUDA_VISIBLE_DEVICES may hide it)"
                .to_owned(),
        );
    }
    Ok(format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
}

fn device(index: i32) -> Option<DeviceFound> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index).ok()?;
    // SAFETY: the device is one of those that the driver counts.
    unsafe {
        Some(DeviceFound {
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
    // SAFETY: loading the library does nothing else.
    if !unsafe { cudarc::cublas::sys::is_culib_present() } {
        return Err(MISSING_CUBLAS.to_owned());
    }
    if let Some(missing) = first_missing!(cudarc::cublas::sys::culib, CUBLAS) {
        return Err(incomplete("libcublas", missing));
    }
    let part = |kind| {
        let mut value = 0;
        // SAFETY: the function writes one number.
        let got = unsafe { cudarc::cublas::sys::cublasGetProperty(kind, &raw mut value) };
        got.result().map(|()| value)
    };
    use cudarc::cublas::sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION};
    match (part(MAJOR_VERSION), part(MINOR_VERSION)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}.{minor}")),
        _ => Ok("of unknown version".to_owned()),
    }
}

fn nvrtc() -> Result<String, String> {
    // SAFETY: loading the library does nothing else.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(MISSING_NVRTC.to_owned());
    }
    if let Some(missing) = first_missing!(cudarc::nvrtc::sys::culib, NVRTC) {
        return Err(incomplete("libnvrtc", missing));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the function writes two numbers.
    let got = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    got.result()
        .map(|()| format!("{major}.{minor}"))
        .map_err(|error| format!("it does not tell its version: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The imitation of the tests has what is called, and nothing else but a few words for debugging.
    #[test]
    fn all_that_is_called_is_looked_for() {
        let imitation = include_str!("../../tests/emulated/emulator/driver.cpp");
        let defined = imitation.lines().filter_map(|line| {
            let words = line.strip_prefix("API ")?.split('(').next()?;
            words.split(' ').next_back()
        });
        let others = ["launch_on_cpu", "cuCtxSynchronize", "cuGetErrorName"];
        let mut defined: Vec<_> = defined.filter(|name| !others.contains(name)).collect();
        let mut expected = [&DRIVER[..], &CUBLAS, &NVRTC, &CUDNN].concat();
        defined.sort_unstable();
        expected.sort_unstable();
        assert_eq!(defined, expected);
    }
}
