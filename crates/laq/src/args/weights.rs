//! Commands on trained weights and their files: calibrate, export, sample, classify, inspect, quantize.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use laq_packed::gguf::{TargetType, TargetTypeError};
use laq_runner::CurvatureKind;
use laq_solvers::Granularity;

use super::{DeviceArgs, ThreadsArgs};

/// Export a trained network, to run it without the trainer.
///
/// Reads back what it wrote and compares every weight, then prints the bytes of each tensor.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A run folder (for its best epoch), or a checkpoint.
    #[arg(value_name = "RUN_DIR|CHECKPOINT")]
    pub(crate) path: PathBuf,
    /// The format.
    #[arg(long, value_enum)]
    pub(crate) to: ExportFormat,
    /// The file to write; an existing one is replaced when the new one is complete.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// With `--to packed` or `npz`, how codes are packed: in the fewest whole bits, or ternary ones five to a byte
    /// [default: bits].
    #[arg(long, value_enum)]
    pub(crate) packing: Option<PackingChoice>,
    /// With `--to onnx`, `onnx-f32` or `qonnx`: the operator set. 21 has INT4; 25 also has INT2, for weights of at
    /// most two bits [default: 21].
    #[arg(long, value_name = "N", value_parser = ["21", "25"])]
    pub(crate) opset: Option<String>,
    /// With `--to onnx`, for a language model: a graph of one step, with the states as inputs and
    /// outputs, to draw characters one at a time.
    #[arg(long)]
    pub(crate) step: bool,
    /// Also quantize the output layer of a language model: uniform levels of 2 to 8 bits with a
    /// scale for each character. Changes the loss.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub(crate) output_bits: Option<u8>,
    #[command(flatten)]
    pub(crate) threads: ThreadsArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Packed safetensors, which `laq sample`, `laq classify` and `laq eval` run.
    Packed,
    /// ONNX with standard operators; weights as INT2, INT4 or INT8 with DequantizeLinear.
    Onnx,
    /// ONNX with weights in f32.
    OnnxF32,
    /// QONNX, for FINN and hls4ml: weights in f32 with nodes that quantize them.
    Qonnx,
    /// A folder for vLLM and transformers: matrices as packed integers, the rest in f32.
    CompressedTensors,
    /// Tensors as llama.cpp stores them: those trained in a format of GGUF, with rows of whole blocks, in that
    /// format, the rest in F32.
    Gguf,
    /// Packed codes, scales and a description as arrays of numpy.
    Npz,
    /// All weights in f32 as arrays of numpy.
    NpzF32,
    /// All weights in f32 as safetensors, which run as packed ones do.
    SafetensorsF32,
}

impl ExportFormat {
    /// What the name of such a file ends in; empty for a folder.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Packed | Self::SafetensorsF32 => "safetensors",
            Self::Onnx | Self::OnnxF32 | Self::Qonnx => "onnx",
            Self::CompressedTensors => "",
            Self::Gguf => "gguf",
            Self::Npz | Self::NpzF32 => "npz",
        }
    }
}

/// Write text with a trained language model; characters appear as they are drawn.
#[derive(Debug, clap::Args)]
pub(crate) struct SampleArgs {
    /// A run folder (for its best epoch), a checkpoint, or a file of `laq export --to packed` or safetensors-f32.
    #[arg(value_name = "RUN_DIR|FILE")]
    pub(crate) path: PathBuf,
    /// The text to continue.
    #[arg(long, default_value = "The ")]
    pub(crate) prompt: String,
    /// Characters to write after the prompt.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) length: usize,
    /// Below 1 prefers likely characters, above 1 unlikely ones; 0 takes the likeliest.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) temperature: f64,
    /// The same seed gives the same text.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Round activations to 8 bits: faster, and slightly less accurate.
    #[arg(long)]
    pub(crate) int8: bool,
    /// Print the speed on the standard error.
    #[arg(long)]
    pub(crate) speed: bool,
}

/// Classify images with a trained network.
///
/// Images are PNG or PNM files of the network's size, or idx files of many. The preprocessing is
/// that of the training.
#[derive(Debug, clap::Args)]
pub(crate) struct ClassifyArgs {
    /// A run folder (for its best epoch), a checkpoint, or a file of `laq export --to packed` or safetensors-f32.
    #[arg(value_name = "RUN_DIR|FILE")]
    pub(crate) path: PathBuf,
    /// PNG, PNM (PGM, PPM) or idx files.
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    /// Classes to print for each image.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) top: usize,
    /// Round activations to 8 bits: faster, and slightly less accurate.
    #[arg(long)]
    pub(crate) int8: bool,
    /// Print a line of JSON for each image.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print the tensors of a file: bits, sizes, scales, sparsity, shares of the levels.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A file of packed weights, any safetensors or GGUF file, or an ONNX model.
    pub(crate) file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How codes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PackingChoice {
    /// The fewest whole bits per weight.
    Bits,
    /// Five ternary weights per byte, 1.6 bits each.
    Trits,
}

impl PackingChoice {
    pub(crate) fn packing(self) -> Option<laq_packed::Packing> {
        (self == Self::Trits).then_some(laq_packed::Packing::Trits)
    }
}

/// Compute the curvature of a trained network, for `laq quantize --curvature`.
///
/// The file has an F32 tensor for each parameter, of the same name and shape. `laq export --to safetensors-f32`
/// writes the weights that belong to it.
#[derive(Debug, clap::Args)]
pub(crate) struct CalibrateArgs {
    /// A run folder (for its best epoch), or a checkpoint.
    #[arg(value_name = "RUN_DIR|CHECKPOINT")]
    pub(crate) path: PathBuf,
    /// The file to write; an existing one is replaced when the new one is complete.
    #[arg(long, value_name = "G.safetensors")]
    pub(crate) out: PathBuf,
    /// What the curvature is.
    #[arg(long, value_enum, default_value_t = CalibrationKind::Fisher)]
    pub(crate) kind: CalibrationKind,
    /// Batches of the shuffled training split; all of them if there are fewer.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batches: u32,
    /// Sequences or images per batch; for fisher of a language model, fewer give a better estimate [default: as
    /// in training].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) batch: Option<u32>,
    /// The folder of the data [default: that of the training].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) threads: ThreadsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the curvature of a weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CalibrationKind {
    /// The mean square of the gradient of a batch's loss, for every parameter.
    Fisher,
    /// The mean square of the input that the weight is multiplied by, for matrices.
    Inputs,
}

impl From<CalibrationKind> for CurvatureKind {
    fn from(kind: CalibrationKind) -> Self {
        match kind {
            CalibrationKind::Fisher => Self::Fisher,
            CalibrationKind::Inputs => Self::Inputs,
        }
    }
}

/// Quantize the tensors of a safetensors or GGUF file, or of a model in shards.
///
/// A GGUF file, of llama.cpp, becomes one with tensors in --format; see `--imatrix`, and `--requantize` for one that is
/// quantized already. The following is about safetensors, such as a PyTorch state_dict or the shards of Hugging
/// Face, which become shards of the same names with an index in the folder --out; other files of the model are
/// not copied.
///
/// Solves `min ½ Σ d (w − ŵ)²` for each floating-point tensor (F32, F16, BF16) with two or more
/// dimensions. In the new file each quantized NAME is NAME.packed (U8, codes of 1 to 8 bits) and
/// NAME.scale (one, one for each sign, or those of each row or block), which decode to the exact
/// f32 weights; the metadata entry laq.tensors describes them. All other tensors are copied; one in
/// F64 or F8 has to be converted or to match --exclude. Tensors are read one by one, so files may be
/// larger than the memory.
#[derive(Debug, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// The weights w: a safetensors or GGUF file, the index of a model in shards (*.safetensors.index.json), a
    /// folder with model.safetensors or model.safetensors.index.json, or a run folder or checkpoint of `laq train`.
    #[arg(required_unless_present = "weights", conflicts_with = "weights")]
    model: Option<PathBuf>,
    /// Another way to give the model.
    #[arg(long, value_name = "MODEL", hide = true)]
    weights: Option<PathBuf>,
    /// The method: an id of `laq methods`, such as lat-e, laq-linear-4, or laq-linear with --bits
    /// 4 [default: the exact one of --bits: lab, lat-e, or laq-linear-M-e].
    #[arg(long, value_name = "ID")]
    pub(crate) method: Option<String>,
    /// Instead of a method, the file format whose values and scales are used, such as q2_0 or int4-g128:
    /// the optimum in every block. For GGUF also q2_k, q3_k, q4_k or iq4_xs: the best solution found.
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["method", "bits", "granularity"])]
    pub(crate) format: Option<String>,
    /// Bits of a level, for methods with bits in their id, and for the default method [default for that: 4].
    #[arg(long, value_name = "M")]
    pub(crate) bits: Option<u8>,
    /// Curvatures d, one tensor for each quantized one, of the same name and shape: a safetensors file or, but
    /// not for GGUF, the index of shards [default: d = 1, and for GGUF d = w²].
    #[arg(long, value_name = "FILE")]
    pub(crate) curvature: Option<PathBuf>,
    /// For GGUF, an importance matrix of llama-imatrix (GGUF, or the older .dat): d is the mean of x² of
    /// the inputs x.
    #[arg(long, value_name = "FILE", conflicts_with = "curvature")]
    pub(crate) imatrix: Option<PathBuf>,
    /// For GGUF, another format for those of the quantized tensors whose names match, and for those that match and are
    /// quantized already: one of GGUF, or q8_0, f16, bf16 or f32, to which weights are rounded. Repeatable, the first that
    /// matches counts.
    #[arg(long = "type", value_name = "GLOB=FORMAT", value_parser = glob_and_type)]
    pub(crate) types: Vec<(String, TargetType)>,
    /// For GGUF, also decode the tensors that are quantized already, such as those in Q8_0 or Q6_K, and quantize them
    /// again, which adds to their error.
    #[arg(long)]
    pub(crate) requantize: bool,
    /// The weights that share a scale (or pair of scales): tensor, row, or block:N for N successive weights
    /// of a row [default: tensor].
    #[arg(long, value_name = "G", value_parser = Granularity::from_str)]
    pub(crate) granularity: Option<Granularity>,
    /// The dimension of the output channels of the tensors whose names match, which are the rows of --granularity: 1 for
    /// the weights of PyTorch's ConvTranspose2d, and for matrices that are stored as inputs by outputs. Repeatable, the
    /// first that matches counts [default: 0].
    #[arg(long, value_name = "GLOB=AXIS", value_parser = glob_and_axis)]
    pub(crate) channel_axis: Vec<(String, usize)>,
    /// How codes are packed: in the fewest whole bits, or ternary ones five to a byte [default: bits; not for GGUF].
    #[arg(long, value_enum)]
    pub(crate) packing: Option<PackingChoice>,
    /// Also write each quantized tensor under its name, as scale · level in its element type.
    #[arg(long)]
    pub(crate) dequantized: bool,
    /// Quantize the floating-point tensors with matching names, of any dimensions, and no others, in GGUF also those
    /// that are quantized already; `*` matches any characters including dots. Repeatable.
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Copy the tensors with matching names unchanged; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// The file to write, or for a model in shards the folder; existing files are replaced when the new ones are
    /// complete.
    #[arg(long, value_name = "FILE|FOLDER")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) threads: ThreadsArgs,
    /// Print a line of JSON for each tensor.
    #[arg(long)]
    pub(crate) json: bool,
}

impl QuantizeArgs {
    /// MODEL, or `--weights`; one of them is required.
    pub(crate) fn model(&self) -> Option<&Path> {
        self.model.as_deref().or(self.weights.as_deref())
    }
}

/// `GLOB=AXIS`.
fn glob_and_axis(text: &str) -> Result<(String, usize), String> {
    let parts = text.rsplit_once('=');
    let found = parts.and_then(|(glob, axis)| Some((glob.to_owned(), axis.parse().ok()?)));
    found.ok_or_else(|| "expected GLOB=AXIS, such as 'up.*.weight=1'".into())
}

/// `GLOB=FORMAT`.
fn glob_and_type(text: &str) -> Result<(String, TargetType), String> {
    let Some((glob, format)) = text.rsplit_once('=') else {
        return Err("expected GLOB=FORMAT, such as output.weight=q4_0".into());
    };
    let format = format
        .parse()
        .map_err(|error: TargetTypeError| error.to_string())?;
    Ok((glob.into(), format))
}
