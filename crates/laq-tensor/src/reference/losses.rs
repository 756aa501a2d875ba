//! Losses.

use super::dense::positive_part;
use crate::Loss;

/// [`Losses::loss_and_gradient`](crate::Losses::loss_and_gradient).
pub fn loss_and_gradient(loss: Loss, targets: &[u8], outputs: &[f64]) -> (f64, Vec<f64>) {
    match loss {
        Loss::SquaredHinge => squared_hinge(targets, outputs),
        Loss::CrossEntropy => softmax_cross_entropy(targets, outputs),
    }
}

/// [`Loss::CrossEntropy`] and its gradient.
fn softmax_cross_entropy(targets: &[u8], logits: &[f64]) -> (f64, Vec<f64>) {
    let rows = targets.len();
    let classes = logits.len() / rows;
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &target) in logits.chunks_exact(classes).zip(targets) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|y| (y - largest).exp()).sum();
        loss += sum.ln() + largest - row[usize::from(target)];
        for (class, y) in row.iter().enumerate() {
            let one_hot = if class == usize::from(target) {
                1.0
            } else {
                0.0
            };
            gradient.push(((y - largest).exp() / sum - one_hot) / rows as f64);
        }
    }
    (loss / rows as f64, gradient)
}

/// [`Loss::SquaredHinge`] and its gradient.
fn squared_hinge(targets: &[u8], outputs: &[f64]) -> (f64, Vec<f64>) {
    let classes = outputs.len() / targets.len();
    let count = outputs.len() as f64;
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(outputs.len());
    for (at, y) in outputs.iter().enumerate() {
        let is_target = usize::from(targets[at / classes]) == at % classes;
        let t = if is_target { 1.0 } else { -1.0 };
        let margin = positive_part(1.0 - t * y);
        loss += margin * margin / count;
        gradient.push(-2.0 * t * margin / count);
    }
    (loss, gradient)
}

/// [`Losses::evaluate_outputs`](crate::Losses::evaluate_outputs) of one row per target: mean loss
/// and misclassified rows.
pub fn evaluate_outputs(loss: Loss, targets: &[u8], outputs: &[f64], classes: usize) -> (f64, u64) {
    let outputs = &outputs[..targets.len() * classes];
    let (mean, _) = loss_and_gradient(loss, targets, outputs);
    let rows = outputs.chunks_exact(classes).zip(targets);
    let wrong = rows.filter(|(row, target)| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().position(|&output| output == largest) != Some(usize::from(**target))
    });
    (mean, wrong.count() as u64)
}
