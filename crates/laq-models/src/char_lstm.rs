//! The character network: one LSTM layer on one-hot tokens and a dense softmax (PAPER.md §4).

use std::collections::BTreeMap;

use laq_solvers::Method;
use laq_tensor::{
    Backend, BackendError, DenseShape, GateBlock, Loss, LstmGradients, LstmParameters, LstmShape,
    Tensor,
};

use crate::ModelError;
use crate::batch::{Batch, TextShape};
use crate::dataset::{DeviceDataset, DeviceExamples, Examples, IndexRange};
use crate::init::Init;
use crate::network::{LARGEST_LAYER, Network, mean_squares, setting, wrong_kind};
use crate::parameter::{Parameter, ParameterSpec, StateTensor, numbers};
use crate::profile::{Profiler, Work, floats};

/// Settings of the character network. Defaults are the paper's; `symbols` depends on the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CharLstmSpec {
    /// V, vocabulary size; at most 256.
    pub symbols: usize,
    /// H, hidden units; at most 65536. Default 512.
    pub hidden: usize,
    /// Initial bias of the forget gates. Default 1.
    pub forget_bias: f32,
    /// The LSTM's weights start uniform in ±`init_range`. Default 0.08.
    pub init_range: f32,
    /// The output layer's weights start normal with this deviation. Default 0.01.
    pub output_std: f32,
    /// Gradients of the gates' pre-activations are clipped to ± this at every step. Default 5.
    pub gate_clip: f32,
}

impl CharLstmSpec {
    /// The paper's network for a text of `symbols` distinct symbols.
    pub fn paper(symbols: usize) -> Self {
        CharLstmSpec {
            symbols,
            hidden: 512,
            forget_bias: 1.0,
            init_range: 0.08,
            output_std: 0.01,
            gate_clip: 5.0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let number = |name, value: f32, positive: bool| {
            let ok = value <= 1e38 && (value > 0.0 || !positive && value == 0.0);
            let expected = if positive {
                "above 0, and at most 1e38"
            } else {
                "0 to 1e38"
            };
            setting(ok, name, value, expected)
        };
        setting(
            (1..=256).contains(&self.symbols),
            "symbols",
            self.symbols,
            "1 to 256",
        )?;
        setting(
            (1..=LARGEST_LAYER).contains(&self.hidden),
            "hidden",
            self.hidden,
            "1 to 65536",
        )?;
        setting(
            self.forget_bias.is_finite(),
            "forget_bias",
            self.forget_bias,
            "a finite number",
        )?;
        number("init_range", self.init_range, false)?;
        number("output_std", self.output_std, false)?;
        number("gate_clip", self.gate_clip, true)
    }
}

/// The network with the buffers for one batch.
pub(crate) struct CharLstm<B: Backend> {
    /// In the order of [`CharLstm::specs`].
    parameters: [Parameter<B>; 5],
    inputs: B::Buffer<u8>,
    targets: B::Buffer<u8>,
    shape: LstmShape,
    gate_clip: f32,
    workspace: B::LstmWorkspace,
    hidden: Tensor<B>,
    hidden_gradient: Tensor<B>,
    logits: Tensor<B>,
}

impl<B: Backend> CharLstm<B> {
    pub(crate) fn new(
        backend: &B,
        spec: &CharLstmSpec,
        text: TextShape,
        method: &Method,
        seed: u64,
    ) -> Result<Self, ModelError> {
        spec.check()?;
        setting(
            text.length > 0 && text.batch > 0,
            "length and batch",
            format!("{} and {}", text.length, text.batch),
            "at least 1 each",
        )?;
        let shape = LstmShape {
            length: text.length,
            batch: text.batch,
            vocabulary: spec.symbols,
            hidden: spec.hidden,
        };
        let [weight_ih, weight_hh, bias, weight, output_bias] = Self::specs(spec);
        let make = |parameter| Parameter::new(backend, parameter, method, seed);
        Ok(CharLstm {
            parameters: [
                make(weight_ih)?,
                make(weight_hh)?,
                make(bias)?,
                make(weight)?,
                make(output_bias)?,
            ],
            inputs: backend.indices(shape.rows(), shape.vocabulary)?,
            targets: backend.indices(shape.rows(), shape.vocabulary)?,
            shape,
            gate_clip: spec.gate_clip,
            workspace: backend.lstm_workspace(shape)?,
            hidden: backend.zeros(&[shape.rows(), shape.hidden])?,
            hidden_gradient: backend.zeros(&[shape.rows(), shape.hidden])?,
            logits: backend.zeros(&[shape.rows(), shape.vocabulary])?,
        })
    }

    fn specs(spec: &CharLstmSpec) -> [ParameterSpec; 5] {
        let CharLstmSpec {
            symbols, hidden, ..
        } = *spec;
        let gates = || GateBlock::ALL.map(GateBlock::name).to_vec();
        let uniform = || Init::Uniform {
            range: spec.init_range,
        };
        let forget_bias = GateBlock::ALL
            .map(|gate| {
                if gate == GateBlock::Forget {
                    spec.forget_bias
                } else {
                    0.0
                }
            })
            .to_vec();
        let parameter = |name: &str, shape: &[usize], init, gates| ParameterSpec {
            name: name.into(),
            shape: shape.to_vec(),
            init,
            gates,
        };
        let normal = Init::Normal {
            standard_deviation: spec.output_std,
        };
        [
            parameter("lstm.weight_ih", &[4 * hidden, symbols], uniform(), gates()),
            parameter("lstm.weight_hh", &[4 * hidden, hidden], uniform(), gates()),
            parameter(
                "lstm.bias",
                &[4 * hidden],
                Init::Blocks(forget_bias),
                Vec::new(),
            ),
            parameter("output.weight", &[symbols, hidden], normal, Vec::new()),
            parameter(
                "output.bias",
                &[symbols],
                Init::Blocks(vec![0.0]),
                Vec::new(),
            ),
        ]
    }

    fn index_range(&self) -> IndexRange {
        IndexRange {
            one: "symbol",
            all: "symbols",
            count: self.shape.vocabulary,
        }
    }

    fn dense_shape(&self) -> DenseShape {
        let LstmShape {
            vocabulary, hidden, ..
        } = self.shape;
        DenseShape {
            rows: self.shape.rows(),
            inputs: hidden,
            outputs: vocabulary,
        }
    }
}

impl<B: Backend> Network<B> for CharLstm<B> {
    fn parameters(&self) -> &[Parameter<B>] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter<B>] {
        &mut self.parameters
    }

    fn load_batch(
        &mut self,
        backend: &B,
        batch: Batch<'_>,
        _whole: bool,
    ) -> Result<(), ModelError> {
        let shape = self.shape;
        let Batch::Text { inputs, targets } = batch else {
            return Err(ModelError::Batch(
                "images were given, but this network reads symbols".into(),
            ));
        };
        for (what, place, symbols) in [
            ("inputs", " of the inputs", inputs),
            ("targets", " of the targets", targets),
        ] {
            if symbols.len() != shape.rows() {
                return Err(ModelError::Batch(format!(
                    "{} {what}, expected {} (length {} times batch {})",
                    symbols.len(),
                    shape.rows(),
                    shape.length,
                    shape.batch
                )));
            }
            self.index_range().check(symbols, place)?;
        }
        backend.write(inputs, &mut self.inputs)?;
        backend.write(targets, &mut self.targets)?;
        Ok(())
    }

    fn upload(&self, backend: &B, examples: Examples<'_>) -> Result<DeviceDataset<B>, ModelError> {
        let Examples::Text(_) = examples else {
            return Err(wrong_kind("symbols"));
        };
        DeviceDataset::new(backend, examples, self.shape.length, self.index_range())
    }

    fn load_dataset_batch(
        &mut self,
        backend: &B,
        dataset: &DeviceDataset<B>,
        index: usize,
        _whole: bool,
    ) -> Result<(), ModelError> {
        let DeviceExamples::Text(text) = &dataset.set else {
            return Err(wrong_kind("symbols"));
        };
        let batch = self.shape.batch;
        let first = dataset.batch(index, batch, true)?.start;
        let (inputs, targets) = (&mut self.inputs, &mut self.targets);
        Ok(backend.gather_text(text, &dataset.order, first, batch, inputs, targets)?)
    }

    /// Mean cross-entropy in nats per token; replaces `logits` by its gradient.
    fn forward(
        &mut self,
        backend: &B,
        log: &mut B::StepLog,
        profiler: &mut Profiler,
    ) -> Result<(), BackendError> {
        let shape = self.dense_shape();
        let [weight_ih, weight_hh, bias, weight, output_bias] = &self.parameters;
        let lstm = LstmParameters {
            weight_ih: weight_ih.value(),
            weight_hh: weight_hh.value(),
            bias: bias.value(),
        };
        let start = profiler.start();
        backend.lstm_forward(&self.inputs, lstm, &mut self.workspace, &mut self.hidden)?;
        profiler.stop(start, "lstm", "LSTM", Work::lstm(self.shape, 1));
        let start = profiler.start();
        backend.dense_forward(
            shape,
            &self.hidden,
            weight.value(),
            Some(output_bias.value()),
            &mut self.logits,
        )?;
        profiler.stop(start, "output", "product", Work::dense(shape, 1));
        let start = profiler.start();
        backend.loss_and_gradient(Loss::CrossEntropy, &self.targets, &mut self.logits, log)?;
        let work = floats(shape.rows * shape.outputs, 2);
        profiler.stop(start, "all", "loss", work);
        Ok(())
    }

    fn backward(&mut self, backend: &B, profiler: &mut Profiler) -> Result<(), BackendError> {
        let shape = self.dense_shape();
        let [weight_ih, weight_hh, bias, weight, output_bias] = &mut self.parameters;
        let (weight, weight_gradient) = weight.value_and_gradient();
        let start = profiler.start();
        backend.dense_backward(
            shape,
            &self.hidden,
            weight,
            &self.logits,
            Some(&mut self.hidden_gradient),
            weight_gradient,
            Some(output_bias.value_and_gradient().1),
        )?;
        let work = Work::dense(shape, 2);
        profiler.stop(start, "output", "gradients of the product", work);
        let (weight_ih, weight_ih_gradient) = weight_ih.value_and_gradient();
        let (weight_hh, weight_hh_gradient) = weight_hh.value_and_gradient();
        let (bias, bias_gradient) = bias.value_and_gradient();
        let start = profiler.start();
        backend.lstm_backward(
            &self.inputs,
            LstmParameters {
                weight_ih,
                weight_hh,
                bias,
            },
            &self.hidden,
            &mut self.hidden_gradient,
            self.gate_clip,
            &mut self.workspace,
            LstmGradients {
                weight_ih: weight_ih_gradient,
                weight_hh: weight_hh_gradient,
                bias: bias_gradient,
            },
        )?;
        let work = Work::lstm(self.shape, 2);
        profiler.stop(start, "lstm", "gradients of the LSTM", work);
        Ok(())
    }

    fn evaluate(&mut self, backend: &B, log: &mut B::StepLog) -> Result<(), BackendError> {
        self.forward(backend, log, &mut Profiler::default())
    }

    fn squared_inputs(
        &self,
        backend: &B,
        batch: Batch<'_>,
    ) -> Result<Vec<(usize, Vec<f64>)>, BackendError> {
        let LstmShape {
            batch: sequences,
            vocabulary,
            hidden,
            ..
        } = self.shape;
        let rows = self.shape.rows();
        let mut frequencies = vec![0.0; vocabulary];
        if let Batch::Text { inputs, .. } = batch {
            for &symbol in inputs {
                frequencies[usize::from(symbol)] += 1.0 / rows as f64;
            }
        }
        let states = numbers(backend, &self.hidden)?;
        // The state before the first step is zero.
        let before = &states[..(rows - sequences) * hidden];
        Ok(vec![
            (0, frequencies),
            (1, mean_squares(before, hidden, rows)),
            (3, mean_squares(&states, hidden, rows)),
        ])
    }

    fn has_classes(&self) -> bool {
        false
    }

    fn finish_step(&mut self, _backend: &B, _record: &B::StepLog) -> Result<(), BackendError> {
        Ok(())
    }

    fn locate_non_finite_output(&self, backend: &B) -> Result<Option<String>, BackendError> {
        let layer = if backend.first_not_finite(&self.hidden)?.is_some() {
            "lstm"
        } else {
            "output"
        };
        Ok(Some(layer.to_owned()))
    }

    fn save(&self, _backend: &B) -> Result<Vec<StateTensor>, BackendError> {
        Ok(Vec::new())
    }

    fn load(
        &mut self,
        _backend: &B,
        _state: &BTreeMap<&str, &StateTensor>,
    ) -> Result<(), ModelError> {
        Ok(())
    }
}
