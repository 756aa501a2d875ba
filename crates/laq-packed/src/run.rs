//! Solves and writes, one tensor at a time.

use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use laq_solvers::{Problem, Quantizer, Scale, SolveError, solve_rows};
use safetensors::tensor::TensorInfo;

use crate::QuantizeError;
use crate::codes::Packing;
use crate::files::replace;
use crate::float::Float;
use crate::packed_file::write_packed;
use crate::plan::{Plan, Planned, Quantized};
use crate::record::{TensorRecord, Totals, printed, relative};
use crate::request::quantizer;
use crate::tensor::PackedTensor;
use crate::tensor_file::{BLOCK, TensorFile, Writer};

impl Plan {
    /// Quantizes all tensors and writes the output atomically. Calls `report` after each tensor and
    /// checks `stop` between tensors.
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
        let solver = Solver {
            quantizer: quantizer(&self.request.method)?,
            pool: pool(self.request.threads)?,
        };
        let out = &self.request.out;
        let mut totals = Totals::default();
        // The temporary file is named after the process, so that two processes do not share one.
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
                        .read(&tensor.info, |bytes| writer.write(bytes))?;
                    totals.copied += 1;
                    continue;
                };
                let solved = self.solve(tensor, how, &solver, &mut buffers)?;
                let how_written = (solver.quantizer, self.packing, self.request.dequantized);
                let bytes = buffers.write(tensor, how.float, how_written, &mut writer)?;
                let record = self.record(tensor, &solved, solver.quantizer, &buffers);
                totals.add(
                    &record,
                    solved.energy,
                    tensor.info.dtype.bitsize(),
                    8 * bytes,
                );
                report(&record);
            }
            Ok(writer.end()?)
        })?;
        Ok(totals)
    }

    /// Reads and solves one tensor; levels and scales are left in the buffers.
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
        reserve(name, weights.len(), levels)?;
        levels.resize(weights.len(), 0);
        reserve(name, how.problems, scales)?;

        let located = |error| self.locate(tensor, error);
        let start = Instant::now();
        let problem = Problem::new(weights, curvature).map_err(located)?;
        let weighted_error = solver
            .solve(problem, how.problems, levels, scales)
            .map_err(located)?;
        let milliseconds = 1e3 * start.elapsed().as_secs_f64();
        // With scale zero the error is ½ Σ d w².
        let energy = problem
            .weighted_error(solver.quantizer.codebook(), Scale::One(0.0), levels)
            .map_err(located)?;
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
            scale: printed(&buffers.scales, self.request.granularity, codebook),
            weighted_error: solved.weighted_error,
            relative_error: relative(solved.weighted_error, solved.energy),
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
    fn locate(&self, tensor: &Planned, error: SolveError) -> QuantizeError {
        let number = |path: &Path, index, value, expected| QuantizeError::Number {
            location: location(tensor, index),
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

/// Buffers, reused from tensor to tensor.
#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,
    curvature: Vec<f32>,
    levels: Vec<i8>,
    scales: Vec<Scale>,
}

impl Buffers {
    /// Writes the packed codes and steps and, with `dequantized`, the decoded weights. Returns the
    /// bytes of codes and steps.
    fn write(
        &self,
        tensor: &Planned,
        float: Float,
        (quantizer, packing, dequantized): (&Quantizer, Packing, bool),
        writer: &mut Writer<'_>,
    ) -> Result<usize, QuantizeError> {
        let codebook = quantizer.codebook();
        let packed = PackedTensor::from_levels(
            &tensor.info.shape,
            &self.levels,
            codebook,
            &self.scales,
            packing,
        )?;
        write_packed(writer, &tensor.name, &packed)?;
        if !dequantized {
            return Ok(packed.bytes());
        }
        writer.begin(&tensor.name)?;
        let length = channel_length(self.levels.len(), self.scales.len());
        let mut bytes = Vec::new();
        let mut quantized = vec![0.0; BLOCK.min(length)];
        for (levels, scale) in self.levels.chunks(length.max(1)).zip(&self.scales) {
            for levels in levels.chunks(BLOCK) {
                let quantized = &mut quantized[..levels.len()];
                codebook.decode(levels, *scale, quantized);
                bytes.clear();
                float.encode(quantized, &mut bytes);
                writer.write(&bytes)?;
            }
        }
        Ok(packed.bytes())
    }
}

/// The solution of a tensor.
struct Solved {
    weighted_error: f64,
    /// `½ Σ d w²`.
    energy: f64,
    milliseconds: f64,
}

struct Solver<'a> {
    quantizer: &'a Quantizer,
    pool: rayon::ThreadPool,
}

impl Solver<'_> {
    /// Solves a tensor as `problems` consecutive problems of equal length. Appends their scales in
    /// order and returns the sum of their errors.
    fn solve(
        &self,
        problem: Problem<'_>,
        problems: usize,
        levels: &mut [i8],
        scales: &mut Vec<Scale>,
    ) -> Result<f64, SolveError> {
        let solve = || solve_rows(self.quantizer, problem, problems, levels);
        let rows = self.pool.install(solve)?;
        scales.extend(rows.iter().map(|row| row.scale));
        Ok(rows.iter().fold(0.0, |sum, row| sum + row.weighted_error))
    }
}

/// Reads a tensor into `values`.
fn read_floats(
    file: &TensorFile,
    name: &str,
    (info, float): (&TensorInfo, Float),
    values: &mut Vec<f32>,
) -> Result<(), QuantizeError> {
    reserve(name, info.shape.iter().product(), values)?;
    file.read(info, |bytes| {
        float.decode(bytes, values);
        Ok(())
    })
}

/// Clears the buffer and reserves `length` elements.
fn reserve<T>(name: &str, length: usize, buffer: &mut Vec<T>) -> Result<(), QuantizeError> {
    buffer.clear();
    buffer
        .try_reserve_exact(length)
        .map_err(|_| QuantizeError::Memory {
            name: name.into(),
            elements: length,
        })
}

/// Weights of one problem.
fn channel_length(weights: usize, problems: usize) -> usize {
    weights.checked_div(problems).unwrap_or_default()
}

/// `name[3, 7]` for an index into the flat tensor.
fn location(tensor: &Planned, mut index: usize) -> String {
    let mut indices = Vec::new();
    for &length in tensor.info.shape.iter().rev() {
        indices.push((index % length.max(1)).to_string());
        index /= length.max(1);
    }
    indices.reverse();
    format!("{}[{}]", tensor.name, indices.join(", "))
}

fn pool(threads: Option<usize>) -> Result<rayon::ThreadPool, QuantizeError> {
    let threads = threads.unwrap_or(0);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|source| QuantizeError::Threads { threads, source })
}
