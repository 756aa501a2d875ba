//! The LSTM, in one of two forms: step by step, a product and a kernel of the gates a time step; or as a sequence, in one kernel
//! for all time steps, whose blocks wait for each other.

use laq_tensor::{BackendError, LstmGradients, LstmParameters, LstmShape};

use super::{CudaBackend, Symbols, THREADS, Tensor, dense, int, long, plain, transposed};
use crate::device::{Argument, Device, Launch, Product};

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
    /// Where the recurrence is in one kernel.
    sequence: Option<Sequence<D>>,
}

/// What blocks that wait for each other need.
#[derive(Debug)]
struct Sequence<D: Device> {
    /// The names of the kernels for this number of cells.
    forward: &'static str,
    backward: &'static str,
    /// Groups of units by slices of sequences.
    grid: [u32; 3],
    /// Two numbers a slice.
    waiting: D::Memory,
    /// What the units of a time step tell those of the one before: 2 × groups × B × H.
    parts: D::Memory,
}

/// Units and sequences of a block, as in `kernels/sequence.cu`.
const UNITS: usize = 16;
const SLICE: usize = 32;

impl<D: Device> Sequence<D> {
    /// None where it is not wanted, and, with a note, where there are no such kernels for the shape or the device has not as
    /// many blocks at the same time.
    fn new(backend: &CudaBackend<D>, shape: LstmShape) -> Result<Option<Self>, BackendError> {
        if !backend.settings.sequences {
            return Ok(None);
        }
        let refused = |why: String| {
            backend.note(format!("the recurrence is done step by step: {why}"));
            Ok(None)
        };
        let LstmShape { batch, hidden, .. } = shape;
        let (forward, backward) = match hidden {
            128 => ("lstm_sequence_128", "lstm_sequence_backward_128"),
            256 => ("lstm_sequence_256", "lstm_sequence_backward_256"),
            512 => ("lstm_sequence_512", "lstm_sequence_backward_512"),
            _ => return refused(format!("no kernel is for {hidden} cells")),
        };
        let (groups, slices) = (hidden / UNITS, batch.div_ceil(SLICE));
        let (needed, possible) = (groups * slices, backend.device.blocks_together());
        if needed > possible {
            return refused(format!(
                "{needed} blocks have to wait for each other, and {possible} can"
            ));
        }
        Ok(Some(Sequence {
            forward,
            backward,
            grid: [groups as u32, slices as u32, 1],
            waiting: backend.device.allocate(8 * slices)?,
            parts: backend.floats(2 * groups * batch * hidden)?,
        }))
    }

    fn launch(
        &self,
        backend: &CudaBackend<D>,
        kernel: &'static str,
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        backend.launch_as(Launch {
            kernel,
            grid: self.grid,
            block: [THREADS, 1, 1],
            arguments,
            together: true,
        })
    }
}

pub(super) fn space<D: Device>(
    backend: &CudaBackend<D>,
    shape: LstmShape,
) -> Result<LstmSpace<D>, BackendError> {
    let LstmShape {
        batch,
        vocabulary: symbols,
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
        sequence: Sequence::new(backend, shape)?,
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
        vocabulary: symbols,
        hidden,
    } = space.shape;
    let rows = space.shape.rows();
    input.assert_bound(symbols);
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
    match &space.sequence {
        Some(sequence) => {
            let arguments = [
                input.into(),
                table.into(),
                weight_hh.into(),
                gates.into(),
                cells.into(),
                states.into(),
                backend.device.address(&sequence.waiting).into(),
                int(length),
                int(batch),
            ];
            sequence.launch(backend, sequence.forward, &arguments)
        }
        None => steps_forward(
            backend,
            space.shape,
            [input, table, gates, cells, states, weight_hh],
        ),
    }
}

/// The recurrence step by step: a product with the states of the step before, and a kernel of the gates.
fn steps_forward<D: Device>(
    backend: &CudaBackend<D>,
    shape: LstmShape,
    [input, table, gates, cells, states, weight_hh]: [u64; 6],
) -> Result<(), BackendError> {
    let LstmShape {
        length,
        batch,
        hidden,
        ..
    } = shape;
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

/// And back: `gates` become the gradients of the pre-activations.
fn steps_backward<D: Device>(
    backend: &CudaBackend<D>,
    shape: LstmShape,
    [gates, cells, state_gradients, carried, weight_hh]: [u64; 5],
    clip: f32,
) -> Result<(), BackendError> {
    let LstmShape {
        length,
        batch,
        hidden,
        ..
    } = shape;
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
        vocabulary: symbols,
        hidden,
    } = space.shape;
    let rows = space.shape.rows();
    input.assert_bound(symbols);
    let input = backend.symbols_at(input, rows);
    let weight_hh = backend.pointer(parameters.weight_hh, 4 * hidden * hidden);
    let states = backend.pointer(hidden_states, rows * hidden);
    let state_gradients = backend.pointer(hidden_gradient, rows * hidden);
    let [gates, cells, carried, hot] = [&space.gates, &space.cells, &space.carried, &space.hot]
        .map(|memory| backend.device.address(memory));
    match &space.sequence {
        Some(sequence) => {
            let arguments = [
                weight_hh.into(),
                gates.into(),
                cells.into(),
                state_gradients.into(),
                backend.device.address(&sequence.parts).into(),
                backend.device.address(&sequence.waiting).into(),
                clip.into(),
                int(length),
                int(batch),
            ];
            sequence.launch(backend, sequence.backward, &arguments)?;
        }
        None => steps_backward(
            backend,
            space.shape,
            [gates, cells, state_gradients, carried, weight_hh],
            clip,
        )?,
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
