//! Losses, their gradients, and the evaluation of outputs.

use rayon::prelude::*;

use super::CpuBackend;

use super::memory::Buffer;
use super::steps::StepLog;
use crate::{BackendError, Loss, Losses};
use laq_simd::{Isa, math, multiversion};

impl Losses for CpuBackend {
    fn loss_and_gradient(
        &self,
        loss: Loss,
        targets: &Buffer<u8>,
        outputs: &mut Buffer<f32>,
        log: &mut StepLog,
    ) -> Result<(), BackendError> {
        let classes = classes(targets, outputs);
        let (targets, outputs) = (targets.indices_below(classes), outputs.as_mut_slice());
        log.add_loss(match (loss, targets.len()) {
            (_, 0) => 0.0,
            (Loss::SquaredHinge, _) => squared_hinge(targets, outputs),
            (Loss::CrossEntropy, _) => softmax_cross_entropy(self.isa, targets, outputs),
        });
        Ok(())
    }

    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Buffer<u8>,
        outputs: &Buffer<f32>,
        log: &mut StepLog,
    ) -> Result<(), BackendError> {
        let classes = classes(targets, outputs);
        let targets = &targets.indices_below(classes)[..rows];
        let (mut sum, mut errors) = (0.0, 0);
        for (row, &target) in outputs.as_slice().chunks_exact(classes).zip(targets) {
            let target = usize::from(target);
            let mut argmax = 0;
            for (class, &output) in row.iter().enumerate() {
                if output > row[argmax] {
                    argmax = class;
                }
            }
            errors += u64::from(argmax != target);
            sum += match loss {
                Loss::SquaredHinge => {
                    let hinge = row.iter().enumerate();
                    let hinge = hinge.map(|(class, &y)| margin(y, class == target).1.powi(2));
                    hinge.sum::<f64>() / classes as f64
                }
                Loss::CrossEntropy => {
                    let largest = f64::from(row[argmax]);
                    let terms = row.iter().map(|&y| (f64::from(y) - largest).exp());
                    terms.sum::<f64>().ln() + largest - f64::from(row[target])
                }
            };
        }
        log.count_errors(errors);
        log.add_loss(sum / rows as f64);
        Ok(())
    }
}

/// N of outputs R × N with one target per row.
fn classes(targets: &Buffer<u8>, outputs: &Buffer<f32>) -> usize {
    let rows = targets.len();
    if rows == 0 {
        return targets.bound();
    }
    assert_eq!(outputs.len() % rows, 0);
    outputs.len() / rows
}

/// t and max(0, 1 − t·y), and what is not finite for such a y.
fn margin(y: f32, is_target: bool) -> (f64, f64) {
    let t = if is_target { 1.0 } else { -1.0 };
    let margin = 1.0 - t * f64::from(y);
    (
        t,
        if margin < 0.0 && margin.is_finite() {
            0.0
        } else {
            margin
        },
    )
}

/// One thread, in order: there are a few thousand outputs.
fn squared_hinge(targets: &[u8], outputs: &mut [f32]) -> f64 {
    let count = outputs.len();
    let mut sum = 0.0;
    for (row, &target) in outputs.chunks_exact_mut(count / targets.len()).zip(targets) {
        for (class, y) in row.iter_mut().enumerate() {
            let (t, margin) = margin(*y, class == usize::from(target));
            sum += margin * margin;
            *y = (-2.0 * t * margin / count as f64) as f32;
        }
    }
    sum / count as f64
}

/// Chunks of rows whose losses are summed separately and then in order: the result has the same
/// bits for any number of threads.
const LOSS_CHUNKS: usize = 128;

fn softmax_cross_entropy(isa: Isa, targets: &[u8], logits: &mut [f32]) -> f64 {
    let rows = targets.len();
    let classes = logits.len() / rows;
    let chunk = rows.div_ceil(LOSS_CHUNKS);
    let mut sums = [0.0f64; LOSS_CHUNKS];
    logits
        .par_chunks_mut(chunk * classes)
        .zip(targets.par_chunks(chunk))
        .zip(sums.par_iter_mut())
        .for_each(|((logits, targets), sum)| {
            for (row, &target) in logits.chunks_exact_mut(classes).zip(targets) {
                *sum += softmax_row(isa, row, usize::from(target), 1.0 / rows as f32);
            }
        });
    sums.iter().sum::<f64>() / rows as f64
}

multiversion! {
    /// −log softmax(y)[target]; y becomes (softmax(y) − onehot)·weight.
    fn softmax_row(row: &mut [f32], target: usize, weight: f32) -> f64 {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let of_target = f64::from(row[target]) - f64::from(largest);
        for value in row.iter_mut() {
            *value = math::exp(*value - largest);
        }
        let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
        let factor = (f64::from(weight) / sum) as f32;
        for value in row.iter_mut() {
            *value *= factor;
        }
        row[target] -= weight;
        sum.ln() - of_target
    }
}
