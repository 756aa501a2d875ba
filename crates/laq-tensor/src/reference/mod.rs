//! Every operation once more, in f64 and in plain loops: slow, and right at a glance.
//!
//! Backends are compared with these functions by [`conformance`](crate::conformance); their own
//! backward passes are checked by finite differences in this crate's tests. Arguments and shapes
//! are those of [`Backend`](crate::Backend).

mod convolution;
mod feedforward;

use crate::{AdamSettings, DenseShape, Loss, LstmShape};
pub use convolution::*;
pub use feedforward::*;

/// What the forward pass of an LSTM leaves behind.
#[derive(Clone, Debug)]
pub struct LstmTrace {
    /// T·B × 4H: i, f, g, o after their activation functions.
    pub gates: Vec<f64>,
    /// T·B × H: `c_t`.
    pub cells: Vec<f64>,
    /// T·B × H: `h_t`.
    pub hidden: Vec<f64>,
}

/// The gradients of an LSTM's weights.
#[derive(Clone, Debug)]
pub struct LstmGradientsF64 {
    /// ∂L/∂`W_x`, 4H × V.
    pub weight_ih: Vec<f64>,
    /// ∂L/∂`W_h`, 4H × H.
    pub weight_hh: Vec<f64>,
    /// ∂L/∂b, 4H.
    pub bias: Vec<f64>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// [`Backend::lstm_forward`](crate::Backend::lstm_forward).
pub fn lstm_forward(
    shape: LstmShape,
    input: &[u8],
    weight_ih: &[f64],
    weight_hh: &[f64],
    bias: &[f64],
) -> LstmTrace {
    let LstmShape {
        length,
        batch,
        symbols,
        hidden: h,
    } = shape;
    let mut trace = LstmTrace {
        gates: vec![0.0; length * batch * 4 * h],
        cells: vec![0.0; length * batch * h],
        hidden: vec![0.0; length * batch * h],
    };
    for time in 0..length {
        for row in time * batch..(time + 1) * batch {
            let symbol = usize::from(input[row]);
            for gate_row in 0..4 * h {
                let mut a = weight_ih[gate_row * symbols + symbol] + bias[gate_row];
                if time > 0 {
                    for k in 0..h {
                        a += weight_hh[gate_row * h + k] * trace.hidden[(row - batch) * h + k];
                    }
                }
                let is_candidate = gate_row / h == 2;
                trace.gates[row * 4 * h + gate_row] =
                    if is_candidate { a.tanh() } else { sigmoid(a) };
            }
            for k in 0..h {
                let gate = |block: usize| trace.gates[row * 4 * h + block * h + k];
                let before = if time > 0 {
                    trace.cells[(row - batch) * h + k]
                } else {
                    0.0
                };
                let cell = gate(1) * before + gate(0) * gate(2);
                trace.hidden[row * h + k] = gate(3) * cell.tanh();
                trace.cells[row * h + k] = cell;
            }
        }
    }
    trace
}

/// [`Backend::lstm_backward`](crate::Backend::lstm_backward).
pub fn lstm_backward(
    shape: LstmShape,
    input: &[u8],
    weight_hh: &[f64],
    trace: &LstmTrace,
    hidden_gradient: &[f64],
    clip: f64,
) -> LstmGradientsF64 {
    let LstmShape {
        length,
        batch,
        symbols,
        hidden: h,
    } = shape;
    let mut gradients = LstmGradientsF64 {
        weight_ih: vec![0.0; 4 * h * symbols],
        weight_hh: vec![0.0; 4 * h * h],
        bias: vec![0.0; 4 * h],
    };
    for sequence in 0..batch {
        let mut from_next = vec![0.0; h];
        let mut carried = vec![0.0; h];
        for time in (0..length).rev() {
            let row = time * batch + sequence;
            let mut pre = vec![0.0; 4 * h];
            for k in 0..h {
                let gate = |block: usize| trace.gates[row * 4 * h + block * h + k];
                let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
                let before = if time > 0 {
                    trace.cells[(row - batch) * h + k]
                } else {
                    0.0
                };
                let shown = trace.cells[row * h + k].tanh();
                let dh = hidden_gradient[row * h + k] + from_next[k];
                let dc = carried[k] + dh * o * (1.0 - shown * shown);
                pre[k] = dc * g * i * (1.0 - i);
                pre[h + k] = dc * before * f * (1.0 - f);
                pre[2 * h + k] = dc * i * (1.0 - g * g);
                pre[3 * h + k] = dh * shown * o * (1.0 - o);
                carried[k] = dc * f;
            }
            from_next.fill(0.0);
            for gate_row in 0..4 * h {
                let a = pre[gate_row].clamp(-clip, clip);
                gradients.bias[gate_row] += a;
                gradients.weight_ih[gate_row * symbols + usize::from(input[row])] += a;
                for k in 0..h {
                    from_next[k] += weight_hh[gate_row * h + k] * a;
                    if time > 0 {
                        gradients.weight_hh[gate_row * h + k] +=
                            a * trace.hidden[(row - batch) * h + k];
                    }
                }
            }
        }
    }
    gradients
}

/// [`Backend::dense_forward`](crate::Backend::dense_forward).
pub fn dense_forward(shape: DenseShape, input: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let mut output = Vec::with_capacity(rows * outputs);
    for r in 0..rows {
        for n in 0..outputs {
            let products = (0..inputs).map(|k| input[r * inputs + k] * weight[n * inputs + k]);
            output.push(bias[n] + products.sum::<f64>());
        }
    }
    output
}

/// [`Backend::dense_backward`](crate::Backend::dense_backward): gradients of input, weight, bias.
pub fn dense_backward(
    shape: DenseShape,
    input: &[f64],
    weight: &[f64],
    output_gradient: &[f64],
) -> [Vec<f64>; 3] {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let mut of_input = vec![0.0; rows * inputs];
    let mut of_weight = vec![0.0; outputs * inputs];
    let mut of_bias = vec![0.0; outputs];
    for r in 0..rows {
        for n in 0..outputs {
            let gradient = output_gradient[r * outputs + n];
            of_bias[n] += gradient;
            for k in 0..inputs {
                of_input[r * inputs + k] += gradient * weight[n * inputs + k];
                of_weight[n * inputs + k] += gradient * input[r * inputs + k];
            }
        }
    }
    [of_input, of_weight, of_bias]
}

/// [`Backend::softmax_cross_entropy`](crate::Backend::softmax_cross_entropy): loss and gradient.
pub fn softmax_cross_entropy(targets: &[u8], logits: &[f64]) -> (f64, Vec<f64>) {
    let rows = targets.len();
    let classes = logits.len() / rows;
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &target) in logits.chunks_exact(classes).zip(targets) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|y| (y - largest).exp()).sum();
        loss += sum.ln() + largest - row[usize::from(target)];
        for (class, y) in row.iter().enumerate() {
            let hit = if class == usize::from(target) {
                1.0
            } else {
                0.0
            };
            gradient.push(((y - largest).exp() / sum - hit) / rows as f64);
        }
    }
    (loss / rows as f64, gradient)
}

/// [`Backend::evaluate_outputs`](crate::Backend::evaluate_outputs): mean loss and wrong answers of one row for each target.
pub fn evaluate_outputs(loss: Loss, targets: &[u8], outputs: &[f64], classes: usize) -> (f64, u64) {
    let outputs = &outputs[..targets.len() * classes];
    let (mean, _) = match loss {
        Loss::SquaredHinge => squared_hinge(targets, outputs),
        Loss::CrossEntropy => softmax_cross_entropy(targets, outputs),
    };
    let rows = outputs.chunks_exact(classes).zip(targets);
    let wrong = rows.filter(|(row, target)| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().position(|&output| output == largest) != Some(usize::from(**target))
    });
    (mean, wrong.count() as u64)
}

/// [`Backend::update`](crate::Backend::update).
pub fn adam(
    adam: AdamSettings,
    step_size: f64,
    clip: Option<f32>,
    gradient: &[f64],
    weight: &mut [f64],
    m: &mut [f64],
    v: &mut [f64],
) {
    for j in 0..weight.len() {
        let g = gradient[j];
        m[j] = adam.beta1 * m[j] + (1.0 - adam.beta1) * g;
        v[j] = adam.beta2 * v[j] + (1.0 - adam.beta2) * g * g;
        weight[j] -= step_size * m[j] / (v[j].sqrt() + adam.epsilon);
        if let Some(limit) = clip {
            weight[j] = weight[j].clamp(-f64::from(limit), f64::from(limit));
        }
    }
}
