#![doc = include_str!("../README.md")]

mod backend;
pub mod conformance;
pub mod cpu;
pub mod reference;

pub use backend::{
    AdamStep, Backend, BackendError, CURVATURE_FLOOR, DenseShape, GateBlock, GroupReport,
    LstmGradients, LstmParameters, LstmShape, QuantizerSnapshot,
};
pub use cpu::CpuBackend;
