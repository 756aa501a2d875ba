//! The file of packed weights: safetensors, with an entry of metadata for every packed tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codes::{PackError, Packing};
use crate::files::{FileError, replace};
use crate::matrix::CodeTable;
use crate::tensor::PackedTensor;
use crate::tensor_file::{Float, Layout, NewTensor, TensorFile, TensorFileError, Writer};

/// The version of the format that is written, and the newest that is read.
pub const PACKED_FORMAT_VERSION: u32 = 1;

/// The metadata entry with the version of the format.
pub const PACKED_FORMAT_KEY: &str = "laq.format_version";
/// The metadata entry that describes the packed tensors: a JSON object of [`TensorEntry`].
const TENSORS: &str = "laq.tensors";

/// The description of a packed tensor in the metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorEntry {
    /// Sizes of the tensor.
    pub(crate) shape: Vec<usize>,
    /// `bits1` to `bits8`, or `trits5`.
    pub(crate) packing: Packing,
    /// The multiplier of each code, rising.
    pub(crate) values: Vec<f32>,
    /// Equal groups of rows.
    pub(crate) groups: usize,
    /// Whether a group has a step for each sign.
    pub(crate) two_scales: bool,
}

/// The errors of a file of packed weights.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackedFileError {
    /// The file is not a valid safetensors file.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// The file has no packed weights.
    #[error(
        "{path} has no packed weights (no metadata entry {entry}): expected a file of `laq quantize` or \
         `laq export --to packed`"
    )]
    NotPacked {
        /// The file.
        path: PathBuf,
        /// The missing entry.
        entry: &'static str,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has format {found}, expected at most {PACKED_FORMAT_VERSION}: it was written by a newer version of \
         this program; update it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// The metadata cannot be read.
    #[error("the metadata entry {entry} of {path} is invalid: {detail}; write the file again")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: &'static str,
        /// The defect.
        detail: String,
    },
    /// A tensor is missing, or has another type or shape.
    #[error("{name} in {path} {found}, expected {expected}; write the file again")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The codes or steps of a tensor are invalid.
    #[error("{name} in {path} is invalid: {source}; write the file again")]
    Codes {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The defect.
        source: PackError,
    },
}

impl From<FileError> for PackedFileError {
    fn from(error: FileError) -> Self {
        Self::TensorFile(error.into())
    }
}

/// A tensor of a file of packed weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Packed codes.
    Packed(PackedTensor),
    /// Full precision.
    F32 {
        /// The sizes.
        shape: Vec<usize>,
        /// The elements, row-major.
        values: Vec<f32>,
    },
}

impl Tensor {
    /// The sizes of the tensor.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Packed(tensor) => tensor.shape(),
            Self::F32 { shape, .. } => shape,
        }
    }

    /// The weights in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Packed(tensor) => tensor.decode(),
            Self::F32 { values, .. } => values.clone(),
        }
    }

    /// Bytes in a file.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Packed(tensor) => tensor.bytes(),
            Self::F32 { values, .. } => 4 * values.len(),
        }
    }
}

/// An open file of packed weights; only its header is in memory.
#[derive(Debug)]
pub struct PackedFile {
    file: TensorFile,
    entries: BTreeMap<String, TensorEntry>,
}

impl PackedFile {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`PackedFileError`] if the file is no valid safetensors file, has no packed weights or a newer
    /// format, or if a tensor does not match its description.
    pub fn open(path: &Path) -> Result<Self, PackedFileError> {
        let file = TensorFile::open(path)?;
        let metadata: BTreeMap<String, String> = file.metadata().collect();
        let entry = |entry: &'static str| {
            metadata.get(entry).ok_or(PackedFileError::NotPacked {
                path: path.into(),
                entry,
            })
        };
        let version = entry(PACKED_FORMAT_KEY)?;
        if !version
            .parse()
            .is_ok_and(|version: u32| version <= PACKED_FORMAT_VERSION)
        {
            return Err(PackedFileError::Newer {
                path: path.into(),
                found: version.clone(),
            });
        }
        let entries: BTreeMap<String, TensorEntry> = serde_json::from_str(entry(TENSORS)?)
            .map_err(|error| PackedFileError::Metadata {
                path: path.into(),
                entry: TENSORS,
                detail: error.to_string(),
            })?;
        let opened = Self { file, entries };
        for name in opened.entries.keys() {
            opened.check(name)?;
        }
        Ok(opened)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The entries of the metadata that do not describe tensors.
    pub fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let own = |key: &str| key == PACKED_FORMAT_KEY || key == TENSORS;
        self.file.metadata().filter(move |(key, _)| !own(key))
    }

    /// The names of all tensors, packed or not, without those of codes and steps.
    pub fn names(&self) -> Vec<String> {
        let parts: BTreeSet<String> = (self.entries.keys())
            .flat_map(|name| [packed_name(name), scale_name(name)])
            .collect();
        let plain = self.file.tensors().into_iter().map(|(name, _)| name);
        let plain = plain.filter(|name| !parts.contains(name));
        // A dequantized copy has the name of the packed tensor.
        let names: BTreeSet<String> = plain.chain(self.entries.keys().cloned()).collect();
        names.into_iter().collect()
    }

    /// The header entry of a tensor, or of the dequantized copy of a packed one.
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.file.info(name)
    }

    /// Checks the types and shapes of the codes and steps of a packed tensor.
    fn check(&self, name: &str) -> Result<(), PackedFileError> {
        let entry = &self.entries[name];
        let expected_steps = entry
            .groups
            .saturating_mul(if entry.two_scales { 2 } else { 1 });
        for (part, dtype, expected) in [
            (packed_name(name), Dtype::U8, "two dimensions of U8"),
            (scale_name(name), Dtype::F32, "one F32 step for each group"),
        ] {
            let error = |found: String| PackedFileError::Tensor {
                path: self.path().into(),
                name: part.clone(),
                found,
                expected: expected.into(),
            };
            let Some(info) = self.file.info(&part) else {
                return Err(error("is missing".into()));
            };
            let fits = match dtype {
                Dtype::U8 => info.shape.len() == 2,
                _ => info.shape.iter().product::<usize>() == expected_steps,
            };
            if info.dtype != dtype || !fits {
                return Err(error(format!(
                    "has {} elements of shape {:?}",
                    info.dtype, info.shape
                )));
            }
        }
        Ok(())
    }

    /// Reads a tensor, packed or in full precision (F32, F16 or BF16).
    ///
    /// # Errors
    /// [`PackedFileError`] if the tensor is missing or of another type, or its codes or steps are
    /// invalid.
    pub fn tensor(&self, name: &str) -> Result<Tensor, PackedFileError> {
        if let Some(packed) = self.packed(name)? {
            return Ok(Tensor::Packed(packed));
        }
        let (shape, values) = self.f32s(name)?;
        Ok(Tensor::F32 { shape, values })
    }

    /// Reads a packed tensor; `None` if the tensor is not packed.
    pub(crate) fn packed(&self, name: &str) -> Result<Option<PackedTensor>, PackedFileError> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let part = packed_name(name);
        let info = self.file.info(&part).expect("checked");
        let rows = info.shape[0];
        let mut packed = Vec::with_capacity(info.data_offsets.1 - info.data_offsets.0);
        self.file.read(info, |bytes| {
            packed.extend_from_slice(bytes);
            Ok::<(), FileError>(())
        })?;
        let (_, steps) = self.f32s(&scale_name(name))?;
        let codes = |source| PackedFileError::Codes {
            path: self.path().into(),
            name: name.into(),
            source,
        };
        let table = CodeTable::new(entry.values.clone()).map_err(codes)?;
        let (shape, packing, two) = (&entry.shape, entry.packing, entry.two_scales);
        let tensor = PackedTensor::new(shape, rows, packing, packed, table, steps, two);
        tensor.map(Some).map_err(codes)
    }

    /// The shape and the elements of a tensor in full precision.
    fn f32s(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), PackedFileError> {
        let error = |found: String| PackedFileError::Tensor {
            path: self.path().into(),
            name: name.into(),
            found,
            expected: "F32, F16 or BF16 elements".into(),
        };
        let info = (self.file.info(name)).ok_or_else(|| error("is missing".into()))?;
        let float =
            Float::of(info.dtype).ok_or_else(|| error(format!("has {} elements", info.dtype)))?;
        let mut values = Vec::new();
        self.file.read(info, |bytes| {
            float.decode(bytes, &mut values);
            Ok::<(), FileError>(())
        })?;
        Ok((info.shape.clone(), values))
    }

    /// Writes tensors and metadata atomically.
    ///
    /// # Errors
    /// [`PackedFileError::TensorFile`] if the file cannot be written.
    pub fn write(
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
        metadata: BTreeMap<String, String>,
    ) -> Result<(), PackedFileError> {
        let mut new = Vec::new();
        let mut entries = BTreeMap::new();
        for (name, tensor) in tensors {
            match tensor {
                Tensor::Packed(tensor) => {
                    new.extend(new_tensors(name, tensor));
                    entries.insert(name.clone(), TensorEntry::of(tensor));
                }
                Tensor::F32 { shape, .. } => new.push(NewTensor {
                    name: name.clone(),
                    dtype: Dtype::F32,
                    shape: shape.clone(),
                }),
            }
        }
        let layout = Layout::new(path, new, &with_entries(metadata, &entries))?;
        replace(path, ".tmp", |file| {
            let mut writer = Writer::new(&layout, path, file)?;
            for (name, tensor) in tensors {
                match tensor {
                    Tensor::Packed(tensor) => write_packed(&mut writer, name, tensor)?,
                    Tensor::F32 { values, .. } => {
                        writer.begin(name)?;
                        let mut bytes = Vec::new();
                        Float::F32.encode(values, &mut bytes);
                        writer.write(&bytes)?;
                    }
                }
            }
            writer.end()
        })?;
        Ok(())
    }
}

impl TensorEntry {
    pub(crate) fn of(tensor: &PackedTensor) -> Self {
        Self {
            shape: tensor.shape().to_vec(),
            packing: tensor.packing(),
            values: tensor.table().multipliers().to_vec(),
            groups: tensor.groups(),
            two_scales: tensor.has_two_steps(),
        }
    }
}

/// The metadata with version and description of the packed tensors.
pub(crate) fn with_entries(
    mut metadata: BTreeMap<String, String>,
    entries: &BTreeMap<String, TensorEntry>,
) -> BTreeMap<String, String> {
    metadata.insert(PACKED_FORMAT_KEY.into(), PACKED_FORMAT_VERSION.to_string());
    let entries = serde_json::to_string(entries).expect("plain numbers and strings");
    metadata.insert(TENSORS.into(), entries);
    metadata
}

/// The tensors of the codes and of the steps.
fn new_tensors(name: &str, tensor: &PackedTensor) -> [NewTensor; 2] {
    let row_bytes = tensor.packed().len().checked_div(tensor.rows());
    let steps = match (tensor.groups(), tensor.has_two_steps()) {
        (1, true) => vec![2],
        (groups, true) => vec![groups, 2],
        (groups, false) => vec![groups],
    };
    [
        NewTensor {
            name: packed_name(name),
            dtype: Dtype::U8,
            shape: vec![tensor.rows(), row_bytes.unwrap_or(0)],
        },
        NewTensor {
            name: scale_name(name),
            dtype: Dtype::F32,
            shape: steps,
        },
    ]
}

/// Writes the codes and the steps of a tensor.
pub(crate) fn write_packed(
    writer: &mut Writer<'_>,
    name: &str,
    tensor: &PackedTensor,
) -> Result<(), FileError> {
    writer.begin(&packed_name(name))?;
    writer.write(tensor.packed())?;
    writer.begin(&scale_name(name))?;
    let mut bytes = Vec::new();
    Float::F32.encode(tensor.steps(), &mut bytes);
    writer.write(&bytes)
}

pub(crate) fn packed_name(name: &str) -> String {
    format!("{name}.packed")
}

pub(crate) fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}
