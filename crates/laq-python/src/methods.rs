//! Methods and formats by name.

use laq_solvers::{Method, ParseMethodError, format_ids, formats as all_formats};
use pyo3::prelude::*;

use crate::errors::value;

/// Id, bits, levels, scale, solver, source, and the weights of a block.
type Record = (
    String,
    u32,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Option<usize>,
);

/// All methods.
#[pyfunction]
pub(crate) fn methods() -> Vec<Record> {
    Method::all().map(|method| record(&method)).collect()
}

/// All formats.
#[pyfunction]
pub(crate) fn formats() -> Vec<Record> {
    let formats = all_formats().iter().flat_map(|format| format.methods());
    formats.map(|format| record(&format)).collect()
}

fn record(method: &Method) -> Record {
    let family = method.family();
    (
        method.id(),
        method.storage_bits(),
        family.codebook,
        family.scale,
        family.solver,
        family.source,
        family.block,
    )
}

/// The method with this name, and number of bits where it has a choice.
pub(crate) fn method(name: &str, bits: Option<i64>) -> PyResult<Method> {
    let parsed = match bits.map(|bits| (bits, u8::try_from(bits))) {
        None => name.parse(),
        Some((_, Ok(bits))) => Method::with_bits(name, bits),
        Some((bits, Err(_))) => {
            return Err(value(format!("found bits={bits}, expected 2 to 8")));
        }
    };
    parsed.map_err(|error| match &error {
        ParseMethodError::Unknown { found } => {
            let ids: Vec<String> = Method::all().map(|method| method.id()).collect();
            let formats = all_formats().iter().map(|format| format.id);
            let ids = ids.iter().map(String::as_str).chain(formats);
            match nearest(found, ids) {
                Some(id) => value(format!(
                    "unknown method `{found}`, did you mean `{id}`? laq.methods() and laq.formats() list all"
                )),
                None => value(error),
            }
        }
        ParseMethodError::Bits { lowest, highest, .. } if bits.is_none() => value(format!(
            "{error}; or pass bits=, with `{lowest}` for 2 and `{highest}` for 8"
        )),
        _ => value(error),
    })
}

/// The format with this id.
pub(crate) fn format(name: &str) -> PyResult<Method> {
    let found = all_formats()
        .iter()
        .find(|format| format.id.eq_ignore_ascii_case(name));
    found
        .and_then(|format| format.methods().next())
        .ok_or_else(|| {
            let near = nearest(name, format_ids());
            let near = near.map(|id| format!(", did you mean `{id}`?"));
            value(format!(
                "unknown format `{name}`{} Expected one of {}",
                near.unwrap_or_else(|| ".".into()),
                format_ids().collect::<Vec<_>>().join(", ")
            ))
        })
}

/// The candidate with the smallest edit distance to `found`, where that is at most 1 + a third of its length.
fn nearest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_ascii_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&found, candidate);
    let best = candidates.min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= 1 + found.chars().count() / 3).then_some(best)
}
