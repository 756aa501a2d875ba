//! The backend on an emulator that runs the kernels on the CPU, one fiber per thread; and the
//! crate's use of NVIDIA's libraries on a fake driver around the emulator.

mod backend;
#[cfg(all(feature = "driver", target_os = "linux"))]
mod driver;
mod emulator;
mod safety;
mod solvers;
mod training;
