//! Quantization by every method, against the solvers of `laq-solvers`.

use laq_solvers::{CURVATURE_FLOOR, Groups, Method, Problem, Quantizer, Scale, Workspace};

use super::{ADAM, Check, Suite};
use crate::{Backend, BackendError, QuantizeJob, Tensor, reference};

/// A parameter on the device, and its expected state.
struct Matrix<B: Backend> {
    groups: Groups,
    quantizer: B::Quantizer,
    quantized: Tensor<B>,
    latent: Tensor<B>,
    second_moment: Tensor<B>,
    weights: Vec<f32>,
    curvature: Vec<f32>,
    levels: Vec<i8>,
    scales: Vec<Option<Scale>>,
    moments: Vec<[f64; 4]>,
}

impl<B: Backend> Matrix<B> {
    /// The quantized weights, the gradient of the latent weights and the next state, computed by
    /// the solver itself.
    fn expect(
        &mut self,
        solver: &Quantizer,
        gradient: &mut [f32],
        step_size: f64,
    ) -> Result<Vec<f32>, BackendError> {
        let mut quantized = vec![0.0f32; self.weights.len()];
        let mut workspace = Workspace::default();
        for (group, range) in self.groups.ranges().enumerate() {
            let failed = |source| BackendError::Solve {
                parameter: 0,
                group,
                source,
            };
            let weights = &self.weights[range.clone()];
            let problem =
                Problem::new(weights, Some(&self.curvature[range.clone()])).map_err(failed)?;
            let levels = &mut self.levels[range.clone()];
            let solution = solver
                .solve(problem, self.scales[group], levels, &mut workspace)
                .map_err(failed)?;
            let mut scale = solution.scale;
            solver
                .codebook()
                .decode(levels, scale, &mut quantized[range.clone()]);
            let gradient = &mut gradient[range];
            let of_scale = solver.scale_gradient(levels, gradient);
            solver.latent_gradient(weights, scale, levels, gradient);
            if let (Some(of_scale), Scale::Two { positive, negative }) = (of_scale, &mut scale) {
                let mut values = [f64::from(*positive), f64::from(*negative)];
                let (m, v) = self.moments[group].split_at_mut(2);
                reference::adam(ADAM, step_size, None, &of_scale, &mut values, m, v);
                (*positive, *negative) = (values[0] as f32, values[1] as f32);
            }
            self.scales[group] = Some(scale);
        }
        Ok(quantized)
    }
}

impl<B: Backend> Suite<'_, B> {
    /// Three iterations with moving weights, which cover warm starts and trained scales, of several
    /// parameters in one call.
    pub(super) fn quantize(
        &mut self,
        method: &Method,
        solver: &Quantizer,
        layouts: &[Groups],
    ) -> Result<(), BackendError> {
        let backend = self.backend;
        let mut workspace = B::QuantizeWorkspace::default();
        let mut log = backend.step_log()?;
        let mut matrices = Vec::new();
        for &groups in layouts {
            let count = groups.weights();
            matrices.push(Matrix::<B> {
                groups,
                quantizer: backend.quantizer(method, groups)?,
                quantized: backend.zeros(&[count])?,
                latent: backend.zeros(&[count])?,
                second_moment: backend.zeros(&[count])?,
                weights: self.uniform(count, 0.5).iter().map(|&w| w as f32).collect(),
                curvature: Vec::new(),
                levels: vec![0; count],
                scales: vec![None; groups.count()],
                moments: vec![[0.0; 4]; groups.count()],
            });
        }
        for iteration in 1..=3u64 {
            let mut gradients = Vec::new();
            for matrix in &mut matrices {
                let count = matrix.weights.len();
                let moved = self.uniform(count, 0.05);
                for (w, by) in matrix.weights.iter_mut().zip(moved) {
                    *w += by as f32;
                }
                let second: Vec<f32> = (self.uniform(count, 1.0).iter())
                    .map(|v| (v * v * 1e-4) as f32)
                    .collect();
                matrix.curvature = (second.iter())
                    .map(|v| v.sqrt() + CURVATURE_FLOOR)
                    .collect();
                gradients.push(self.uniform(count, 1.0));
                // A kept state goes on like the quantizer that it was taken from.
                let kept = backend.quantizer_save(&matrix.quantizer)?;
                matrix.quantizer = backend.quantizer(method, matrix.groups)?;
                backend.quantizer_load(&kept, &mut matrix.quantizer, &mut matrix.quantized)?;
                let wide =
                    |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                matrix.latent = self.tensor(&wide(&matrix.weights))?;
                matrix.second_moment = self.tensor(&wide(&second))?;
            }
            let step_size = ADAM.step_size(0.01, iteration);
            backend.set_step_size(step_size, &mut log)?;
            let mut jobs = matrices.iter_mut().map(|matrix| QuantizeJob {
                latent: &matrix.latent,
                second_moment: &matrix.second_moment,
                quantizer: &mut matrix.quantizer,
                quantized: &mut matrix.quantized,
            });
            backend.quantize(&mut jobs, &mut workspace, &mut log)?;
            for (number, (matrix, gradient)) in matrices.iter_mut().zip(&gradients).enumerate() {
                let mut of_latent = self.tensor(gradient)?;
                backend.quantizer_backward(
                    &matrix.latent,
                    &mut matrix.quantizer,
                    &mut of_latent,
                )?;
                backend.quantizer_update(ADAM, &log, &mut matrix.quantizer)?;
                let mut expected_gradient: Vec<f32> = gradient.iter().map(|&g| g as f32).collect();
                let expected = matrix.expect(solver, &mut expected_gradient, step_size)?;
                let wide =
                    |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                let name = |what: &str| {
                    format!("quantize {method} parameter {number} iteration {iteration}: {what}")
                };
                self.compare(name("quantized"), &matrix.quantized, &wide(&expected), 1e-6)?;
                self.compare(
                    name("latent gradient"),
                    &of_latent,
                    &wide(&expected_gradient),
                    1e-6,
                )?;
            }
        }
        for (number, matrix) in matrices.iter().enumerate() {
            let kept = backend.quantizer_save(&matrix.quantizer)?;
            let scales_of_group = kept.scales.len() / matrix.groups.count();
            let mut different = 0;
            for (group, scale) in matrix.scales.iter().enumerate() {
                let [expected, _] = scale.map_or([0.0; 2], Scale::pair);
                let found = kept.scales[group * scales_of_group];
                // Some problems have two optima: with power-of-two levels, twice the scale with all
                // levels one lower. Those are compared by their quantized weights only.
                if (found - expected).abs() > 1e-3 * expected {
                    continue;
                }
                let range = matrix.groups.range(group);
                let pairs = (kept.levels[range.clone()].iter()).zip(&matrix.levels[range]);
                different += pairs.filter(|(a, b)| a != b).count();
            }
            self.checks.push(Check {
                name: format!("quantize {method} parameter {number}: levels"),
                error: different as f64,
                tolerance: 0.0,
            });
        }
        Ok(())
    }
}
