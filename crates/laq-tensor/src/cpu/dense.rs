//! The dense layer, its loss, and Adam: what is not the recurrence.

use rayon::prelude::*;

use super::gemm::{Matrix, gemm};
use super::kernel::{Kernel, for_each_set};
use super::math;
use crate::{AdamSettings, DenseShape, Loss};

pub(crate) fn forward(
    kernel: Kernel,
    shape: DenseShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    if let Some(bias) = bias {
        assert_eq!(bias.len(), outputs);
        fill_rows(bias, output);
    }
    let weight = Matrix::new(weight, outputs, inputs).transposed();
    gemm(
        kernel,
        Matrix::new(input, rows, inputs),
        weight,
        bias.is_some(),
        output,
    );
}

pub(crate) fn backward(
    kernel: Kernel,
    shape: DenseShape,
    input: &[f32],
    weight: &[f32],
    output_gradient: &[f32],
    input_gradient: Option<&mut [f32]>,
    weight_gradient: &mut [f32],
    bias_gradient: Option<&mut [f32]>,
) {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let gradient = Matrix::new(output_gradient, rows, outputs);
    if let Some(input_gradient) = input_gradient {
        let weight = Matrix::new(weight, outputs, inputs);
        gemm(kernel, gradient, weight, false, input_gradient);
    }
    gemm(
        kernel,
        gradient.transposed(),
        Matrix::new(input, rows, inputs),
        false,
        weight_gradient,
    );
    if let Some(bias_gradient) = bias_gradient {
        column_sums(output_gradient, bias_gradient);
    }
}

/// Writes the same row into all of a matrix.
pub(crate) fn fill_rows(row: &[f32], matrix: &mut [f32]) {
    matrix
        .par_chunks_exact_mut(row.len())
        .for_each(|target| target.copy_from_slice(row));
}

/// The sum of each column of a matrix with as many columns as there are sums.
pub(crate) fn column_sums(matrix: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    // Sixteen columns are one cache line of every row.
    sums.par_chunks_mut(16)
        .enumerate()
        .for_each(|(chunk, sums)| {
            let mut wide = [0.0f64; 16];
            for row in matrix.chunks_exact(columns) {
                for (sum, &value) in wide.iter_mut().zip(&row[chunk * 16..]) {
                    *sum += f64::from(value);
                }
            }
            for (sum, wide) in sums.iter_mut().zip(wide) {
                *sum = wide as f32;
            }
        });
}

/// Numbers that a thread works on at once, where each stands for itself.
const CHUNK: usize = 1 << 15;

pub(crate) fn relu(values: &mut [f32]) {
    values.par_chunks_mut(CHUNK).for_each(|values| {
        for value in values {
            // Unlike max, this keeps a NaN.
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    });
}

pub(crate) fn relu_backward(output: &[f32], gradient: &mut [f32]) {
    assert_eq!(output.len(), gradient.len());
    let chunks = output.par_chunks(CHUNK).zip(gradient.par_chunks_mut(CHUNK));
    chunks.for_each(|(output, gradient)| {
        for (gradient, &output) in gradient.iter_mut().zip(output) {
            *gradient = if output > 0.0 { *gradient } else { 0.0 };
        }
    });
}

/// A loss of a few thousand numbers: one thread, in order.
pub(crate) fn squared_hinge(targets: &[u8], outputs: &mut [f32]) -> f64 {
    let rows = targets.len();
    if rows == 0 {
        return 0.0;
    }
    let count = outputs.len();
    assert_eq!(count % rows, 0);
    let classes = count / rows;
    let mut sum = 0.0;
    for (row, &target) in outputs.chunks_exact_mut(classes).zip(targets) {
        assert!(usize::from(target) < classes);
        for (class, y) in row.iter_mut().enumerate() {
            let t = if class == usize::from(target) {
                1.0
            } else {
                -1.0
            };
            let missing = 1.0 - t * f64::from(*y);
            // Unlike max, this keeps a NaN.
            let missing = if missing < 0.0 { 0.0 } else { missing };
            sum += missing * missing;
            *y = (-2.0 * t * missing / count as f64) as f32;
        }
    }
    sum / count as f64
}

/// The mean loss of the first rows of `outputs`, which has `rows` of them, one for each target, and how many have the
/// output of another class as their largest (of equal ones the first counts).
pub(crate) fn evaluate(loss: Loss, targets: &[u8], rows: usize, outputs: &[f32]) -> (f64, u64) {
    let classes = outputs.len() / rows;
    let (mut sum, mut errors) = (0.0, 0);
    for (row, &target) in outputs.chunks_exact(classes).zip(targets) {
        let target = usize::from(target);
        let mut largest = 0;
        for (class, &output) in row.iter().enumerate() {
            if output > row[largest] {
                largest = class;
            }
        }
        errors += u64::from(largest != target);
        let wide = |output: f32| f64::from(output);
        sum += match loss {
            Loss::SquaredHinge => {
                let hinge = row.iter().enumerate().map(|(class, &output)| {
                    let t = if class == target { 1.0 } else { -1.0 };
                    let missing = 1.0 - t * wide(output);
                    // Unlike max, this keeps a NaN.
                    if missing < 0.0 {
                        0.0
                    } else {
                        missing * missing
                    }
                });
                hinge.sum::<f64>() / classes as f64
            }
            Loss::CrossEntropy => {
                let top = wide(row[largest]);
                let sum: f64 = row.iter().map(|&output| (wide(output) - top).exp()).sum();
                sum.ln() + top - wide(row[target])
            }
        };
    }
    (sum / targets.len() as f64, errors)
}

/// The index of the first NaN or infinity.
pub(crate) fn first_not_finite(kernel: Kernel, values: &[f32]) -> Option<usize> {
    let chunk = values
        .par_chunks(CHUNK)
        .position_first(|values| !all_finite(kernel, values))?;
    let start = chunk * CHUNK;
    let place = values[start..]
        .iter()
        .position(|value| !value.is_finite())?;
    Some(start + place)
}

for_each_set! {
    /// All exponents are below the one of NaN and infinity.
    fn all_finite(values: &[f32]) -> bool {
        let largest = values.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff));
        largest < f32::INFINITY.to_bits()
    }
}

/// Chunks of rows whose losses are summed apart and then in order: the same bits with any number
/// of threads.
const LOSS_CHUNKS: usize = 128;

pub(crate) fn softmax_cross_entropy(kernel: Kernel, targets: &[u8], logits: &mut [f32]) -> f64 {
    let rows = targets.len();
    if rows == 0 {
        return 0.0;
    }
    assert_eq!(logits.len() % rows, 0);
    let classes = logits.len() / rows;
    assert!(targets.iter().all(|&target| usize::from(target) < classes));
    let chunk = rows.div_ceil(LOSS_CHUNKS);
    let mut sums = [0.0f64; LOSS_CHUNKS];
    logits
        .par_chunks_mut(chunk * classes)
        .zip(targets.par_chunks(chunk))
        .zip(sums.par_iter_mut())
        .for_each(|((logits, targets), sum)| {
            for (row, &target) in logits.chunks_exact_mut(classes).zip(targets) {
                *sum += softmax_row(kernel, row, usize::from(target), 1.0 / rows as f32);
            }
        });
    sums.iter().sum::<f64>() / rows as f64
}

for_each_set! {
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

pub(crate) fn adam(
    kernel: Kernel,
    adam: AdamSettings,
    step_size: f64,
    clip: Option<f32>,
    gradient: &[f32],
    weight: &mut [f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
) {
    assert!(
        gradient.len() == weight.len()
            && first_moment.len() == weight.len()
            && second_moment.len() == weight.len()
    );
    weight
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first_moment.par_chunks_mut(CHUNK))
        .zip(second_moment.par_chunks_mut(CHUNK))
        .for_each(|(((weight, gradient), first), second)| {
            adam_chunk(
                kernel, adam, step_size, clip, gradient, weight, first, second,
            );
        });
}

for_each_set! {
    fn adam_chunk(
        adam: AdamSettings, step_size: f64, clip: Option<f32>, gradient: &[f32], weight: &mut [f32], first: &mut [f32], second: &mut [f32],
    ) {
        let n = weight.len();
        let (gradient, first, second) = (&gradient[..n], &mut first[..n], &mut second[..n]);
        let (beta1, beta2) = (adam.beta1 as f32, adam.beta2 as f32);
        let (rest1, rest2) = ((1.0 - adam.beta1) as f32, (1.0 - adam.beta2) as f32);
        let (size, epsilon) = (step_size as f32, adam.epsilon as f32);
        let limit = clip.unwrap_or(f32::INFINITY);
        for j in 0..n {
            let g = gradient[j];
            first[j] = beta1 * first[j] + rest1 * g;
            second[j] = beta2 * second[j] + rest2 * (g * g);
            let moved = weight[j] - size * first[j] / (second[j].sqrt() + epsilon);
            weight[j] = moved.clamp(-limit, limit);
        }
    }
}
