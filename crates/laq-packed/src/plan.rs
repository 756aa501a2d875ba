//! Reads the headers, selects tensors and lays out the output, before any work is done.

use std::collections::{BTreeMap, HashSet};

use laq_solvers::blocks::ScaleGrid;
use laq_solvers::{Granularity, Groups, Method, Quantizer, Solver};
use safetensors::tensor::{Dtype, TensorInfo};

use crate::QuantizeError;
use crate::codes::Packing;
use crate::float::Float;
use crate::matrix::CodeTable;
use crate::packed_format::{TensorEntry, packed_name, scale_name, with_entries};
use crate::request::{Request, check_out, quantizer};
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

/// How a tensor is quantized.
#[derive(Debug)]
pub(crate) struct Quantized {
    pub(crate) float: Float,
    /// The weights that share a scale.
    pub(crate) groups: Groups,
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
        let inputs = [Some(&request.weights), request.curvature.as_ref()];
        check_out(&request.out, inputs.into_iter().flatten())?;
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
                    groups: groups(&name, &info, request.method.granularity())?,
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
            let Some(Quantized { groups, .. }) = tensor.quantized else {
                new.push(copied);
                continue;
            };
            if request.dequantized {
                new.push(copied);
            }
            let block = groups.block();
            let problems = groups.count();
            let of_rows = if block.is_some() { 1 } else { problems };
            let (rows, columns) = matrix_shape(&tensor.info.shape, of_rows);
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
                block,
            };
            entries.insert(tensor.name.clone(), entry);
            let mut scale_shape = match (block, granularity(&request.method)) {
                (Some(_), _) => vec![rows, problems.checked_div(rows).unwrap_or(0)],
                (None, Granularity::Row | Granularity::Block(_)) => vec![problems],
                (None, _) if two_scales => Vec::new(),
                (None, _) => vec![1],
            };
            scale_shape.extend(two_scales.then_some(2));
            for (name, dtype, shape) in [
                (packed_name(&tensor.name), Dtype::U8, vec![rows, row_bytes]),
                (
                    scale_name(&tensor.name),
                    scale_float(&request.method, groups).dtype(),
                    scale_shape,
                ),
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

/// The weights of a tensor that share a scale.
fn groups(
    name: &str,
    info: &TensorInfo,
    granularity: Granularity,
) -> Result<Groups, QuantizeError> {
    match (granularity, &info.shape[..]) {
        (Granularity::Row | Granularity::Block(_), []) => {
            Err(QuantizeError::NoRows { name: name.into() })
        }
        // A vector is one row, unless each of its elements has a scale.
        (Granularity::Block(_), [columns]) => Ok(granularity.groups(1, *columns, 1)),
        (Granularity::Row, [0]) => Ok(Groups::equal(0, 1)),
        (Granularity::Row, [0, ..]) => Ok(Groups::blocks(0, 0, 1)),
        (_, [rows, columns @ ..]) => Ok(granularity.groups(*rows, columns.iter().product(), 1)),
        (_, []) => Ok(Groups::equal(1, 1)),
    }
}

/// The granularity of the files, where a tensor has no gates.
pub(crate) fn granularity(method: &Method) -> Granularity {
    match method.granularity() {
        Granularity::Gate => Granularity::Tensor,
        granularity => granularity,
    }
}

/// The type of the scales: for blocks F16, if it has all scales of the method.
pub(crate) fn scale_float(method: &Method, groups: Groups) -> Float {
    match method.quantizer().map(Quantizer::solver) {
        Some(Solver::ExactOnGrid {
            grid: ScaleGrid::F16 | ScaleGrid::E4m3,
        }) if groups.block().is_some() => Float::F16,
        _ => Float::F32,
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
        ("laq.granularity", granularity(&request.method).to_string()),
        ("laq.codebook", request.method.family().codebook.into()),
    ] {
        metadata.insert(key.into(), value);
    }
    metadata
}
