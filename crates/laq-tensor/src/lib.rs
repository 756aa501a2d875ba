#![doc = include_str!("../README.md")]

mod backend;
pub mod conformance;
pub mod cpu;
pub mod reference;

pub use backend::{
    AdamStep, Backend, BackendError, ConvolutionShape, DenseShape, GateBlock, GroupReport,
    LstmGradients, LstmParameters, LstmShape, NormShape, PoolShape, QuantizerSnapshot,
};
pub use cpu::CpuBackend;
