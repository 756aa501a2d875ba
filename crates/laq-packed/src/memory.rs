//! The memory that this process may take.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// Bytes of the program with the buffers of files.
const PROGRAM: u64 = 40 << 20;

/// Bytes of address space that glibc sets aside for the memory of a thread.
const THREAD: u64 = 64 << 20;

/// The memory that a process may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableMemory {
    /// Bytes. What others use of the machine or of a control group is not subtracted.
    pub bytes: u64,
    /// What limits it, such as `the limit of 2.0 GiB in /sys/fs/cgroup/memory.max`.
    pub limit: String,
}

/// The least of the machine's memory, the limits of the control groups of this process (those of containers and batch jobs,
/// version 1 and 2) and what is left of its own limits (`ulimit -v` and `-d`). `None` where the system does not report them;
/// Linux only.
#[must_use]
pub fn available_memory() -> Option<AvailableMemory> {
    available(Path::new("/"), 0)
}

/// [`available_memory`] without what the program itself takes, and, where address space is limited, what glibc sets
/// aside of it for each of `threads` threads.
#[must_use]
pub fn memory_for_data(threads: usize) -> Option<AvailableMemory> {
    let found = available(Path::new("/"), threads)?;
    Some(AvailableMemory {
        bytes: found.bytes.saturating_sub(PROGRAM),
        limit: found.limit,
    })
}

/// [`memory_for_data`] with the files of the system below `root`, and the program itself.
fn available(root: &Path, threads: usize) -> Option<AvailableMemory> {
    let of_threads = THREAD.saturating_mul(threads as u64);
    let own = [
        (
            "Max address space",
            "VmSize",
            "of address space (ulimit -v)",
            of_threads,
        ),
        ("Max data size", "VmData", "of data (ulimit -d)", 0),
    ];
    let machine = kibibytes(root, "proc/meminfo", "MemTotal").map(|bytes| AvailableMemory {
        bytes,
        limit: format!("the {} of this machine", Size(bytes)),
    });
    let own = own.into_iter().filter_map(|(limit, used, of, set_aside)| {
        let limit = own_limit(root, limit)?;
        let used = kibibytes(root, "proc/self/status", used)?;
        Some(AvailableMemory {
            bytes: limit.saturating_sub(used.saturating_add(set_aside)),
            limit: format!(
                "the limit of {} {of}, {} of it in use",
                Size(limit),
                Size(used.saturating_add(set_aside))
            ),
        })
    });
    let groups = group_limits(root).into_iter().filter_map(|path| {
        let bytes = read(root, &path)?.trim().parse().ok()?;
        Some(AvailableMemory {
            bytes,
            limit: format!("the limit of {} in {}", Size(bytes), path.display()),
        })
    });
    let all = machine.into_iter().chain(own).chain(groups);
    all.min_by_key(|limit| limit.bytes)
}

/// More memory than a process may take.
#[derive(Debug, Error)]
#[error("takes about {} of memory, and there is {limit}", Size(*.needed))]
pub struct MemoryShortage {
    /// Bytes.
    pub needed: u64,
    /// What limits the memory.
    pub limit: String,
}

/// Checks that there is memory for the program itself, which cannot tell it later.
///
/// # Errors
///
/// [`MemoryShortage`].
pub fn check_program_memory() -> Result<(), MemoryShortage> {
    match memory_for_data(0) {
        Some(found) if found.bytes == 0 => Err(MemoryShortage::of(PROGRAM, Some(found))),
        _ => Ok(()),
    }
}

/// Whether so many bytes can be taken. The system is asked for them too, which limits them where it says nothing.
pub(crate) fn check_memory(needed: u64, threads: usize) -> Result<(), MemoryShortage> {
    let available = memory_for_data(threads);
    let is_there = available.as_ref().is_none_or(|found| needed <= found.bytes);
    let reserved = usize::try_from(needed)
        .is_ok_and(|needed| Vec::<u8>::new().try_reserve_exact(needed).is_ok());
    match is_there && reserved {
        true => Ok(()),
        false => Err(MemoryShortage::of(needed, available)),
    }
}

impl MemoryShortage {
    /// Of `needed` bytes where so many are available.
    pub(crate) fn of(needed: u64, available: Option<AvailableMemory>) -> Self {
        Self {
            needed,
            limit: available.map_or_else(|| "less".into(), |found| found.limit),
        }
    }
}

fn read(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(path))).ok()
}

/// The first line "name:   number kB" of a file, in bytes.
fn kibibytes(root: &Path, path: &str, name: &str) -> Option<u64> {
    let text = read(root, path)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(found, _)| *found == name)?;
    let number: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// A soft limit of the process; `None` if it is `unlimited`.
fn own_limit(root: &Path, name: &str) -> Option<u64> {
    let text = read(root, "proc/self/limits")?;
    let values = text.lines().find_map(|line| line.strip_prefix(name))?;
    values.split_whitespace().next()?.parse().ok()
}

/// The files with the limits of the control groups of the process, from its own to the outermost that is mounted.
fn group_limits(root: &Path) -> Vec<PathBuf> {
    let groups = read(root, "proc/self/cgroup").unwrap_or_default();
    let mounts = read(root, "proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        // "0::/path" for version 2, "4:memory:/path" and "5:cpu,cpuacct:/path" for version 1
        let group = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = match mount.version_2 {
                true => controllers.is_empty(),
                false => controllers.split(',').any(|name| name == "memory"),
            };
            is_it.then_some(Path::new(path))
        });
        let below = group.and_then(|group| group.strip_prefix(mount.root).ok());
        // A group outside of the mount: of that, the limits are those that can be seen.
        let is_below = |path: &&Path| !path.components().any(|part| part == Component::ParentDir);
        let below = below.filter(is_below).unwrap_or(Path::new(""));
        let file = match mount.version_2 {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        };
        let folders = below.ancestors().map(|path| mount.point.join(path));
        found.extend(folders.map(|folder| folder.join(file)));
    }
    found
}

/// Where control groups that limit memory are mounted.
struct Mount<'a> {
    version_2: bool,
    /// The group at the mount's root.
    root: &'a Path,
    point: &'a Path,
}

impl<'a> Mount<'a> {
    /// A line of `mountinfo`: "36 35 98:0 ROOT POINT OPTIONS [FIELDS…] - TYPE SOURCE OPTIONS".
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3).map(Path::new);
        let system: Vec<&str> = system.split(' ').collect();
        let version_2 = match *system.first()? {
            "cgroup2" => true,
            "cgroup" if system.last()?.split(',').any(|name| name == "memory") => false,
            _ => return None,
        };
        Some(Self {
            version_2,
            root: mount.next()?,
            point: mount.next()?,
        })
    }
}

/// Bytes as `2.0 GiB` or `512 MiB`.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 as f64 / f64::from(1 << 20);
        if mebibytes < 1024.0 {
            write!(formatter, "{mebibytes:.0} MiB")
        } else {
            write!(formatter, "{:.1} GiB", mebibytes / 1024.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;
    use std::{format, fs};

    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

    /// The limit of a machine of 8 GiB with these files.
    fn limit(files: &[(&str, &str)]) -> (u64, String) {
        let root = tempfile::tempdir().expect("a folder");
        let machine = [
            (
                "proc/meminfo",
                "MemTotal:        8388608 kB\nMemFree:  1 kB\n",
            ),
            (
                "proc/self/status",
                "VmPeak:\t 9 kB\nVmSize:\t  524288 kB\nVmData:\t 1024 kB\n",
            ),
        ];
        for (path, text) in machine.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        let found = available(root.path(), 0).expect("a limit");
        (found.bytes, found.limit)
    }

    #[test]
    fn the_least_limit_counts_and_is_named() {
        let gib = |count: u64| count << 30;
        let own = |address: &str, data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max data size             {data}            unlimited            bytes\n\
                 Max address space         {address}            unlimited            bytes\n"
            )
        };
        let limits = own("unlimited", "unlimited");
        let nothing = ("proc/self/limits", limits.as_str());
        assert_eq!(limit(&[]), (gib(8), "the 8.0 GiB of this machine".into()));
        assert_eq!(limit(&[nothing]).0, gib(8));
        let limits = own(&gib(2).to_string(), "unlimited");
        assert_eq!(
            limit(&[("proc/self/limits", &limits)]),
            (
                gib(2) - (512 << 20),
                "the limit of 2.0 GiB of address space (ulimit -v), 512 MiB of it in use".into()
            )
        );
        let limits = own(&gib(2).to_string(), &gib(1).to_string());
        let found = limit(&[("proc/self/limits", &limits)]);
        assert_eq!(found.0, gib(1) - (1 << 20));
        // More than the limit is in use already.
        assert_eq!(limit(&[("proc/self/limits", &own("1", "unlimited"))]).0, 0);
    }

    /// Mounts, the process's groups, files with limits, and which of them counts.
    type Case = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        Option<&'static str>,
    );

    #[test]
    fn control_groups_of_both_versions_are_found() {
        let cases: &[Case] = &[
            // The own group, one around it, and the outermost.
            (
                V2,
                "0::/a/b\n",
                &[("a/b/memory.max", "1000\n"), ("a/memory.max", "max\n")],
                Some("a/b/memory.max"),
            ),
            (
                V2,
                "0::/a/b\n",
                &[("a/b/memory.max", "max\n"), ("a/memory.max", "1000\n")],
                Some("a/memory.max"),
            ),
            (
                V2,
                "0::/\n",
                &[("memory.max", "1000\n")],
                Some("memory.max"),
            ),
            (V2, "0::/a\n", &[("a/memory.max", "max\n")], None),
            (
                V2,
                "0::/a\n",
                &[("b/memory.max", "1000\n"), ("memory.max", "99999999999\n")],
                None,
            ),
            // Version 1, also beside version 2 without this controller.
            (
                V1,
                "4:memory:/a/b\n0::/\n",
                &[("memory/a/b/memory.limit_in_bytes", "1000\n")],
                Some("memory/a/b/memory.limit_in_bytes"),
            ),
            (
                V1,
                "4:cpu,memory:/a\n",
                &[("memory/a/memory.limit_in_bytes", "9223372036854771712\n")],
                None,
            ),
            (
                V1,
                "4:memory:/\n1:cpu:/a\n",
                &[("memory/a/memory.limit_in_bytes", "1000\n")],
                None,
            ),
            // A container that sees the host's path: its own group is the root of the mount.
            (
                "35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro master:9 - cgroup memory rw,memory\n",
                "4:memory:/docker/1/step\n",
                &[
                    ("memory/memory.limit_in_bytes", "1000\n"),
                    ("memory/step/memory.limit_in_bytes", "2000\n"),
                ],
                Some("memory/memory.limit_in_bytes"),
            ),
            (
                "30 23 0:26 /job /sys/fs/cgroup rw - cgroup2 none rw\n",
                "0::/other\n",
                &[("memory.max", "1000\n")],
                Some("memory.max"),
            ),
            (
                V2,
                "0::/../x\n",
                &[("memory.max", "1000\n"), ("../x/memory.max", "5\n")],
                Some("memory.max"),
            ),
        ];
        for (mounts, groups, files, expected) in cases {
            let files: Vec<_> = files
                .iter()
                .map(|(path, text)| (format!("sys/fs/cgroup/{path}"), *text))
                .collect();
            let mut all = Vec::from([
                ("proc/self/mountinfo", *mounts),
                ("proc/self/cgroup", *groups),
            ]);
            all.extend(files.iter().map(|(path, text)| (path.as_str(), *text)));
            let expected = match expected {
                Some(path) => (1000, format!("the limit of 0 MiB in /sys/fs/cgroup/{path}")),
                None => (8 << 30, "the 8.0 GiB of this machine".into()),
            };
            assert_eq!(limit(&all), expected, "{mounts}{groups}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_memory() {
        let found = available_memory().expect("MemTotal");
        assert!(
            found.bytes > 100 << 20 && found.limit.starts_with("the "),
            "{found:?}"
        );
    }
}
