//! What there is of NVIDIA's software and hardware, found out without a panic where something is missing.

use cudarc::driver::{result, sys};

use crate::{DeviceFound, LibraryFound, Probe};

pub(super) const MISSING_NVRTC: &str = "libnvrtc is not there; it comes with the CUDA toolkit, and with `pip install \
     nvidia-cuda-nvrtc` (put its folder on LD_LIBRARY_PATH)";
const MISSING_CUBLAS: &str = "libcublas is not there; it comes with the CUDA toolkit, and with `pip install \
     nvidia-cublas` (put its folder on LD_LIBRARY_PATH)";
const MISSING_DRIVER: &str = "libcuda is not there; it comes with NVIDIA's driver";

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
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the function writes two numbers.
    let got = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    got.result()
        .map(|()| format!("{major}.{minor}"))
        .map_err(|error| format!("it does not tell its version: {error:?}"))
}
