//! Exports a network to ONNX, with standard operators only, and reads what a model of any producer has.
//!
//! A quantized weight is an initializer of integers (INT2, INT4 or INT8) and a `DequantizeLinear` with
//! the scales of the packed file, which computes the same product of scale and integer. Weights with a
//! scale for each sign are a `Gather` of their three values. Images come as N × height × width ×
//! channels, as in training; convolutions are transposed to the layout of ONNX. The gates of the LSTM
//! are reordered from i, f, g, o to i, o, f, c.

mod constant;
mod proto;
mod quantized;
mod read;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;

use prost::Message;
use thiserror::Error;

use self::proto::{
    Attribute, Dimension, DimensionValue, Entry, Graph, Model, Node, OperatorSet, Shape,
    TensorType, TypeProto, ValueInfo, attribute_type, data_type,
};
pub(crate) use self::read::read_onnx;
pub use self::read::{OnnxHeader, OnnxReadError};
use self::weights::{QONNX, permuted};
use crate::network::{LayerSpec, NetworkSpec};
use crate::packed_format::Tensor;
use crate::stored::{StoredTensor, StoredTensors};

/// The operator set that has INT4, and the one that also has INT2.
pub const OPSETS: [u32; 2] = [21, 25];

/// The version of the file format for each of [`OPSETS`].
const IR_VERSIONS: [i64; 2] = [10, 13];

/// Options of an ONNX export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// One of [`OPSETS`]. With 25, weights of at most two bits are INT2; with 21 they are INT4.
    pub opset: u32,
    /// For a language model: one step, with the states as inputs and outputs, instead of a sequence.
    pub step: bool,
    /// QONNX: weights in f32 with a node `IntQuant` or `BipolarQuant`, as FINN and hls4ml read them.
    pub qonnx: bool,
}

/// The errors of an ONNX export.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The operator set is not supported.
    #[error("found opset {found}, expected 21 or 25")]
    Opset {
        /// The operator set.
        found: u32,
    },
    /// A network on images has no steps.
    #[error("a network on images has no steps: export it without --step")]
    Step,
    /// A tensor is missing.
    #[error("{name} is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// The model does not have the weights of the network.
    #[error("{name} of the model is not the weight of the network; please report this as a bug")]
    Differs {
        /// The tensor.
        name: String,
    },
}

/// A graph in the making.
struct Builder<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    opset: u32,
    qonnx: bool,
    graph: Graph,
}

/// The model of a network as the bytes of an ONNX file, and what it has of each tensor; every weight is decoded again
/// and compared.
///
/// # Errors
/// [`OnnxError`] if an option does not fit the network or a tensor is missing.
pub fn to_onnx(
    spec: &NetworkSpec,
    tensors: &BTreeMap<String, Tensor>,
    options: OnnxOptions,
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, StoredTensors), OnnxError> {
    let Some(version) = OPSETS.iter().position(|opset| *opset == options.opset) else {
        return Err(OnnxError::Opset {
            found: options.opset,
        });
    };
    let mut builder = Builder {
        tensors,
        opset: options.opset,
        qonnx: options.qonnx,
        graph: Graph {
            name: "network".into(),
            ..Graph::default()
        },
    };
    match spec {
        NetworkSpec::CharLstm { alphabet, hidden } => {
            builder.char_lstm(alphabet.len(), *hidden, options.step)?;
        }
        NetworkSpec::Feedforward { .. } if options.step => return Err(OnnxError::Step),
        NetworkSpec::Feedforward {
            input,
            classes,
            layers,
            ..
        } => builder.feedforward(*input, *classes, layers)?,
    }
    let stored = tensors.keys();
    let stored = stored.map(|name| (name.clone(), builder.stored(name)));
    let stored = stored.collect();
    let model = Model {
        ir_version: IR_VERSIONS[version],
        producer_name: "laq".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(builder.graph),
        opset_import: [("", options.opset), (QONNX, 1)]
            .into_iter()
            .take(if options.qonnx { 2 } else { 1 })
            .map(|(domain, version)| OperatorSet {
                domain: domain.to_owned(),
                version: version.into(),
            })
            .collect(),
        metadata_props: (metadata.iter())
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
    };
    Ok((model.encode_to_vec(), stored))
}

impl Builder<'_> {
    fn tensor(&self, name: &str) -> Result<&Tensor, OnnxError> {
        let missing = || OnnxError::Missing { name: name.into() };
        self.tensors.get(name).ok_or_else(missing)
    }

    /// What the initializers have of a tensor: its name is theirs, or with a dot the beginning of theirs.
    fn stored(&self, name: &str) -> StoredTensor {
        let is_part = |found: &str| {
            let rest = found.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let parts = self.graph.initializer.iter();
        let parts: Vec<_> = parts.filter(|part| is_part(&part.name)).collect();
        let weights = parts
            .iter()
            .max_by_key(|part| part.dims.iter().product::<i64>());
        StoredTensor {
            bits: weights.map_or(0.0, |part| data_type::bits(part.data_type)),
            bytes: parts.iter().map(|part| part.raw_data.len()).sum(),
        }
    }

    fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<Attribute>,
    ) {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.graph.node.push(Node {
            input: strings(inputs),
            output: strings(outputs),
            name: outputs[0].to_owned(),
            op_type: op_type.to_owned(),
            attribute,
            domain: String::new(),
        });
    }

    fn value(name: &str, elem_type: i32, sizes: &[Size<'_>]) -> ValueInfo {
        let dim = sizes.iter().map(|size| Dimension {
            value: Some(match size {
                Size::Fixed(size) => DimensionValue::Size(*size as i64),
                Size::Named(name) => DimensionValue::Name((*name).to_owned()),
            }),
        });
        ValueInfo {
            name: name.to_owned(),
            kind: Some(TypeProto {
                tensor: Some(TensorType {
                    elem_type,
                    shape: Some(Shape { dim: dim.collect() }),
                }),
            }),
        }
    }

    /// tokens (T × B, int64) to logits (T × B × V); with `step` T = 1, and the states are inputs and
    /// outputs (1 × B × H).
    fn char_lstm(&mut self, symbols: usize, hidden: usize, step: bool) -> Result<(), OnnxError> {
        use Size::{Fixed, Named};
        let time = if step { Fixed(1) } else { Named("time") };
        let batch = Named("batch");
        self.graph
            .input
            .push(Self::value("tokens", data_type::INT64, &[time, batch]));
        let logits = [time, batch, Fixed(symbols)];
        self.graph
            .output
            .push(Self::value("logits", data_type::FLOAT, &logits));
        let state = [Fixed(1), batch, Fixed(hidden)];
        for name in ["hidden", "cell"].into_iter().filter(|_| step) {
            self.graph
                .input
                .push(Self::value(name, data_type::FLOAT, &state));
            let next = format!("next_{name}");
            self.graph
                .output
                .push(Self::value(&next, data_type::FLOAT, &state));
        }
        // The gates of ONNX are i, o, f, c.
        let gate = move |at: usize, columns: usize| {
            let (row, column) = (at / columns, at % columns);
            let of = [0, 3, 1, 2][row / hidden];
            (of * hidden + row % hidden) * columns + column
        };
        let rows = 4 * hidden;
        for (name, columns) in [("lstm.weight_ih", symbols), ("lstm.weight_hh", hidden)] {
            self.weight(name, &[rows, columns], &|at| gate(at, columns))?;
            self.int64s(&format!("{name}.shape"), &[1, rows as i64, columns as i64]);
            let (shape, three) = (format!("{name}.shape"), format!("{name}.direction"));
            self.node("Reshape", &[name, &shape], &[&three], vec![]);
        }
        let bias = self.tensor("lstm.bias")?.to_f32();
        let mut both = permuted(&bias, &|at| gate(at, 1));
        both.resize(2 * rows, 0.0);
        self.floats("lstm.bias", &[1, 2 * rows], &both);
        self.int64s("depth", &[symbols as i64]);
        self.floats("off_on", &[2], &[0.0, 1.0]);
        self.node(
            "OneHot",
            &["tokens", "depth", "off_on"],
            &["one_hot"],
            vec![],
        );
        let operands = [
            "one_hot",
            "lstm.weight_ih.direction",
            "lstm.weight_hh.direction",
            "lstm.bias",
        ];
        let mut inputs = operands.to_vec();
        let mut outputs = vec!["states"];
        if step {
            inputs.extend(["", "hidden", "cell"]);
            outputs.extend(["next_hidden", "next_cell"]);
        }
        self.node(
            "LSTM",
            &inputs,
            &outputs,
            vec![int("hidden_size", hidden as i64)],
        );
        self.int64s("direction", &[1]);
        self.node(
            "Squeeze",
            &["states", "direction"],
            &["hidden_states"],
            vec![],
        );
        self.weight("output.weight", &[symbols, hidden], &|at| at)?;
        self.node(
            "Transpose",
            &["output.weight"],
            &["output.transposed"],
            vec![ints("perm", &[1, 0])],
        );
        self.node(
            "MatMul",
            &["hidden_states", "output.transposed"],
            &["scores"],
            vec![],
        );
        self.vector("output.bias")?;
        self.node("Add", &["scores", "output.bias"], &["logits"], vec![]);
        Ok(())
    }

    /// images (N × height × width × channels) to outputs (N × classes).
    fn feedforward(
        &mut self,
        input: [usize; 3],
        classes: usize,
        layers: &[LayerSpec],
    ) -> Result<(), OnnxError> {
        use Size::{Fixed, Named};
        let [height, width, channels] = input.map(Fixed);
        let images = [Named("batch"), height, width, channels];
        self.graph
            .input
            .push(Self::value("images", data_type::FLOAT, &images));
        let outputs = [Named("batch"), Fixed(classes)];
        self.graph
            .output
            .push(Self::value("outputs", data_type::FLOAT, &outputs));
        let mut shape = input;
        // The last value, and whether its channels come first.
        let (mut value, mut channels_first) = ("images".to_owned(), false);
        for (index, layer) in layers.iter().enumerate() {
            let next = match index + 1 == layers.len() {
                true => "outputs".to_owned(),
                false => format!("layer{index}"),
            };
            let spatial = matches!(layer, LayerSpec::Convolution { .. } | LayerSpec::MaxPool);
            if spatial && !channels_first {
                let first = format!("{value}.channels_first");
                self.node(
                    "Transpose",
                    &[&value],
                    &[&first],
                    vec![ints("perm", &[0, 3, 1, 2])],
                );
                (value, channels_first) = (first, true);
            }
            match layer {
                LayerSpec::Convolution {
                    name,
                    filters,
                    bias,
                } => {
                    let channels = shape[2];
                    let weight = format!("{name}.weight");
                    // From filters × 3 × 3 × channels to filters × channels × 3 × 3.
                    self.weight(&weight, &[*filters, channels, 3, 3], &|at| {
                        let (filter, rest) = (at / (9 * channels), at % (9 * channels));
                        (filter * 9 + rest % 9) * channels + rest / 9
                    })?;
                    let bias_name = format!("{name}.bias");
                    let mut inputs = vec![value.as_str(), &weight];
                    if *bias {
                        self.vector(&bias_name)?;
                        inputs.push(&bias_name);
                    }
                    let pads = ints("pads", &[1, 1, 1, 1]);
                    self.node(
                        "Conv",
                        &inputs,
                        &[&next],
                        vec![ints("kernel_shape", &[3, 3]), pads],
                    );
                    shape[2] = *filters;
                }
                LayerSpec::Dense { name, units, bias } => {
                    let inputs: usize = shape.iter().product();
                    if channels_first {
                        let last = format!("{value}.channels_last");
                        self.node(
                            "Transpose",
                            &[&value],
                            &[&last],
                            vec![ints("perm", &[0, 2, 3, 1])],
                        );
                        (value, channels_first) = (last, false);
                    }
                    let (flat, flat_shape) = (format!("{value}.flat"), format!("{name}.inputs"));
                    self.int64s(&flat_shape, &[-1, inputs as i64]);
                    self.node("Reshape", &[&value, &flat_shape], &[&flat], vec![]);
                    let weight = format!("{name}.weight");
                    self.weight(&weight, &[*units, inputs], &|at| at)?;
                    let bias_name = format!("{name}.bias");
                    let mut operands = vec![flat.as_str(), &weight];
                    if *bias {
                        self.vector(&bias_name)?;
                        operands.push(&bias_name);
                    }
                    self.node("Gemm", &operands, &[&next], vec![int("transB", 1)]);
                    shape = [1, 1, *units];
                }
                LayerSpec::MaxPool => {
                    let sizes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
                    self.node("MaxPool", &[&value], &[&next], sizes);
                    shape = [shape[0] / 2, shape[1] / 2, shape[2]];
                }
                LayerSpec::BatchNorm {
                    name,
                    epsilon,
                    relu,
                } => {
                    let parts = ["scale", "shift", "mean", "variance"];
                    let parts = parts.map(|part| format!("{name}.norm.{part}"));
                    for part in &parts {
                        self.vector(part)?;
                    }
                    let normed = if *relu {
                        format!("{next}.norm")
                    } else {
                        next.clone()
                    };
                    let inputs = [value.as_str(), &parts[0], &parts[1], &parts[2], &parts[3]];
                    let attribute = vec![float("epsilon", *epsilon)];
                    self.node("BatchNormalization", &inputs, &[&normed], attribute);
                    if *relu {
                        self.node("Relu", &[&normed], &[&next], vec![]);
                    }
                }
                LayerSpec::Relu => self.node("Relu", &[&value], &[&next], vec![]),
            }
            value = next;
        }
        Ok(())
    }
}

/// A size of a value: fixed, or named and known when the model runs.
#[derive(Clone, Copy)]
enum Size<'a> {
    Fixed(usize),
    Named(&'a str),
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: Some(value),
        kind: attribute_type::INT,
        ..Attribute::default()
    }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f: Some(value),
        kind: attribute_type::FLOAT,
        ..Attribute::default()
    }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: values.to_vec(),
        kind: attribute_type::INTS,
        ..Attribute::default()
    }
}
