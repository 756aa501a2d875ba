//! Selects the tensors of a GGUF file to quantize.

use glob::Pattern;

use super::{BlockType, GgufFile, GgufQuantizeError, GgufRequest};
use crate::selection::{SelectionError, listed, patterns};

/// The type of each tensor; `None` for one that is copied.
pub(super) fn select(
    request: &GgufRequest,
    file: &GgufFile,
) -> Result<Vec<Option<BlockType>>, GgufQuantizeError> {
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
    let any = |globs: &[Pattern], name: &str| globs.iter().any(|glob| glob.matches(name));
    let mut types = Vec::new();
    for tensor in file.tensors() {
        let name = &tensor.name;
        let position = typed.iter().position(|glob| glob.matches(name));
        let named = any(&included, name);
        let by_default = included.is_empty() && tensor.shape.len() >= 2;
        let is_float = tensor.element.float().is_some();
        if any(&excluded, name) || !(named || by_default && is_float) {
            types.push(None);
            continue;
        }
        if !is_float {
            return Err(GgufQuantizeError::Element {
                name: name.clone(),
                element: tensor.element,
            });
        }
        types.push(Some(position.map_or(request.of, |at| request.types[at].1)));
    }
    if types.iter().all(Option::is_none) {
        return Err(SelectionError::Nothing {
            path,
            names: listed(&names),
        }
        .into());
    }
    Ok(types)
}
