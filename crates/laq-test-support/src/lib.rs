//! Helpers of the tests of this workspace.
//!
//! Some tests need what a machine may lack. Such a test is skipped with a line on standard error,
//! and fails instead where `LAQ_TEST_REQUIRE` lists the capability:
//!
//! ```text
//! LAQ_TEST_REQUIRE=cxx,nvrtc,avx2,avx512,tensorboard,onnx,slurm,python,torch,onnxscript,strace,mount cargo test --workspace
//! ```
//!
//! ```
//! use laq_test_support::{Capability, skip};
//!
//! fn test_with_a_compiler(compiler: Result<&str, String>) {
//!     let Ok(_compiler) = compiler.map_err(|reason| skip(Capability::Cxx, &reason)) else {
//!         return;
//!     };
//! }
//! # test_with_a_compiler(Ok("c++"));
//! ```
#![forbid(unsafe_code)]

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// The variable that lists the required capabilities, comma separated.
pub const REQUIRE_VARIABLE: &str = "LAQ_TEST_REQUIRE";

/// What a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `cxx`: a C++ compiler, which builds the emulator of the CUDA kernels.
    Cxx,
    /// `nvrtc`: NVIDIA's compiler of CUDA kernels.
    Nvrtc,
    /// `avx2`: a processor with AVX2 and FMA.
    Avx2,
    /// `avx512`: a processor with AVX-512.
    Avx512,
    /// `tensorboard`: Python with the package tensorboard.
    TensorBoard,
    /// `onnx`: Python with the packages numpy, onnx and onnxruntime.
    Onnx,
    /// `slurm`: the daemons of Slurm and munge, and root, which may start them.
    Slurm,
    /// `python`: Python with packages from PyPI, for the step of `cargo xtask ci` that tests the Python package.
    Python,
    /// `torch`: PyTorch, for the tests of the Python package.
    Torch,
    /// `onnxscript`: the package onnxscript, for the tests of the Python package.
    OnnxScript,
    /// `strace`: strace, and the right to trace, which let system calls fail.
    Strace,
    /// `mount`: the right to mount a small file system.
    Mount,
}

impl Capability {
    /// All capabilities.
    pub const ALL: [Capability; 12] = [
        Capability::Cxx,
        Capability::Nvrtc,
        Capability::Avx2,
        Capability::Avx512,
        Capability::TensorBoard,
        Capability::Onnx,
        Capability::Slurm,
        Capability::Python,
        Capability::Torch,
        Capability::OnnxScript,
        Capability::Strace,
        Capability::Mount,
    ];

    /// The name in `LAQ_TEST_REQUIRE`.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Cxx => "cxx",
            Capability::Nvrtc => "nvrtc",
            Capability::Avx2 => "avx2",
            Capability::Avx512 => "avx512",
            Capability::TensorBoard => "tensorboard",
            Capability::Onnx => "onnx",
            Capability::Slurm => "slurm",
            Capability::Python => "python",
            Capability::Torch => "torch",
            Capability::OnnxScript => "onnxscript",
            Capability::Strace => "strace",
            Capability::Mount => "mount",
        }
    }

    /// Whether `LAQ_TEST_REQUIRE` lists it.
    ///
    /// # Panics
    /// If the variable lists an unknown name.
    pub fn is_required(self) -> bool {
        let list = env::var(REQUIRE_VARIABLE).unwrap_or_default();
        required(&list).contains(&self)
    }
}

/// The capabilities of a comma-separated list.
fn required(list: &str) -> Vec<Capability> {
    let names = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let known = |name: &str| {
        let found = Capability::ALL
            .into_iter()
            .find(|known| known.name() == name);
        found.unwrap_or_else(|| {
            let names = Capability::ALL.map(Capability::name).join(", ");
            panic!("{REQUIRE_VARIABLE}: unknown capability {name:?}, expected some of {names}")
        })
    };
    names.map(known).collect()
}

/// Reports on standard error that a test is skipped for want of `missing`.
///
/// # Panics
/// If `LAQ_TEST_REQUIRE` lists the capability.
#[track_caller]
pub fn skip(missing: Capability, reason: &str) {
    let name = missing.name();
    assert!(
        !missing.is_required(),
        "{REQUIRE_VARIABLE} lists {name}: {reason}"
    );
    eprintln!("skipped: needs {name}: {reason}");
}

/// A pseudorandom generator for test data: a linear congruential generator modulo 2^64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Uniform in [0, 1), with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Approximately normal with mean 0 and variance 1: a scaled sum of six uniform values.
    pub fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.uniform() - 0.5).sum::<f64>() * 1.414
    }
}

/// The lines that a process writes, read by a thread so that its pipe does not fill up, until the receiver is dropped.
pub fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_comma_separated() {
        assert_eq!(required(""), []);
        assert_eq!(
            required("avx512, cxx,"),
            [Capability::Avx512, Capability::Cxx]
        );
    }

    #[test]
    fn every_name_that_the_check_of_the_project_lists_is_known() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/run");
        let script = std::fs::read_to_string(script).expect("the script");
        let lists: Vec<&str> = script.split("require+=(").skip(1).collect();
        assert!(!lists.is_empty());
        for list in lists {
            let (names, _) = list.split_once(')').expect("the end of a list");
            required(&names.replace(' ', ","));
        }
    }

    /// Tests that loop over the available instruction sets would skip a missing one in silence.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_processor_has_the_required_instruction_sets() {
        let sets = [
            (
                Capability::Avx2,
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            ),
            (
                Capability::Avx512,
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl"),
            ),
        ];
        for (set, available) in sets {
            if !available {
                skip(set, "the processor does not have it");
            }
        }
    }

    #[test]
    #[should_panic(expected = "unknown capability \"gcc\"")]
    fn an_unknown_name_panics() {
        required("cxx,gcc");
    }
}
