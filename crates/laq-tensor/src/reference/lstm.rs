//! The LSTM.

use crate::LstmShape;

/// The activations of an LSTM.
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

/// [`Lstm::lstm_forward`](crate::Lstm::lstm_forward).
pub fn lstm_forward(
    shape: LstmShape,
    tokens: &[u8],
    weight_ih: &[f64],
    weight_hh: &[f64],
    bias: &[f64],
) -> LstmTrace {
    let LstmShape {
        length,
        batch,
        vocabulary,
        hidden: h,
    } = shape;
    let mut trace = LstmTrace {
        gates: vec![0.0; length * batch * 4 * h],
        cells: vec![0.0; length * batch * h],
        hidden: vec![0.0; length * batch * h],
    };
    for time in 0..length {
        for row in time * batch..(time + 1) * batch {
            let token = usize::from(tokens[row]);
            for gate_row in 0..4 * h {
                let mut a = weight_ih[gate_row * vocabulary + token] + bias[gate_row];
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

/// [`Lstm::lstm_backward`](crate::Lstm::lstm_backward).
pub fn lstm_backward(
    shape: LstmShape,
    tokens: &[u8],
    weight_hh: &[f64],
    trace: &LstmTrace,
    hidden_gradient: &[f64],
    clip: f64,
) -> LstmGradientsF64 {
    let LstmShape {
        length,
        batch,
        vocabulary,
        hidden: h,
    } = shape;
    let mut gradients = LstmGradientsF64 {
        weight_ih: vec![0.0; 4 * h * vocabulary],
        weight_hh: vec![0.0; 4 * h * h],
        bias: vec![0.0; 4 * h],
    };
    for sequence in 0..batch {
        let mut from_next = vec![0.0; h];
        let mut dc_next = vec![0.0; h];
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
                let tanh_cell = trace.cells[row * h + k].tanh();
                let dh = hidden_gradient[row * h + k] + from_next[k];
                let dc = dc_next[k] + dh * o * (1.0 - tanh_cell * tanh_cell);
                pre[k] = dc * g * i * (1.0 - i);
                pre[h + k] = dc * before * f * (1.0 - f);
                pre[2 * h + k] = dc * i * (1.0 - g * g);
                pre[3 * h + k] = dh * tanh_cell * o * (1.0 - o);
                dc_next[k] = dc * f;
            }
            from_next.fill(0.0);
            for gate_row in 0..4 * h {
                let a = pre[gate_row].clamp(-clip, clip);
                gradients.bias[gate_row] += a;
                gradients.weight_ih[gate_row * vocabulary + usize::from(tokens[row])] += a;
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
