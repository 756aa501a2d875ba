//! Importance matrices of llama.cpp: the mean square of each input of a layer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{GgufError, GgufFile, GgufTensor, GgufValue};
use crate::files::FileError;
use crate::float::Float;

/// The errors of an importance matrix.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportanceError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A GGUF file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file of another kind.
    #[error("{path} is no importance matrix: {detail}; `llama-imatrix` writes one")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// Values that are not means of squares.
    #[error(
        "{name} in {path} has {found}, expected finite numbers that are not negative; compute the matrix again"
    )]
    Value {
        /// The layer.
        name: String,
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
    },
}

/// `E[x²]` of the inputs of each layer, by the name of its weights; several after another for several
/// experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    layers: BTreeMap<String, Vec<f32>>,
}

impl Importance {
    /// Reads a matrix in GGUF, or in the older form with the ending `.dat`.
    ///
    /// # Errors
    /// [`ImportanceError`].
    pub fn read(path: &Path) -> Result<Self, ImportanceError> {
        let found = match GgufFile::is_gguf(path) {
            true => Self::read_gguf(path)?,
            false => Self::read_dat(path)?,
        };
        for (name, values) in &found.layers {
            if let Some(value) = values
                .iter()
                .find(|value| !(value.is_finite() && **value >= 0.0))
            {
                return Err(ImportanceError::Value {
                    name: name.clone(),
                    path: path.into(),
                    found: value.to_string(),
                });
            }
        }
        Ok(found)
    }

    /// `E[x²]` of the inputs of a layer.
    pub fn of(&self, name: &str) -> Option<&[f32]> {
        self.layers.get(name).map(Vec::as_slice)
    }

    /// The names of the layers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    fn read_gguf(path: &Path) -> Result<Self, ImportanceError> {
        let file = GgufFile::open(path)?;
        let kind = file.value("general.type");
        if kind != Some(&GgufValue::Text("imatrix".into())) {
            let detail = match kind {
                Some(GgufValue::Text(kind)) => format!("its general.type is {kind:?}"),
                _ => "it has no general.type".into(),
            };
            let path = path.into();
            return Err(ImportanceError::Foreign { path, detail });
        }
        let floats = |tensor: &GgufTensor| -> Result<Vec<f32>, ImportanceError> {
            let (mut bytes, mut values) = (Vec::new(), Vec::new());
            file.read(tensor, &mut bytes)?;
            Float::F32.decode(&bytes, &mut values);
            Ok(values)
        };
        let by_name = file
            .tensors()
            .iter()
            .map(|tensor| (&tensor.name[..], tensor));
        let by_name: BTreeMap<&str, &GgufTensor> = by_name.collect();
        let mut layers = BTreeMap::new();
        for tensor in file.tensors() {
            let Some(name) = tensor.name.strip_suffix(".in_sum2") else {
                continue;
            };
            let counts_name = format!("{name}.counts");
            let counts = by_name.get(&counts_name[..]).copied();
            let all_f32 = |tensor: &GgufTensor| tensor.element.float() == Some(Float::F32);
            let invalid = |found: &str| ImportanceError::Value {
                name: name.into(),
                path: path.into(),
                found: found.into(),
            };
            let Some(counts) = counts.filter(|counts| all_f32(counts) && all_f32(tensor)) else {
                return Err(invalid("no counts, or sums that are not F32"));
            };
            let (sums, counts) = (floats(tensor)?, floats(counts)?);
            if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
                return Err(invalid("as many sums as no number of counts divides"));
            }
            let columns = sums.len() / counts.len();
            let mean = |(index, sum): (usize, &f32)| match counts[index / columns.max(1)] {
                // An expert that was never used.
                0.0 => 0.0,
                count => sum / count,
            };
            layers.insert(name.to_owned(), sums.iter().enumerate().map(mean).collect());
        }
        Ok(Self { layers })
    }

    /// The older form: the number of layers, and for each the length of its name, the name, the number of calls,
    /// the number of values, and the values times the number of calls.
    fn read_dat(path: &Path) -> Result<Self, ImportanceError> {
        let bytes = fs::read(path).map_err(FileError::on("read", path))?;
        let foreign = |detail: &str| ImportanceError::Foreign {
            path: path.into(),
            detail: detail.into(),
        };
        let number = |bytes: &[u8]| i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let Some((first, mut rest)) = bytes.split_at_checked(4) else {
            return Err(foreign("it has less than four bytes"));
        };
        let layers_count = number(first);
        if !(1..=1 << 20).contains(&layers_count) {
            return Err(foreign("it is neither GGUF nor of the older form"));
        }
        let mut layers = BTreeMap::new();
        for _ in 0..layers_count {
            let mut field = |size: usize| -> Option<&[u8]> {
                let (taken, others) = rest.split_at_checked(size)?;
                rest = others;
                Some(taken)
            };
            let mut read = || -> Option<(String, Vec<f32>)> {
                let length = usize::try_from(number(field(4)?)).ok()?;
                let name = String::from_utf8_lossy(field(length)?).into_owned();
                if name.contains(char::is_control) {
                    return None;
                }
                let calls = number(field(4)?).max(1) as f32;
                let length = usize::try_from(number(field(4)?)).ok()?;
                let mut values = Vec::new();
                Float::F32.decode(field(length.checked_mul(4)?)?, &mut values);
                values.iter_mut().for_each(|value| *value /= calls);
                Some((name, values))
            };
            let (name, values) = read().ok_or_else(|| {
                foreign("a layer is cut off, or its name has a control character")
            })?;
            layers.insert(name, values);
        }
        Ok(Self { layers })
    }
}
