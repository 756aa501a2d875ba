#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod configs;
mod data;
mod differences;
pub mod dry_run;
mod error;
pub mod failure;
pub mod launcher;
pub mod local;
pub mod measure;
pub mod plan;
pub mod report;
pub mod reproduce;
pub mod slurm;
pub mod status;
pub mod table;
pub mod text;

pub use error::LabError;
