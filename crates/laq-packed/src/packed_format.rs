//! The format of packed weights: safetensors, with an entry of metadata for every packed tensor.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::axis::front_shape;
use crate::code_table::CodeTable;
use crate::codes::Packing;
use crate::float::Float;
use crate::matrix::PackedMatrix;
use crate::pack_error::PackError;
use crate::steps::Steps;
use crate::tensor::{PackedTensor, columns_of};

/// The newest version of the format that is read. Files are written as version 1, with blocks as version 2, and with
/// channels on another axis than the first as version 3.
pub const PACKED_FORMAT_VERSION: u32 = 3;

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
    /// Equal groups of rows, or the blocks of all rows.
    pub(crate) groups: usize,
    /// Whether a group has a step for each sign.
    pub(crate) two_scales: bool,
    /// The weights of a block, where blocks have steps of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<usize>,
    /// The dimension of the tensor that is the first of the codes; the others follow in their order.
    #[serde(default, skip_serializing_if = "is_first")]
    pub(crate) axis: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_first(axis: &usize) -> bool {
    *axis == 0
}

/// The errors of packed weights.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackedFormatError {
    /// The bytes are not a valid safetensors file.
    #[error("not a valid safetensors file: {0}")]
    Safetensors(SafeTensorError),
    /// There are no packed weights.
    #[error(
        "no packed weights (no metadata entry {entry}): expected a file of `laq quantize` or \
         `laq export --to packed`"
    )]
    NotPacked {
        /// The missing entry.
        entry: &'static str,
    },
    /// The file was written by a newer version.
    #[error(
        "format {found}, expected at most {PACKED_FORMAT_VERSION}: it was written by a newer version of this \
         program; update it"
    )]
    Newer {
        /// Its version.
        found: String,
    },
    /// The metadata cannot be read.
    #[error("the metadata entry {entry} is invalid: {detail}; write the file again")]
    Metadata {
        /// The entry.
        entry: &'static str,
        /// The defect.
        detail: String,
    },
    /// A tensor is missing, or has another type or shape.
    #[error("{name} {found}, expected {expected}; write the file again")]
    Tensor {
        /// The tensor.
        name: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The codes or steps of a tensor are invalid.
    #[error("{name} is invalid: {source}; write the file again")]
    Codes {
        /// The tensor.
        name: String,
        /// The defect.
        source: PackError,
    },
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

/// The header of a file with its packed tensors.
#[derive(Debug)]
pub(crate) struct Header {
    tensors: Metadata,
    entries: BTreeMap<String, TensorEntry>,
}

/// Where a file has a tensor.
pub(crate) enum Stored<'a> {
    /// The codes, and a step or two for each group of rows.
    Packed {
        entry: &'a TensorEntry,
        codes: &'a TensorInfo,
        steps: (&'a TensorInfo, Float),
    },
    /// The elements.
    Full { info: &'a TensorInfo, float: Float },
}

impl Header {
    /// Reads the entries of the metadata, and checks the types and shapes of the packed tensors.
    pub(crate) fn new(tensors: Metadata) -> Result<Self, PackedFormatError> {
        let metadata = |entry: &'static str| {
            let found = tensors.metadata().as_ref().and_then(|all| all.get(entry));
            found.ok_or(PackedFormatError::NotPacked { entry })
        };
        let version = metadata(PACKED_FORMAT_KEY)?;
        if !version
            .parse()
            .is_ok_and(|version: u32| version <= PACKED_FORMAT_VERSION)
        {
            return Err(PackedFormatError::Newer {
                found: version.clone(),
            });
        }
        let entries = serde_json::from_str(metadata(TENSORS)?).map_err(|error| {
            PackedFormatError::Metadata {
                entry: TENSORS,
                detail: error.to_string(),
            }
        })?;
        let header = Self { tensors, entries };
        for name in header.entries.keys() {
            header.find(name)?;
        }
        Ok(header)
    }

    /// The descriptions of the packed tensors.
    #[cfg(feature = "std")]
    pub(crate) fn into_entries(self) -> BTreeMap<String, TensorEntry> {
        self.entries
    }

    /// The entries of the metadata that do not describe tensors.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let own = |key: &str| key == PACKED_FORMAT_KEY || key == TENSORS;
        let entries = self.tensors.metadata().iter().flatten();
        let others = entries.filter(move |(key, _)| !own(key));
        others.map(|(key, value)| (key.clone(), value.clone()))
    }

    /// The names of all tensors, packed or not, without those of codes and steps.
    pub(crate) fn names(&self) -> Vec<String> {
        let parts: BTreeSet<String> = (self.entries.keys())
            .flat_map(|name| [packed_name(name), scale_name(name)])
            .collect();
        let plain = self.tensors.offset_keys().into_iter();
        let plain = plain.filter(|name| !parts.contains(name));
        // A dequantized copy has the name of the packed tensor.
        let names: BTreeSet<String> = plain.chain(self.entries.keys().cloned()).collect();
        names.into_iter().collect()
    }

    /// The entry of a tensor, or of the dequantized copy of a packed one.
    #[cfg(feature = "std")]
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.info(name)
    }

    /// The shape of a tensor, packed or not.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        let packed = self.entries.get(name).map(|entry| &entry.shape[..]);
        packed.or_else(|| Some(&self.tensors.info(name)?.shape[..]))
    }

    /// Whether a tensor is packed.
    pub(crate) fn is_packed(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Finds a tensor, whose type and shape are checked.
    pub(crate) fn find(&self, name: &str) -> Result<Stored<'_>, PackedFormatError> {
        let Some(entry) = self.entries.get(name) else {
            let (info, float) = self.floats(name)?;
            return Ok(Stored::Full { info, float });
        };
        let per_group = if entry.two_scales { 2 } else { 1 };
        let expected_steps = entry.groups.saturating_mul(per_group);
        let codes = self.part(&packed_name(name), "two dimensions of U8", |info| {
            info.dtype == Dtype::U8 && info.shape.len() == 2
        })?;
        let steps = self.part(
            &scale_name(name),
            "one F32 step for each group, or F16 for a block",
            |info| {
                let is_float =
                    info.dtype == Dtype::F32 || info.dtype == Dtype::F16 && entry.block.is_some();
                is_float && info.shape.iter().product::<usize>() == expected_steps
            },
        )?;
        let steps = (steps, Float::of(steps.dtype).expect("checked"));
        Ok(Stored::Packed {
            entry,
            codes,
            steps,
        })
    }

    /// The tensor `name` of the file, which `fits`.
    fn part(
        &self,
        name: &str,
        expected: &'static str,
        fits: impl Fn(&TensorInfo) -> bool,
    ) -> Result<&TensorInfo, PackedFormatError> {
        let found = match self.tensors.info(name) {
            Some(info) if fits(info) => return Ok(info),
            Some(info) => format!("has {} elements of shape {:?}", info.dtype, info.shape),
            None => "is missing".into(),
        };
        Err(PackedFormatError::Tensor {
            name: name.into(),
            found,
            expected,
        })
    }

    /// A tensor in full precision.
    fn floats(&self, name: &str) -> Result<(&TensorInfo, Float), PackedFormatError> {
        let fits = |info: &TensorInfo| Float::of(info.dtype).is_some();
        let info = self.part(name, "F32, F16 or BF16 elements", fits)?;
        Ok((info, Float::of(info.dtype).expect("checked")))
    }
}

impl TensorEntry {
    /// Whether the rows of the codes are those of the tensor, with a step or two each.
    pub(crate) fn has_rows(&self) -> bool {
        self.block.is_none() && self.axis == 0
    }

    pub(crate) fn of(tensor: &PackedTensor) -> Self {
        Self {
            shape: tensor.shape().to_vec(),
            packing: tensor.packing(),
            values: tensor.table().multipliers().to_vec(),
            groups: tensor.groups(),
            two_scales: tensor.has_two_steps(),
            block: tensor.block(),
            axis: tensor.axis(),
        }
    }

    /// The tensor that this describes, with codes in `rows` rows.
    pub(crate) fn tensor(
        &self,
        name: &str,
        rows: usize,
        codes: Vec<u8>,
        steps: Vec<f32>,
    ) -> Result<PackedTensor, PackedFormatError> {
        let table = CodeTable::new(self.values.clone());
        let tensor = table.and_then(|table| {
            let steps = Steps {
                values: steps,
                two: self.two_scales,
                block: self.block,
            };
            let front = front_shape(&self.shape, self.axis);
            PackedTensor::new(&front, rows, self.packing, codes, table, steps)?.with_axis(self.axis)
        });
        tensor.map_err(invalid(name))
    }

    /// The matrix of that tensor.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        codes: &[u8],
        steps: &[f32],
    ) -> Result<PackedMatrix, PackedFormatError> {
        let matrix = columns_of(&self.shape, rows).and_then(|columns| {
            let table = CodeTable::new(self.values.clone())?;
            let (packing, two) = (self.packing, self.two_scales);
            PackedMatrix::new(rows, columns, packing, codes, table, steps, two)
        });
        matrix.map_err(invalid(name))
    }
}

/// For `map_err`: a defect of the tensor `name`.
fn invalid(name: &str) -> impl FnOnce(PackError) -> PackedFormatError {
    move |source| PackedFormatError::Codes {
        name: name.into(),
        source,
    }
}

/// The metadata with version and description of the packed tensors.
pub(crate) fn with_entries(
    mut metadata: BTreeMap<String, String>,
    entries: &BTreeMap<String, TensorEntry>,
) -> BTreeMap<String, String> {
    let has_blocks = entries.values().any(|entry| entry.block.is_some());
    let has_axes = entries.values().any(|entry| entry.axis > 0);
    let version = match (has_axes, has_blocks) {
        (true, _) => PACKED_FORMAT_VERSION,
        (false, true) => 2,
        (false, false) => 1,
    };
    metadata.insert(PACKED_FORMAT_KEY.into(), version.to_string());
    let entries = serde_json::to_string(entries).expect("plain numbers and strings");
    metadata.insert(TENSORS.into(), entries);
    metadata
}

pub(crate) fn packed_name(name: &str) -> String {
    format!("{name}.packed")
}

pub(crate) fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}
