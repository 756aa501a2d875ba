//! Reads the headers, selects tensors and lays out the output, before any work is done.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use laq_solvers::blocks::ScaleGrid;
use laq_solvers::{Codebook, Granularity, Groups, Method, Quantizer, Solver};
use safetensors::tensor::{Dtype, TensorInfo};

use crate::axis::front_shape;
use crate::code_table::CodeTable;
use crate::codes::Packing;
use crate::float::Float;
use crate::model_files::{ModelFiles, ModelIndex};
use crate::packed_file::PackedFileError;
use crate::packed_format::{
    Header, PackedFormatError, TensorEntry, packed_name, scale_name, with_entries,
};
use crate::request::{Request, check_out, check_out_folder, quantizer};
use crate::selection::{patterns, select};
use crate::tensor::matrix_shape;
use crate::tensor_file::{Layout, NewTensor, TensorFile, TensorFileError};
use crate::thread_pool::thread_count;
use crate::{OutError, QuantizeError, SelectionError, TensorShortage};

/// A request whose headers have been checked.
#[derive(Debug)]
pub struct Plan {
    pub(crate) request: Request,
    pub(crate) curvature: Option<ModelFiles>,
    /// The files of the model: one, or its shards.
    pub(crate) files: Vec<PlannedFile>,
    /// For shards, the path and the text of their index.
    pub(crate) index: Option<(PathBuf, String)>,
    pub(crate) packing: Packing,
}

/// A file of the model.
#[derive(Debug)]
pub(crate) struct PlannedFile {
    pub(crate) weights: TensorFile,
    /// All tensors in file order.
    pub(crate) tensors: Vec<Planned>,
    pub(crate) out: PathBuf,
    pub(crate) layout: Layout,
}

/// A tensor of an input file.
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
    /// The dimension of the channels, which comes first in the matrix of weights.
    pub(crate) axis: usize,
    /// The weights of that matrix that share a scale.
    pub(crate) groups: Groups,
    /// The file of the curvature that has the tensor, and its entry there.
    pub(crate) curvature: Option<(usize, TensorInfo, Float)>,
}

impl Plan {
    /// Reads the headers, selects tensors and lays out the output. Writes nothing.
    ///
    /// # Errors
    ///
    /// Any defect of the request, the index or the headers; see [`QuantizeError`].
    pub fn new(request: Request) -> Result<Self, QuantizeError> {
        let weights = ModelFiles::open(&request.weights)?;
        Self::of(request, weights)
    }

    /// [`new`](Self::new) for weights in an open file, which errors call by the path of the request.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of_file(request: Request, weights: File) -> Result<Self, QuantizeError> {
        let weights = ModelFiles::of(weights, &request.weights)?;
        Self::of(request, weights)
    }

    fn of(request: Request, weights: ModelFiles) -> Result<Self, QuantizeError> {
        let quantizer = quantizer(&request.method)?;
        let curvature = request.curvature.as_deref();
        let curvature = curvature.map(ModelFiles::open).transpose()?;
        let (outs, index_out) = outs(&request.out, &weights)?;
        for out in outs.iter().chain(&index_out) {
            let of_curvature = curvature.iter().flat_map(ModelFiles::paths);
            check_out(out, weights.paths().chain(of_curvature))?;
        }
        let packed: Vec<_> =
            (weights.files.iter().map(packed_entries)).collect::<Result<_, _>>()?;
        let mut tensors = planned(&request, &weights, &packed)?;
        if let Some(curvature) = &curvature {
            find_curvature(curvature, tensors.iter_mut().flatten())?;
        }
        let codebook = quantizer.codebook();
        let packing = match request.packing {
            Some(packing) => packing,
            None => Packing::of(codebook)?,
        };
        packing.check_codebook(codebook)?;
        let table = CodeTable::of(codebook)?;
        let names = tensors.iter().flatten().map(|tensor| tensor.name.as_str());
        let output = Output {
            request: &request,
            model: &weights.path,
            packing,
            values: table.multipliers(),
            two_scales: quantizer.has_two_scales(),
            taken: names.collect(),
        };
        let of_files = weights.files.iter().zip(&tensors).zip(packed).zip(&outs);
        let layouts: Vec<Layout> = of_files
            .map(|(((file, tensors), packed), out)| output.layout(file, tensors, packed, out))
            .collect::<Result<_, _>>()?;
        let index = weights.index.as_ref().zip(index_out);
        let index = index.map(|(index, out)| (out, new_index(index, &outs, &layouts)));
        check_need(&request, packing, tensors.iter().flatten())?;
        let files = weights.files.into_iter().zip(tensors);
        let files = files.zip(outs.into_iter().zip(layouts));
        Ok(Self {
            files: files
                .map(|((weights, tensors), (out, layout))| PlannedFile {
                    weights,
                    tensors,
                    out,
                    layout,
                })
                .collect(),
            request,
            curvature,
            index,
            packing,
        })
    }

    /// Names of the tensors to quantize, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let quantized = |tensor: &&Planned| tensor.quantized.is_some();
        let tensors = self.files.iter().flat_map(|file| &file.tensors);
        tensors.filter(quantized).map(|tensor| tensor.name.as_str())
    }

    /// Whether the model is in shards, so that the output is a folder.
    pub fn is_sharded(&self) -> bool {
        self.index.is_some()
    }
}

/// The files to write, and the index of shards.
fn outs(out: &Path, weights: &ModelFiles) -> Result<(Vec<PathBuf>, Option<PathBuf>), OutError> {
    if weights.index.is_none() {
        return Ok((vec![out.into()], None));
    }
    check_out_folder(out, &weights.path)?;
    let in_folder = |path: &Path| out.join(path.file_name().unwrap_or_default());
    let files = weights.files.iter().map(|file| in_folder(file.path()));
    Ok((files.collect(), Some(in_folder(&weights.path))))
}

/// The descriptions of the tensors of a file that are packed already.
fn packed_entries(file: &TensorFile) -> Result<BTreeMap<String, TensorEntry>, PackedFileError> {
    match Header::new(file.header().clone()) {
        Ok(header) => Ok(header.into_entries()),
        Err(PackedFormatError::NotPacked { .. }) => Ok(BTreeMap::new()),
        Err(error) => Err(PackedFileError::of(file.path())(error)),
    }
}

/// The tensors of each file, selected among those of all; `packed` describes those that are packed already.
fn planned(
    request: &Request,
    weights: &ModelFiles,
    packed: &[BTreeMap<String, TensorEntry>],
) -> Result<Vec<Vec<Planned>>, QuantizeError> {
    let files: Vec<_> = weights.files.iter().map(TensorFile::tensors).collect();
    let all = files.concat();
    let packed = packed.iter().flat_map(BTreeMap::keys);
    let parts = packed.flat_map(|name| [packed_name(name), scale_name(name)]);
    let selected = select(
        &weights.path,
        &all,
        &request.include,
        &request.exclude,
        &parts.collect(),
    )?;
    let axis_of = channel_axes(request, weights, &all)?;
    let mut selected = selected.into_iter();
    let mut planned = Vec::with_capacity(files.len());
    for tensors in files {
        let mut of_file = Vec::with_capacity(tensors.len());
        for ((name, info), selected) in tensors.into_iter().zip(selected.by_ref()) {
            let info = info.clone();
            let quantized = match Float::of(info.dtype).filter(|_| selected) {
                Some(float) => {
                    let axis = axis_of(&name);
                    Some(Quantized {
                        float,
                        axis,
                        groups: groups(&name, &info, axis, request.method.granularity())?,
                        curvature: None,
                    })
                }
                None => None,
            };
            of_file.push(Planned {
                name,
                info,
                quantized,
            });
        }
        planned.push(of_file);
    }
    Ok(planned)
}

/// The dimension of the channels of a tensor.
fn channel_axes(
    request: &Request,
    weights: &ModelFiles,
    tensors: &[(String, &TensorInfo)],
) -> Result<impl Fn(&str) -> usize, SelectionError> {
    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let (globs, axes): (Vec<_>, Vec<_>) = request.channel_axes.iter().cloned().unzip();
    let path = weights.path.display().to_string();
    let globs = patterns("--channel-axis", &globs, &path, &names)?;
    Ok(move |name: &str| {
        let found = globs.iter().position(|glob| glob.matches(name));
        found.map_or(0, |index| axes[index])
    })
}

/// What determines the tensors of the files to write.
struct Output<'a> {
    request: &'a Request,
    /// The file of the weights, or the index of their shards.
    model: &'a Path,
    packing: Packing,
    /// The values of the codes.
    values: &'a [f32],
    two_scales: bool,
    /// Names of the tensors of all files.
    taken: HashSet<&'a str>,
}

impl Output<'_> {
    /// The layout of the file `out`, for the tensors of one of the input, which has those of `entries` packed already.
    fn layout(
        &self,
        file: &TensorFile,
        tensors: &[Planned],
        mut entries: BTreeMap<String, TensorEntry>,
        out: &Path,
    ) -> Result<Layout, QuantizeError> {
        let mut new = Vec::new();
        for tensor in tensors {
            let copied = NewTensor {
                name: tensor.name.clone(),
                dtype: tensor.info.dtype,
                shape: tensor.info.shape.clone(),
            };
            let Some(Quantized { groups, axis, .. }) = tensor.quantized else {
                new.push(copied);
                continue;
            };
            if self.request.dequantized {
                new.push(copied);
            }
            let block = groups.block();
            let problems = groups.count();
            let of_rows = if block.is_some() { 1 } else { problems };
            let (rows, columns) = matrix_shape(&front_shape(&tensor.info.shape, axis), of_rows);
            let row_bytes = self
                .packing
                .row_bytes(columns)
                .ok_or_else(|| TensorFileError::Huge { path: out.into() })?;
            let entry = TensorEntry {
                shape: tensor.info.shape.clone(),
                packing: self.packing,
                values: self.values.to_vec(),
                groups: problems,
                two_scales: self.two_scales,
                block,
                axis,
            };
            entries.insert(tensor.name.clone(), entry);
            let mut scale_shape = match (block, granularity(&self.request.method)) {
                (Some(_), _) => vec![rows, problems.checked_div(rows).unwrap_or(0)],
                (None, Granularity::Row | Granularity::Block(_)) => vec![problems],
                (None, _) if self.two_scales => Vec::new(),
                (None, _) => vec![1],
            };
            scale_shape.extend(self.two_scales.then_some(2));
            for (name, dtype, shape) in [
                (packed_name(&tensor.name), Dtype::U8, vec![rows, row_bytes]),
                (
                    scale_name(&tensor.name),
                    scale_float(&self.request.method, groups).dtype(),
                    scale_shape,
                ),
            ] {
                if self.taken.contains(name.as_str()) {
                    return Err(QuantizeError::Taken {
                        path: self.model.into(),
                        name: tensor.name.clone(),
                        taken: name,
                    });
                }
                new.push(NewTensor { name, dtype, shape });
            }
        }
        let metadata = with_entries(metadata(file, self.request), &entries);
        Ok(Layout::new(out, new, &metadata)?)
    }
}

/// Bytes of a group, with its scale, its solution and its step.
const GROUP_BYTES: u64 = 64;

/// Bytes of what does not depend on the tensor: blocks of files, sums and scratch of each thread.
const FIXED_BYTES: u64 = 8 << 20;

impl Quantized {
    /// About the bytes that it takes to quantize `weights` weights, as measured.
    fn memory(
        &self,
        weights: usize,
        quantizer: &Quantizer,
        packing: Packing,
        threads: usize,
    ) -> u64 {
        let alternates = matches!(quantizer.solver(), Solver::Alternating { .. });
        let of_weight = 5.0
            + packing.bits_per_code() / 8.0
            + if self.curvature.is_some() { 4.0 } else { 0.0 }
            + if alternates { 1.0 } else { 0.0 }
            + if self.axis > 0 { 4.0 } else { 0.0 };
        // The exact solver sorts more of the weights, the more uniform levels there are.
        let of_solver = match (quantizer.solver(), quantizer.codebook()) {
            (Solver::Exact { .. }, Codebook::Ternary | Codebook::Logarithmic { .. }) => 1.0,
            (Solver::Exact { .. }, codebook) => codebook.levels().count() as f64 / 8.0,
            _ => 0.0,
        };
        let groups = self.groups.count();
        let solved = groups.min(threads) as f64 * self.groups.length().min(weights) as f64;
        let of_weights = of_weight * weights as f64 + of_solver * solved;
        let of_groups = GROUP_BYTES.saturating_mul(groups as u64);
        (of_weights as u64).saturating_add(of_groups.saturating_add(FIXED_BYTES))
    }
}

/// Checks that there is memory for the tensor that takes most.
fn check_need<'a>(
    request: &Request,
    packing: Packing,
    tensors: impl Iterator<Item = &'a Planned>,
) -> Result<(), QuantizeError> {
    let threads = thread_count(request.threads)?;
    let quantizer = quantizer(&request.method)?;
    let need = |tensor: &'a Planned| {
        let weights = tensor.info.shape.iter().product();
        let how = tensor.quantized.as_ref()?;
        let bytes = how.memory(weights, quantizer, packing, threads);
        Some((bytes, weights, tensor))
    };
    let Some((bytes, weights, tensor)) = tensors.filter_map(need).max_by_key(|need| need.0) else {
        return Ok(());
    };
    Ok(TensorShortage::check(
        &tensor.name,
        weights,
        bytes,
        threads,
    )?)
}

/// The text of the index of the new shards.
fn new_index(index: &ModelIndex, outs: &[PathBuf], layouts: &[Layout]) -> String {
    let mut weight_map = BTreeMap::new();
    for (out, layout) in outs.iter().zip(layouts) {
        let shard = out.file_name().unwrap_or_default().to_string_lossy();
        let names = layout.names().map(|name| (name.into(), shard.to_string()));
        weight_map.extend(names);
    }
    let sizes = layouts.iter().map(Layout::data_bytes);
    index.with_shards(weight_map, sizes.fold(0, u64::saturating_add))
}

/// The weights of a tensor that share a scale, with its dimension `axis` first.
fn groups(
    name: &str,
    info: &TensorInfo,
    axis: usize,
    granularity: Granularity,
) -> Result<Groups, QuantizeError> {
    if axis > 0 && axis >= info.shape.len() {
        return Err(QuantizeError::NoAxis {
            name: name.into(),
            shape: info.shape.clone(),
            axis,
        });
    }
    match (granularity, &front_shape(&info.shape, axis)[..]) {
        (Granularity::Row | Granularity::Block(_), []) => {
            Err(QuantizeError::NoRows { name: name.into() })
        }
        // A vector is one row, unless each of its elements has a scale.
        (Granularity::Block(_), [columns]) => Ok(granularity.groups(1, *columns, 1)),
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
fn find_curvature<'a>(
    curvature: &ModelFiles,
    tensors: impl Iterator<Item = &'a mut Planned>,
) -> Result<(), QuantizeError> {
    let mut missing = Vec::new();
    for tensor in tensors {
        let Some(quantized) = &mut tensor.quantized else {
            continue;
        };
        let Some((number, info)) = curvature.info(&tensor.name) else {
            missing.push(&tensor.name);
            continue;
        };
        let other = |found, expected| QuantizeError::OtherCurvature {
            name: tensor.name.clone(),
            path: curvature.files[number].path().into(),
            found,
            expected,
        };
        if info.shape != tensor.info.shape {
            let expected = format!("{:?} as in the file of weights", tensor.info.shape);
            return Err(other(format!("shape {:?}", info.shape), expected));
        }
        let Some(float) = Float::of(info.dtype) else {
            let found = format!("elements of type {}", info.dtype);
            return Err(other(found, "F32, F16 or BF16".into()));
        };
        quantized.curvature = Some((number, info.clone(), float));
    }
    match missing.split_first() {
        None => Ok(()),
        Some((first, others)) => Err(QuantizeError::NoCurvature {
            path: curvature.path.clone(),
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
