//! Selects the tensors of a GGUF file to quantize.

use super::{GgufFile, GgufQuantizeError, GgufRequest, TargetType};
use crate::selection::{NameGlob, SelectionError, listed, patterns};

/// What is done with the tensors of a file.
#[derive(Debug)]
pub(super) struct Selected {
    /// The type of each tensor; `None` for one that is copied.
    pub(super) types: Vec<Option<TargetType>>,
    /// The matrices that are copied only because they are quantized already.
    pub(super) kept: Vec<String>,
    /// The globs of types that no tensor takes its type from.
    pub(super) unused: Vec<String>,
}

/// Selects tensors. One that has its new type already is copied: quantizing it again could only lose.
pub(super) fn select(
    request: &GgufRequest,
    file: &GgufFile,
) -> Result<Selected, GgufQuantizeError> {
    let path = request.weights.display().to_string();
    let names: Vec<&str> = file
        .tensors()
        .iter()
        .map(|tensor| &tensor.name[..])
        .collect();
    let globs: Vec<String> = request.types.iter().map(|(glob, _)| glob.clone()).collect();
    let included = patterns("--include", &request.include, &path, &names)?;
    let excluded = patterns("--exclude", &request.exclude, &path, &names)?;
    let typed = patterns("--type", &globs, &path, &names)?;
    let any = |globs: &[NameGlob], name: &str| globs.iter().any(|glob| glob.matches(name));
    let (mut types, mut kept) = (Vec::new(), Vec::new());
    let mut is_used = vec![false; typed.len()];
    let (mut is_nothing_selected, mut have_type) = (true, false);
    for tensor in file.tensors() {
        let (name, element) = (&tensor.name, tensor.element);
        let position = typed.iter().position(|glob| glob.matches(name));
        let by_default = included.is_empty() && tensor.shape.len() >= 2 && element.is_read();
        if any(&excluded, name) || !(by_default || any(&included, name)) {
            types.push(None);
            continue;
        }
        if !element.is_read() {
            return Err(GgufQuantizeError::Element {
                name: name.clone(),
                element,
            });
        }
        let of = position.map_or(request.of, |at| {
            is_used[at] = true;
            request.types[at].1
        });
        let has_type = of.element() == element;
        if by_default && element.is_quantized() && !request.requantize && position.is_none() {
            types.push(None);
            have_type |= has_type;
            if !has_type {
                kept.push(name.clone());
            }
            continue;
        }
        is_nothing_selected = false;
        types.push((!has_type).then_some(of));
    }
    let unused = globs.into_iter().zip(is_used).filter(|(_, used)| !used);
    match kept.first() {
        _ if !is_nothing_selected => Ok(Selected {
            types,
            kept,
            unused: unused.map(|(glob, _)| glob).collect(),
        }),
        Some(name) => Err(GgufQuantizeError::Quantized {
            path: request.weights.clone(),
            name: name.clone(),
            others: kept.len() - 1,
        }),
        None if have_type => Err(GgufQuantizeError::HasType {
            path: request.weights.clone(),
            of: request.of,
        }),
        None => {
            let names = listed(&names);
            Err(SelectionError::Nothing { path, names }.into())
        }
    }
}
