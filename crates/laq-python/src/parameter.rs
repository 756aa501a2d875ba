//! Quantizing parameters in training.

use std::sync::{Mutex, MutexGuard, TryLockError};

use laq_solvers::{Curvature, Granularity, ParameterQuantizer as Solver, Scale, SolveError};
use numpy::ndarray::Array2;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1, ToPyArray};
use pyo3::prelude::*;
use rayon::prelude::*;

use crate::errors::{self, value};
use crate::solve::Quantizer;
use crate::threads::pool;

/// Levels and scales of a parameter, which its next step starts from.
#[pyclass(frozen, module = "laq._laq")]
pub(crate) struct ParameterQuantizer {
    name: String,
    shape: Vec<usize>,
    solver: Mutex<Solver>,
}

impl ParameterQuantizer {
    fn solver(&self) -> PyResult<MutexGuard<'_, Solver>> {
        match self.solver.try_lock() {
            Ok(solver) => Ok(solver),
            Err(TryLockError::Poisoned(solver)) => Ok(solver.into_inner()),
            Err(TryLockError::WouldBlock) => Err(value(format!(
                "{} is being quantized by another call",
                self.name
            ))),
        }
    }

    /// The error of a group that starts at weight `start`, with the name of the parameter and the place of a weight.
    fn unsolved(&self, start: usize, error: SolveError) -> PyErr {
        let error = match error {
            SolveError::Weight { index, value } => SolveError::Weight {
                index: start + index,
                value,
            },
            SolveError::Curvature { index, value } => SolveError::Curvature {
                index: start + index,
                value,
            },
            error => error,
        };
        errors::solve(&format!("cannot quantize {}: ", self.name), &self.shape, 0)(error)
    }

    fn check_lengths(&self, solver: &Solver, found: &[usize]) -> PyResult<()> {
        let weights = solver.groups().weights();
        match found.iter().find(|length| **length != weights) {
            Some(length) => Err(value(format!(
                "{} has {weights} weights, found an array of {length}",
                self.name
            ))),
            None => Ok(()),
        }
    }
}

#[pymethods]
impl ParameterQuantizer {
    /// For a parameter of this shape. `granularity` is that of its first dimension against all others, `gates` the
    /// equal parts of the first dimension that have scales of their own in `gate`.
    #[new]
    fn new(
        name: String,
        shape: Vec<usize>,
        quantizer: &Quantizer,
        granularity: &str,
        gates: usize,
    ) -> PyResult<Self> {
        let granularity: Granularity = granularity.parse().map_err(value)?;
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        if gates == 0 || !rows.is_multiple_of(gates) {
            return Err(value(format!(
                "{name} has {rows} rows, which are not {gates} equal gates"
            )));
        }
        let groups = granularity.groups(rows, columns, gates);
        Ok(Self {
            name,
            shape,
            solver: Mutex::new(Solver::new(quantizer.solver().clone(), groups)),
        })
    }

    /// The level of each weight.
    fn levels<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i8>>> {
        Ok(self.solver()?.levels().to_pyarray(py))
    }

    /// The scales α, or (α, β), one row per group; no rows before the first solve.
    fn scales<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let solver = self.solver()?;
        let each = if solver.quantizer().has_two_scales() {
            2
        } else {
            1
        };
        let scales: Option<Vec<Scale>> = solver.scales().collect();
        let values: Vec<f32> = (scales.iter().flatten())
            .flat_map(|scale| scale.pair().into_iter().take(each))
            .collect();
        let array = Array2::from_shape_vec((values.len() / each, each), values);
        Ok(array.map_err(value)?.to_pyarray(py))
    }

    /// The steps of the scales, in the same layout.
    fn steps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let scales = self.scales(py)?;
        {
            let solver = self.solver()?;
            let codebook = solver.quantizer().codebook();
            let mut scales = scales.readwrite();
            scales
                .as_array_mut()
                .mapv_inplace(|scale| codebook.step(scale));
        }
        Ok(scales)
    }

    /// ½ Σ d (w − ŵ)² over all groups as of the last solve.
    fn error(&self) -> PyResult<f64> {
        let solver = self.solver()?;
        let errors = solver.solutions().flatten();
        Ok(errors.fold(0.0, |sum, solution| sum + solution.weighted_error))
    }

    /// Restores levels and scales, and writes the quantized weights.
    fn load(
        &self,
        levels: PyReadonlyArray1<'_, i8>,
        scales: &Bound<'_, PyArray2<f32>>,
        mut out: PyReadwriteArray1<'_, f32>,
    ) -> PyResult<()> {
        let mut solver = self.solver()?;
        let (weights, groups) = (solver.groups().weights(), solver.groups().count());
        let each = if solver.quantizer().has_two_scales() {
            2
        } else {
            1
        };
        let scales = scales.try_readonly().map_err(errors::borrow("scales"))?;
        let scales = scales.as_array();
        let levels = levels.as_slice().map_err(errors::slice("levels"))?;
        let out = out.as_slice_mut().map_err(errors::slice("out"))?;
        let known: Vec<i8> = solver.quantizer().codebook().levels().collect();
        let fits =
            levels.len() == weights && out.len() == weights && scales.dim() == (groups, each);
        if !fits || levels.iter().any(|level| !known.contains(level)) {
            return Err(value(format!(
                "the state of {} is of another method or shape: found {} levels and scales of shape {:?}, expected \
                 {weights} levels within {} to {} and ({groups}, {each})",
                self.name,
                levels.len(),
                scales.dim(),
                known[0],
                known[known.len() - 1]
            )));
        }
        let scales: Vec<Option<Scale>> = (scales.rows().into_iter())
            .map(|row| {
                Some(match each {
                    1 => Scale::One(row[0]),
                    _ => Scale::Two {
                        positive: row[0],
                        negative: row[1],
                    },
                })
            })
            .collect();
        solver.load(levels, &scales, out);
        Ok(())
    }

    /// Replaces trained scales, (α, β) one row per group, before the next solve.
    fn set_scales(&self, scales: &Bound<'_, PyArray2<f32>>) -> PyResult<()> {
        let scales = scales.try_readonly().map_err(errors::borrow("scales"))?;
        let scales = scales.as_array();
        let mut solver = self.solver()?;
        let groups = solver.groups().count();
        if scales.dim() != (groups, 2) {
            return Err(value(format!(
                "found scales of shape {:?}, expected ({groups}, 2)",
                scales.dim()
            )));
        }
        for ((scale, _), row) in solver.trained_scales().zip(scales.rows()) {
            *scale = Scale::Two {
                positive: row[0],
                negative: row[1],
            };
        }
        Ok(())
    }

    /// Turns the gradient of the quantized weights into that of the latent ones, in place (TTQ, DoReFa).
    fn latent_gradient<'py>(
        &self,
        py: Python<'py>,
        w: &Array<'py>,
        gradient: &Array<'py>,
        threads: Option<i64>,
    ) -> PyResult<()> {
        let pool = pool(threads)?;
        let w = w.try_readonly().map_err(errors::borrow("w"))?;
        let w = w.as_slice().map_err(errors::slice("w"))?;
        let mut gradient = gradient
            .try_readwrite()
            .map_err(errors::borrow("the gradient"))?;
        let gradient = gradient
            .as_slice_mut()
            .map_err(errors::slice("the gradient"))?;
        let mut solver = self.solver()?;
        self.check_lengths(&solver, &[w.len(), gradient.len()])?;
        let solver = &mut *solver;
        py.detach(|| pool.install(|| solver.latent_gradient(w, gradient)));
        Ok(())
    }

    /// The gradient of trained scales as of the last `latent_gradient`.
    fn scale_gradients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let mut solver = self.solver()?;
        let gradients: Vec<_> = solver
            .trained_scales()
            .map(|(_, gradient)| gradient)
            .collect();
        let array = Array2::from_shape_fn((gradients.len(), 2), |(group, side)| {
            gradients[group][side] as f32
        });
        Ok(array.to_pyarray(py))
    }
}

type Array<'py> = Bound<'py, PyArray1<f32>>;

/// Solves all parameters: reads w and the curvature (or Adam's second moment), writes the quantized weights.
#[pyfunction]
pub(crate) fn solve_parameters<'py>(
    py: Python<'py>,
    jobs: Vec<(
        Bound<'py, ParameterQuantizer>,
        Array<'py>,
        Option<Array<'py>>,
        Array<'py>,
    )>,
    second_moment: bool,
    threads: Option<i64>,
) -> PyResult<()> {
    let pool = pool(threads)?;
    let mut arrays = Vec::with_capacity(jobs.len());
    for (quantizer, w, d, out) in &jobs {
        let quantizer = quantizer.get();
        let w = w.try_readonly().map_err(errors::borrow("w"))?;
        let d = d.as_ref().map(PyArrayMethods::try_readonly).transpose();
        let out = out.try_readwrite().map_err(errors::borrow("out"))?;
        arrays.push((
            quantizer,
            quantizer.solver()?,
            w,
            d.map_err(errors::borrow("d"))?,
            out,
        ));
    }
    let mut slices = Vec::with_capacity(jobs.len());
    for (quantizer, solver, w, d, out) in &mut arrays {
        let w = w.as_slice().map_err(errors::slice("w"))?;
        let d = d.as_ref().map(PyReadonlyArray1::as_slice).transpose();
        let d = d.map_err(errors::slice("d"))?;
        let out = out.as_slice_mut().map_err(errors::slice("out"))?;
        quantizer.check_lengths(
            solver,
            &[w.len(), d.map_or(w.len(), <[f32]>::len), out.len()],
        )?;
        slices.push(Job {
            quantizer,
            solver,
            w,
            d,
            out,
        });
    }
    let solve = |job: &mut Job<'_>| job.solve(second_moment);
    let solved: Vec<PyResult<()>> =
        py.detach(|| pool.install(|| slices.par_iter_mut().map(solve).collect()));
    solved.into_iter().collect()
}

struct Job<'a> {
    quantizer: &'a ParameterQuantizer,
    solver: &'a mut Solver,
    w: &'a [f32],
    d: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Job<'_> {
    fn solve(&mut self, second_moment: bool) -> PyResult<()> {
        let curvature = match self.d {
            Some(d) if second_moment => Curvature::SecondMoment(d),
            d => Curvature::Given(d),
        };
        let solved = self.solver.solve(self.w, curvature, self.out);
        solved.map_err(|(group, error)| {
            let start = self.solver.groups().range(group).start;
            self.quantizer.unsolved(start, error)
        })
    }
}
