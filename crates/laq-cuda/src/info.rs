//! Driver, libraries and GPUs of a machine.

use std::fmt;

/// The precision of products. Everything else is computed in f32, and long sums in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Factors rounded to ten bits of mantissa, sums in f32, on tensor cores: PyTorch's "high"
    /// precision.
    #[default]
    Tf32,
    /// Factors and sums in f32.
    Float32,
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Precision::Tf32 => "tf32",
            Precision::Float32 => "float32",
        })
    }
}

/// NVIDIA's software and hardware of a machine.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The required libraries.
    pub libraries: Vec<LibraryInfo>,
    /// The version of cuDNN, or why it cannot be used; it is optional.
    pub cudnn: Result<String, String>,
    /// The GPUs, in the driver's order.
    pub devices: Vec<DeviceInfo>,
}

/// The memory of a GPU in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Free.
    pub free: u64,
    /// In total.
    pub total: u64,
}

/// A library.
#[derive(Clone, Debug)]
pub struct LibraryInfo {
    /// Its name.
    pub name: &'static str,
    /// Its version, or why it cannot be used and the remedy.
    pub version: Result<String, String>,
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Its compute capability, such as 9.0.
    pub compute_capability: String,
}

impl Probe {
    /// Checks that a GPU can be used.
    ///
    /// # Errors
    /// The first reason why none can be used.
    pub fn usable(&self) -> Result<(), String> {
        for library in &self.libraries {
            if let Err(reason) = &library.version {
                return Err(reason.clone());
            }
        }
        match self.devices.is_empty() {
            true => Err("no GPU found".to_owned()),
            false => Ok(()),
        }
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}, {:.1} GB, compute capability {}",
            self.name,
            self.memory_bytes as f64 / 1e9,
            self.compute_capability
        )
    }
}
