//! The backend on the emulator: its kernels unchanged, one fiber a thread, with the C++ compiler at hand.

mod backend;
mod emulator;
mod solvers;
mod training;
