//! Which tensors of a file are quantized.

use std::path::Path;

use glob::Pattern;
use safetensors::tensor::{Dtype, TensorInfo};
use thiserror::Error;

use super::tensor_file::Float;

/// Names that an error about a glob lists.
const LISTED: usize = 5;

/// Why the tensors to quantize cannot be picked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// A glob that cannot be read.
    #[error("{flag} {glob}: {source}; `*`, `?`, `[abc]` and `[!abc]` have a meaning")]
    Glob {
        /// The flag that it was given with.
        flag: &'static str,
        /// What was given.
        glob: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },
    /// A glob that no tensor's name matches.
    #[error("{flag} {glob} matches no tensor of {path}, which has {}", .names.join(", "))]
    NoMatch {
        /// The flag that it was given with.
        flag: &'static str,
        /// What was given.
        glob: String,
        /// The file.
        path: String,
        /// The names nearest to it, and how many others there are.
        names: Vec<String>,
    },
    /// A glob that matches only tensors that are not weights.
    #[error(
        "--include {glob} matches only tensors that cannot be quantized, such as {name} with elements of type \
         {dtype}; F32, F16 and BF16 can"
    )]
    NotFloating {
        /// What was given.
        glob: String,
        /// The first tensor that matches.
        name: String,
        /// Its elements.
        dtype: Dtype,
    },
    /// Floating numbers that are not quantized, where a user would expect it.
    #[error(
        "{name} in {path} has elements of type {dtype}, and F32, F16 and BF16 can be quantized: convert it (in PyTorch, \
         `tensor.float()`), or copy it as it is with --exclude '{name}'"
    )]
    Dtype {
        /// The tensor.
        name: String,
        /// The file.
        path: String,
        /// Its elements.
        dtype: Dtype,
    },
    /// Nothing is left.
    #[error(
        "{path} has no tensor to quantize: without --include, those with F32, F16 or BF16 elements and two or more \
         dimensions are taken, less those that --exclude names; it has {}", .names.join(", ")
    )]
    Nothing {
        /// The file.
        path: String,
        /// Some names, and how many others there are.
        names: Vec<String>,
    },
}

/// Whether each of `tensors`, all those of the file `path`, is to be quantized.
///
/// Without `include`, the tensors of floating numbers with two or more dimensions are; with it, those that match one of
/// its globs, whatever their dimensions. Those that match a glob of `exclude` are not.
pub(super) fn select(
    path: &Path,
    tensors: &[(String, &TensorInfo)],
    include: &[String],
    exclude: &[String],
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
                glob: glob.to_string(),
                name: name.clone(),
                dtype: info.dtype,
            });
        }
    }
    let any = |globs: &[Pattern], name: &str| globs.iter().any(|glob| glob.matches(name));
    let mut selected = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let wanted = if include.is_empty() {
            info.shape.len() >= 2
        } else {
            any(&included, name)
        };
        let taken = wanted && is_floating(info.dtype) && !any(&excluded, name);
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

/// The globs that were given with `flag`, each of which matches a name.
fn patterns(
    flag: &'static str,
    globs: &[String],
    path: &str,
    names: &[&str],
) -> Result<Vec<Pattern>, SelectionError> {
    let pattern = |glob: &String| {
        let pattern = Pattern::new(glob).map_err(|source| SelectionError::Glob {
            flag,
            glob: glob.clone(),
            source,
        })?;
        if names.iter().any(|name| pattern.matches(name)) {
            return Ok(pattern);
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

/// The first names, and how many more there are.
fn listed(names: &[&str]) -> Vec<String> {
    if names.is_empty() {
        return vec!["no tensor at all".into()];
    }
    let first = names.iter().take(LISTED).map(|name| (*name).to_string());
    let more = names.len().saturating_sub(LISTED);
    let rest = (more > 0).then(|| format!("and {more} more"));
    first.chain(rest).collect()
}

/// Whether the elements are floating numbers on their own, one a byte or wider.
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
