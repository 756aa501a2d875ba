#![doc = include_str!("../README.md")]

mod backend;
pub mod conformance;
pub mod cpu;
pub mod reference;

pub use backend::{
    AdamSettings, Backend, BackendError, ConvolutionShape, DenseShape, GateBlock, GroupReport,
    Loss, LstmGradients, LstmParameters, LstmShape, NormShape, PoolShape, QuantizeJob,
    QuantizerSnapshot, RECORD_CAPACITY, Recorded, Stop, UpdateJob,
};
pub use cpu::CpuBackend;
