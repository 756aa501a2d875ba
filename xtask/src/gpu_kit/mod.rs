//! `cargo xtask gpu-kit`: a folder with everything that a machine with a GPU needs, and no Rust or network.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::{from_here, laq};

/// What the kit may have at most, in bytes: it is carried to machines that are lent for minutes.
const LIMIT: u64 = 60_000_000;
/// The files and folders of a kit.
const PARTS: [&str; 5] = ["laq", "run.sh", "configs", "mirror", "runs"];
/// The data sets of the tables that `run.sh` trains.
const DATA: [&str; 2] = ["mnist", "war-and-peace"];

/// The options of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder of the kit; an earlier kit there is replaced
    #[arg(long, value_name = "DIR", default_value = "target/gpu-kit")]
    out: PathBuf,
    /// Run folders to go on with: the `runs` that an earlier kit left
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// A folder or an address that is tried first for data that is not in data/
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
}

/// Makes the kit, and prints what it has.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let (root, out) = (crate::root(), from_here(&options.out)?);
    check_out(&out)?;
    // The earlier kit stays until this one is complete.
    let name = out.file_name().unwrap_or_default();
    let kit = out.with_file_name([name, OsStr::new(".new")].join(OsStr::new("")));
    check_out(&kit)?;
    remove(&kit)?;
    let laq = laq::build(&root, &["-C", "strip=symbols"])?;
    copy(&laq, &kit.join("laq"))?;
    let script = kit.join("run.sh");
    fs::write(&script, include_bytes!("run.sh"))?;
    // The binary has the permissions that a program needs.
    fs::set_permissions(&script, fs::metadata(&laq)?.permissions())?;
    copy(&root.join("configs"), &kit.join("configs"))?;
    data(&root, &laq, options.mirror.as_deref(), &kit.join("mirror"))?;
    if let Some(runs) = &options.runs {
        copy(&from_here(runs)?, &kit.join("runs"))?;
    }
    remove(&out)?;
    fs::rename(&kit, &out).with_context(|| format!("cannot rename {}", kit.display()))?;
    report(&out)
}

/// An error if the folder has anything that no kit has, such as results.
fn check_out(out: &Path) -> Result<()> {
    for entry in fs::read_dir(out).into_iter().flatten() {
        let name = entry?.file_name();
        ensure!(
            PARTS.iter().any(|part| name == *part),
            "{} has {}, which no kit has: move it away, or name another folder with --out",
            out.display(),
            name.display()
        );
    }
    Ok(())
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Downloads the data sets, and compresses their files into `mirror`, as `laq download --mirror` reads
/// them.
fn data(root: &Path, laq: &Path, source: Option<&str>, mirror: &Path) -> Result<()> {
    let mut download = Command::new(laq);
    download.arg("download").args(DATA).current_dir(root);
    if let Some(source) = source {
        let path = Path::new(source);
        match path.is_dir() {
            true => download.arg("--mirror").arg(from_here(path)?),
            false => download.args(["--mirror", source]),
        };
    }
    let status = download.status().context("cannot start laq")?;
    ensure!(
        status.success(),
        "`laq download` failed; its message is above"
    );
    for name in DATA {
        let (from, to) = (root.join("data").join(name), mirror.join(name));
        fs::create_dir_all(&to)?;
        for file in files(&from)? {
            let name = file.file_name().expect("a file").to_string_lossy();
            let compressed = File::create(to.join(format!("{name}.gz")))?;
            let mut encoder = GzEncoder::new(compressed, Compression::best());
            io::copy(&mut File::open(&file)?, &mut encoder)?;
            encoder.finish()?;
        }
    }
    Ok(())
}

/// Prints the size of each part; an error if the kit is too big.
fn report(out: &Path) -> Result<ExitCode> {
    let mut total = 0;
    let mut parts: Vec<PathBuf> = fs::read_dir(out)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    parts.sort();
    for part in parts {
        let bytes = size(&part)?;
        total += bytes;
        let name = part.file_name().expect("a part").to_string_lossy();
        println!("{name:10} {:6.1} MB", bytes as f64 / 1e6);
    }
    println!(
        "{:10} {:6.1} MB in {}",
        "",
        total as f64 / 1e6,
        out.display()
    );
    if total > LIMIT {
        bail!(
            "the kit has {:.1} MB, expected at most {:.0}: leave out run folders with large checkpoints",
            total as f64 / 1e6,
            LIMIT as f64 / 1e6
        );
    }
    println!(
        "On the machine with the GPU: ./run.sh SECONDS; here, to rehearse it: ./run.sh SECONDS --device cpu"
    );
    Ok(ExitCode::SUCCESS)
}

/// The files below `path`, or `path` itself, without those that a run in progress or a killed one has.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() || entry.file_type()?.is_file() {
            found.extend(files(&entry.path())?);
        }
    }
    let is_of_process = |name: &OsStr| {
        name == "lock" || name == "running.json" || name.to_string_lossy().ends_with(".tmp")
    };
    found.retain(|file| file.file_name().is_none_or(|name| !is_of_process(name)));
    Ok(found)
}

fn size(path: &Path) -> Result<u64> {
    let sizes = files(path)?
        .into_iter()
        .map(|file| Ok(fs::metadata(file)?.len()));
    sizes.sum::<Result<u64>>()
}

/// Copies a file, or the files below a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in files(from)? {
        let below = file.strip_prefix(from).expect("below it");
        let target = match below.as_os_str().is_empty() {
            true => to.to_path_buf(),
            false => to.join(below),
        };
        fs::create_dir_all(target.parent().expect("in the kit"))?;
        fs::copy(&file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}
