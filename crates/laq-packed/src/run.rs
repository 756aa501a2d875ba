//! Solves and writes, one tensor at a time.

use std::io::Write;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use laq_solvers::{
    Codebook, Groups, Method, Problem, Quantizer, Scale, SolveError, Solver, solve_groups,
};
use safetensors::tensor::TensorInfo;

use crate::axis::{Axis, front_shape};
use crate::channels::{Decoded, LostChannels, compare};
use crate::codes::Packing;
use crate::files::{FileError, OutFolder, Temporary, remove};
use crate::float::Float;
use crate::interrupt::until_stopped;
use crate::memory::{MemoryShortage, memory_for_data};
use crate::pack_error::PackError;
use crate::packed_file::write_packed;
use crate::plan::{Plan, Planned, Quantized, granularity, scale_float};
use crate::record::{TensorRecord, Totals, printed, relative};
use crate::request::quantizer;
use crate::tensor::{PackedTensor, matrix_shape};
use crate::tensor_file::{BLOCK, TensorFile, Writer};
use crate::thread_pool::thread_pool;
use crate::{QuantizeError, TensorShortage};

impl Plan {
    /// Quantizes all tensors and writes the output atomically. Calls `report` after each tensor.
    /// `stop` ends it at once, also within a tensor, whose solver then goes on in the background
    /// until it is done. Shards replace those of an earlier output when all of them are complete,
    /// and their index comes last.
    ///
    /// # Errors
    ///
    /// [`QuantizeError::Number`] for a weight or curvature that is not finite,
    /// [`QuantizeError::Interrupted`] after `stop`, and errors of files and threads. The output
    /// path keeps its old content.
    pub fn run(
        &self,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&TensorRecord),
    ) -> Result<Totals, QuantizeError> {
        let quantizer = quantizer(&self.request.method)?;
        let pool = thread_pool(self.request.threads)?;
        let method = Arc::new(self.request.method.clone());
        let out = &self.request.out;
        let mut totals = Totals::default();
        let mut buffers = Buffers::default();
        let go_on = || match stop.load(Ordering::Relaxed) {
            true => Err(QuantizeError::Interrupted { out: out.clone() }),
            false => Ok(()),
        };
        // Removed after the temporary files in it.
        let _folder = match &self.index {
            Some(_) => Some(OutFolder::make(out)?),
            None => None,
        };
        let mut written = Vec::with_capacity(self.files.len() + 1);
        for file in &self.files {
            let complete = Temporary::write(&file.out, |new| {
                let mut writer = Writer::new(&file.layout, &file.out, new)?;
                for tensor in &file.tensors {
                    go_on()?;
                    let Some(how) = &tensor.quantized else {
                        writer.begin(&tensor.name)?;
                        file.weights.read(&tensor.info, |bytes| {
                            go_on()?;
                            Ok::<(), QuantizeError>(writer.write(bytes)?)
                        })?;
                        totals.copied += 1;
                        continue;
                    };
                    self.read(&file.weights, tensor, how, &go_on, &mut buffers)?;
                    let work = Work {
                        method: method.clone(),
                        shape: tensor.info.shape.clone(),
                        axis: how.axis,
                        groups: how.groups,
                        has_curvature: how.curvature.is_some(),
                        packing: self.packing,
                        buffers: mem::take(&mut buffers),
                    };
                    let done = until_stopped(&pool, stop, move || work.solve());
                    let Some((returned, solved)) = done else {
                        return Err(QuantizeError::Interrupted { out: out.clone() });
                    };
                    buffers = returned;
                    let solved =
                        solved.map_err(|error| self.locate(&file.weights, tensor, error))?;
                    let bytes = self.write(
                        tensor,
                        how,
                        (&solved.packed?, &buffers),
                        &go_on,
                        &mut writer,
                    )?;
                    let record = self.record(tensor, &solved.figures, quantizer, &buffers);
                    totals.add(
                        &record,
                        solved.figures.energy,
                        tensor.info.dtype.bitsize(),
                        8 * bytes,
                    );
                    report(&record);
                }
                Ok(writer.end()?)
            })?;
            written.push(complete);
        }
        if let Some((path, text)) = &self.index {
            written.push(Temporary::write(path, |new| {
                let done = new.write_all(text.as_bytes());
                done.map_err(FileError::on("write", path))
            })?);
        }
        // From here on files are replaced.
        go_on()?;
        if let Some((path, _)) = &self.index {
            // While shards are replaced there is no index, rather than one that is wrong.
            remove(path)?;
        }
        for complete in written {
            complete.rename()?;
        }
        Ok(totals)
    }

    /// Reads one tensor and its curvature into the buffers.
    fn read(
        &self,
        file: &TensorFile,
        tensor: &Planned,
        how: &Quantized,
        go_on: &impl Fn() -> Result<(), QuantizeError>,
        buffers: &mut Buffers,
    ) -> Result<(), QuantizeError> {
        let Buffers {
            weights,
            curvature,
            levels,
            scales,
        } = buffers;
        let name = &tensor.name;
        read_floats(file, name, (&tensor.info, how.float), go_on, weights)?;
        to_front(tensor, how, weights);
        if let (Some(files), Some((number, info, float))) = (&self.curvature, &how.curvature) {
            let file = &files.files[*number];
            read_floats(file, name, (info, *float), go_on, curvature)?;
            to_front(tensor, how, curvature);
        }
        reserve(name, weights.len(), levels)?;
        levels.resize(weights.len(), 0);
        reserve(name, how.groups.count(), scales)
    }

    /// Writes the packed codes and steps and, with `dequantized`, the decoded weights. Returns the
    /// bytes of codes and steps.
    fn write(
        &self,
        tensor: &Planned,
        how: &Quantized,
        (packed, Buffers { levels, scales, .. }): (&PackedTensor, &Buffers),
        go_on: &impl Fn() -> Result<(), QuantizeError>,
        writer: &mut Writer<'_>,
    ) -> Result<usize, QuantizeError> {
        let method = &self.request.method;
        let codebook = quantizer(method)?.codebook();
        let float = scale_float(method, how.groups);
        let bytes = packed.packed().len() + packed.steps().len() * float.dtype().bitsize() / 8;
        write_packed(writer, &tensor.name, packed, float)?;
        if !self.request.dequantized {
            return Ok(bytes);
        }
        writer.begin(&tensor.name)?;
        let mut encoded = Vec::new();
        if how.axis > 0 {
            for quantized in packed.decode().chunks(BLOCK) {
                go_on()?;
                encoded.clear();
                how.float.encode(quantized, &mut encoded);
                writer.write(&encoded)?;
            }
            return Ok(bytes);
        }
        let mut quantized = Vec::new();
        // Many small groups are written together.
        for (range, scale) in how.groups.ranges().zip(scales) {
            for levels in levels[range].chunks(BLOCK) {
                if quantized.len() + levels.len() > BLOCK {
                    go_on()?;
                    how.float.encode(&quantized, &mut encoded);
                    writer.write(&encoded)?;
                    encoded.clear();
                    quantized.clear();
                }
                let start = quantized.len();
                quantized.resize(start + levels.len(), 0.0);
                codebook.decode(levels, *scale, &mut quantized[start..]);
            }
        }
        how.float.encode(&quantized, &mut encoded);
        writer.write(&encoded)?;
        Ok(bytes)
    }

    fn record(
        &self,
        tensor: &Planned,
        solved: &Figures,
        quantizer: &Quantizer,
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
            scale: printed(&buffers.scales, granularity(&self.request.method), codebook),
            weighted_error: solved.weighted_error,
            relative_error: relative(solved.weighted_error, solved.energy),
            rounding_error: solved.rounding_error,
            lost_channels: solved.lost_channels.clone(),
            sparsity: if has_zero {
                zeros as f64 / n.max(1) as f64
            } else {
                0.0
            },
            bits: self.packing.bits_per_code(),
            milliseconds: solved.milliseconds,
        }
    }

    /// The solver's error with the tensor's name and its multi-dimensional index.
    fn locate(&self, file: &TensorFile, tensor: &Planned, error: SolveError) -> QuantizeError {
        let curvature = tensor
            .quantized
            .as_ref()
            .and_then(|how| how.curvature.as_ref());
        let number = |path: &Path, index, value, expected| QuantizeError::Number {
            location: location(tensor, index),
            path: path.into(),
            value,
            expected,
        };
        match (error, self.curvature.as_ref().zip(curvature)) {
            (SolveError::Weight { index, value }, _) => {
                number(file.path(), index, value, "a finite number")
            }
            (SolveError::Curvature { index, value }, Some((files, (at, ..)))) => number(
                files.files[*at].path(),
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

/// Buffers, reused from tensor to tensor.
#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,
    curvature: Vec<f32>,
    levels: Vec<i8>,
    scales: Vec<Scale>,
}

/// A tensor to solve, with everything that it needs.
struct Work {
    method: Arc<Method>,
    shape: Vec<usize>,
    axis: usize,
    groups: Groups,
    has_curvature: bool,
    packing: Packing,
    buffers: Buffers,
}

/// The solution of a tensor.
struct Solved {
    figures: Figures,
    packed: Result<PackedTensor, PackError>,
}

struct Figures {
    weighted_error: f64,
    /// That of the nearest levels at the largest magnitude, where the method alternates.
    rounding_error: Option<f64>,
    /// `½ Σ d w²`.
    energy: f64,
    lost_channels: Option<LostChannels>,
    milliseconds: f64,
}

impl Work {
    /// Solves and packs; returns the buffers with levels and scales.
    fn solve(mut self) -> (Buffers, Result<Solved, SolveError>) {
        let solved = self.solved();
        (self.buffers, solved)
    }

    fn solved(&mut self) -> Result<Solved, SolveError> {
        let Buffers {
            weights,
            curvature,
            levels,
            scales,
        } = &mut self.buffers;
        let quantizer = self.method.quantizer().expect("checked before");
        let start = Instant::now();
        let curvature = self.has_curvature.then_some(curvature.as_slice());
        let problem = Problem::new(weights, curvature)?;
        let solved = solve_groups(quantizer, problem, self.groups, levels)?;
        scales.extend(solved.iter().map(|group| group.scale));
        let weighted_error = (solved.iter()).fold(0.0, |sum, group| sum + group.weighted_error);
        let milliseconds = 1e3 * start.elapsed().as_secs_f64();
        let (codebook, groups) = (quantizer.codebook(), self.groups);
        let alternates = matches!(quantizer.solver(), Solver::Alternating { .. });
        let rounding_error = match alternates {
            true => Some(rounding_error(codebook, problem, groups)?),
            false => None,
        };
        let shape = front_shape(&self.shape, self.axis);
        let decoded = Decoded {
            weights,
            curvature,
            codebook,
            levels,
            groups,
            scales,
        };
        let (channels, _) = matrix_shape(&shape, 1);
        let (energy, lost_channels) = compare(decoded, channels);
        let packed =
            PackedTensor::from_groups(&shape, levels, codebook, groups, scales, self.packing);
        Ok(Solved {
            figures: Figures {
                weighted_error,
                rounding_error,
                energy,
                lost_channels,
                milliseconds,
            },
            packed: packed.and_then(|packed| packed.with_axis(self.axis)),
        })
    }
}

/// The error of rounding to the nearest levels, with the largest magnitude of each group as its scale.
fn rounding_error(
    codebook: &Codebook,
    problem: Problem<'_>,
    groups: Groups,
) -> Result<f64, SolveError> {
    let quantizer = Quantizer::rounding(codebook.clone());
    let mut levels = vec![0; problem.weights().len()];
    let rounded = solve_groups(&quantizer, problem, groups, &mut levels)?;
    Ok(rounded.iter().map(|group| group.weighted_error).sum())
}

/// Moves the axis of the channels to the front of the elements.
fn to_front(tensor: &Planned, how: &Quantized, values: &mut Vec<f32>) {
    if how.axis > 0
        && let Some(axis) = Axis::of(&tensor.info.shape, how.axis)
    {
        *values = axis.moved_to_front(values);
    }
}

/// Reads a tensor into `values`.
fn read_floats(
    file: &TensorFile,
    name: &str,
    (info, float): (&TensorInfo, Float),
    go_on: &impl Fn() -> Result<(), QuantizeError>,
    values: &mut Vec<f32>,
) -> Result<(), QuantizeError> {
    reserve(name, info.shape.iter().product(), values)?;
    file.read(info, |bytes| {
        go_on()?;
        float.decode(bytes, values);
        Ok(())
    })
}

/// Clears the buffer and reserves `length` elements.
fn reserve<T>(name: &str, length: usize, buffer: &mut Vec<T>) -> Result<(), QuantizeError> {
    buffer.clear();
    buffer
        .try_reserve_exact(length)
        .map_err(|_| TensorShortage {
            name: name.into(),
            weights: length,
            source: MemoryShortage::of(length as u64 * size_of::<T>() as u64, memory_for_data(0)),
        })?;
    Ok(())
}

/// `name[3, 7]` for an index into the flat tensor, whose axis of the channels is in front.
fn location(tensor: &Planned, front: usize) -> String {
    let axis = tensor.quantized.as_ref().map_or(0, |how| how.axis);
    let axis = Axis::of(&tensor.info.shape, axis);
    let mut index = axis.map_or(front, |axis| axis.place(front));
    let mut indices = Vec::new();
    for &length in tensor.info.shape.iter().rev() {
        indices.push((index % length.max(1)).to_string());
        index /= length.max(1);
    }
    indices.reverse();
    format!("{}[{}]", tensor.name, indices.join(", "))
}
