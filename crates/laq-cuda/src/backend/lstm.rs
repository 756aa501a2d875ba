//! The LSTM: a product and a kernel of the gates a time step.

use laq_tensor::{BackendError, LstmGradients, LstmParameters, LstmShape};

use super::{CudaBackend, Symbols, Tensor, dense, int, long, plain, transposed};
use crate::device::{Device, Product};

/// What an LSTM keeps and works in.
#[derive(Debug)]
pub struct LstmSpace<D: Device> {
    shape: LstmShape,
    /// V × 4H: what each symbol adds to the gates.
    table: D::Memory,
    /// T·B × 4H: activations, and then gradients of pre-activations.
    gates: D::Memory,
    /// T·B × H.
    cells: D::Memory,
    /// B × H.
    carried: D::Memory,
    /// T·B × V.
    hot: D::Memory,
}

pub(super) fn space<D: Device>(
    backend: &CudaBackend<D>,
    shape: LstmShape,
) -> Result<LstmSpace<D>, BackendError> {
    let LstmShape {
        batch,
        symbols,
        hidden,
        ..
    } = shape;
    let rows = shape.rows();
    Ok(LstmSpace {
        shape,
        table: backend.floats(symbols * 4 * hidden)?,
        gates: backend.floats(rows * 4 * hidden)?,
        cells: backend.floats(rows * hidden)?,
        carried: backend.floats(batch * hidden)?,
        hot: backend.floats(rows * symbols)?,
    })
}

pub(super) fn forward<D: Device>(
    backend: &CudaBackend<D>,
    input: &Symbols<D>,
    parameters: LstmParameters<'_, Tensor<D>>,
    space: &mut LstmSpace<D>,
    hidden_states: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let LstmShape {
        length,
        batch,
        symbols,
        hidden,
    } = space.shape;
    let rows = space.shape.rows();
    let input = backend.symbols_at(input, rows);
    let weight_ih = backend.pointer(parameters.weight_ih, 4 * hidden * symbols);
    let weight_hh = backend.pointer(parameters.weight_hh, 4 * hidden * hidden);
    let bias = backend.pointer(parameters.bias, 4 * hidden);
    let states = backend.pointer(hidden_states, rows * hidden);
    let [table, gates, cells] =
        [&space.table, &space.gates, &space.cells].map(|memory| backend.device.address(memory));
    backend.each(
        "lstm_table",
        symbols * 4 * hidden,
        &[
            weight_ih.into(),
            bias.into(),
            table.into(),
            int(symbols),
            int(4 * hidden),
        ],
    )?;
    for time in 0..length {
        let Step {
            gates,
            cell,
            state,
            before,
        } = Step::at(time, batch, hidden, [gates, cells, states]);
        if time > 0 {
            backend.multiply(Product {
                m: batch,
                n: 4 * hidden,
                k: hidden,
                a: plain(before.state),
                b: transposed(weight_hh),
                c: gates,
                add: false,
            })?;
        }
        backend.each(
            "lstm_cell",
            batch * hidden,
            &[
                (input + (time * batch) as u64).into(),
                table.into(),
                gates.into(),
                before.cell.into(),
                cell.into(),
                state.into(),
                int(batch),
                int(hidden),
                (time == 0).into(),
            ],
        )?;
    }
    Ok(())
}

pub(super) fn backward<D: Device>(
    backend: &CudaBackend<D>,
    input: &Symbols<D>,
    parameters: LstmParameters<'_, Tensor<D>>,
    hidden_states: &Tensor<D>,
    hidden_gradient: &mut Tensor<D>,
    clip: f32,
    space: &mut LstmSpace<D>,
    gradients: LstmGradients<'_, Tensor<D>>,
) -> Result<(), BackendError> {
    let LstmShape {
        length,
        batch,
        symbols,
        hidden,
    } = space.shape;
    let rows = space.shape.rows();
    let input = backend.symbols_at(input, rows);
    let weight_hh = backend.pointer(parameters.weight_hh, 4 * hidden * hidden);
    let states = backend.pointer(hidden_states, rows * hidden);
    let state_gradients = backend.pointer(hidden_gradient, rows * hidden);
    let [gates, cells, carried, hot] = [&space.gates, &space.cells, &space.carried, &space.hot]
        .map(|memory| backend.device.address(memory));
    for time in (0..length).rev() {
        let step = Step::at(time, batch, hidden, [gates, cells, state_gradients]);
        if time + 1 < length {
            backend.multiply(Product {
                m: batch,
                n: hidden,
                k: 4 * hidden,
                a: plain(step.gates + (batch * 4 * hidden * 4) as u64),
                b: plain(weight_hh),
                c: step.state,
                add: true,
            })?;
        }
        backend.each(
            "lstm_cell_backward",
            batch * hidden,
            &[
                step.gates.into(),
                step.before.cell.into(),
                step.cell.into(),
                step.state.into(),
                carried.into(),
                clip.into(),
                int(batch),
                int(hidden),
                (time == 0).into(),
                (time + 1 == length).into(),
            ],
        )?;
    }
    // ∂W_h = Σ_t (∂a_t)ᵀ h_{t−1}; h before the first step is zero.
    let weight_hh_gradient = backend.pointer(gradients.weight_hh, 4 * hidden * hidden);
    let later = rows - batch;
    if later == 0 {
        let arguments = [
            weight_hh_gradient.into(),
            long(4 * hidden * hidden),
            0.0f32.into(),
        ];
        backend.each("fill", 4 * hidden * hidden, &arguments)?;
    } else {
        backend.multiply(Product {
            m: 4 * hidden,
            n: hidden,
            k: later,
            a: transposed(gates + (batch * 4 * hidden * 4) as u64),
            b: plain(states),
            c: weight_hh_gradient,
            add: false,
        })?;
    }
    let arguments = [input.into(), hot.into(), long(rows * symbols), int(symbols)];
    backend.each("one_hot", rows * symbols, &arguments)?;
    backend.multiply(Product {
        m: 4 * hidden,
        n: symbols,
        k: rows,
        a: transposed(gates),
        b: plain(hot),
        c: backend.pointer(gradients.weight_ih, 4 * hidden * symbols),
        add: false,
    })?;
    let of_bias = backend.pointer(gradients.bias, 4 * hidden);
    dense::sum_columns(backend, gates, rows, 4 * hidden, of_bias)
}

/// Where the numbers of one time step are.
struct Step {
    gates: u64,
    cell: u64,
    state: u64,
    before: Before,
}

/// Where those of the step before are; at the first step nobody looks there.
struct Before {
    cell: u64,
    state: u64,
}

impl Step {
    fn at(time: usize, batch: usize, hidden: usize, [gates, cells, states]: [u64; 3]) -> Self {
        let bytes = |time: usize, numbers: usize| (time * batch * numbers * 4) as u64;
        let earlier = time.saturating_sub(1);
        Step {
            gates: gates + bytes(time, 4 * hidden),
            cell: cells + bytes(time, hidden),
            state: states + bytes(time, hidden),
            before: Before {
                cell: cells + bytes(earlier, hidden),
                state: states + bytes(earlier, hidden),
            },
        }
    }
}
