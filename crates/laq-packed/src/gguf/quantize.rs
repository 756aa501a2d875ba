//! Quantizes the tensors of a GGUF file, one tensor at a time.

use std::collections::BTreeMap;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use laq_solvers::{Problem, SolveError};
use serde::Serialize;

use super::file::{GgufWriter, NewEntries, NewValue};
use super::select::{Selected, select};
use super::{
    BlockTypeError, ElementType, GgufError, GgufFile, GgufQuantizeError, GgufTensor, Importance,
    TargetType,
};
use crate::TensorShortage;
use crate::files::replace;
use crate::float::Float;
use crate::interrupt::until_stopped;
use crate::record::relative;
use crate::request::check_out;
use crate::selection::listed;
use crate::tensor_file::{TensorFile, TensorFileError};
use crate::thread_pool::{thread_count, thread_pool};

/// A request to quantize a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufRequest {
    /// The file of the weights.
    pub weights: PathBuf,
    /// The type of the tensors that are quantized.
    pub of: TargetType,
    /// Globs of names and the types of the tensors that match, if they are selected; the first that matches counts.
    pub types: Vec<(String, TargetType)>,
    /// What the errors of weights are multiplied by.
    pub curvature: Curvature,
    /// The file to write.
    pub out: PathBuf,
    /// Globs of names to quantize, in any type that is read; empty for all tensors with at least two dimensions that are in
    /// F32, F16 or BF16 or that `types` names.
    pub include: Vec<String>,
    /// Globs of names to copy unchanged.
    pub exclude: Vec<String>,
    /// Without `include`, also quantize the tensors with at least two dimensions that are quantized already.
    pub requantize: bool,
    /// Threads; `None` for one per processor. The result does not depend on it.
    pub threads: Option<usize>,
}

/// The curvature d of the weights w.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Curvature {
    /// d = w², the weighting of llama.cpp without an importance matrix.
    #[default]
    Squares,
    /// d = `E[x²]` of the inputs, from an importance matrix; d = w² for tensors that it lacks, as it always does
    /// those that are no product's, such as embeddings.
    Importance(PathBuf),
    /// A safetensors file with a tensor of the same name and shape for each that is quantized.
    File(PathBuf),
}

/// The result for one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GgufRecord {
    /// Its name.
    pub name: String,
    /// The number of weights.
    pub n: usize,
    /// The name of the type that it had, such as `F16`.
    pub from: &'static str,
    /// Bits of a weight in that type.
    pub bits_before: f64,
    /// The id of its type.
    pub method: &'static str,
    /// `½ Σ d (w − ŵ)²`, w as it was stored.
    pub weighted_error: f64,
    /// That over `½ Σ d w²`; `None` if only the latter is zero.
    pub relative_error: Option<f64>,
    /// Bits of a weight with its share of the scales.
    pub bits: f64,
    /// Wall-clock milliseconds of the solver.
    pub milliseconds: f64,
}

/// The totals of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GgufTotals {
    /// The number of quantized tensors.
    pub tensors: usize,
    /// The number of copied tensors.
    pub copied: usize,
    /// The number of quantized weights.
    pub weights: usize,
    /// Bytes of all tensors before and after.
    pub bytes: [usize; 2],
}

/// A request whose headers have been checked.
#[derive(Debug)]
pub struct GgufPlan {
    request: GgufRequest,
    weights: GgufFile,
    curvature: Source,
    selected: Selected,
    written: Vec<GgufTensor>,
    /// Names of tensors that the importance matrix lacks.
    without_importance: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Squares,
    Importance(Importance, PathBuf),
    File(TensorFile),
}

impl GgufPlan {
    /// Reads the headers and selects tensors. Writes nothing.
    ///
    /// # Errors
    /// Any defect of the request or the headers.
    pub fn new(request: GgufRequest) -> Result<Self, GgufQuantizeError> {
        let curvature = match &request.curvature {
            Curvature::Squares => None,
            Curvature::Importance(path) | Curvature::File(path) => Some(path),
        };
        check_out(
            &request.out,
            [Some(&request.weights), curvature].into_iter().flatten(),
        )?;
        let weights = GgufFile::open(&request.weights)?;
        let selected = select(&request, &weights)?;
        let mut written = Vec::new();
        for (tensor, of) in weights.tensors().iter().zip(&selected.types) {
            let Some(of) = *of else {
                written.push(tensor.clone());
                continue;
            };
            let columns = tensor.columns();
            let element = of.element();
            if !columns.is_multiple_of(element.weights) {
                let name = tensor.name.clone();
                return Err(GgufQuantizeError::Rows { name, of, columns });
            }
            let new = GgufTensor::new(&tensor.name, &tensor.shape, element);
            written.push(new.ok_or_else(|| GgufError::Tensor {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
            })?);
        }
        let pairs = weights.tensors().iter().zip(&written);
        let of_pairs = pairs.zip(&selected.types);
        let quantized = of_pairs.filter(|(_, of)| of.is_some());
        check_need(quantized.map(|(pair, _)| pair), request.threads)?;
        let curvature = match &request.curvature {
            Curvature::Squares => Source::Squares,
            Curvature::Importance(path) => {
                Source::Importance(Importance::read(path)?, path.clone())
            }
            Curvature::File(path) => Source::File(TensorFile::open(path)?),
        };
        let mut plan = Self {
            request,
            weights,
            curvature,
            selected,
            written,
            without_importance: Vec::new(),
        };
        plan.without_importance = plan.check_curvature()?;
        Ok(plan)
    }

    /// The tensors that the importance matrix lacks, for which d = w².
    pub fn without_importance(&self) -> &[String] {
        &self.without_importance
    }

    /// The tensors with at least two dimensions that are copied only because they are quantized already.
    pub fn kept(&self) -> &[String] {
        &self.selected.kept
    }

    /// The globs of types that no tensor takes its type from: those that match are not selected, or match an earlier one.
    pub fn unused_types(&self) -> &[String] {
        &self.selected.unused
    }

    /// The tensors to quantize that are quantized already.
    pub fn requantized(&self) -> impl Iterator<Item = &GgufTensor> {
        self.quantized()
            .filter(|tensor| tensor.element.is_quantized())
    }

    /// The tensors to quantize, in file order.
    pub fn quantized(&self) -> impl Iterator<Item = &GgufTensor> {
        self.with_types().map(|(tensor, _)| tensor)
    }

    /// The tensors to quantize, with their new types.
    fn with_types(&self) -> impl Iterator<Item = (&GgufTensor, TargetType)> {
        let all = self.weights.tensors().iter().zip(&self.selected.types);
        all.filter_map(|(tensor, of)| Some((tensor, (*of)?)))
    }

    /// The tensors that are solved for, which have a curvature.
    pub fn solved(&self) -> impl Iterator<Item = &GgufTensor> {
        let solved = self.with_types().filter(|(_, of)| of.is_solved());
        solved.map(|(tensor, _)| tensor)
    }

    /// The tensors that the importance matrix lacks. An error if it has none, or a tensor has no curvature of its
    /// size.
    fn check_curvature(&self) -> Result<Vec<String>, GgufQuantizeError> {
        let size = |path: &Path, tensor: &GgufTensor, found: String, expected: String| {
            Err(GgufQuantizeError::Size {
                path: path.into(),
                name: tensor.name.clone(),
                found,
                expected,
            })
        };
        let mut missing = Vec::new();
        for tensor in self.solved() {
            match &self.curvature {
                Source::Squares => {}
                Source::Importance(importance, path) => match importance.of(&tensor.name) {
                    None => missing.push(tensor.name.clone()),
                    Some(values) => {
                        let expected = tensor.columns().saturating_mul(experts(tensor));
                        if values.len() != expected {
                            let found = format!("{} values", values.len());
                            return size(path, tensor, found, expected.to_string());
                        }
                    }
                },
                Source::File(file) => match file.info(&tensor.name) {
                    None => missing.push(tensor.name.clone()),
                    Some(info) => {
                        if info.shape != tensor.shape || Float::of(info.dtype).is_none() {
                            let found = format!("{} of shape {:?}", info.dtype, info.shape);
                            let expected = format!("floats of shape {:?}", tensor.shape);
                            return size(file.path(), tensor, found, expected);
                        }
                    }
                },
            }
        }
        let (path, names): (&Path, Vec<String>) = match &self.curvature {
            Source::Squares => return Ok(Vec::new()),
            Source::Importance(..) if missing.len() < self.solved().count() => {
                return Ok(missing);
            }
            Source::Importance(importance, path) => {
                (path, importance.names().map(String::from).collect())
            }
            Source::File(file) => (
                file.path(),
                file.tensors().into_iter().map(|(name, _)| name).collect(),
            ),
        };
        let Some(name) = missing.first() else {
            return Ok(Vec::new());
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Err(GgufQuantizeError::Missing {
            path: path.into(),
            name: name.clone(),
            others: missing.len() - 1,
            names: listed(&names),
        })
    }

    /// Quantizes and writes the output atomically. Calls `report` after each tensor. `stop` ends it at once, also
    /// within a tensor, whose solver then goes on in the background until it is done.
    ///
    /// # Errors
    /// A number that is not finite, [`GgufQuantizeError::Interrupted`] after `stop`, and errors of files. The
    /// output path keeps its old content.
    pub fn run(
        &self,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&GgufRecord),
    ) -> Result<GgufTotals, GgufQuantizeError> {
        let pool = thread_pool(self.request.threads)?;
        let out = &self.request.out;
        let interrupted = || GgufQuantizeError::Interrupted { out: out.clone() };
        let go_on = || match stop.load(Ordering::Relaxed) {
            true => Err(interrupted()),
            false => Ok(()),
        };
        let mut entries = NewEntries::from([(
            "general.quantization_version".to_owned(),
            NewValue::Number(2),
        )]);
        if let Some(number) = most_common(&self.written).and_then(file_type) {
            entries.insert("general.file_type".to_owned(), NewValue::Number(number));
        }
        let mut totals = GgufTotals::default();
        replace(out, |file| {
            let tensors = self.written.clone();
            let kept = self.weights.raw_entries(&entries, "general.file_type")?;
            let mut writer = GgufWriter::new(out, file, kept, &entries, tensors)?;
            let mut buffers = Buffers::default();
            let all = self.weights.tensors().iter().zip(&self.selected.types);
            for (tensor, of) in all {
                go_on()?;
                totals.bytes[0] += tensor.bytes();
                let Some(of) = *of else {
                    totals.bytes[1] += tensor.bytes();
                    totals.copied += 1;
                    writer.copy(&self.weights, tensor, go_on)?;
                    continue;
                };
                self.weights.read(tensor, &mut buffers.bytes)?;
                let of_curvature = self.read(tensor, of, &mut buffers)?;
                let (taken, columns) = (mem::take(&mut buffers), tensor.columns());
                let solved = until_stopped(&pool, stop, move || solve(taken, of, columns));
                let (returned, solved) = solved.ok_or_else(interrupted)?;
                buffers = returned;
                let solved = solved.map_err(|error| self.located(tensor, of_curvature, error))?;
                let Solved { bytes, figures } =
                    solved.map_err(|source| GgufQuantizeError::Solve {
                        name: tensor.name.clone(),
                        source,
                    })?;
                let record = figures.record(tensor, of);
                writer.write(&bytes)?;
                totals.bytes[1] += bytes.len();
                totals.tensors += 1;
                totals.weights += tensor.elements();
                report(&record);
            }
            writer.end()?;
            go_on()
        })?;
        Ok(totals)
    }

    /// Decodes a tensor and takes its curvature, both into the buffers. Returns the file of the curvature.
    fn read(
        &self,
        tensor: &GgufTensor,
        of: TargetType,
        Buffers {
            bytes,
            weights,
            curvature,
        }: &mut Buffers,
    ) -> Result<&Path, GgufQuantizeError> {
        weights.clear();
        let decoded = tensor.element.decode_to(bytes, weights);
        decoded.expect("a type that is read, in whole blocks");
        curvature.clear();
        curvature.reserve_exact(weights.len());
        let (columns, weights) = (tensor.columns(), &weights[..]);
        let importance = match &self.curvature {
            Source::Importance(importance, path) => {
                importance.of(&tensor.name).map(|values| (values, path))
            }
            Source::Squares | Source::File(_) => None,
        };
        Ok(match (&self.curvature, importance) {
            // Rounding needs none; its error is reported for d = 1.
            _ if !of.is_solved() => {
                curvature.resize(weights.len(), 1.0);
                self.weights.path()
            }
            (Source::File(file), _) => {
                let info = file.info(&tensor.name).expect("checked");
                let float = Float::of(info.dtype).expect("checked");
                file.read(info, |bytes| {
                    float.decode(bytes, curvature);
                    Ok::<(), TensorFileError>(())
                })?;
                file.path()
            }
            (_, Some((values, path))) => {
                let rows = weights.len() / columns.max(1) / experts(tensor).max(1);
                for of_expert in values.chunks(columns.max(1)) {
                    (0..rows).for_each(|_| curvature.extend_from_slice(of_expert));
                }
                path
            }
            (_, None) => {
                curvature.extend(weights.iter().map(|w| (w * w).min(f32::MAX)));
                self.weights.path()
            }
        })
    }

    /// The error of a weight or curvature, with its file and its place in the tensor.
    fn located(
        &self,
        tensor: &GgufTensor,
        of_curvature: &Path,
        error: SolveError,
    ) -> GgufQuantizeError {
        let columns = tensor.columns().max(1);
        let number = |path: &Path, index: usize, value, expected| GgufQuantizeError::Number {
            name: tensor.name.clone(),
            path: path.into(),
            row: index / columns,
            column: index % columns,
            value,
            expected,
        };
        match error {
            SolveError::Weight { index, value } => {
                number(self.weights.path(), index, value, "a finite number")
            }
            SolveError::Curvature { index, value } => {
                let expected = "a finite number that is not negative";
                number(of_curvature, index, value, expected)
            }
            source => GgufQuantizeError::Solve {
                name: tensor.name.clone(),
                source: source.into(),
            },
        }
    }
}

/// Checks that there is memory for the tensor that takes most: for it before and after, and for its weights and curvature
/// in f32.
fn check_need<'a>(
    quantized: impl Iterator<Item = (&'a GgufTensor, &'a GgufTensor)>,
    threads: Option<usize>,
) -> Result<(), GgufQuantizeError> {
    let need = |(tensor, new): (&'a GgufTensor, &'a GgufTensor)| {
        let of_weights = 8_u64.saturating_mul(tensor.elements() as u64);
        let of_both = (tensor.bytes() + new.bytes()) as u64;
        (of_weights.saturating_add(of_both), tensor)
    };
    let Some((bytes, tensor)) = quantized.map(need).max_by_key(|need| need.0) else {
        return Ok(());
    };
    let (threads, weights) = (thread_count(threads)?, tensor.elements());
    Ok(TensorShortage::check(
        &tensor.name,
        weights,
        bytes,
        threads,
    )?)
}

/// A tensor in another type.
struct Solved {
    bytes: Vec<u8>,
    figures: Figures,
}

struct Figures {
    weighted_error: f64,
    /// `½ Σ d w²`.
    energy: f64,
    milliseconds: f64,
}

impl Figures {
    fn record(&self, tensor: &GgufTensor, of: TargetType) -> GgufRecord {
        GgufRecord {
            name: tensor.name.clone(),
            n: tensor.elements(),
            from: tensor.element.name,
            bits_before: tensor.element.bits(),
            method: of.id(),
            weighted_error: self.weighted_error,
            relative_error: relative(self.weighted_error, self.energy),
            bits: of.element().bits(),
            milliseconds: self.milliseconds,
        }
    }
}

/// Solves for the weights in the buffers, which it returns. The errors are those of numbers, and those of the solver.
fn solve(
    buffers: Buffers,
    of: TargetType,
    columns: usize,
) -> (Buffers, Result<Result<Solved, BlockTypeError>, SolveError>) {
    let Buffers {
        weights, curvature, ..
    } = &buffers;
    let start = Instant::now();
    let problem = Problem::new(weights, Some(curvature));
    let solved = problem.map(|problem| {
        let (bytes, weighted_error) = of.quantize(problem, columns)?;
        let milliseconds = 1e3 * start.elapsed().as_secs_f64();
        let energy = |(w, d): (&f32, &f32)| f64::from(*d) * f64::from(*w).powi(2);
        let energies = weights.iter().zip(curvature).map(energy);
        let figures = Figures {
            weighted_error,
            energy: 0.5 * energies.sum::<f64>(),
            milliseconds,
        };
        Ok(Solved { bytes, figures })
    });
    (buffers, solved)
}

/// Buffers, reused from tensor to tensor.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    weights: Vec<f32>,
    curvature: Vec<f32>,
}

/// The experts of a tensor with three dimensions.
fn experts(tensor: &GgufTensor) -> usize {
    match tensor.shape[..] {
        [experts, _, _] => experts,
        _ => 1,
    }
}

/// The type of most weights.
fn most_common(tensors: &[GgufTensor]) -> Option<ElementType> {
    let mut weights: BTreeMap<u32, (usize, ElementType)> = BTreeMap::new();
    for tensor in tensors {
        let of = weights.entry(tensor.element.number);
        of.or_insert((0, tensor.element)).0 += tensor.elements();
    }
    let most = weights.into_values().max_by_key(|(weights, _)| *weights);
    most.map(|(_, of)| of)
}

/// llama.cpp's number of a file whose tensors are mostly of this type; of its mixtures that with the fewest other types.
fn file_type(of: ElementType) -> Option<u32> {
    let number = match of.name {
        "F32" => 0,
        "F16" => 1,
        "Q4_0" => 2,
        "Q8_0" => 7,
        "Q2_K" => 10,
        "Q3_K" => 11,
        "Q4_K" => 14,
        "IQ4_NL" => 25,
        "IQ4_XS" => 30,
        "BF16" => 32,
        "TQ1_0" => 36,
        "TQ2_0" => 37,
        _ => return None,
    };
    Some(number)
}
