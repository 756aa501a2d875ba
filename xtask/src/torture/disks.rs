//! Disks that are too small, and a limit of the size of files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::case::{Case, copy_folder};
use super::work::Work;

/// What is free on the disk, and the limit of a file in blocks of the shell: less and more than is needed. In kB, as all here.
const SIZES: [f64; 2] = [1.0, 400.0];
/// More than the inputs have.
const INPUTS: u64 = 320;
const ENOUGH: u64 = 64 << 10;

fn has_run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

pub(super) fn missing() -> Option<String> {
    let folder = tempfile::tempdir().ok()?;
    let disk = Disk::mount(folder.path());
    let advice = "no right to mount; `unshare -Urm cargo xtask torture …` has it";
    disk.err().map(|_| advice.into())
}

/// A file system in memory.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Result<Self> {
        let disk = Self(folder.into());
        disk.set("size", ENOUGH).map(|()| disk)
    }

    fn resize(&self, kilobytes: u64) -> Result<()> {
        self.set("remount,size", kilobytes)
    }

    fn set(&self, option: &str, kilobytes: u64) -> Result<()> {
        let option = format!("{option}={kilobytes}k");
        let path = self.0.to_str().context("no UTF-8")?;
        match has_run("mount", &["-t", "tmpfs", "-o", &option, "none", path]) {
            true => Ok(()),
            false => bail!("cannot mount {path} with {option}"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        has_run("umount", &["-l", self.0.to_str().unwrap_or_default()]);
    }
}

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    let work = Work::draw(random);
    let size = random.logarithmic(SIZES[0], SIZES[1]);
    let folder = case.path("disk");
    fs::create_dir(&folder)?;
    let disk = match random.one_in(2) {
        true => Some(Disk::mount(&folder)?),
        false => None,
    };
    work.prepare(&folder)?;
    let laq = work.laq(case, &folder);
    let done = match &disk {
        Some(disk) => {
            disk.resize(INPUTS + size)?;
            let ended = laq.run()?;
            disk.resize(ENOUGH)?;
            ended
        }
        None => laq.limited(&format!("-f {size}")).run()?,
    };
    let is_good = done.good_or_refused()?.is_good();
    let checked = work.check(case, &folder, is_good);
    let checked = checked.and_then(|()| work.finish(case, &folder));
    if checked.is_err() && disk.is_some() {
        copy_folder(&folder, &case.path("content-of-disk"))?;
    }
    checked
}
