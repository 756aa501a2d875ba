//! What a file of weights has: packed files, other safetensors files, GGUF files, ONNX models.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::Serialize;
use thiserror::Error;

use crate::files::FileError;
use crate::gguf::{GgufError, GgufFile, GgufTensor};
use crate::onnx::{OnnxHeader, OnnxReadError, read_onnx};
use crate::packed_file::{PackedFile, PackedFileError};
use crate::packed_format::{Tensor, packed_name, scale_name};
use crate::tensor::PackedTensor;
use crate::tensor_file::{TensorFile, TensorFileError};

/// The metadata entry with the method.
const METHOD: &str = "laq.method";

/// What a file has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileSummary {
    /// The file.
    pub file: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// The method that quantized the weights, where the file names it.
    pub method: Option<String>,
    /// What an ONNX model says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxHeader>,
    /// The tensors: by name in packed files, in file order in others.
    pub tensors: Vec<TensorSummary>,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// The element type in the words of the format, or the packing.
    pub dtype: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Bits of an element: of a level, if it is quantized; none for texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<f64>,
    /// Bytes of the elements, and of packed scales.
    pub bytes: usize,
    /// The other file that has the elements; they are not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
    /// Scales and levels, if it is quantized.
    #[serde(flatten)]
    pub quantization: Option<Quantization>,
}

/// Scales and levels of a tensor: an element is scale · multiplier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantization {
    /// The number of groups of elements with scales of their own.
    pub groups: usize,
    /// The scales: one for each group, or one for each sign.
    pub scales: Vec<f32>,
    /// Of ONNX: the zero point of each group, or none where all are 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zero_points: Vec<i32>,
    /// The share of elements that are 0; none if the levels were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// The histogram of levels, by rising multiplier; empty beyond 8 bits.
    pub levels: Vec<Level>,
}

/// A level of a quantized tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Level {
    /// The multiplier of the scale; in ONNX the integer less its zero point.
    pub multiplier: f32,
    /// The share of elements.
    pub share: f64,
}

/// The errors of [`inspect`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InspectError {
    /// A safetensors file with a defect.
    #[error(transparent)]
    Packed(#[from] PackedFileError),
    /// An ONNX model with a defect.
    #[error(transparent)]
    Onnx(#[from] OnnxReadError),
    /// A GGUF file with a defect.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file of another format.
    #[error(
        "{path} is neither a safetensors or GGUF file nor an ONNX model: expected an output of `laq export` or `laq quantize`, \
         or a file of one of these formats"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// The tensors of a file, whose format its content tells: a packed file, any other safetensors file, a GGUF
/// file, or an ONNX model.
///
/// # Errors
/// [`InspectError`] if the file has another format, or does not have what its header describes.
pub fn inspect(path: &Path) -> Result<FileSummary, InspectError> {
    let (method, onnx, tensors) = match PackedFile::open(path) {
        Ok(file) => {
            let tensors = file.names().into_iter();
            let tensors = tensors.map(|name| of_packed_file(&file, name));
            let method = file.metadata().find(|(key, _)| key == METHOD);
            let tensors = tensors.collect::<Result<_, _>>()?;
            (method.map(|(_, method)| method), None, tensors)
        }
        Err(error) if error.is_not_packed() => {
            let file = TensorFile::open(path).map_err(PackedFileError::from)?;
            let tensors = file.tensors().into_iter();
            let tensors = tensors.map(|(name, info)| TensorSummary::of_info(name, info));
            (None, None, tensors.collect())
        }
        Err(PackedFileError::TensorFile(TensorFileError::Foreign { .. }))
            if GgufFile::is_gguf(path) =>
        {
            let file = GgufFile::open(path)?;
            let tensors = file.tensors().iter().map(TensorSummary::of_gguf);
            (None, None, tensors.collect())
        }
        Err(PackedFileError::TensorFile(TensorFileError::Foreign { .. })) => {
            let (header, tensors) = read_onnx(path).map_err(|error| match error {
                OnnxReadError::Foreign { path } => InspectError::Foreign { path },
                error => error.into(),
            })?;
            (header.metadata.get(METHOD).cloned(), Some(header), tensors)
        }
        Err(error) => return Err(error.into()),
    };
    let metadata = fs::metadata(path).map_err(FileError::on("read", path));
    Ok(FileSummary {
        file: path.into(),
        bytes: metadata.map_err(PackedFileError::from)?.len(),
        method,
        onnx,
        tensors,
    })
}

fn of_packed_file(file: &PackedFile, name: String) -> Result<TensorSummary, PackedFileError> {
    let packed = file.is_packed(&name).then(|| file.tensor(&name));
    let Some(Tensor::Packed(packed)) = packed.transpose()? else {
        let info = file.info(&name).expect("a name of the header");
        return Ok(TensorSummary::of_info(name, info));
    };
    let parts = [packed_name(&name), scale_name(&name)];
    let infos = parts.iter().filter_map(|part| file.info(part));
    let bytes = infos.map(|info| info.data_offsets.1 - info.data_offsets.0);
    let bytes = bytes.sum();
    Ok(TensorSummary {
        name,
        dtype: packed.packing().to_string(),
        shape: packed.shape().to_vec(),
        bits: Some(packed.packing().bits_per_code()),
        bytes,
        external: None,
        quantization: Some(Quantization::of(&packed)),
    })
}

impl TensorSummary {
    fn of_info(name: String, info: &TensorInfo) -> Self {
        Self {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            bits: Some(info.dtype.bitsize() as f64),
            bytes: info.data_offsets.1 - info.data_offsets.0,
            external: None,
            quantization: None,
        }
    }

    fn of_gguf(tensor: &GgufTensor) -> Self {
        Self {
            name: tensor.name.clone(),
            dtype: tensor.element.to_string(),
            shape: tensor.shape.clone(),
            bits: Some(tensor.element.bits()),
            bytes: tensor.bytes(),
            external: None,
            quantization: None,
        }
    }
}

impl Quantization {
    fn of(packed: &PackedTensor) -> Self {
        let multipliers = packed.table().multipliers().iter().copied();
        let quantization = Self::of_scales(packed.groups(), packed.steps().to_vec());
        quantization.with_levels(multipliers.zip(packed.counts()))
    }

    /// Without zero points, and levels that are not counted.
    pub(crate) fn of_scales(groups: usize, scales: Vec<f32>) -> Self {
        Self {
            groups,
            scales,
            zero_points: Vec::new(),
            sparsity: None,
            levels: Vec::new(),
        }
    }

    /// With the number of elements of each multiplier.
    pub(crate) fn with_levels(mut self, counts: impl IntoIterator<Item = (f32, u64)>) -> Self {
        let counts: Vec<(f32, u64)> = counts.into_iter().collect();
        let elements: u64 = counts.iter().map(|(_, count)| count).sum();
        let share = |count| count as f64 / elements.max(1) as f64;
        let zeros = counts.iter().filter(|(multiplier, _)| *multiplier == 0.0);
        self.sparsity = Some(share(zeros.map(|(_, count)| count).sum()));
        let levels = counts.into_iter().map(|(multiplier, count)| Level {
            multiplier,
            share: share(count),
        });
        self.levels = levels.collect();
        self
    }
}
