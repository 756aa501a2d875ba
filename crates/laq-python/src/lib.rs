//! `laq._laq`: the part of the Python package `laq` that is in Rust.
//!
//! Arrays come in as contiguous vectors: the Python part checks shapes and types, and makes the arrays of the
//! results, so that a lack of memory is Python's `MemoryError`. Everything here that takes time runs without
//! the lock of the interpreter, on a pool of `threads`.
#![forbid(unsafe_code)]

mod codebook;
mod errors;
mod methods;
mod packed;
mod parameter;
mod solve;
mod threads;

use pyo3::prelude::*;

#[pymodule]
fn _laq(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("MAX_BLOCK", laq_solvers::MAX_BLOCK)?;
    module.add_class::<codebook::Codebook>()?;
    module.add_class::<solve::Quantizer>()?;
    module.add_class::<packed::Packed>()?;
    module.add_class::<parameter::ParameterQuantizer>()?;
    for function in [
        wrap_pyfunction!(methods::methods, module)?,
        wrap_pyfunction!(methods::formats, module)?,
        wrap_pyfunction!(parameter::solve_parameters, module)?,
        wrap_pyfunction!(solve::groups, module)?,
        wrap_pyfunction!(packed::read_packed, module)?,
        wrap_pyfunction!(packed::write_packed, module)?,
        wrap_pyfunction!(packed::write_compressed_tensors, module)?,
        wrap_pyfunction!(packed::write_gguf, module)?,
        wrap_pyfunction!(packed::write_bytes, module)?,
        wrap_pyfunction!(toml_to_json, module)?,
    ] {
        module.add_function(function)?;
    }
    Ok(())
}

/// A TOML document as JSON: Python reads TOML since 3.11 only.
#[pyfunction]
fn toml_to_json(text: &str) -> PyResult<String> {
    let table: toml::Table = toml::from_str(text).map_err(errors::value)?;
    serde_json::to_string(&table).map_err(errors::value)
}
