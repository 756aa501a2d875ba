//! Codebooks.

use std::hash::{DefaultHasher, Hash, Hasher};

use laq_solvers::Codebook as Levels;
use pyo3::prelude::*;

use crate::errors::value;

/// The levels of a weight and their values.
#[pyclass(frozen, eq, module = "laq", from_py_object)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Codebook {
    pub(crate) inner: Levels,
}

#[pymethods]
impl Codebook {
    #[staticmethod]
    fn binary() -> Self {
        Levels::Binary.into()
    }

    #[staticmethod]
    fn ternary() -> Self {
        Levels::Ternary.into()
    }

    #[staticmethod]
    fn linear(bits: i64) -> PyResult<Self> {
        sized(bits, Levels::linear)
    }

    #[staticmethod]
    fn logarithmic(bits: i64) -> PyResult<Self> {
        sized(bits, Levels::logarithmic)
    }

    #[staticmethod]
    fn uniform(bits: i64) -> PyResult<Self> {
        sized(bits, Levels::uniform)
    }

    /// Of rising values: a symmetric codebook within −1 to 1, which all solvers take, or a table.
    #[staticmethod]
    fn custom(values: Vec<f32>) -> PyResult<Self> {
        if values == [-1.0, 1.0] {
            return Ok(Self::binary());
        }
        let reversed = values.iter().rev().map(|value| -value);
        let is_symmetric = values.iter().copied().eq(reversed);
        // Smaller ones are refused as a table.
        let is_in_range = |last: &f32| (1.0 / 65536.0..=1.0).contains(last);
        if is_symmetric && values.last().is_some_and(is_in_range) {
            let magnitudes = values.into_iter().filter(|value| *value >= 0.0);
            // A zero of either sign is one.
            let magnitudes: Vec<f32> = magnitudes.map(f32::abs).collect();
            return Ok(Levels::custom(magnitudes).map_err(value)?.into());
        }
        Ok(Levels::table(values).map_err(value)?.into())
    }

    /// The levels, rising.
    fn level_indices(&self) -> Vec<i8> {
        self.inner.levels().collect()
    }

    /// The multiplier of each level.
    fn multipliers(&self) -> Vec<f32> {
        let levels = self.inner.levels();
        levels.map(|level| self.inner.multiplier(level)).collect()
    }

    /// What a scale is divided by, in f32, to give the step: the factor of the multipliers.
    #[getter]
    fn divisor(&self) -> f32 {
        self.inner.divisor()
    }

    #[getter]
    fn bits(&self) -> u8 {
        self.inner.storage_bits().max(1)
    }

    /// The function that makes it.
    #[getter]
    fn maker(&self) -> &'static str {
        match &self.inner {
            Levels::Binary => "binary",
            Levels::Ternary => "ternary",
            Levels::Linear { .. } => "linear",
            Levels::Logarithmic { .. } => "logarithmic",
            Levels::Uniform { .. } => "uniform",
            _ => "custom",
        }
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.inner.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let maker = self.maker();
        match &self.inner {
            Levels::Binary | Levels::Ternary => format!("Codebook.{maker}()"),
            Levels::Linear { bits } | Levels::Logarithmic { bits } | Levels::Uniform { bits } => {
                format!("Codebook.{maker}({})", bits.get())
            }
            _ => format!("Codebook.{maker}({:?})", self.inner.values()),
        }
    }
}

impl From<Levels> for Codebook {
    fn from(inner: Levels) -> Self {
        Self { inner }
    }
}

fn sized<E: std::fmt::Display>(
    bits: i64,
    make: impl FnOnce(u8) -> Result<Levels, E>,
) -> PyResult<Codebook> {
    let found = || value(format!("found {bits} bits, expected 2 to 8"));
    let bits = u8::try_from(bits).map_err(|_| found())?;
    Ok(make(bits).map_err(value)?.into())
}
