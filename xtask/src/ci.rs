//! `cargo xtask ci`: every check of the project. `.ci/run` prepares a machine and runs it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

/// The environment variables of a step.
type Variables = &'static [(&'static str, &'static str)];

/// Arguments of cargo, and the environment variables of each step. The tests include the
/// dependencies between the crates.
const STEPS: &[(&str, Variables)] = &[
    ("fmt --all --check", &[]),
    (
        "clippy --workspace --all-targets --all-features -- -D warnings",
        &[],
    ),
    // One by one: in a workspace another crate would enable the feature.
    ("test -p laq-datasets --no-default-features", &[]),
    (
        "check -p laq-solvers --no-default-features --features std --all-targets",
        &[],
    ),
    ("check -p laq-cuda --no-default-features --all-targets", &[]),
    (
        "clippy -p laq-packed --no-default-features --all-targets -- -D warnings",
        &[],
    ),
    ("test -p laq-packed --no-default-features", &[]),
    (
        "doc --workspace --no-deps --all-features",
        &[("RUSTDOCFLAGS", "-D warnings")],
    ),
    ("test --workspace", &[]),
    // Again, to print the registers and shared memory of the kernels, or why they are not compiled
    // here.
    ("test --workspace --test compile -- --nocapture", &[]),
    ("bench --workspace --no-run", &[]),
    (
        "xtask reproduce table2 --preset demo --out target/ci/table2",
        &[],
    ),
    (
        "xtask reproduce table1 --preset demo --out target/ci/table1",
        &[],
    ),
    // After the above, which build the program that it exchanges files with.
    ("xtask test-python", &[]),
];

/// The step under Miri: threads that share a slice, scratch, packing and the portable tile.
const MIRI: &str = "miri test -p laq-tensor --lib -- cpu::gemm cpu::shared";
/// The data structures of rayon violate Stacked Borrows, not Tree Borrows.
const MIRI_FLAGS: (&str, &str) = (
    "MIRIFLAGS",
    "-Zmiri-tree-borrows -Zmiri-disable-isolation -Zmiri-ignore-leaks",
);

/// The step for Arm.
const ARM: &str =
    "check -p laq-tensor -p laq-models -p laq-packed --target aarch64-unknown-linux-gnu";

/// Runs the NEON kernels of packed weights in an emulator.
const EMULATED: &str = "test -p laq-packed --lib --target aarch64-unknown-linux-gnu";
/// The linker and the emulator, with the libraries that Debian's cross compiler has.
const EMULATOR: Variables = &[
    (
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
        "aarch64-linux-gnu-gcc",
    ),
    (
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
        "qemu-aarch64-static -L /usr/aarch64-linux-gnu",
    ),
];

/// The step for small devices: a Cortex-M4 or M7 with floating point and no operating system.
const DEVICE: &str = "check -p laq-packed --no-default-features --target thumbv7em-none-eabihf";

/// Compiles the fuzz targets; libFuzzer needs a C++ compiler.
const FUZZ: &str = "check --manifest-path fuzz/Cargo.toml --target-dir target/fuzz";

/// Builds the book. Its code blocks are among the tests.
const BOOK: &str = "build docs";

/// The standard output of a program, if it starts and succeeds.
fn output(words: &[OsString], arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(&words[0]);
    let output = command.args(&words[1..]).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.trim().to_owned())
}

/// The cargo that has Miri: this one, or that of the nightly toolchain.
fn miri(cargo: &OsStr) -> Option<Vec<OsString>> {
    let nightly = ["rustup", "run", "nightly", "cargo"];
    let candidates = [vec![cargo.to_owned()], nightly.map(OsString::from).to_vec()];
    let mut candidates = candidates.into_iter();
    candidates.find(|words| output(words, &["miri", "--version"]).is_some())
}

/// Whether the libraries are installed of the target that a step ends with.
fn has_target(step: &str) -> bool {
    let target = step.rsplit(' ').next().unwrap_or_default();
    let arguments = ["--print", "target-libdir", "--target", target];
    output(&["rustc".into()], &arguments).is_some_and(|folder| Path::new(&folder).exists())
}

/// The command: stops at the first step that fails.
pub(crate) fn run() -> Result<ExitCode> {
    let root = crate::root();
    // Finished cells are reused: those of an earlier check would prove nothing.
    let left = root.join("target/ci");
    if left.exists() {
        fs::remove_dir_all(&left).with_context(|| format!("cannot remove {}", left.display()))?;
    }
    let cargo = crate::program_of_cargo();
    let here = vec![cargo.clone()];
    let mut steps: Vec<(Vec<OsString>, &str, Variables)> = Vec::new();
    steps.extend(
        STEPS
            .iter()
            .map(|&(step, variables)| (here.clone(), step, variables)),
    );
    let mdbook = vec![OsString::from("mdbook")];
    let has_mdbook = output(&mdbook, &["--version"]).is_some();
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let has_compiler = output(&[compiler], &["--version"]).is_some();
    let has = |program: &str| output(&[program.into()], &["--version"]).is_some();
    let has_emulator =
        has("aarch64-linux-gnu-gcc") && has("qemu-aarch64-static") && has_target(EMULATED);
    let optional: [(Option<Vec<OsString>>, &str, Variables); 6] = [
        (miri(&cargo), MIRI, &[MIRI_FLAGS]),
        (has_target(ARM).then(|| here.clone()), ARM, &[]),
        (has_emulator.then(|| here.clone()), EMULATED, EMULATOR),
        (has_target(DEVICE).then(|| here.clone()), DEVICE, &[]),
        (has_compiler.then_some(here), FUZZ, &[]),
        (has_mdbook.then_some(mdbook), BOOK, &[]),
    ];
    for (program, step, variables) in optional {
        match program {
            Some(program) => steps.push((program, step, variables)),
            None => eprintln!("skipped: {step}: the tool is not installed"),
        }
    }
    for (index, (program, step, variables)) in steps.iter().enumerate() {
        let shown: String = variables
            .iter()
            .map(|(name, value)| format!("{name}='{value}' "))
            .collect();
        let name = if program[0] == "mdbook" {
            "mdbook"
        } else {
            "cargo"
        };
        eprintln!("\n[{}/{}] {shown}{name} {step}", index + 1, steps.len());
        let start = Instant::now();
        let mut command = Command::new(&program[0]);
        crate::without_package(&mut command);
        let status = command
            .args(&program[1..])
            .args(step.split(' '))
            .envs(variables.iter().copied())
            .current_dir(&root)
            .status()
            .with_context(|| format!("cannot start {name}"))?;
        if !status.success() {
            eprintln!("\nfailed: {shown}{name} {step} ({status})");
            return Ok(ExitCode::FAILURE);
        }
        eprintln!("ok, {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}
