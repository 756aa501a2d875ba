//! The backend on the emulator: its kernels unchanged, one fiber a thread, with the C++ compiler at hand. And the driver's
//! side of it on an imitation of NVIDIA's libraries around that emulator.

mod backend;
#[cfg(all(feature = "driver", target_os = "linux"))]
mod driver;
mod emulator;
mod solvers;
mod training;
