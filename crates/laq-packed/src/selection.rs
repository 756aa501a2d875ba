//! Selects the tensors to quantize.

use std::collections::HashSet;
use std::path::Path;

use glob::Pattern;
use safetensors::tensor::{Dtype, TensorInfo};
use thiserror::Error;

use crate::float::Float;
use crate::network::MEAN_IMAGE;

/// Number of names that an error lists.
const LISTED: usize = 5;

/// An error of selecting tensors.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// Invalid glob.
    #[error("{flag} {glob}: {source}; supported are `*`, `?`, `[abc]` and `[!abc]`")]
    Glob {
        /// The flag of the glob.
        flag: &'static str,
        /// The glob.
        glob: String,
        /// The error.
        source: glob::PatternError,
    },
    /// A glob without a match.
    #[error("{flag} {glob} matches no tensor of {path}; it has {}", .names.join(", "))]
    NoMatch {
        /// The flag of the glob.
        flag: &'static str,
        /// The glob.
        glob: String,
        /// The file.
        path: String,
        /// The most similar names, and the number of others.
        names: Vec<String>,
    },
    /// A glob that matches only tensors without floating-point elements.
    #[error(
        "--include {glob} matches only tensors that cannot be quantized, such as {name} with {dtype} elements; expected F32, \
         F16 or BF16"
    )]
    NotFloating {
        /// The glob.
        glob: String,
        /// The first match.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A floating-point type that is not supported.
    #[error(
        "{name} in {path} has {dtype} elements, expected F32, F16 or BF16: convert it (in PyTorch, `tensor.float()`) or copy \
         it unchanged with {}", only("--exclude", .name)
    )]
    Dtype {
        /// The tensor.
        name: String,
        /// The file.
        path: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// Nothing is selected.
    #[error(
        "{path} has no tensor to quantize: without --include these are the tensors with F32, F16 or BF16 elements, at least \
         one of them, and at least two dimensions that --exclude does not match; it has {}", .names.join(", ")
    )]
    Nothing {
        /// The file.
        path: String,
        /// Some names, and the number of others.
        names: Vec<String>,
    },
}

/// For each of `tensors`, the tensors of the file `path`, whether it is quantized.
///
/// Without `include` these are the floating-point tensors with at least two dimensions except [`MEAN_IMAGE`], which is
/// no weight; with it the tensors that match one of its globs, of any shape. Tensors that match a glob of `exclude`,
/// have no elements, or are `parts` of packed tensors, are not quantized.
pub(crate) fn select(
    path: &Path,
    tensors: &[(String, &TensorInfo)],
    include: &[String],
    exclude: &[String],
    parts: &HashSet<String>,
) -> Result<Vec<bool>, SelectionError> {
    let path = path.display();
    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let matching_some = |flag, globs| patterns(flag, globs, &path.to_string(), &names);
    let included = matching_some("--include", include)?;
    let excluded = matching_some("--exclude", exclude)?;
    for glob in &included {
        let mut matching = tensors.iter().filter(|(name, _)| glob.matches(name));
        let weights = matching.clone().any(|(_, info)| is_floating(info.dtype));
        if let Some((name, info)) = matching.next().filter(|_| !weights) {
            return Err(SelectionError::NotFloating {
                glob: glob.text.clone(),
                name: name.clone(),
                dtype: info.dtype,
            });
        }
    }
    let any = |globs: &[NameGlob], name: &str| globs.iter().any(|glob| glob.matches(name));
    let mut selected = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let wanted = if include.is_empty() {
            info.shape.len() >= 2 && name != MEAN_IMAGE
        } else {
            any(&included, name)
        };
        let has_elements = !info.shape.contains(&0);
        let is_weight = has_elements && is_floating(info.dtype) && !parts.contains(name);
        let taken = wanted && is_weight && !any(&excluded, name);
        if taken && Float::of(info.dtype).is_none() {
            return Err(SelectionError::Dtype {
                name: name.clone(),
                path: path.to_string(),
                dtype: info.dtype,
            });
        }
        selected.push(taken);
    }
    if !selected.contains(&true) {
        return Err(SelectionError::Nothing {
            path: path.to_string(),
            names: listed(&names),
        });
    }
    Ok(selected)
}

/// A glob of names. It also matches the name that it is letter by letter, such as `blocks[0].w`, where `[0]` is a
/// set of one character.
#[derive(Debug)]
pub(crate) struct NameGlob {
    text: String,
    /// `None` for a name that is no glob.
    pattern: Option<Pattern>,
}

impl NameGlob {
    pub(crate) fn matches(&self, name: &str) -> bool {
        let pattern = self.pattern.as_ref();
        name == self.text || pattern.is_some_and(|pattern| pattern.matches(name))
    }
}

/// The option `flag` for the tensor `name` and no other, as words of a shell.
pub(crate) fn only(flag: &str, name: &str) -> String {
    let glob = Pattern::escape(name).replace('\'', r"'\''");
    format!("{flag} '{glob}'")
}

/// Parses the globs of `flag`; each must match a name.
pub(crate) fn patterns(
    flag: &'static str,
    globs: &[String],
    path: &str,
    names: &[&str],
) -> Result<Vec<NameGlob>, SelectionError> {
    let pattern = |glob: &String| {
        let pattern = match Pattern::new(glob) {
            Ok(pattern) => Some(pattern),
            Err(_) if names.contains(&glob.as_str()) => None,
            Err(source) => {
                return Err(SelectionError::Glob {
                    flag,
                    glob: glob.clone(),
                    source,
                });
            }
        };
        let text = glob.clone();
        let found = NameGlob { text, pattern };
        if names.iter().any(|name| found.matches(name)) {
            return Ok(found);
        }
        let mut nearest = names.to_vec();
        nearest.sort_by_cached_key(|name| strsim::damerau_levenshtein(glob, name));
        Err(SelectionError::NoMatch {
            flag,
            glob: glob.clone(),
            path: path.into(),
            names: listed(&nearest),
        })
    };
    globs.iter().map(pattern).collect()
}

/// The first names, and the number of others.
pub(crate) fn listed(names: &[&str]) -> Vec<String> {
    if names.is_empty() {
        return vec!["no tensors".into()];
    }
    let first = names.iter().take(LISTED).map(|name| (*name).to_string());
    let more = names.len().saturating_sub(LISTED);
    let rest = (more > 0).then(|| format!("and {more} more"));
    first.chain(rest).collect()
}

/// Whether the elements are floating-point numbers of at least 8 bits.
fn is_floating(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::F64
            | Dtype::F32
            | Dtype::F16
            | Dtype::BF16
            | Dtype::F8_E5M2
            | Dtype::F8_E4M3
            | Dtype::F8_E4M3FNUZ
            | Dtype::F8_E5M2FNUZ
    )
}
