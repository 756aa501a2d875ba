#![doc = include_str!("../README.md")]

mod backend;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod cpu;
#[cfg(feature = "conformance")]
pub mod reference;

pub use backend::*;
pub use cpu::CpuBackend;
