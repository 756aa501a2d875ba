//! The checkpoint file: the state from which a run resumes with the same bits, and which an
//! evaluation loads.
//!
//! A safetensors file with the tensors of [`laq_models::Training::save`] and the metadata
//!
//! | entry | content |
//! |---|---|
//! | `format` | `laq-checkpoint` |
//! | `format_version` | [`FORMAT_VERSION`] |
//! | `checksum` | SHA-256 of the file in hexadecimal, computed with 64 zeros in place of the checksum |
//! | `run` | [`RunState`] as JSON |

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use laq_models::{StateData, StateTensor};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, View};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::{FileError, write_atomically};
use crate::run_state::RunState;

/// The version of the format that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

/// The file of a run folder with the weights of the best epoch.
pub(crate) const BEST: &str = "best.safetensors";
/// The one with the last state.
pub(crate) const LAST: &str = "last.safetensors";

const FORMAT: &str = "laq-checkpoint";
const CHECKSUM_MARK: &[u8] = b"\"checksum\":\"";
const CHECKSUM_LENGTH: usize = 64;
/// Bytes of the header length, which precedes the header.
const LENGTH_BYTES: u64 = 8;
/// The longest header of the format.
const MAX_HEADER: u64 = 100_000_000;

/// A run between two steps.
#[derive(Debug)]
pub struct Checkpoint {
    /// The state of the run.
    pub run: RunState,
    /// The network's and the optimizer's state.
    pub network: Vec<StateTensor>,
}

/// The errors of reading and writing checkpoints.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is shorter than its header states.
    #[error(
        "{path} is truncated: found {found} bytes, expected {expected}; {}",
        advice(path)
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The bytes found.
        found: u64,
        /// The bytes expected.
        expected: u64,
    },
    /// The content differs from what was written.
    #[error("{path} was altered or damaged ({detail}); {}", advice(path))]
    Altered {
        /// The file.
        path: PathBuf,
        /// What does not match.
        detail: String,
    },
    /// The file is not a checkpoint of this program.
    #[error("{path} is not a checkpoint ({detail}); {}", advice_on_foreign(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has checkpoint format {found}, expected at most {FORMAT_VERSION}: it was written by a newer version of \
         this program; update it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The state cannot be serialized.
    #[error("a checkpoint cannot be written: {detail}")]
    Unwritable {
        /// The reason.
        detail: String,
    },
}

/// How to proceed with a file that is no checkpoint.
fn advice_on_foreign(path: &Path) -> &'static str {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(BEST) => "move it away: it is in the place of the weights of the best epoch",
        Some(LAST) => {
            "move it away, and train with --resume to continue from the other checkpoint of the run, or from the \
             beginning if there is none"
        }
        _ => "expected a run folder or one of its .safetensors files",
    }
}

/// How to proceed without a damaged checkpoint.
fn advice(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == BEST) {
        "it has the weights of the best epoch: pass last.safetensors to use the last ones, or move it away to train \
         on without it"
    } else {
        "delete it, and train with --resume to continue from the other checkpoint of the run, or from the beginning if \
         there is none"
    }
}

impl Checkpoint {
    /// Serializes the checkpoint.
    ///
    /// # Errors
    ///
    /// The data of a tensor do not match its shape.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let error = |detail| CheckpointError::Unwritable { detail };
        let run = serde_json::to_string(&self.run).map_err(|e| error(e.to_string()))?;
        let metadata = HashMap::from([
            ("format".into(), FORMAT.into()),
            ("format_version".into(), FORMAT_VERSION.to_string()),
            ("checksum".into(), "0".repeat(CHECKSUM_LENGTH)),
            ("run".into(), run),
        ]);
        let tensors = self
            .network
            .iter()
            .map(|tensor| (&tensor.name, Raw::new(tensor)));
        let mut bytes =
            safetensors::serialize(tensors, Some(metadata)).map_err(|e| error(e.to_string()))?;
        let place =
            checksum_offset(&bytes).ok_or_else(|| error("no checksum in the header".into()))?;
        let digest = hex::encode(Sha256::digest(&bytes));
        bytes[place..place + CHECKSUM_LENGTH].copy_from_slice(digest.as_bytes());
        Ok(bytes)
    }

    /// Writes the file atomically: `path` keeps its content until the new file is complete and
    /// synced.
    ///
    /// # Errors
    ///
    /// Those of [`Self::to_bytes`] and of writing.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        Ok(write_atomically(path, &self.to_bytes()?)?)
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is truncated, altered, foreign or of a newer version.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        Self::from_bytes(fs::read(path).map_err(FileError::on("read", path))?, path)
    }

    pub(crate) fn from_bytes(mut bytes: Vec<u8>, path: &Path) -> Result<Self, CheckpointError> {
        let altered = |detail: String| CheckpointError::Altered {
            path: path.into(),
            detail,
        };
        let header = Header::read(&bytes, bytes.len() as u64, path)?;
        let checksum = header.entry("checksum", path)?.to_string();
        let place = checksum_offset(&bytes)
            .filter(|place| place + CHECKSUM_LENGTH <= bytes.len())
            .ok_or_else(|| altered("no checksum".into()))?;
        bytes[place..place + CHECKSUM_LENGTH].fill(b'0');
        if hex::encode(Sha256::digest(&bytes)) != checksum {
            return Err(altered("its checksum does not match".into()));
        }
        let run = header.run(path)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| altered(format!("its tensors: {error}")))?;
        let network = tensors
            .iter()
            .map(|(name, view)| {
                state_data(view.dtype(), view.data())
                    .map(|data| StateTensor {
                        name: name.into(),
                        shape: view.shape().to_vec(),
                        data,
                    })
                    .ok_or_else(|| altered(format!("tensor {name} has type {:?}", view.dtype())))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { run, network })
    }
}

impl RunState {
    /// Reads the header of a checkpoint. The tensors are not read, and the checksum is not verified.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is truncated, foreign or of a newer version, or its header is damaged.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let (start, length) = read_start(path).map_err(FileError::on("read", path))?;
        Header::read(&start, length, path)?.run(path)
    }
}

/// Whether a file says that it is a checkpoint; what it has is not looked at.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    let format = format!("\"format\":\"{FORMAT}\"");
    let begins_so = |(start, _): (Vec<u8>, u64)| {
        let mut parts = start.windows(format.len());
        parts.any(|part| part == format.as_bytes())
    };
    path.is_file() && read_start(path).is_ok_and(begins_so)
}

/// The bytes of a file up to the end of its header, and the length of the file.
fn read_start(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut start = Vec::new();
    Read::by_ref(&mut file)
        .take(LENGTH_BYTES)
        .read_to_end(&mut start)?;
    if let Some((header_bytes, _)) = start.split_first_chunk() {
        let header_bytes = u64::from_le_bytes(*header_bytes).min(MAX_HEADER);
        file.take(header_bytes).read_to_end(&mut start)?;
    }
    Ok((start, length))
}

/// The header of a checkpoint.
struct Header(HashMap<String, String>);

impl Header {
    /// Checks the header of a file of `length` bytes that begins with `start`, which has all of it.
    fn read(start: &[u8], length: u64, path: &Path) -> Result<Self, CheckpointError> {
        let altered = |detail: String| CheckpointError::Altered {
            path: path.into(),
            detail,
        };
        let truncated = |expected: u64| CheckpointError::Truncated {
            path: path.into(),
            found: length,
            expected,
        };
        let (header_bytes, rest) =
            (start.split_first_chunk()).ok_or_else(|| truncated(LENGTH_BYTES))?;
        let header_bytes = u64::from_le_bytes(*header_bytes);
        if header_bytes == 0 {
            // As after a loss of power, where the content was not yet on the disk.
            return Err(altered("it begins with zeros".into()));
        }
        if rest.first().is_some_and(|&byte| byte != b'{') {
            return Err(foreign(path, "no safetensors header"));
        }
        let data_start = header_bytes.saturating_add(LENGTH_BYTES);
        if data_start > length {
            return Err(truncated(data_start));
        }
        let header = usize::try_from(header_bytes)
            .ok()
            .and_then(|bytes| rest.get(..bytes));
        let header = header.ok_or_else(|| altered("its header is too long".into()))?;
        let header: Metadata = serde_json::from_slice(header)
            .map_err(|error| altered(format!("its header: {error}")))?;
        let expected = data_start.saturating_add(header.data_len() as u64);
        let entries = header.metadata().clone();
        let header = Self(entries.ok_or_else(|| foreign(path, "no metadata"))?);
        if header.entry("format", path)? != FORMAT {
            return Err(foreign(path, "another format"));
        }
        // The version is checked first, since a newer format may have another checksum.
        let version = header.entry("format_version", path)?;
        let version = version.parse().map_err(|_| altered("its version".into()))?;
        if version > FORMAT_VERSION {
            return Err(CheckpointError::Newer {
                path: path.into(),
                found: version,
            });
        }
        match expected > length {
            true => Err(truncated(expected)),
            false => Ok(header),
        }
    }

    fn entry(&self, name: &str, path: &Path) -> Result<&str, CheckpointError> {
        let entry = self.0.get(name).map(String::as_str);
        entry.ok_or_else(|| foreign(path, &format!("no {name}")))
    }

    fn run(&self, path: &Path) -> Result<RunState, CheckpointError> {
        RunState::parse(self.entry("run", path)?).map_err(|detail| CheckpointError::Altered {
            path: path.into(),
            detail,
        })
    }
}

fn foreign(path: &Path, detail: &str) -> CheckpointError {
    CheckpointError::Foreign {
        path: path.into(),
        detail: detail.into(),
    }
}

fn checksum_offset(bytes: &[u8]) -> Option<usize> {
    // Quotes in other entries are escaped, so the first match is the entry.
    let mark = bytes
        .windows(CHECKSUM_MARK.len())
        .position(|window| window == CHECKSUM_MARK)?;
    Some(mark + CHECKSUM_MARK.len())
}

/// A tensor as little-endian bytes.
pub(crate) struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(tensor: &StateTensor) -> Self {
        let (dtype, bytes) = match &tensor.data {
            StateData::F32(values) => (
                Dtype::F32,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
            StateData::I8(values) => (
                Dtype::I8,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
            StateData::U64(values) => (
                Dtype::U64,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
        };
        Self {
            dtype,
            shape: tensor.shape.clone(),
            bytes,
        }
    }
}

impl View for Raw {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn state_data(dtype: Dtype, bytes: &[u8]) -> Option<StateData> {
    Some(match dtype {
        Dtype::F32 => StateData::F32(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::I8 => StateData::I8(bytes.iter().map(|b| b.cast_signed()).collect()),
        Dtype::U64 => StateData::U64(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| u64::from_le_bytes(*b))
                .collect(),
        ),
        _ => return None,
    })
}
