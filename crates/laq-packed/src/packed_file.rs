//! The file of packed weights on a disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, TensorInfo};
use thiserror::Error;

use crate::dense::Matrix;
use crate::files::{FileError, replace};
use crate::float::Float;
use crate::packed_bytes::PackedBytes;
use crate::packed_format::{
    PackedFormatError, Tensor, TensorEntry, packed_name, scale_name, with_entries,
};
use crate::tensor::PackedTensor;
use crate::tensor_file::{Layout, NewTensor, TensorFile, TensorFileError, Writer};

/// The errors of a file of packed weights.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackedFileError {
    /// The file is not a valid safetensors file.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// The file has no packed weights, or invalid ones.
    #[error("{path}: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The defect.
        source: PackedFormatError,
    },
}

impl PackedFileError {
    /// For `map_err`: a defect of `path`.
    pub(crate) fn of(path: &Path) -> impl Fn(PackedFormatError) -> Self {
        move |source| Self::Format {
            path: path.into(),
            source,
        }
    }

    /// Whether the file is a valid safetensors file without packed weights.
    pub fn is_not_packed(&self) -> bool {
        matches!(
            self,
            Self::Format {
                source: PackedFormatError::NotPacked { .. },
                ..
            }
        )
    }
}

impl From<FileError> for PackedFileError {
    fn from(error: FileError) -> Self {
        Self::TensorFile(error.into())
    }
}

/// An open file of packed weights, mapped into memory: a tensor is read from the disk when it is asked
/// for, and processes that have the same file open share its bytes.
///
/// [`write`](Self::write) and `laq` replace files and never change them in place. If another program
/// truncates a file while it is open, reading it can end the process, as with any mapped file.
#[derive(Debug)]
pub struct PackedFile {
    path: PathBuf,
    contents: PackedBytes<Mmap>,
}

impl PackedFile {
    /// Maps a file, reads its header and checks it.
    ///
    /// # Errors
    /// [`PackedFileError`] if the file is no valid safetensors file, has no packed weights or a newer
    /// format, or if a tensor does not match its description.
    pub fn open(path: &Path) -> Result<Self, PackedFileError> {
        let file = TensorFile::open(path)?;
        let contents = PackedBytes::with_header(file.map()?, file.data_start(), file.into_header())
            .map_err(PackedFileError::of(path))?;
        Ok(Self {
            path: path.into(),
            contents,
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entries of the metadata that do not describe tensors.
    pub fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        self.contents.metadata()
    }

    /// The names of all tensors, packed or not, without those of codes and steps.
    pub fn names(&self) -> Vec<String> {
        self.contents.names()
    }

    /// The shape of a tensor, packed or not; `None` if there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.contents.shape(name)
    }

    /// Whether a tensor is packed.
    pub fn is_packed(&self, name: &str) -> bool {
        self.contents.is_packed(name)
    }

    /// The header entry of a tensor, or of the dequantized copy of a packed one.
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.contents.info(name)
    }

    /// Copies a tensor, packed or in full precision (F32, F16 or BF16).
    ///
    /// # Errors
    /// [`PackedFileError`] if the tensor is missing or of another type, or its codes or steps are
    /// invalid.
    pub fn tensor(&self, name: &str) -> Result<Tensor, PackedFileError> {
        let tensor = self.contents.tensor(name);
        tensor.map_err(PackedFileError::of(&self.path))
    }

    /// The matrix of a tensor: its first dimension by all others. Unlike [`Matrix::of`] this needs no
    /// copy of the codes.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn matrix(&self, name: &str) -> Result<Matrix, PackedFileError> {
        let matrix = self.contents.matrix(name);
        matrix.map_err(PackedFileError::of(&self.path))
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
        Ok(replace(path, |file| {
            Self::write_to(file, path, tensors, metadata)
        })?)
    }

    /// Writes tensors and metadata into an empty file, which errors call `path`.
    ///
    /// # Errors
    /// The file cannot be written, or the format does not have so many tensors.
    pub fn write_to(
        file: &File,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
        metadata: BTreeMap<String, String>,
    ) -> Result<(), TensorFileError> {
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
        let mut writer = Writer::new(&layout, path, file)?;
        for (name, tensor) in tensors {
            match tensor {
                Tensor::Packed(tensor) => {
                    write_packed(&mut writer, name, tensor, float_of_steps(tensor))?;
                }
                Tensor::F32 { values, .. } => {
                    writer.begin(name)?;
                    let mut bytes = Vec::new();
                    Float::F32.encode(values, &mut bytes);
                    writer.write(&bytes)?;
                }
            }
        }
        Ok(writer.end()?)
    }
}

/// The sizes of the tensor of the steps.
pub(crate) fn steps_shape(tensor: &PackedTensor) -> Vec<usize> {
    match (tensor.groups(), tensor.has_two_steps(), tensor.block()) {
        (groups, two, Some(_)) => {
            let rows = tensor.rows();
            let mut shape = vec![rows, groups.checked_div(rows).unwrap_or(0)];
            shape.extend(two.then_some(2));
            shape
        }
        (1, true, None) => vec![2],
        (groups, true, None) => vec![groups, 2],
        (groups, false, None) => vec![groups],
    }
}

/// The tensors of the codes and of the steps.
fn new_tensors(name: &str, tensor: &PackedTensor) -> [NewTensor; 2] {
    let row_bytes = tensor.packed().len().checked_div(tensor.rows());
    [
        NewTensor {
            name: packed_name(name),
            dtype: Dtype::U8,
            shape: vec![tensor.rows(), row_bytes.unwrap_or(0)],
        },
        NewTensor {
            name: scale_name(name),
            dtype: float_of_steps(tensor).dtype(),
            shape: steps_shape(tensor),
        },
    ]
}

/// The type of the steps.
fn float_of_steps(tensor: &PackedTensor) -> Float {
    match tensor.has_half_steps() {
        true => Float::F16,
        false => Float::F32,
    }
}

/// Writes the codes and the steps of a tensor.
pub(crate) fn write_packed(
    writer: &mut Writer<'_>,
    name: &str,
    tensor: &PackedTensor,
    steps: Float,
) -> Result<(), FileError> {
    writer.begin(&packed_name(name))?;
    writer.write(tensor.packed())?;
    writer.begin(&scale_name(name))?;
    let mut bytes = Vec::new();
    steps.encode(tensor.steps(), &mut bytes);
    writer.write(&bytes)
}
