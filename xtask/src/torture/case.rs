//! A case: its folder, its random numbers, and the undisturbed runs that all cases share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::random::Random;

/// The characters of a finding that are printed.
const MOST: usize = 1000;

/// Ends the case with a finding. Any other error ends it as well.
pub(crate) fn finding<T>(expected: impl Display, seen: impl Display) -> Result<T> {
    let (expected, seen) = (expected.to_string(), seen.to_string());
    bail!("expected: {expected:.MOST$}\nseen: {seen:.MOST$}")
}

/// Ends the case with a finding unless `is_true`.
pub(crate) fn ensure(
    is_true: bool,
    expected: impl Display,
    seen: impl FnOnce() -> String,
) -> Result<()> {
    match is_true {
        true => Ok(()),
        false => finding(expected, seen()),
    }
}

/// Numbers of a kind for the table.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) processes: Cell<u64>,
    pub(crate) kills: Cell<u64>,
}

impl Counts {
    pub(crate) fn add_process(&self) -> u64 {
        self.processes.set(self.processes.get() + 1);
        self.processes.get()
    }

    pub(crate) fn add_kill(&self) {
        self.kills.set(self.kills.get() + 1);
    }
}

/// Something that nothing has disturbed, made once.
pub(crate) struct Reference {
    pub(crate) folder: PathBuf,
    pub(crate) time: Duration,
}

/// The references by the hash of what they are made from.
pub(crate) struct References {
    folder: PathBuf,
    known: RefCell<HashMap<u64, Rc<Reference>>>,
}

impl References {
    pub(crate) fn in_folder(folder: PathBuf) -> Self {
        let known = RefCell::default();
        Self { folder, known }
    }
}

/// A case of a kind.
pub(crate) struct Case<'a> {
    pub(crate) laq: &'a PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) random: Random,
    pub(crate) counts: &'a Counts,
    pub(crate) references: &'a References,
}

impl Case<'_> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        write(&self.path(name), content)
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        read(&self.path(name))
    }

    /// The folder that `make` has filled; `key` has everything that it depends on.
    pub(crate) fn reference(
        &self,
        key: impl Hash,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Rc<Reference>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let key = hasher.finish();
        if let Some(reference) = self.references.known.borrow().get(&key) {
            return Ok(reference.clone());
        }
        let folder = self.references.folder.join(format!("{key:016x}"));
        // Of a case that has failed in it.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let start = Instant::now();
        make(&folder)?;
        let time = start.elapsed();
        let reference = Rc::new(Reference { folder, time });
        self.references
            .known
            .borrow_mut()
            .insert(key, reference.clone());
        Ok(reference)
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a folder with its folders.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
