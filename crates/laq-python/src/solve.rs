//! Quantizing an array.

use laq_solvers::{
    Granularity, Groups, MAX_BLOCK, Problem, Quantizer as Solver, Scale, Solution,
    Solver as Algorithm, solve_groups,
};
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::codebook::Codebook;
use crate::errors::{self, value};
use crate::methods;
use crate::threads::pool;

/// A solver with its codebook.
#[pyclass(frozen, module = "laq._laq")]
pub(crate) struct Quantizer {
    /// The id of the method, or `exact` for a codebook.
    #[pyo3(get)]
    id: String,
    /// The weights of a block of a format.
    #[pyo3(get)]
    block: Option<usize>,
    solver: Solver,
}

/// How an array is cut into groups: its shape with the axis of the scales in front, that axis, and the matrix.
#[derive(FromPyObject)]
pub(crate) struct Layout {
    shape: Vec<usize>,
    axis: usize,
    rows: usize,
    columns: usize,
    /// The weights of a block; 0 for all of a row, none for one group.
    block: Option<usize>,
}

impl Layout {
    /// The shape of the array.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Rows and columns.
    pub(crate) fn matrix(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The groups of weights with a scale.
    pub(crate) fn groups(&self) -> PyResult<Groups> {
        let Some(block) = self.block else {
            return Ok(Groups::equal(self.rows * self.columns, 1));
        };
        if block > MAX_BLOCK {
            return Err(value(format!(
                "found block={block}, expected 1 to {MAX_BLOCK}"
            )));
        }
        let length = if block == 0 { self.columns } else { block };
        Ok(Groups::blocks(self.rows, self.columns, length.max(1)))
    }
}

/// The groups of weights of a matrix whose rows form `gates` equal parts: a number of spans, the weights of each, and
/// the weights of a group of a span, of which the last may have fewer.
#[pyfunction]
pub(crate) fn groups(
    granularity: &str,
    rows: usize,
    columns: usize,
    gates: usize,
) -> PyResult<(usize, usize, usize)> {
    let granularity: Granularity = granularity.parse().map_err(value)?;
    if rows == 0 || gates == 0 || !rows.is_multiple_of(gates) {
        return Err(value(format!(
            "found {rows} rows and {gates} gates, expected rows that form equal gates"
        )));
    }
    let groups = granularity.groups(rows, columns, gates);
    Ok((groups.spans(), groups.span(), groups.length()))
}

#[pymethods]
impl Quantizer {
    #[staticmethod]
    fn of_method(name: &str, bits: Option<i64>) -> PyResult<Self> {
        Self::new(&methods::method(name, bits)?)
    }

    #[staticmethod]
    fn of_format(name: &str) -> PyResult<Self> {
        Self::new(&methods::format(name)?)
    }

    #[staticmethod]
    fn of_codebook(codebook: &Codebook) -> Self {
        Self {
            id: "exact".into(),
            block: None,
            solver: Solver::exact(codebook.inner.clone()),
        }
    }

    #[getter]
    fn codebook(&self) -> Codebook {
        self.solver.codebook().clone().into()
    }

    /// Whether the gradient of latent weights differs from that of quantized ones.
    #[getter]
    fn has_latent_gradient(&self) -> bool {
        self.solver.has_latent_gradient()
    }

    #[getter]
    fn two_scales(&self) -> bool {
        self.solver.has_two_scales()
    }

    /// The solver.
    #[getter]
    fn algorithm(&self) -> &'static str {
        match self.solver.solver() {
            Algorithm::Signs => "signs",
            Algorithm::MeanMagnitude => "mean-magnitude",
            Algorithm::LargestMagnitude => "largest-magnitude",
            Algorithm::WeightedSigns => "weighted-signs",
            Algorithm::Threshold => "threshold",
            Algorithm::Trained => "trained",
            Algorithm::Alternating { .. } => "alternating",
            Algorithm::Exact { .. } => "exact",
            Algorithm::ExactOnGrid { .. } => "exact-on-grid",
            Algorithm::Tanh => "tanh",
        }
    }

    /// The scales of `exact-on-grid`: bits of the mantissa, the exponent of the smallest normal scale, the smallest
    /// and the largest scale that are not negative, and whether others are.
    #[getter]
    fn grid(&self) -> Option<(i32, i32, f32, f64, bool)> {
        let Algorithm::ExactOnGrid { grid } = self.solver.solver() else {
            return None;
        };
        let (mantissa, exponent, largest) = grid.layout();
        let (smallest, is_signed) = (grid.smallest(), grid.is_signed());
        Some((mantissa, exponent, smallest, largest, is_signed))
    }

    /// Quantizes `w`: writes the levels, and the decoded weights to `decoded`, which may be `w`. Returns the
    /// steps of all groups, one after the other (two each with `two_scales`), and the error.
    fn solve<'py>(
        &self,
        py: Python<'py>,
        w: &Bound<'py, PyArray1<f32>>,
        d: Option<&Bound<'py, PyArray1<f32>>>,
        layout: Layout,
        levels: &Bound<'py, PyArray1<i8>>,
        decoded: &Bound<'py, PyArray1<f32>>,
        threads: Option<i64>,
    ) -> PyResult<(Bound<'py, PyArray1<f32>>, f64)> {
        let groups = layout.groups()?;
        let pool = pool(threads)?;
        let mut levels = levels.try_readwrite().map_err(errors::borrow("levels"))?;
        let levels = levels.as_slice_mut().map_err(errors::slice("levels"))?;
        let solved = {
            let w = w.try_readonly().map_err(errors::borrow("w"))?;
            let w = w.as_slice().map_err(errors::slice("w"))?;
            let d = d.map(PyArrayMethods::try_readonly).transpose();
            let d = d.map_err(errors::borrow("d"))?;
            let d = d.as_ref().map(PyReadonlyArray1::as_slice).transpose();
            let d = d.map_err(errors::slice("d"))?;
            let solve = || solve_groups(&self.solver, Problem::new(w, d)?, groups, levels);
            let solved = py.detach(|| pool.install(solve));
            solved.map_err(errors::solve("", &layout.shape, layout.axis))?
        };
        let error = solved
            .iter()
            .fold(0.0, |sum, group| sum + group.weighted_error);
        // The weights are not read from here on, so that the decoded ones may take their place.
        let mut decoded = decoded.try_readwrite().map_err(errors::borrow("out"))?;
        let decoded = decoded.as_slice_mut().map_err(errors::slice("out"))?;
        if decoded.len() != levels.len() {
            return Err(value("out and w differ in length"));
        }
        let levels = &*levels;
        let decode = || {
            for (range, group) in groups.ranges().zip(&solved) {
                let (levels, decoded) = (&levels[range.clone()], &mut decoded[range]);
                self.solver.codebook().decode(levels, group.scale, decoded);
            }
        };
        py.detach(|| pool.install(decode));
        Ok((PyArray1::from_vec(py, self.steps(&solved)?), error))
    }
}

impl Quantizer {
    fn new(method: &laq_solvers::Method) -> PyResult<Self> {
        let solver = method.quantizer().ok_or_else(|| {
            value(format!(
                "`{}` keeps full precision and quantizes nothing; laq.methods() lists the others",
                method.id()
            ))
        })?;
        Ok(Self {
            id: method.id(),
            block: method.family().block,
            solver: solver.clone(),
        })
    }

    pub(crate) fn solver(&self) -> &Solver {
        &self.solver
    }

    /// The steps of the multipliers: one of each group, or those of both signs.
    fn steps(&self, solved: &[Solution]) -> PyResult<Vec<f32>> {
        let each = if self.solver.has_two_scales() { 2 } else { 1 };
        let mut steps = Vec::new();
        steps
            .try_reserve_exact(each * solved.len())
            .map_err(|_| errors::memory(format!("{} scales", solved.len())))?;
        for Solution { scale, .. } in solved {
            let pair = Scale::pair(*scale).map(|scale| self.solver.codebook().step(scale));
            steps.extend(&pair[..each]);
        }
        Ok(steps)
    }
}
