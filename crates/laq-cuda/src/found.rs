//! What a look for a GPU finds.

use std::fmt;

/// How exact products are; everything else is in f32, sums of many numbers in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Factors are rounded to ten bits of mantissa, sums are in f32: what a GPU's tensor cores do best, and PyTorch's
    /// "high" precision.
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

/// NVIDIA's software and hardware, as far as this program needs it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The libraries, each with its version or with what is wrong with it.
    pub libraries: Vec<LibraryFound>,
    /// The version of cuDNN, or why there is none; convolutions can do without.
    pub cudnn: Result<String, String>,
    /// The GPUs, in the driver's order.
    pub devices: Vec<DeviceFound>,
}

/// The memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFound {
    /// What nobody uses.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// A library.
#[derive(Clone, Debug)]
pub struct LibraryFound {
    /// Its name.
    pub name: &'static str,
    /// Its version, or why it cannot be used and what to do.
    pub version: Result<String, String>,
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct DeviceFound {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// What it can do, such as 9.0.
    pub compute_capability: String,
}

impl Probe {
    /// Whether a GPU can be used.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn usable(&self) -> Result<(), String> {
        for library in &self.libraries {
            if let Err(reason) = &library.version {
                return Err(reason.clone());
            }
        }
        match self.devices.is_empty() {
            true => Err("there is no GPU".to_owned()),
            false => Ok(()),
        }
    }
}

impl fmt::Display for DeviceFound {
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
