//! The curvature of a trained network, by which it is quantized after training.

use laq_tensor::{Backend, LARGEST_GRADIENT};

use super::Training;
use crate::ModelError;
use crate::batch::Batch;
use crate::parameter::{StateData, StateTensor};
use crate::profile::Profiler;

/// What the curvature of a weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurvatureKind {
    /// `E[g²]`, with the gradient g of the mean loss of a batch with respect to the weight: the diagonal of the empirical
    /// Fisher information. Adam's second moment is a running average of it, around weights that still change.
    Fisher,
    /// `E[x²]`, with the input x that the weight is multiplied by, which is the same for all rows of a matrix: the
    /// curvature of the squared error of the layer's outputs.
    Inputs,
}

/// Sums of squares over batches, of every parameter.
#[derive(Clone, Debug)]
pub struct CurvatureSums {
    kind: CurvatureKind,
    batches: u64,
    /// Of [`CurvatureKind::Inputs`], those of a row; empty where a parameter has no inputs.
    sums: Vec<Vec<f64>>,
}

impl CurvatureSums {
    /// Of no batch.
    #[must_use]
    pub fn new(kind: CurvatureKind) -> Self {
        Self {
            kind,
            batches: 0,
            sums: Vec::new(),
        }
    }

    /// The batches so far.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Adds the squares of a parameter.
    fn add(&mut self, parameter: usize, squares: impl ExactSizeIterator<Item = f64>) {
        let sums = &mut self.sums[parameter];
        sums.resize(squares.len(), 0.0);
        for (sum, square) in sums.iter_mut().zip(squares) {
            *sum += square;
        }
    }
}

impl<B: Backend + 'static> Training<B> {
    /// Adds the squares of a whole batch to `sums`. Changes nothing that training depends on.
    ///
    /// # Errors
    /// As [`Training::evaluate`]; of [`CurvatureKind::Fisher`], also for gradients as [`Training::step`]. `sums` may
    /// then have some parameters' squares of the batch.
    pub fn add_curvature(
        &mut self,
        batch: Batch<'_>,
        sums: &mut CurvatureSums,
    ) -> Result<(), ModelError> {
        self.network.load_batch(&self.backend, batch, true)?;
        self.ensure_quantized()?;
        sums.sums
            .resize(self.network.parameters().len(), Vec::new());
        match sums.kind {
            CurvatureKind::Fisher => {
                let profiler = &mut Profiler::default();
                let log = &mut self.evaluation_log;
                self.network.forward(&self.backend, log, profiler)?;
                self.network.backward(&self.backend, profiler)?;
            }
            CurvatureKind::Inputs => {
                (self.network).evaluate(&self.backend, &mut self.evaluation_log)?;
            }
        }
        let mut losses = Vec::with_capacity(1);
        self.read_evaluations(&mut losses)?;
        if losses.is_empty() {
            return Err(self.evaluation_error()?);
        }
        match sums.kind {
            CurvatureKind::Fisher => {
                for (index, parameter) in self.network.parameters().iter().enumerate() {
                    let gradient = parameter.gradient(&self.backend)?;
                    if !gradient.iter().all(|value| value.abs() < LARGEST_GRADIENT) {
                        let what = format!("the gradient of layer {}", parameter.spec.name);
                        return Err(ModelError::NotFiniteEvaluation { what });
                    }
                    let squares = gradient.iter().map(|&value| f64::from(value).powi(2));
                    sums.add(index, squares);
                }
            }
            CurvatureKind::Inputs => {
                for (index, means) in self.network.squared_inputs(&self.backend, batch)? {
                    if !means.iter().all(|mean| *mean <= f64::from(f32::MAX)) {
                        let name = &self.network.parameters()[index].spec.name;
                        let what = format!("the square of the inputs of layer {name}");
                        return Err(ModelError::NotFiniteEvaluation { what });
                    }
                    sums.add(index, means.into_iter());
                }
            }
        }
        sums.batches += 1;
        Ok(())
    }

    /// The means over the batches, as tensors with the names and shapes of the parameters.
    #[must_use]
    pub fn curvature(&self, sums: &CurvatureSums) -> Vec<StateTensor> {
        let parameters = self.network.parameters().iter();
        let with_sums = parameters
            .zip(&sums.sums)
            .filter(|(_, sums)| !sums.is_empty());
        let tensors = with_sums.map(|(parameter, values)| {
            let mean = |sum: &f64| (sum / sums.batches as f64) as f32;
            let row: Vec<f32> = values.iter().map(mean).collect();
            let shape = parameter.spec.shape.clone();
            let rows = shape.iter().product::<usize>() / row.len();
            StateTensor {
                name: parameter.spec.name.clone(),
                shape,
                data: StateData::F32(row.repeat(rows)),
            }
        });
        tensors.collect()
    }
}
