//! One weight tensor in training: latent values, their quantized form, gradient, Adam's moments.

use std::collections::BTreeMap;
use std::ops::Range;

use laq_solvers::{Codebook, Granularity, Groups, Method, Problem, Scale, SolveError};
use laq_tensor::{
    AdamSettings, Backend, BackendError, GroupReport, QuantizeJob, QuantizerSnapshot, Tensor,
    UpdateJob,
};
use ndarray::ArrayD;

use crate::ModelError;
use crate::comparison::{LayerComparison, compare, curvature};
use crate::init::{self, Init};

/// A tensor of a training's state, in host memory, for a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    /// Parameter name, or parameter name and part: `lstm.weight_hh`, `lstm.weight_hh.levels`.
    pub name: String,
    /// Sizes, row-major.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: StateData,
}

/// The elements of a [`StateTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum StateData {
    /// Weights, moments, scales.
    F32(Vec<f32>),
    /// Level indices.
    I8(Vec<i8>),
    /// Counters.
    U64(Vec<u64>),
}

/// A tensor that a network computes with, in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWeights {
    /// Parameter name: `lstm.weight_hh`, `dense1.norm.scale`.
    pub name: String,
    /// Sizes, row-major.
    pub shape: Vec<usize>,
    /// The weights.
    pub data: WeightData,
}

/// The weights of a [`LayerWeights`].
#[derive(Clone, Debug, PartialEq)]
pub enum WeightData {
    /// Full precision.
    F32(Vec<f32>),
    /// Quantized: `Codebook::decode` of each group gives ŵ.
    Quantized {
        /// Level indices, row-major.
        levels: Vec<i8>,
        /// The weights that share a scale.
        groups: Groups,
        /// The scale of each group.
        scales: Vec<Scale>,
        /// The codebook.
        codebook: Codebook,
    },
}

/// Statistics of the last quantization of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerReport {
    /// Parameter and gate, where it has several: `lstm.weight_hh.forget`, `dense1.weight`.
    pub name: String,
    /// n, its weights.
    pub weights: usize,
    /// α, or (α, β); the mean magnitude if rows or blocks have scales of their own.
    pub scale: Scale,
    /// Share of the quantized weights that are zero.
    pub sparsity: f64,
    /// ½ Σ d (w − ŵ)².
    pub weighted_error: f64,
    /// Iterations of the alternating solver: the most of any group.
    pub iterations: u32,
}

impl LayerReport {
    /// The report of a matrix from those of its groups and their sizes; `None` if there are none.
    fn new(name: String, groups: &[(GroupReport, usize)]) -> Option<Self> {
        let weights: usize = groups.iter().map(|(_, size)| size).sum();
        let (first, _) = groups.first()?;
        let mean = |of: &dyn Fn(&GroupReport, f64) -> f64| {
            let each = groups.iter().map(|(group, size)| of(group, *size as f64));
            each.sum::<f64>()
        };
        let count = groups.len() as f64;
        let scale = |side: usize| match groups {
            [(only, _)] => only.scale.pair()[side],
            _ => (mean(&|group, _| f64::from(group.scale.pair()[side].abs())) / count) as f32,
        };
        Some(Self {
            name,
            weights,
            scale: match first.scale {
                Scale::One(_) => Scale::One(scale(0)),
                Scale::Two { .. } => Scale::Two {
                    positive: scale(0),
                    negative: scale(1),
                },
            },
            sparsity: match groups {
                [(only, _)] => only.sparsity,
                _ => mean(&|group, size| size * group.sparsity) / weights as f64,
            },
            weighted_error: mean(&|group, _| group.weighted_error),
            iterations: groups.iter().map(|(group, _)| group.iterations).max()?,
        })
    }
}

/// The only gate of a parameter that has no others; it has no name of its own.
pub(crate) const WHOLE: &str = "";

/// A parameter before it is allocated.
#[derive(Clone, Debug)]
pub(crate) struct ParameterSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) init: Init,
    /// Names of the gates, which are equal blocks of rows. [`WHOLE`] for a parameter without; empty
    /// for full precision.
    pub(crate) gates: Vec<&'static str>,
}

impl ParameterSpec {
    /// The groups that have a scale of their own.
    fn groups(&self, granularity: Granularity) -> Groups {
        let (rows, columns) = match &self.shape[..] {
            [rows, columns @ ..] => (*rows, columns.iter().product()),
            [] => (1, 1),
        };
        granularity.groups(rows, columns, self.gates.len())
    }
}

/// A weight tensor with its gradient, moments and quantized form.
pub(crate) struct Parameter<B: Backend> {
    pub(crate) spec: ParameterSpec,
    latent: Tensor<B>,
    gradient: Tensor<B>,
    first_moment: Tensor<B>,
    second_moment: Tensor<B>,
    quantized: Option<Quantized<B>>,
    /// Latent weights that are quantized stay within ± this.
    pub(crate) clip: f32,
}

struct Quantized<B: Backend> {
    method: Method,
    groups: Groups,
    quantizer: B::Quantizer,
    values: Tensor<B>,
}

impl<B: Backend> Parameter<B> {
    pub(crate) fn new(
        backend: &B,
        spec: ParameterSpec,
        method: &Method,
        seed: u64,
    ) -> Result<Self, BackendError> {
        let zeros = || backend.zeros(&spec.shape);
        let mut latent = zeros()?;
        let drawn = init::draw(&spec.init, &spec.shape, seed, &spec.name);
        backend.write(
            drawn.as_slice().expect("drawn in row-major order"),
            &mut latent,
        )?;
        let quantized = if method.quantizer().is_some() && !spec.gates.is_empty() {
            let groups = spec.groups(method.granularity());
            let mut quantizer = backend.quantizer(method, groups)?;
            let mut values = zeros()?;
            if let Some(start) = method.scale_start() {
                let start = QuantizerSnapshot {
                    levels: vec![0; groups.weights()],
                    scales: vec![start; 2 * groups.count()],
                    moments: Vec::new(),
                };
                backend.quantizer_load(&start, &mut quantizer, &mut values)?;
            }
            Some(Quantized {
                method: method.clone(),
                groups,
                quantizer,
                values,
            })
        } else {
            None
        };
        Ok(Parameter {
            latent,
            gradient: zeros()?,
            first_moment: zeros()?,
            second_moment: zeros()?,
            quantized,
            clip: 1.0,
            spec,
        })
    }

    /// What the network computes with: ŵ, or w where nothing is quantized.
    pub(crate) fn value(&self) -> &Tensor<B> {
        self.quantized
            .as_ref()
            .map_or(&self.latent, |quantized| &quantized.values)
    }

    /// [`Parameter::value`], and where its gradient goes.
    pub(crate) fn value_and_gradient(&mut self) -> (&Tensor<B>, &mut Tensor<B>) {
        let value = self
            .quantized
            .as_ref()
            .map_or(&self.latent, |quantized| &quantized.values);
        (value, &mut self.gradient)
    }

    pub(crate) fn is_quantized(&self) -> bool {
        self.quantized.is_some()
    }

    /// The last gradient, in host memory.
    pub(crate) fn gradient(&self, backend: &B) -> Result<Vec<f32>, BackendError> {
        numbers(backend, &self.gradient)
    }

    /// The operands of ŵ = solve(w, d), where the parameter is quantized.
    pub(crate) fn quantize_job(&mut self) -> Option<QuantizeJob<'_, B>> {
        let quantized = self.quantized.as_mut()?;
        Some(QuantizeJob {
            latent: &self.latent,
            second_moment: &self.second_moment,
            quantizer: &mut quantized.quantizer,
            quantized: &mut quantized.values,
        })
    }

    /// The weights of the gates, or of the whole parameter where gates share a scale, with their names:
    /// `lstm.weight_hh.forget`, `dense1.weight`.
    fn named_groups(&self, quantized: &Quantized<B>) -> Vec<(String, Range<usize>)> {
        let (groups, gates) = (quantized.groups, &self.spec.gates);
        match groups.count().is_multiple_of(gates.len()) {
            true => {
                let of_gate = groups.count() / gates.len();
                let named = gates.iter().enumerate().map(|(index, gate)| {
                    let name = match *gate {
                        WHOLE => self.spec.name.clone(),
                        gate => format!("{}.{gate}", self.spec.name),
                    };
                    (name, index * of_gate..(index + 1) * of_gate)
                });
                named.collect()
            }
            false => vec![(self.spec.name.clone(), 0..groups.count())],
        }
    }

    /// The solver's error of a group, with the name of its gate.
    pub(crate) fn unsolved(&self, group: usize, step: u64, source: SolveError) -> ModelError {
        let quantized = self.quantized.as_ref();
        let mut named = quantized.map_or_else(Vec::new, |quantized| self.named_groups(quantized));
        named.retain(|(_, groups)| groups.contains(&group));
        let layer = named
            .pop()
            .map_or_else(|| self.spec.name.clone(), |(name, _)| name);
        ModelError::Solve {
            layer,
            step,
            source,
        }
    }

    /// Repeats the checks of a group on the host, for the error of a device's solver.
    pub(crate) fn why_unsolved(
        &self,
        backend: &B,
        group: usize,
        step: u64,
    ) -> Result<ModelError, BackendError> {
        let quantized = self.quantized.as_ref().expect("it was solved");
        let range = quantized.groups.range(group);
        let latent = numbers(backend, &self.latent)?;
        let curvature = curvature(&numbers(backend, &self.second_moment)?[range.clone()]);
        let source = match Problem::new(&latent[range], Some(&curvature)) {
            Err(source) => source,
            // Of all that a solver takes, only trained scales are left.
            Ok(_) => SolveError::Scale { value: f32::NAN },
        };
        Ok(self.unsolved(group, step, source))
    }

    /// The weighted errors of ŵ and of the solution of `other`, per gate; empty before the first
    /// solve.
    pub(crate) fn compare(
        &self,
        backend: &B,
        other: &Method,
        step: u64,
    ) -> Result<Vec<LayerComparison>, ModelError> {
        let Some(quantized) = &self.quantized else {
            return Ok(Vec::new());
        };
        let state = backend.quantizer_save(&quantized.quantizer)?;
        let scales = quantized.scales(&state);
        if scales.is_empty() {
            return Ok(Vec::new());
        }
        let latent = numbers(backend, &self.latent)?;
        let second_moment = numbers(backend, &self.second_moment)?;
        let methods = (&quantized.method, other);
        let solved = (&state.levels[..], &scales[..]);
        let errors = compare(methods, quantized.groups, &latent, &second_moment, solved)
            .map_err(|(group, source)| self.unsolved(group, step, source))?;
        let named = self.named_groups(quantized).into_iter();
        let comparisons = named.map(|(name, groups)| {
            let sum = |which: usize| errors[groups.clone()].iter().map(|e| e[which]).sum();
            LayerComparison {
                name,
                weighted_error: sum(0),
                other_weighted_error: sum(1),
            }
        });
        Ok(comparisons.collect())
    }

    /// What the network computes with, in host memory.
    pub(crate) fn weights(&self, backend: &B) -> Result<LayerWeights, BackendError> {
        let data = match &self.quantized {
            None => WeightData::F32(numbers(backend, &self.latent)?),
            Some(quantized) => {
                let state = backend.quantizer_save(&quantized.quantizer)?;
                let quantizer = quantized.method.quantizer();
                WeightData::Quantized {
                    groups: quantized.groups,
                    scales: quantized.scales(&state),
                    levels: state.levels,
                    codebook: quantizer
                        .expect("of a quantized parameter")
                        .codebook()
                        .clone(),
                }
            }
        };
        Ok(LayerWeights {
            name: self.spec.name.clone(),
            shape: self.spec.shape.clone(),
            data,
        })
    }

    pub(crate) fn has_trained_scales(&self) -> bool {
        let quantized = self.quantized.as_ref();
        quantized.is_some_and(|quantized| quantized.method.has_trained_scales())
    }

    /// Sets Adam's moments to zero, as before the first step.
    pub(crate) fn clear_moments(&mut self, backend: &B) -> Result<(), BackendError> {
        let zeros = vec![0.0; self.spec.shape.iter().product()];
        backend.write(&zeros, &mut self.first_moment)?;
        backend.write(&zeros, &mut self.second_moment)
    }

    /// Whether [`Parameter::quantizer_backward`] changes the gradient (PAPER.md §2).
    pub(crate) fn has_latent_gradient(&self) -> bool {
        let quantized = self.quantized.as_ref();
        quantized.is_some_and(|quantized| quantized.method.has_latent_gradient())
    }

    /// ∂L/∂ŵ becomes ∂L/∂w.
    pub(crate) fn quantizer_backward(&mut self, backend: &B) -> Result<(), BackendError> {
        let Some(quantized) = &mut self.quantized else {
            return Ok(());
        };
        backend.quantizer_backward(&self.latent, &mut quantized.quantizer, &mut self.gradient)
    }

    /// The operands of Adam. Only quantized parameters are clipped, to ± [`Parameter::clip`].
    pub(crate) fn update_job(&mut self) -> UpdateJob<'_, B> {
        UpdateJob {
            clip: self.quantized.is_some().then_some(self.clip),
            gradient: &self.gradient,
            weight: &mut self.latent,
            first_moment: &mut self.first_moment,
            second_moment: &mut self.second_moment,
        }
    }

    /// Adam on trained scales.
    pub(crate) fn update_scales(
        &mut self,
        backend: &B,
        adam: AdamSettings,
        log: &B::StepLog,
    ) -> Result<(), BackendError> {
        match &mut self.quantized {
            Some(quantized) => backend.quantizer_update(adam, log, &mut quantized.quantizer),
            None => Ok(()),
        }
    }

    pub(crate) fn reports(&self, backend: &B) -> Result<Vec<LayerReport>, BackendError> {
        let Some(quantized) = &self.quantized else {
            return Ok(Vec::new());
        };
        let reports = backend.quantizer_reports(&quantized.quantizer)?;
        let sized = reports.into_iter().zip(quantized.groups.ranges());
        let sized: Vec<_> = sized.map(|(report, range)| (report, range.len())).collect();
        if sized.is_empty() {
            return Ok(Vec::new());
        }
        let named = self.named_groups(quantized).into_iter();
        let reports = named.filter_map(|(name, groups)| LayerReport::new(name, &sized[groups]));
        Ok(reports.collect())
    }

    pub(crate) fn save(&self, backend: &B) -> Result<Vec<StateTensor>, BackendError> {
        let name = &self.spec.name;
        let tensor = |part: &str, shape: Vec<usize>, data: StateData| StateTensor {
            name: format!("{name}{part}"),
            shape,
            data,
        };
        let mut state = Vec::new();
        for (part, values) in [
            ("", &self.latent),
            (".first_moment", &self.first_moment),
            (".second_moment", &self.second_moment),
        ] {
            let values = backend.read(values)?;
            state.push(tensor(part, self.spec.shape.clone(), f32s(values)));
        }
        if let Some(quantized) = &self.quantized {
            let snapshot = backend.quantizer_save(&quantized.quantizer)?;
            let groups = quantized.groups.count();
            let rows = |numbers: &[f32]| vec![groups, numbers.len() / groups];
            state.push(tensor(
                ".levels",
                self.spec.shape.clone(),
                StateData::I8(snapshot.levels),
            ));
            state.push(tensor(
                ".scales",
                rows(&snapshot.scales),
                StateData::F32(snapshot.scales),
            ));
            state.push(tensor(
                ".scale_moments",
                rows(&snapshot.moments),
                StateData::F32(snapshot.moments),
            ));
        }
        Ok(state)
    }

    /// Restores this parameter from `state`.
    pub(crate) fn load(
        &mut self,
        backend: &B,
        state: &BTreeMap<&str, &StateTensor>,
    ) -> Result<(), ModelError> {
        self.load_latent(backend, state)?;
        let name = &self.spec.name;
        let shape = &self.spec.shape;
        if let Some(quantized) = &mut self.quantized {
            let levels = find(state, name, ".levels", Some(shape))?;
            let StateData::I8(levels) = &levels.data else {
                return Err(wrong_type(&levels.name, "i8"));
            };
            let snapshot = QuantizerSnapshot {
                levels: levels.clone(),
                scales: values(find(state, name, ".scales", None)?)?.to_vec(),
                moments: values(find(state, name, ".scale_moments", None)?)?.to_vec(),
            };
            backend.quantizer_load(&snapshot, &mut quantized.quantizer, &mut quantized.values)?;
        }
        Ok(())
    }

    /// Takes the latent weights and Adam's moments from `state`, and leaves the quantizer as it is.
    pub(crate) fn load_latent(
        &mut self,
        backend: &B,
        state: &BTreeMap<&str, &StateTensor>,
    ) -> Result<(), ModelError> {
        let name = &self.spec.name;
        let shape = &self.spec.shape;
        let latent = values(find(state, name, "", Some(shape))?)?;
        let first_moment = values(find(state, name, ".first_moment", Some(shape))?)?;
        let second_moment = values(find(state, name, ".second_moment", Some(shape))?)?;
        backend.write(latent, &mut self.latent)?;
        backend.write(first_moment, &mut self.first_moment)?;
        backend.write(second_moment, &mut self.second_moment)?;
        Ok(())
    }
}

impl<B: Backend> Quantized<B> {
    /// The scale of each group; empty before the first solve.
    fn scales(&self, state: &QuantizerSnapshot) -> Vec<Scale> {
        match state.scales.len() / self.groups.count() {
            1 => state.scales.iter().copied().map(Scale::One).collect(),
            _ => (state.scales.chunks_exact(2))
                .map(|pair| Scale::Two {
                    positive: pair[0],
                    negative: pair[1],
                })
                .collect(),
        }
    }
}

/// Copies a tensor to the host.
pub(crate) fn numbers<B: Backend>(
    backend: &B,
    tensor: &Tensor<B>,
) -> Result<Vec<f32>, BackendError> {
    Ok(backend.read(tensor)?.into_iter().collect())
}

pub(crate) fn f32s(values: ArrayD<f32>) -> StateData {
    StateData::F32(values.into_iter().collect())
}

fn wrong_type(name: &str, expected: &str) -> ModelError {
    ModelError::State(format!("tensor {name} does not hold {expected} numbers"))
}

/// The tensor `parameter` + `part` of a stored state, of this shape where one is given.
pub(crate) fn find<'a>(
    state: &BTreeMap<&str, &'a StateTensor>,
    parameter: &str,
    part: &str,
    shape: Option<&[usize]>,
) -> Result<&'a StateTensor, ModelError> {
    let name = format!("{parameter}{part}");
    let Some(tensor) = state.get(name.as_str()) else {
        return Err(ModelError::State(format!("tensor {name} is missing")));
    };
    match shape {
        Some(shape) if tensor.shape != shape => Err(ModelError::State(format!(
            "tensor {name} has shape {:?}, expected {shape:?}",
            tensor.shape
        ))),
        _ => Ok(tensor),
    }
}

/// The values of an f32 tensor, as many as its shape has.
pub(crate) fn values(tensor: &StateTensor) -> Result<&[f32], ModelError> {
    let StateData::F32(values) = &tensor.data else {
        return Err(wrong_type(&tensor.name, "f32"));
    };
    let count = tensor
        .shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size));
    if count == Some(values.len()) {
        return Ok(values);
    }
    Err(ModelError::State(format!(
        "tensor {} has {} numbers, which is not its shape {:?}",
        tensor.name,
        values.len(),
        tensor.shape
    )))
}
