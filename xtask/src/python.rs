//! The Python package: `cargo xtask test-python` and `cargo xtask wheel`.
//!
//! Both use a virtual environment below `target/`, with tools from PyPI, and the target folder of the workspace, so
//! that what it has built is not built again.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// The package, below the root.
const PACKAGE: &str = "crates/laq-python";

/// The folder of the virtual environment, below the root. `.ci/run` makes the same.
const VENV: &str = "target/python-venv";

/// Installs the package and runs its tests. Skipped without Python or PyPI, unless `LAQ_TEST_REQUIRE` lists
/// `python`.
pub(crate) fn test() -> Result<ExitCode> {
    let root = crate::root();
    let python = match environment(&root, &["numpy", "pytest", "maturin>=1.9.4,<2"]) {
        Ok(python) => python,
        Err(error) if is_required() => return Err(error.context("LAQ_TEST_REQUIRE lists python")),
        Err(error) => {
            eprintln!("skipped: the Python package: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-build-isolation",
        "--no-deps",
        "--force-reinstall",
    ];
    let package = root.join(PACKAGE);
    let mut pip = with_tools(Command::new(&python), &root)?;
    run(pip.args(install).arg(&package))?;
    let mut pytest = Command::new(&python);
    pytest
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .current_dir(&package);
    let laq = root.join("target/release/laq");
    if env::var_os("LAQ_BINARY").is_none() && laq.exists() {
        pytest.env("LAQ_BINARY", laq);
    }
    run(&mut pytest)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds a wheel for every Linux with glibc 2.17 (manylinux2014) or newer into `target/wheels`.
pub(crate) fn wheel() -> Result<ExitCode> {
    let root = crate::root();
    let python = environment(&root, &["maturin>=1.9.4,<2", "ziglang"])?;
    let manifest = root.join(PACKAGE).join("Cargo.toml");
    let mut maturin = Command::new(&python);
    maturin
        .args(["-m", "maturin", "build", "--release", "--zig"])
        .args(["--compatibility", "manylinux2014", "--manifest-path"])
        .arg(manifest)
        .arg("--out")
        .arg(root.join("target/wheels"));
    run(&mut with_tools(maturin, &root)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The Python of the virtual environment, which has these packages.
fn environment(root: &Path, packages: &[&str]) -> Result<PathBuf> {
    let venv = root.join(VENV);
    let python = folder_of_programs(&venv).join("python");
    if !python.exists() {
        let mut make = Command::new(if cfg!(windows) { "python" } else { "python3" });
        run(make.args(["-m", "venv"]).arg(&venv))
            .context("a virtual environment needs Python 3.10 or newer with venv")?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--no-cache-dir"]);
    install.args(["--disable-pip-version-check", "--retries", "1"]);
    run(install.args(packages)).with_context(|| {
        let packages = packages.join(", ");
        format!("cannot install {packages} from PyPI: is the network reachable?")
    })?;
    Ok(python)
}

/// With maturin on the path, and the target folder of the workspace.
fn with_tools(mut command: Command, root: &Path) -> Result<Command> {
    let mut path = vec![folder_of_programs(&root.join(VENV))];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    command.env("PATH", env::join_paths(path).context("PATH")?);
    command.env("CARGO_TARGET_DIR", root.join("target"));
    Ok(command)
}

fn folder_of_programs(venv: &Path) -> PathBuf {
    venv.join(if cfg!(windows) { "Scripts" } else { "bin" })
}

/// Runs a program to its end.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status();
    let status = status.with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let arguments = command.get_args().map(|word| word.to_string_lossy());
        bail!(
            "{name} {} failed ({status})",
            arguments.collect::<Vec<_>>().join(" ")
        );
    }
    Ok(())
}

/// Whether `LAQ_TEST_REQUIRE` lists `python`.
fn is_required() -> bool {
    let list = env::var("LAQ_TEST_REQUIRE").unwrap_or_default();
    list.split(',').any(|name| name.trim() == "python")
}
