//! The checkpoint file: all that a run needs to go on with the same bits, and all that an evaluation needs.
//!
//! A safetensors file whose tensors are those of [`laq_models::Training::save`] and whose metadata are
//!
//! | entry | content |
//! |---|---|
//! | `format` | `laq-checkpoint` |
//! | `format_version` | [`FORMAT_VERSION`] |
//! | `checksum` | SHA-256 of the whole file, in hexadecimal, taken with 64 zeros in the checksum's place |
//! | `run` | [`RunState`] as JSON |

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use laq_models::{StateData, StateTensor};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::config::Experiment;
use crate::files::{FileError, write_atomically};
use crate::record::LayerRecord;
use crate::run_folder::BEST;

/// The version of the file format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "laq-checkpoint";
const CHECKSUM_MARK: &[u8] = b"\"checksum\":\"";
const CHECKSUM_LENGTH: usize = 64;

/// A run between two steps.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stands.
    pub run: RunState,
    /// The network's and the optimizer's state.
    pub network: Vec<StateTensor>,
}

/// Everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// See [`crate::config::key`].
    pub key: String,
    /// See [`crate::TRAINING_VERSION`].
    pub training_version: u32,
    /// What is trained, resolved.
    pub experiment: Experiment,
    /// The bytes that the symbols stand for; none for images.
    pub alphabet: Vec<u8>,
    /// SHA-256 of the splits, in hexadecimal.
    pub data_sha256: String,
    /// The matrix kernel that it is trained with: another rounds differently.
    pub kernel: String,
    /// How far it is.
    pub progress: Progress,
}

/// How far a run is, and the sums that go on from there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch under way, from 1; one more than there are when all are done.
    pub epoch: u32,
    /// Steps done in it.
    pub step: usize,
    /// Σ of their losses.
    pub loss_sum: f64,
    /// The quantized layers after its last step, once its evaluation has begun. They are kept because the solvers'
    /// rounds are not known any more when an evaluation goes on.
    pub layers: Option<Vec<LayerRecord>>,
    /// Wall-clock seconds in this epoch.
    pub epoch_seconds: f64,
    /// Times of this epoch's steps.
    pub epoch_times: StepTimes,
    /// Wall-clock seconds in the whole run.
    pub seconds: f64,
    /// Times of all steps of the run.
    pub times: StepTimes,
    /// The best epoch so far.
    pub best: Option<Best>,
}

impl Progress {
    /// Before the first step.
    #[must_use]
    pub fn at_the_beginning() -> Self {
        Self {
            epoch: 1,
            step: 0,
            loss_sum: 0.0,
            layers: None,
            epoch_seconds: 0.0,
            epoch_times: StepTimes::default(),
            seconds: 0.0,
            times: StepTimes::default(),
            best: None,
        }
    }
}

/// Steps and the seconds they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Steps.
    pub steps: u64,
    /// Σ of their seconds.
    pub seconds: f64,
    /// Σ of the seconds of them spent quantizing.
    pub quantize_seconds: f64,
}

impl StepTimes {
    /// Counts so many more steps.
    pub fn add(&mut self, steps: u64, seconds: f64, quantize_seconds: f64) {
        self.steps += steps;
        self.seconds += seconds;
        self.quantize_seconds += quantize_seconds;
    }

    /// Mean seconds of a step; 0 before the first.
    #[must_use]
    pub fn per_step(&self) -> f64 {
        if self.steps == 0 {
            0.0
        } else {
            self.seconds / self.steps as f64
        }
    }

    /// The share of the seconds spent quantizing; 0 before the first step.
    #[must_use]
    pub fn quantize_share(&self) -> f64 {
        if self.seconds > 0.0 {
            self.quantize_seconds / self.seconds
        } else {
            0.0
        }
    }
}

/// What the best epoch reached; see [`crate::record::Summary`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch.
    pub epoch: u32,
    /// Mean over its steps.
    pub train_loss: f64,
    /// After it.
    pub validation_loss: f64,
    /// After it.
    pub test_loss: f64,
    /// After it, for images. Checkpoints of older versions know of texts alone.
    #[serde(default)]
    pub validation_error: Option<f64>,
    /// After it, for images.
    #[serde(default)]
    pub test_error: Option<f64>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is shorter than it says.
    #[error(
        "{path} is cut off: it has {found} bytes, its header promises {expected}; {}",
        advice(path)
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// The bytes that there should be.
        expected: u64,
    },
    /// Bytes differ from those that were written.
    #[error(
        "{path} was altered or damaged after it was written ({detail}); {}",
        advice(path)
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A file of another program.
    #[error(
        "{path} is not a checkpoint of this program ({detail}); give a run folder, or a .safetensors file from one"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// A file of a later version of this program.
    #[error(
        "{path} was written by a newer version of this program (checkpoint format {found}, this one knows up to \
         {FORMAT_VERSION}); update laq to use it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A state that the file format cannot hold.
    #[error("a checkpoint cannot be written: {detail}")]
    Unwritable {
        /// Why.
        detail: String,
    },
}

/// What to do about a checkpoint that is spoilt.
fn advice(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == BEST) {
        "the weights of the best epoch are lost with it: give last.safetensors by name to use the last ones, or train \
         anew in another --run-dir"
    } else {
        "delete it, and `laq train --resume` goes on from the run's other checkpoint, or from the beginning where there \
         is none"
    }
}

impl Checkpoint {
    /// The file's bytes.
    ///
    /// # Errors
    ///
    /// A tensor whose data do not fit its shape.
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
            checksum_place(&bytes).ok_or_else(|| error("no place for the checksum".into()))?;
        let digest = hex::encode(Sha256::digest(&bytes));
        bytes[place..place + CHECKSUM_LENGTH].copy_from_slice(digest.as_bytes());
        Ok(bytes)
    }

    /// Writes the file in one step; what was under `path` stays until the new file is whole and on the disk.
    ///
    /// # Errors
    ///
    /// What [`Self::to_bytes`] and the system say.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        Ok(write_atomically(path, &self.to_bytes()?)?)
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is cut off, altered, foreign or of a newer version.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        Self::from_bytes(fs::read(path).map_err(FileError::on("read", path))?, path)
    }

    fn from_bytes(mut bytes: Vec<u8>, path: &Path) -> Result<Self, CheckpointError> {
        let foreign = |detail: &str| CheckpointError::Foreign {
            path: path.into(),
            detail: detail.into(),
        };
        let altered = |detail: String| CheckpointError::Altered {
            path: path.into(),
            detail,
        };
        let cut_off = |found: usize, expected: u64| CheckpointError::CutOff {
            path: path.into(),
            found: found as u64,
            expected,
        };
        let (length, _) = bytes
            .split_first_chunk::<8>()
            .ok_or_else(|| cut_off(bytes.len(), 8))?;
        let data_start = u64::from_le_bytes(*length).saturating_add(8);
        if bytes.get(8).is_some_and(|&byte| byte != b'{') {
            return Err(foreign("no safetensors header"));
        }
        if data_start > bytes.len() as u64 {
            return Err(cut_off(bytes.len(), data_start));
        }
        let header: Metadata = serde_json::from_slice(&bytes[8..data_start as usize])
            .map_err(|error| altered(format!("its header: {error}")))?;
        let expected = data_start.saturating_add(header.data_len() as u64);
        let metadata = header
            .metadata()
            .as_ref()
            .ok_or_else(|| foreign("no metadata"))?;
        let entry = |name: &str| {
            metadata
                .get(name)
                .map(String::as_str)
                .ok_or_else(|| foreign(&format!("no {name}")))
        };
        if entry("format")? != FORMAT {
            return Err(foreign("another format"));
        }
        // The version comes first: a newer format may well have another checksum.
        let version = entry("format_version")?
            .parse()
            .map_err(|_| altered("its version".into()))?;
        if version > FORMAT_VERSION {
            return Err(CheckpointError::Newer {
                path: path.into(),
                found: version,
            });
        }
        if expected > bytes.len() as u64 {
            return Err(cut_off(bytes.len(), expected));
        }
        let run = entry("run")?.to_string();
        let checksum = entry("checksum")?.to_string();
        let place = checksum_place(&bytes)
            .filter(|place| place + CHECKSUM_LENGTH <= bytes.len())
            .ok_or_else(|| altered("no checksum".into()))?;
        bytes[place..place + CHECKSUM_LENGTH].fill(b'0');
        if hex::encode(Sha256::digest(&bytes)) != checksum {
            return Err(altered("its checksum does not match".into()));
        }
        let run: RunState = serde_json::from_str(&run)
            .map_err(|error| altered(format!("its run entry: {error}")))?;
        run.experiment
            .clone()
            .resolve()
            .map_err(|(key, value, allowed)| altered(format!("{key} = {value}: {allowed}")))?;
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

fn checksum_place(bytes: &[u8]) -> Option<usize> {
    // Quotes within the other entries are escaped, so the first mark is the entry itself.
    let mark = bytes
        .windows(CHECKSUM_MARK.len())
        .position(|window| window == CHECKSUM_MARK)?;
    Some(mark + CHECKSUM_MARK.len())
}

/// A tensor as the file holds it: little-endian bytes.
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Raw {
    fn new(tensor: &StateTensor) -> Self {
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
