//! Reads the headers, selects tensors and lays out the output, before any work is done.

use std::collections::{BTreeMap, HashSet};

use safetensors::tensor::{Dtype, TensorInfo};

use crate::QuantizeError;
use crate::codes::Packing;
use crate::float::Float;
use crate::matrix::CodeTable;
use crate::packed_format::{TensorEntry, packed_name, scale_name, with_entries};
use crate::request::{Granularity, Request, check_out, quantizer};
use crate::selection::select;
use crate::tensor::matrix_shape;
use crate::tensor_file::{Layout, NewTensor, TensorFile, TensorFileError};

/// A request whose headers have been checked.
#[derive(Debug)]
pub struct Plan {
    pub(crate) request: Request,
    pub(crate) weights: TensorFile,
    pub(crate) curvature: Option<TensorFile>,
    /// All tensors in file order.
    pub(crate) tensors: Vec<Planned>,
    pub(crate) packing: Packing,
    pub(crate) layout: Layout,
}

/// A tensor of the input file.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) info: TensorInfo,
    /// `None` for a tensor that is copied.
    pub(crate) quantized: Option<Quantized>,
}

#[derive(Debug)]
pub(crate) struct Quantized {
    pub(crate) float: Float,
    /// Number of problems.
    pub(crate) problems: usize,
    /// The tensor's entry in the curvature file.
    pub(crate) curvature: Option<(TensorInfo, Float)>,
}

impl Plan {
    /// Reads the headers, selects tensors and lays out the output file. Writes nothing.
    ///
    /// # Errors
    ///
    /// Any defect of the request or the headers; see [`QuantizeError`].
    pub fn new(request: Request) -> Result<Self, QuantizeError> {
        let quantizer = quantizer(&request.method)?;
        check_out(&request)?;
        let weights = TensorFile::open(&request.weights)?;
        let curvature = request
            .curvature
            .as_deref()
            .map(TensorFile::open)
            .transpose()?;
        let old = weights.tensors();
        let selected = select(&request.weights, &old, &request.include, &request.exclude)?;
        let mut tensors = Vec::with_capacity(old.len());
        for ((name, info), selected) in old.into_iter().zip(selected) {
            let info = info.clone();
            let quantized = match Float::of(info.dtype).filter(|_| selected) {
                Some(float) => Some(Quantized {
                    float,
                    problems: problems(&name, &info, request.granularity)?,
                    curvature: None,
                }),
                None => None,
            };
            tensors.push(Planned {
                name,
                info,
                quantized,
            });
        }
        if let Some(curvature) = &curvature {
            find_curvature(curvature, &mut tensors)?;
        }
        let taken: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let two_scales = quantizer.has_two_scales();
        let codebook = quantizer.codebook();
        let packing = match request.packing {
            Some(packing) => packing,
            None => Packing::of(codebook)?,
        };
        packing.check_codebook(codebook)?;
        let table = CodeTable::of(codebook)?;
        let mut new = Vec::new();
        let mut entries = BTreeMap::new();
        for tensor in &tensors {
            let copied = NewTensor {
                name: tensor.name.clone(),
                dtype: tensor.info.dtype,
                shape: tensor.info.shape.clone(),
            };
            let Some(Quantized { problems, .. }) = tensor.quantized else {
                new.push(copied);
                continue;
            };
            if request.dequantized {
                new.push(copied);
            }
            let (rows, columns) = matrix_shape(&tensor.info.shape, problems);
            let row_bytes = packing
                .row_bytes(columns)
                .ok_or_else(|| TensorFileError::Huge {
                    path: request.out.clone(),
                })?;
            let entry = TensorEntry {
                shape: tensor.info.shape.clone(),
                packing,
                values: table.multipliers().to_vec(),
                groups: problems,
                two_scales,
            };
            entries.insert(tensor.name.clone(), entry);
            let scale_shape = match (request.granularity, two_scales) {
                (Granularity::PerTensor, false) => vec![1],
                (Granularity::PerTensor, true) => vec![2],
                (Granularity::PerChannel, false) => vec![problems],
                (Granularity::PerChannel, true) => vec![problems, 2],
            };
            for (name, dtype, shape) in [
                (packed_name(&tensor.name), Dtype::U8, vec![rows, row_bytes]),
                (scale_name(&tensor.name), Dtype::F32, scale_shape),
            ] {
                if taken.contains(name.as_str()) {
                    return Err(QuantizeError::Taken {
                        path: request.weights.clone(),
                        name: tensor.name.clone(),
                        taken: name,
                    });
                }
                new.push(NewTensor { name, dtype, shape });
            }
        }
        let metadata = with_entries(metadata(&weights, &request), &entries);
        let layout = Layout::new(&request.out, new, &metadata)?;
        Ok(Self {
            request,
            weights,
            curvature,
            tensors,
            packing,
            layout,
        })
    }

    /// Names of the tensors to quantize, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let quantized = |tensor: &&Planned| tensor.quantized.is_some();
        self.tensors
            .iter()
            .filter(quantized)
            .map(|tensor| tensor.name.as_str())
    }
}

/// Number of problems of a tensor.
fn problems(
    name: &str,
    info: &TensorInfo,
    granularity: Granularity,
) -> Result<usize, QuantizeError> {
    match (granularity, info.shape.first()) {
        (Granularity::PerTensor, _) => Ok(1),
        (Granularity::PerChannel, Some(&channels)) => Ok(channels),
        (Granularity::PerChannel, None) => Err(QuantizeError::NoChannels { name: name.into() }),
    }
}

/// Finds the curvature of each quantized tensor and checks its shape.
fn find_curvature(curvature: &TensorFile, tensors: &mut [Planned]) -> Result<(), QuantizeError> {
    let mut missing = Vec::new();
    for tensor in tensors {
        let Some(quantized) = &mut tensor.quantized else {
            continue;
        };
        let other = |found, expected| QuantizeError::OtherCurvature {
            name: tensor.name.clone(),
            path: curvature.path().into(),
            found,
            expected,
        };
        let Some(info) = curvature.info(&tensor.name) else {
            missing.push(&tensor.name);
            continue;
        };
        if info.shape != tensor.info.shape {
            let expected = format!("{:?} as in the file of weights", tensor.info.shape);
            return Err(other(format!("shape {:?}", info.shape), expected));
        }
        let Some(float) = Float::of(info.dtype) else {
            let found = format!("elements of type {}", info.dtype);
            return Err(other(found, "F32, F16 or BF16".into()));
        };
        quantized.curvature = Some((info.clone(), float));
    }
    match missing.split_first() {
        None => Ok(()),
        Some((first, others)) => Err(QuantizeError::NoCurvature {
            path: curvature.path().into(),
            name: (*first).clone(),
            others: others.len(),
        }),
    }
}

/// The metadata of the input file, and what describes the request.
fn metadata(weights: &TensorFile, request: &Request) -> BTreeMap<String, String> {
    let mut metadata: BTreeMap<String, String> = weights.metadata().collect();
    for (key, value) in [
        ("laq.version", env!("CARGO_PKG_VERSION").to_string()),
        ("laq.method", request.method.id()),
        ("laq.granularity", request.granularity.name().into()),
        ("laq.codebook", request.method.family().codebook.into()),
    ] {
        metadata.insert(key.into(), value);
    }
    metadata
}
