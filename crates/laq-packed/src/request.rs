//! What to quantize, and how.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use laq_solvers::{Method, ParseMethodError, Quantizer};

use crate::codes::Packing;
use crate::files::{FileError, check_target};
use crate::{OutError, QuantizeError};

/// A request to quantize a model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The safetensors file of the weights; or the index of a model in shards, whose name ends with `.json`; or
    /// a folder with `model.safetensors` or `model.safetensors.index.json`.
    pub weights: PathBuf,
    /// The curvature `d`, given as the weights are: a tensor of the same name and shape for each
    /// quantized tensor. `None` means `d = 1`.
    pub curvature: Option<PathBuf>,
    /// The file to write. For a model in shards the folder, which is made; files in it have the names of the
    /// shards and of their index.
    pub out: PathBuf,
    /// The method, and the weights that share a scale: [`Method::with_granularity`]. `gate` is as `tensor`.
    pub method: Method,
    /// How codes are packed; `None` for the fewest whole bits that fit the codebook.
    pub packing: Option<Packing>,
    /// Also write the weights under their names, as scale · level in their element type.
    pub dequantized: bool,
    /// Globs of names to quantize; empty for all floating-point tensors with at least two
    /// dimensions.
    pub include: Vec<String>,
    /// Globs of names to copy unchanged.
    pub exclude: Vec<String>,
    /// Globs of names with the dimension of their channels, whose indices are the rows of the method's granularity; the
    /// first that matches counts, and for other tensors it is the first dimension.
    pub channel_axes: Vec<(String, usize)>,
    /// Threads; `None` for one per processor. The result does not depend on it.
    pub threads: Option<usize>,
}

/// The method `id`. With `bits`, the id may omit its number: `laq-linear`, `laq-linear-M` or an
/// alias.
///
/// # Errors
///
/// An unknown method, a method without this number of bits, or `full`.
pub fn method(id: &str, bits: Option<u8>) -> Result<Method, QuantizeError> {
    let method = match bits {
        None => id.parse()?,
        Some(bits) => method_with_bits(id, bits)?,
    };
    quantizer(&method)?;
    Ok(method)
}

fn method_with_bits(id: &str, bits: u8) -> Result<Method, QuantizeError> {
    Method::with_bits(id, bits).map_err(|error| match error {
        ParseMethodError::OtherBits { method, own, bits } => {
            QuantizeError::OtherBits { method, own, bits }
        }
        ParseMethodError::FixedBits { method, bits } => QuantizeError::NoBits { method, bits },
        error => error.into(),
    })
}

pub(crate) fn quantizer(method: &Method) -> Result<&Quantizer, QuantizeError> {
    method
        .quantizer()
        .ok_or_else(|| QuantizeError::FullPrecision {
            method: method.id(),
        })
}

/// Rejects an output path that is one of the inputs, exists and is not a file, or ends as that of a folder.
///
/// # Errors
///
/// [`OutError`].
pub fn check_out(
    out: &Path,
    mut inputs: impl Iterator<Item = impl AsRef<Path>>,
) -> Result<(), OutError> {
    match check_target(out) {
        Err(error) if error.source.kind() == io::ErrorKind::InvalidInput => {
            return Err(OutError::IsNoFile { out: out.into() });
        }
        checked => checked?,
    }
    match inputs.any(|input| is_same(input.as_ref(), out)) {
        true => Err(OutError::IsInput { out: out.into() }),
        false => Ok(()),
    }
}

/// Rejects an output folder that is the one of the index, or exists and is not a folder.
pub(crate) fn check_out_folder(out: &Path, index: &Path) -> Result<(), OutError> {
    match fs::metadata(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::on("write", out)(error).into()),
        Ok(found) if !found.is_dir() => {
            return Err(OutError::IsNoFolder { out: out.into() });
        }
        Ok(_) => {}
    }
    match is_same(&index.with_file_name("."), out) {
        true => Err(OutError::IsInputFolder { out: out.into() }),
        false => Ok(()),
    }
}

/// Whether both paths exist and are of the same file.
fn is_same(first: &Path, second: &Path) -> bool {
    match (first.canonicalize(), second.canonicalize()) {
        (Ok(first), Ok(second)) => first == second,
        _ => false,
    }
}
