//! Reads the constants of an ONNX model of any producer: the initializers and `Constant` nodes of the
//! main graph.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;
use serde::Serialize;
use thiserror::Error;

use super::constant::{Constant, Defect};
use super::proto::{Attribute, Graph, Model, TensorProto, data_type};
use super::quantized::quantizations;
use crate::files::{self, FileError};
use crate::inspect::TensorSummary;

/// The maximum of a protobuf.
const MAX_BYTES: u64 = i32::MAX as u64;

/// Key and wire type of `ir_version`, the first field of a model.
const FIRST_BYTE: u8 = 0x08;

/// The errors of reading an ONNX model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OnnxReadError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of another format.
    #[error("{path} is not an ONNX model: expected a file that begins with the IR version")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than a protobuf can be.
    #[error(
        "{path} has {found} bytes, expected at most {MAX_BYTES} of an ONNX model: store its weights as external data"
    )]
    Huge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
    },
    /// The messages of the file cannot be decoded.
    #[error("{path} is no valid ONNX model ({detail}): copy or download it again")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The defect.
        detail: String,
    },
    /// The model has no graph.
    #[error("{path} is an ONNX model without a graph: copy or download it again")]
    NoGraph {
        /// The file.
        path: PathBuf,
    },
    /// A tensor contradicts itself or its use.
    #[error("{name:?} in {path} has {found}, expected {expected}; export the model again")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
}

/// What an ONNX model says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnnxHeader {
    /// The version of the file format.
    pub ir_version: i64,
    /// Name and version of the program that wrote the model.
    pub producer: String,
    /// The operator sets: domain and version. `ai.onnx` has the standard operators.
    pub opsets: BTreeMap<String, i64>,
    /// The entries of the metadata.
    pub metadata: BTreeMap<String, String>,
}

/// The header and the constants of a model. Elements in other files are not read.
///
/// # Errors
/// [`OnnxReadError`] if the file is no ONNX model, or a tensor does not have the elements of its shape
/// or not as many scales as its quantization needs.
pub(crate) fn read_onnx(path: &Path) -> Result<(OnnxHeader, Vec<TensorSummary>), OnnxReadError> {
    let (header, mut graph) = decode(path, read_file(path)?)?;
    let nodes = graph.node.iter_mut();
    for node in nodes.filter(|node| node.op_type == "Constant") {
        for attribute in &mut node.attribute {
            numbers_to_tensor(attribute);
        }
    }
    let defect = |defect: Defect| OnnxReadError::Tensor {
        path: path.into(),
        name: defect.name,
        found: defect.found,
        expected: defect.expected,
    };
    let constants = constants(&graph).map_err(defect)?;
    let mut quantized = quantizations(&graph.node, &constants).map_err(defect)?;
    let summaries = constants.iter().enumerate().map(|(index, constant)| {
        let (bits, quantization) = quantized.remove(&index).flatten().unzip();
        let bits = bits.unwrap_or(constant.bits);
        TensorSummary {
            name: constant.name.to_owned(),
            dtype: constant.dtype.into(),
            shape: constant.shape.clone(),
            bits: (bits > 0).then_some(bits.into()),
            bytes: constant.bytes,
            external: constant.external.map(str::to_owned),
            quantization,
        }
    });
    Ok((header, summaries.collect()))
}

/// The content of a file that begins as a model does.
fn read_file(path: &Path) -> Result<Vec<u8>, OnnxReadError> {
    let mut file = files::open(path)?;
    let mut content = Vec::new();
    let mut first = Read::by_ref(&mut file).take(1);
    (first.read_to_end(&mut content)).map_err(FileError::on("read", path))?;
    if content != [FIRST_BYTE] {
        return Err(OnnxReadError::Foreign { path: path.into() });
    }
    let found = file.metadata().map_err(FileError::on("read", path))?.len();
    if found > MAX_BYTES {
        return Err(OnnxReadError::Huge {
            path: path.into(),
            found,
        });
    }
    (file.take(MAX_BYTES).read_to_end(&mut content)).map_err(FileError::on("read", path))?;
    Ok(content)
}

fn decode(path: &Path, content: Vec<u8>) -> Result<(OnnxHeader, Graph), OnnxReadError> {
    let model = Model::decode(Bytes::from(content)).map_err(|error| OnnxReadError::Decode {
        path: path.into(),
        detail: error.to_string(),
    })?;
    let graph = (model.graph).ok_or_else(|| OnnxReadError::NoGraph { path: path.into() })?;
    let producer = [model.producer_name, model.producer_version];
    let domain = |domain: String| match domain.is_empty() {
        true => "ai.onnx".into(),
        false => domain,
    };
    let header = OnnxHeader {
        ir_version: model.ir_version,
        producer: producer.join(" ").trim().to_owned(),
        opsets: (model.opset_import.into_iter())
            .map(|set| (domain(set.domain), set.version))
            .collect(),
        metadata: (model.metadata_props.into_iter())
            .map(|entry| (entry.key, entry.value))
            .collect(),
    };
    Ok((header, graph))
}

/// Makes a number or a list of a node `Constant` the tensor `value`.
fn numbers_to_tensor(attribute: &mut Attribute) {
    let list = |count: usize| vec![count as i64];
    let (data_type, dims) = match attribute.name.as_str() {
        "value_float" => (data_type::FLOAT, vec![]),
        "value_floats" => (data_type::FLOAT, list(attribute.floats.len())),
        "value_int" => (data_type::INT64, vec![]),
        "value_ints" => (data_type::INT64, list(attribute.ints.len())),
        _ => return,
    };
    let (mut floats, mut integers) = (attribute.floats.clone(), attribute.ints.clone());
    floats.extend(attribute.f);
    integers.extend(attribute.i);
    *attribute = Attribute {
        name: "value".into(),
        t: Some(Box::new(TensorProto {
            data_type,
            dims,
            float_data: floats,
            int64_data: integers,
            ..TensorProto::default()
        })),
        ..Attribute::default()
    };
}

/// The constants of a graph.
fn constants(graph: &Graph) -> Result<Vec<Constant<'_>>, Defect> {
    let initializers = graph.initializer.iter();
    let initializers = initializers.map(|tensor| (tensor.name.as_str(), tensor));
    let nodes = graph.node.iter().filter(|node| node.op_type == "Constant");
    let nodes = nodes.filter_map(|node| {
        let tensor = node.find("value")?.t.as_deref()?;
        Some((node.output.first()?.as_str(), tensor))
    });
    let all = initializers.chain(nodes);
    all.map(|(name, tensor)| Constant::new(name, tensor))
        .collect()
}
