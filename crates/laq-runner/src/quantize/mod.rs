//! Quantizing the tensors of a safetensors file, one at a time: what is in memory is about one tensor, whatever the
//! file's size.
//!
//! [`Plan::new`] reads headers alone and finds everything that is wrong with them, before any work is done;
//! [`Plan::run`] solves and writes. The new file has the tensors of the old one under their own names, in their own
//! element types, and beside each quantized one
//!
//! | name | elements | shape | content |
//! |---|---|---|---|
//! | `NAME.levels` | I8 | that of `NAME` | the level indices of [`Codebook`](laq_solvers::Codebook) |
//! | `NAME.scale` | F32 | see [`Granularity`] | the scales |
//!
//! The metadata say what an index stands for, so that a reader needs nothing of this program:
//!
//! | entry | content |
//! |---|---|
//! | `laq.version` | this program's version |
//! | `laq.method` | the method's id |
//! | `laq.granularity` | `per-tensor` or `per-channel` |
//! | `laq.codebook` | the levels, in a few words |
//! | `laq.codebook.lowest` | the lowest index |
//! | `laq.codebook.values` | a JSON list of the values of all indices from the lowest on |
//!
//! With `b = values[level − lowest]`, a weight is `scale · b` in f32; of two scales the first belongs to levels above
//! zero, the second to those below. In `NAME` itself that number is rounded to the element type of the old file.

mod error;
mod selection;
mod tensor_file;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use laq_solvers::{Method, Problem, Quantizer, Scale, SolveError, Workspace, families};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Serialize;

use crate::RunError;
use crate::files::{FileError, replace};
use crate::session::pool;
pub use error::QuantizeError;
pub use selection::SelectionError;
use selection::select;
pub use tensor_file::TensorFileError;
use tensor_file::{Float, Layout, NewTensor, PIECE, TensorFile, Writer};

/// How many weights share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Granularity {
    /// One problem a tensor: `NAME.scale` has shape `[1]`, or `[2]` for methods with two scales.
    #[default]
    PerTensor,
    /// One problem an index of the first dimension, which is a row of a linear layer and a filter of a convolution:
    /// `NAME.scale` has shape `[C]`, or `[C, 2]`.
    PerChannel,
}

impl Granularity {
    fn name(self) -> &'static str {
        match self {
            Self::PerTensor => "per-tensor",
            Self::PerChannel => "per-channel",
        }
    }
}

/// What is to be quantized, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The safetensors file with the weights.
    pub weights: PathBuf,
    /// The one with the curvature `d` of every quantized tensor, under its name and in its shape; `d = 1` without.
    pub curvature: Option<PathBuf>,
    /// The file to write.
    pub out: PathBuf,
    /// How weights are quantized.
    pub method: Method,
    /// How many of them share a scale.
    pub granularity: Granularity,
    /// Globs of names; without any, all floating tensors with two or more dimensions.
    pub include: Vec<String>,
    /// Globs of names that are copied after all.
    pub exclude: Vec<String>,
    /// Threads; one for each processor by default. The numbers do not depend on it.
    pub threads: Option<usize>,
}

/// The method `id`. With `bits`, an id may come without its number, as `laq-linear`, `laq-linear-M` or an alias.
///
/// # Errors
///
/// A method that does not exist, that cannot have these bits, or that quantizes nothing.
pub fn method(id: &str, bits: Option<u8>) -> Result<Method, QuantizeError> {
    let method = match bits {
        None => id.parse()?,
        Some(bits) => method_with_bits(id, bits)?,
    };
    quantizer(&method)?;
    Ok(method)
}

fn method_with_bits(id: &str, bits: u8) -> Result<Method, QuantizeError> {
    let without_bits = |family: &&laq_solvers::Family| {
        let plain = family.id.replace("-M", "");
        let mut names = family.aliases.iter().copied().chain([family.id, &plain]);
        family.bits.is_some() && names.any(|name| name.eq_ignore_ascii_case(id))
    };
    if let Some(family) = families().iter().find(without_bits) {
        return Ok(family.id.replace('M', &bits.to_string()).parse()?);
    }
    let method: Method = id.parse()?;
    match method.bits() {
        Some(own) if own == bits => Ok(method),
        Some(own) => Err(QuantizeError::OtherBits {
            method: method.id(),
            own,
            bits,
        }),
        None => Err(QuantizeError::NoBits {
            method: method.id(),
            bits,
        }),
    }
}

fn quantizer(method: &Method) -> Result<&dyn Quantizer, QuantizeError> {
    method
        .quantizer()
        .ok_or_else(|| QuantizeError::FullPrecision {
            method: method.id(),
        })
}

/// A quantized tensor: a line of what `laq quantize --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorRecord {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub n: usize,
    /// The method's id.
    pub method: String,
    /// What is in `NAME.scale`.
    pub scale: Scales,
    /// `½ Σ d (w − ŵ)²` with `ŵ` in f32, over all channels.
    pub weighted_error: f64,
    /// It over `½ Σ d w²`; none where that is zero and the error is not.
    pub relative_error: Option<f64>,
    /// The share of weights whose level has the value zero.
    pub sparsity: f64,
    /// Bits that one level takes when it is packed.
    pub bits: u8,
    /// Wall-clock milliseconds of solving, without reading and writing.
    pub milliseconds: f64,
}

/// Scales in the shape of `NAME.scale`. They are f32 numbers, held wider so that they are printed in full.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scales {
    /// One for the tensor, two for the tensor (of positive and of negative levels), or one a channel.
    Flat(Vec<f64>),
    /// Two a channel, of positive and of negative levels.
    Pairs(Vec<[f64; 2]>),
}

/// What was done to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Quantized tensors.
    pub tensors: usize,
    /// Tensors that were copied as they are.
    pub copied: usize,
    /// Weights in the quantized tensors.
    pub weights: usize,
    /// Bits that they took in the file that was read.
    pub bits_before: f64,
    /// Bits that they take as packed levels with their scales.
    pub bits_after: f64,
    /// `½ Σ d (w − ŵ)²` over all quantized tensors.
    pub weighted_error: f64,
    /// `½ Σ d w²` over all quantized tensors.
    pub energy: f64,
}

impl Totals {
    fn add(&mut self, tensor: &Planned, record: &TensorRecord, solved: &Solved, buffers: &Buffers) {
        let scales = buffers.scales.iter();
        let scale_bits: usize = scales.map(|&scale| 8 * scale_bytes(scale).len()).sum();
        let weights = record.n as f64;
        self.tensors += 1;
        self.weights += record.n;
        self.bits_before += weights * tensor.info.dtype.bitsize() as f64;
        self.bits_after += weights * f64::from(record.bits) + scale_bits as f64;
        self.weighted_error += solved.weighted_error;
        self.energy += solved.energy;
    }

    /// The error over the energy; none where the energy is zero and the error is not.
    #[must_use]
    pub fn relative_error(&self) -> Option<f64> {
        relative(self.weighted_error, self.energy)
    }
}

fn relative(error: f64, energy: f64) -> Option<f64> {
    if error == 0.0 {
        Some(0.0)
    } else {
        Some(error / energy).filter(|relative| relative.is_finite())
    }
}

/// A request that was found to be possible, as far as headers tell.
#[derive(Debug)]
pub struct Plan {
    request: Request,
    weights: TensorFile,
    curvature: Option<TensorFile>,
    /// All tensors in the order of their bytes.
    tensors: Vec<Planned>,
    layout: Layout,
}

/// A tensor of the old file.
#[derive(Debug)]
struct Planned {
    name: String,
    info: TensorInfo,
    /// How it is quantized, if it is.
    quantized: Option<Quantized>,
}

#[derive(Debug)]
struct Quantized {
    float: Float,
    /// The number of problems that the tensor is cut into.
    problems: usize,
    /// Its place in the curvature's file, if there is one.
    curvature: Option<(TensorInfo, Float)>,
}

impl Plan {
    /// Reads the headers of the files, picks tensors, and lays out the new file. Nothing is written.
    ///
    /// # Errors
    ///
    /// All that is wrong with the request and the headers; see [`QuantizeError`].
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
        let two_scales = has_two_scales(quantizer)?;
        let mut new = Vec::new();
        for tensor in &tensors {
            new.push(NewTensor {
                name: tensor.name.clone(),
                dtype: tensor.info.dtype,
                shape: tensor.info.shape.clone(),
            });
            let Some(Quantized { problems, .. }) = tensor.quantized else {
                continue;
            };
            let scale_shape = match (request.granularity, two_scales) {
                (Granularity::PerTensor, false) => vec![1],
                (Granularity::PerTensor, true) => vec![2],
                (Granularity::PerChannel, false) => vec![problems],
                (Granularity::PerChannel, true) => vec![problems, 2],
            };
            for (name, dtype, shape) in [
                (
                    levels_name(&tensor.name),
                    Dtype::I8,
                    tensor.info.shape.clone(),
                ),
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
        let metadata = metadata(&weights, &request, quantizer);
        let layout = Layout::new(&request.out, new, &metadata)?;
        Ok(Self {
            request,
            weights,
            curvature,
            tensors,
            layout,
        })
    }

    /// The names of the tensors that are quantized, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let quantized = |tensor: &&Planned| tensor.quantized.is_some();
        self.tensors
            .iter()
            .filter(quantized)
            .map(|tensor| tensor.name.as_str())
    }

    /// Quantizes and writes the file in one step: until it is whole, what was under its name stays. `report` hears of
    /// every tensor when it is quantized; `stop` is looked at between two tensors.
    ///
    /// # Errors
    ///
    /// A weight or a curvature that is not finite, a file that cannot be read or written, a request to stop.
    pub fn run(
        &self,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&TensorRecord),
    ) -> Result<Totals, RunError> {
        let solver = Solver {
            quantizer: quantizer(&self.request.method)?,
            pool: pool(self.request.threads)?,
            spare: Mutex::default(),
        };
        let out = &self.request.out;
        let mut totals = Totals::default();
        // The name beside the target is this process's own: two of them do not write into one file.
        let ending = format!(".{}.tmp", process::id());
        replace(out, &ending, |file| {
            let mut writer = Writer::new(&self.layout, out, file)?;
            let mut buffers = Buffers::default();
            for tensor in &self.tensors {
                if stop.load(Ordering::Relaxed) {
                    return Err(QuantizeError::Interrupted { out: out.clone() });
                }
                let Some(how) = &tensor.quantized else {
                    writer.begin(&tensor.name)?;
                    self.weights
                        .read(&tensor.info, |piece| writer.write(piece))?;
                    totals.copied += 1;
                    continue;
                };
                let solved = self.solve(tensor, how, &solver, &mut buffers)?;
                buffers.write(&tensor.name, how.float, solver.quantizer, &mut writer)?;
                let record = self.record(tensor, &solved, solver.quantizer, &buffers);
                totals.add(tensor, &record, &solved, &buffers);
                report(&record);
            }
            Ok(writer.end()?)
        })?;
        Ok(totals)
    }

    /// Reads one tensor, and leaves its levels and scales in the buffers.
    fn solve(
        &self,
        tensor: &Planned,
        how: &Quantized,
        solver: &Solver<'_>,
        buffers: &mut Buffers,
    ) -> Result<Solved, QuantizeError> {
        let Buffers {
            weights,
            curvature,
            levels,
            scales,
        } = buffers;
        let name = &tensor.name;
        read_floats(&self.weights, name, (&tensor.info, how.float), weights)?;
        let curvature = match (&self.curvature, &how.curvature) {
            (Some(file), Some((info, float))) => {
                read_floats(file, name, (info, *float), curvature)?;
                Some(curvature.as_slice())
            }
            _ => None,
        };
        make_room(name, weights.len(), levels)?;
        levels.resize(weights.len(), 0);
        make_room(name, how.problems, scales)?;

        let told = |error| self.told(tensor, error);
        let start = Instant::now();
        let problem = Problem::new(weights, curvature).map_err(told)?;
        let weighted_error = solver
            .solve(problem, how.problems, levels, scales)
            .map_err(told)?;
        let milliseconds = 1e3 * start.elapsed().as_secs_f64();
        // With all weights at zero, what remains of the error is ½ Σ d w².
        let energy = problem
            .weighted_error(solver.quantizer.codebook(), Scale::One(0.0), levels)
            .map_err(told)?;
        Ok(Solved {
            weighted_error,
            energy,
            milliseconds,
        })
    }

    fn record(
        &self,
        tensor: &Planned,
        solved: &Solved,
        quantizer: &dyn Quantizer,
        buffers: &Buffers,
    ) -> TensorRecord {
        let codebook = quantizer.codebook();
        let has_zero = codebook.values().contains(&0.0);
        let n = buffers.levels.len();
        let zeros = buffers.levels.iter().filter(|&&level| level == 0).count();
        TensorRecord {
            name: tensor.name.clone(),
            n,
            method: self.request.method.id(),
            scale: printed(&buffers.scales, self.request.granularity),
            weighted_error: solved.weighted_error,
            relative_error: relative(solved.weighted_error, solved.energy),
            sparsity: if has_zero {
                zeros as f64 / n.max(1) as f64
            } else {
                0.0
            },
            bits: codebook.storage_bits(),
            milliseconds: solved.milliseconds,
        }
    }

    /// The solver's error with the tensor's name, and the index as a user of tensors counts.
    fn told(&self, tensor: &Planned, error: SolveError) -> QuantizeError {
        let number = |path: &Path, index, value, expected| QuantizeError::Number {
            place: place(tensor, index),
            path: path.into(),
            value,
            expected,
        };
        match (error, &self.curvature) {
            (SolveError::Weight { index, value }, _) => {
                number(self.weights.path(), index, value, "a finite number")
            }
            (SolveError::Curvature { index, value }, Some(file)) => number(
                file.path(),
                index,
                value,
                "a curvature that is finite and not negative",
            ),
            (source, _) => QuantizeError::Solve {
                name: tensor.name.clone(),
                source,
            },
        }
    }
}

/// What one tensor after the other is read into.
#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,
    curvature: Vec<f32>,
    levels: Vec<i8>,
    scales: Vec<Scale>,
}

impl Buffers {
    /// Writes the levels, what they stand for, and the scales.
    fn write(
        &self,
        name: &str,
        float: Float,
        quantizer: &dyn Quantizer,
        writer: &mut Writer<'_>,
    ) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        writer.begin(&levels_name(name))?;
        for levels in self.levels.chunks(PIECE) {
            bytes.clear();
            bytes.extend(levels.iter().map(|level| level.cast_unsigned()));
            writer.write(&bytes)?;
        }
        writer.begin(name)?;
        let codebook = quantizer.codebook();
        let mut quantized = vec![0.0; PIECE.min(self.levels.len())];
        let length = channel_length(self.levels.len(), self.scales.len());
        for (levels, scale) in self.levels.chunks(length.max(1)).zip(&self.scales) {
            for levels in levels.chunks(PIECE) {
                let quantized = &mut quantized[..levels.len()];
                codebook.decode(levels, *scale, quantized);
                bytes.clear();
                float.encode(quantized, &mut bytes);
                writer.write(&bytes)?;
            }
        }
        writer.begin(&scale_name(name))?;
        for &scale in &self.scales {
            writer.write(&scale_bytes(scale))?;
        }
        Ok(())
    }
}

/// What is known of a tensor once it is solved.
struct Solved {
    weighted_error: f64,
    /// `½ Σ d w²`.
    energy: f64,
    milliseconds: f64,
}

struct Solver<'a> {
    quantizer: &'a dyn Quantizer,
    pool: rayon::ThreadPool,
    /// Workspaces that nobody works in: in the end as many as have ever been needed at a time.
    spare: Mutex<Vec<Workspace>>,
}

impl Solver<'_> {
    /// Solves a tensor as `problems` problems of equal length, one after the other in memory: appends their scales, in
    /// order, and gives the sum of their errors.
    fn solve(
        &self,
        problem: Problem<'_>,
        problems: usize,
        levels: &mut [i8],
        scales: &mut Vec<Scale>,
    ) -> Result<f64, SolveError> {
        let length = channel_length(levels.len(), problems);
        if length == 0 || problems == 1 {
            let (scale, error) = self.pool.install(|| self.solve_one(problem, levels))?;
            scales.resize(problems, scale);
            return Ok(error);
        }
        let channels = levels.par_chunks_mut(length).enumerate();
        let solve = |(channel, levels): (usize, &mut [i8])| {
            let range = channel * length..(channel + 1) * length;
            let curvature = problem
                .curvature()
                .map(|curvature| &curvature[range.clone()]);
            let problem = Problem::new(&problem.weights()[range], curvature)?;
            self.solve_one(problem, levels)
        };
        let solved: Result<Vec<_>, SolveError> =
            self.pool.install(|| channels.map(solve).collect());
        let mut error = 0.0;
        for (scale, channel_error) in solved? {
            scales.push(scale);
            error += channel_error;
        }
        Ok(error)
    }

    fn solve_one(
        &self,
        problem: Problem<'_>,
        levels: &mut [i8],
    ) -> Result<(Scale, f64), SolveError> {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workspace = spare().pop().unwrap_or_default();
        let solution = self
            .quantizer
            .solve(problem, None, levels, &mut workspace)?;
        spare().push(workspace);
        Ok((solution.scale, solution.weighted_error))
    }
}

fn levels_name(name: &str) -> String {
    format!("{name}.levels")
}

fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}

/// Refuses an output that is an input, or in whose place is something else than a file.
fn check_out(request: &Request) -> Result<(), QuantizeError> {
    let out = &request.out;
    match fs::metadata(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::on("write", out)(error).into()),
        Ok(found) if !found.is_file() => {
            return Err(QuantizeError::OutIsNoFile { out: out.clone() });
        }
        Ok(_) => {}
    }
    let same = |input: &PathBuf| match (input.canonicalize(), out.canonicalize()) {
        (Ok(input), Ok(out)) => input == out,
        _ => false,
    };
    if [&request.weights]
        .into_iter()
        .chain(&request.curvature)
        .any(same)
    {
        return Err(QuantizeError::OutIsInput { out: out.clone() });
    }
    Ok(())
}

/// The number of problems that a tensor is cut into.
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

/// Finds the curvature of every quantized tensor, which must have its shape.
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

/// Whether the method's solutions have two scales, which even that of no weights tells.
fn has_two_scales(quantizer: &dyn Quantizer) -> Result<bool, QuantizeError> {
    let nothing = Problem::new(&[], None)
        .and_then(|nothing| quantizer.solve(nothing, None, &mut [], &mut Workspace::default()));
    match nothing {
        Ok(solution) => Ok(matches!(solution.scale, Scale::Two { .. })),
        Err(source) => Err(QuantizeError::Solve {
            name: "an empty tensor".into(),
            source,
        }),
    }
}

/// The entries of the old file and those that this module's page lists.
fn metadata(
    weights: &TensorFile,
    request: &Request,
    quantizer: &dyn Quantizer,
) -> BTreeMap<String, String> {
    let codebook = quantizer.codebook();
    let levels: Vec<i8> = codebook.levels().collect();
    let (lowest, highest) = match (levels.first(), levels.last()) {
        (Some(&lowest), Some(&highest)) => (lowest, highest),
        _ => (0, 0),
    };
    // An index within the range that is no level, as 0 is for the binary methods, has a place as well.
    let values: Vec<f64> = (lowest..=highest)
        .map(|level| f64::from(codebook.value(level)))
        .collect();
    let values: serde_json::Value = values.into();
    let mut metadata: BTreeMap<String, String> = weights.metadata().collect();
    for (key, value) in [
        ("laq.version", env!("CARGO_PKG_VERSION").to_string()),
        ("laq.method", request.method.id()),
        ("laq.granularity", request.granularity.name().into()),
        ("laq.codebook", request.method.family().codebook.into()),
        ("laq.codebook.lowest", lowest.to_string()),
        ("laq.codebook.values", values.to_string()),
    ] {
        metadata.insert(key.into(), value);
    }
    metadata
}

/// Reads a tensor in place of what `values` has.
fn read_floats(
    file: &TensorFile,
    name: &str,
    (info, float): (&TensorInfo, Float),
    values: &mut Vec<f32>,
) -> Result<(), QuantizeError> {
    make_room(name, info.shape.iter().product(), values)?;
    file.read(info, |piece| {
        float.decode(piece, values);
        Ok(())
    })
}

/// Empties the buffer, and sees to it that `length` elements fit.
fn make_room<T>(name: &str, length: usize, buffer: &mut Vec<T>) -> Result<(), QuantizeError> {
    buffer.clear();
    buffer
        .try_reserve_exact(length)
        .map_err(|_| QuantizeError::Memory {
            name: name.into(),
            elements: length,
        })
}

/// The weights of one problem.
fn channel_length(weights: usize, problems: usize) -> usize {
    weights.checked_div(problems).unwrap_or_default()
}

fn scale_bytes(scale: Scale) -> Vec<u8> {
    match scale {
        Scale::One(scale) => scale.to_le_bytes().to_vec(),
        Scale::Two { positive, negative } => {
            [positive.to_le_bytes(), negative.to_le_bytes()].concat()
        }
    }
}

/// The scales as a record has them.
fn printed(scales: &[Scale], granularity: Granularity) -> Scales {
    let pair = |scale: &Scale| scale.pair().map(f64::from);
    match (granularity, scales.first()) {
        (Granularity::PerTensor, Some(scale @ Scale::Two { .. })) => {
            Scales::Flat(pair(scale).to_vec())
        }
        (Granularity::PerChannel, Some(Scale::Two { .. })) => {
            Scales::Pairs(scales.iter().map(pair).collect())
        }
        _ => Scales::Flat(scales.iter().map(|scale| pair(scale)[0]).collect()),
    }
}

/// `name[3, 7]` for an index into the flat tensor.
fn place(tensor: &Planned, mut index: usize) -> String {
    let mut indices = Vec::new();
    for &length in tensor.info.shape.iter().rev() {
        indices.push((index % length.max(1)).to_string());
        index /= length.max(1);
    }
    indices.reverse();
    format!("{}[{}]", tensor.name, indices.join(", "))
}
