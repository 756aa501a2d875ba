//! Compiles all kernels with NVRTC, which needs no GPU.
#![cfg(feature = "driver")]

use laq_test_support::{Capability, skip};

/// Shared memory of a block that needs no opt-in.
const SHARED_MEMORY: usize = 48 << 10;

/// Registers of a multiprocessor, shared by the threads of a block.
const REGISTERS: usize = 64 << 10;

/// The threads of a block of a kernel.
fn threads(kernel: &str) -> usize {
    match kernel {
        "push_loss" => 1024,
        "solve_compare" => 512,
        _ => 256,
    }
}

#[test]
fn the_kernels_compile_for_every_architecture() {
    let probe = laq_cuda::probe();
    let nvrtc = probe.libraries.iter().find(|found| found.name == "NVRTC");
    if let Err(reason) = &nvrtc.expect("the probe covers NVRTC").version {
        skip(Capability::Nvrtc, reason);
        return;
    }
    let source = laq_cuda::program();
    let kernels: Vec<&str> = laq_cuda::kernels_in(&source).collect();
    for architecture in ["sm_80", "sm_90", "sm_100"] {
        let compiled =
            laq_cuda::compile(&source, architecture).unwrap_or_else(|error| panic!("{error}"));
        assert!(compiled.image.len() > 10_000);
        // ptxas logs the name of every kernel, its stack and spills, and its registers and shared
        // memory.
        let mut name = "";
        let mut compiled_kernels = Vec::new();
        for line in compiled.log.lines() {
            if let Some(found) = line.split("entry function '").nth(1) {
                name = found.split('\'').next().unwrap();
            } else if line.contains("bytes spill stores") {
                // Local memory, spilled or indexed, is slow.
                let good = ["    0 bytes stack frame", " 0 bytes spill stores"];
                assert!(
                    good.iter().all(|good| line.contains(good)),
                    "{name}: {line}"
                );
            } else if let Some(used) = line.split("Used ").nth(1) {
                println!("{architecture} {name:<24} {used}");
                let bytes = used
                    .split(", ")
                    .find_map(|part| part.strip_suffix(" bytes smem"));
                let bytes: usize = bytes.map_or(0, |bytes| bytes.parse().unwrap());
                assert!(bytes <= SHARED_MEMORY, "{name}: {used}");
                let registers = used.split(' ').next().unwrap();
                let registers: usize = registers.parse().unwrap();
                assert!(registers * threads(name) <= REGISTERS, "{name}: {used}");
                compiled_kernels.push(name);
            }
        }
        compiled_kernels.sort_unstable();
        let mut expected = kernels.clone();
        expected.sort_unstable();
        assert_eq!(compiled_kernels, expected);
    }
}
