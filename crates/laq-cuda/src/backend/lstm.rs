//! The LSTM, in one of two forms: a product and a kernel of the gates per time step, or one
//! cooperative kernel for all time steps.

use laq_tensor::{BackendError, Lstm, LstmGradients, LstmParameters, LstmShape};

use super::{CudaBackend, check_bound, plain, transposed};
use crate::buffer::{Buffer, Slice, SliceMut};
use crate::device::Device;
use crate::kernels;
use crate::layout::{SEQUENCES, UNITS};

/// Activations kept from forward to backward, and scratch.
#[derive(Debug)]
pub struct LstmWorkspace<D: Device> {
    shape: LstmShape,
    /// V × 4H: the contribution of each token to the pre-activations.
    table: Buffer<D, f32>,
    /// T·B × 4H: activations, then gradients of the pre-activations.
    gates: Buffer<D, f32>,
    /// T·B × H.
    cells: Buffer<D, f32>,
    /// B × H.
    dc_next: Buffer<D, f32>,
    /// T·B × V.
    one_hot: Buffer<D, f32>,
    /// Present if one kernel computes all time steps.
    sequence: Option<Sequence<D>>,
}

/// The resources of the cooperative kernels.
#[derive(Debug)]
struct Sequence<D: Device> {
    width: Width,
    /// Groups of units by slices of sequences.
    grid: [u32; 3],
    /// Two counters per slice.
    counters: Buffer<D, u32>,
    /// The contributions of the groups of units to a state's gradient: 2 × groups × B × H.
    partial: Buffer<D, f32>,
}

/// The numbers of hidden units with a cooperative kernel.
#[derive(Clone, Copy, Debug)]
enum Width {
    H128,
    H256,
    H512,
}

impl<D: Device> Sequence<D> {
    /// `None`, with a diagnostic, if there is no kernel for the shape or the device cannot run as
    /// many blocks together; `None` if the settings do not ask for it.
    fn new(backend: &CudaBackend<D>, shape: LstmShape) -> Result<Option<Self>, BackendError> {
        if !backend.settings.sequences {
            return Ok(None);
        }
        let unsupported = |reason: String| {
            backend.diagnose(format!("LSTM computed step by step: {reason}"));
            Ok(None)
        };
        let LstmShape { batch, hidden, .. } = shape;
        let width = match hidden {
            128 => Width::H128,
            256 => Width::H256,
            512 => Width::H512,
            _ => return unsupported(format!("no kernel for {hidden} hidden units")),
        };
        let (groups, slices) = (hidden / UNITS, batch.div_ceil(SEQUENCES));
        let (needed, available) = (groups * slices, backend.device.max_cooperative_blocks());
        if needed > available {
            return unsupported(format!(
                "{needed} cooperative blocks needed, {available} available"
            ));
        }
        Ok(Some(Sequence {
            width,
            grid: [groups as u32, slices as u32, 1],
            counters: backend.buffer(2 * slices)?,
            partial: backend.buffer(2 * groups * batch * hidden)?,
        }))
    }
}

/// Launches the kernel of the workspace's number of hidden units.
macro_rules! launch_sequence {
    ($backend:ident, $width:expr, $grid:expr, [$h128:ident, $h256:ident, $h512:ident] $arguments:tt) => {
        match $width {
            Width::H128 => $backend.launch_cooperative(kernels::$h128 $arguments, $grid),
            Width::H256 => $backend.launch_cooperative(kernels::$h256 $arguments, $grid),
            Width::H512 => $backend.launch_cooperative(kernels::$h512 $arguments, $grid),
        }
    };
}

impl<D: Device> Lstm for CudaBackend<D> {
    type LstmWorkspace = LstmWorkspace<D>;

    fn lstm_workspace(&self, shape: LstmShape) -> Result<LstmWorkspace<D>, BackendError> {
        let LstmShape {
            batch,
            vocabulary,
            hidden,
            ..
        } = shape;
        let rows = shape.rows();
        Ok(LstmWorkspace {
            shape,
            table: self.buffer(vocabulary * 4 * hidden)?,
            gates: self.buffer(rows * 4 * hidden)?,
            cells: self.buffer(rows * hidden)?,
            dc_next: self.buffer(batch * hidden)?,
            one_hot: self.buffer(rows * vocabulary)?,
            sequence: Sequence::new(self, shape)?,
        })
    }

    fn lstm_forward(
        &self,
        tokens: &Buffer<D, u8>,
        parameters: LstmParameters<'_, Buffer<D, f32>>,
        workspace: &mut LstmWorkspace<D>,
        hidden_states: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let shape = workspace.shape;
        let LstmShape {
            length,
            batch,
            vocabulary,
            hidden,
        } = shape;
        let rows = shape.rows();
        check_bound(tokens, vocabulary);
        let tokens = tokens.exactly(rows);
        let weight_hh = parameters.weight_hh.exactly(4 * hidden * hidden);
        let states = hidden_states.exactly_mut(rows * hidden);
        let [table, gates, cells] = [
            &mut workspace.table,
            &mut workspace.gates,
            &mut workspace.cells,
        ]
        .map(|buffer| buffer.slice_mut());
        let kernel = kernels::lstm_token_table {
            weight_ih: parameters.weight_ih.exactly(4 * hidden * vocabulary),
            bias: parameters.bias.exactly(4 * hidden),
            table,
            vocabulary,
            gate_rows: 4 * hidden,
        };
        self.each(kernel, vocabulary * 4 * hidden)?;
        let table = table.read();
        match &mut workspace.sequence {
            Some(sequence) => {
                let counters = sequence.counters.slice_mut();
                launch_sequence!(
                    self, sequence.width, sequence.grid,
                    [lstm_sequence_128, lstm_sequence_256, lstm_sequence_512]
                    { tokens, table, weight_hh, gates, cells, states, counters, length, batch }
                )
            }
            None => self.lstm_steps(shape, tokens, table, weight_hh, [gates, cells, states]),
        }
    }

    fn lstm_backward(
        &self,
        tokens: &Buffer<D, u8>,
        parameters: LstmParameters<'_, Buffer<D, f32>>,
        hidden_states: &Buffer<D, f32>,
        hidden_gradient: &mut Buffer<D, f32>,
        clip: f32,
        workspace: &mut LstmWorkspace<D>,
        gradients: LstmGradients<'_, Buffer<D, f32>>,
    ) -> Result<(), BackendError> {
        let shape = workspace.shape;
        let LstmShape {
            length,
            batch,
            vocabulary,
            hidden,
        } = shape;
        let rows = shape.rows();
        check_bound(tokens, vocabulary);
        let weight_hh = parameters.weight_hh.exactly(4 * hidden * hidden);
        let states = hidden_states.exactly(rows * hidden);
        let state_gradient = hidden_gradient.exactly_mut(rows * hidden);
        let gates = workspace.gates.slice_mut();
        let cells = workspace.cells.slice();
        match &mut workspace.sequence {
            Some(sequence) => {
                let state_gradient = state_gradient.read();
                let partial = sequence.partial.slice_mut();
                let counters = sequence.counters.slice_mut();
                launch_sequence!(
                    self, sequence.width, sequence.grid,
                    [lstm_sequence_backward_128, lstm_sequence_backward_256, lstm_sequence_backward_512]
                    { weight_hh, gates, cells, state_gradient, partial, counters, clip, length, batch }
                )?;
            }
            None => {
                let dc_next = workspace.dc_next.slice_mut();
                let buffers = [gates, state_gradient, dc_next];
                self.lstm_steps_backward(shape, cells, weight_hh, buffers, clip)?;
            }
        }
        let gates = gates.read();
        // ∂W_h = Σ_t (∂a_t)ᵀ h_{t−1}, where h before the first step is zero.
        let numel = 4 * hidden * hidden;
        let weight_hh_gradient = gradients.weight_hh.exactly_mut(numel);
        let later = rows - batch;
        if later == 0 {
            let kernel = kernels::fill {
                values: weight_hh_gradient,
                numel,
                value: 0.0,
            };
            self.each(kernel, numel)?;
        } else {
            let da = gates.range(batch * 4 * hidden..rows * 4 * hidden);
            self.multiply(
                [4 * hidden, hidden, later],
                transposed(da),
                plain(states),
                weight_hh_gradient,
                false,
            )?;
        }
        let numel = rows * vocabulary;
        let one_hot = workspace.one_hot.exactly_mut(numel);
        let kernel = kernels::one_hot {
            tokens: tokens.exactly(rows),
            output: one_hot,
            numel,
            vocabulary,
        };
        self.each(kernel, numel)?;
        self.multiply(
            [4 * hidden, vocabulary, rows],
            transposed(gates),
            plain(one_hot.read()),
            gradients.weight_ih.exactly_mut(4 * hidden * vocabulary),
            false,
        )?;
        let bias_gradient = gradients.bias.exactly_mut(4 * hidden);
        self.sum_rows(gates, rows, 4 * hidden, bias_gradient)
    }
}

impl<D: Device> CudaBackend<D> {
    /// Each time step: a product with the previous states, and a kernel of the gates.
    fn lstm_steps(
        &self,
        shape: LstmShape,
        tokens: Slice<'_, u8>,
        table: Slice<'_, f32>,
        weight_hh: Slice<'_, f32>,
        [gates, cells, states]: [SliceMut<'_, f32>; 3],
    ) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            hidden,
            ..
        } = shape;
        let at = |buffer, time, columns| step_of(buffer, time, batch * columns);
        for time in 0..length {
            let previous = time.saturating_sub(1);
            let gates = at(gates, time, 4 * hidden);
            if time > 0 {
                self.multiply(
                    [batch, 4 * hidden, hidden],
                    plain(at(states, previous, hidden).read()),
                    transposed(weight_hh),
                    gates,
                    false,
                )?;
            }
            let kernel = kernels::lstm_cell {
                tokens: tokens.range(time * batch..(time + 1) * batch),
                table,
                gates,
                previous: at(cells, previous, hidden).read(),
                cell: at(cells, time, hidden),
                state: at(states, time, hidden),
                batch,
                hidden,
                first: time == 0,
            };
            self.each(kernel, batch * hidden)?;
        }
        Ok(())
    }

    /// The time steps in reverse; `gates` become the gradients of the pre-activations.
    fn lstm_steps_backward(
        &self,
        shape: LstmShape,
        cells: Slice<'_, f32>,
        weight_hh: Slice<'_, f32>,
        [gates, state_gradient, dc_next]: [SliceMut<'_, f32>; 3],
        clip: f32,
    ) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            hidden,
            ..
        } = shape;
        let at = |buffer, time, columns| step_of(buffer, time, batch * columns);
        let cell = |time: usize| cells.range(time * batch * hidden..(time + 1) * batch * hidden);
        for time in (0..length).rev() {
            let state_gradient = at(state_gradient, time, hidden);
            let last = time + 1 == length;
            if !last {
                self.multiply(
                    [batch, hidden, 4 * hidden],
                    plain(at(gates, time + 1, 4 * hidden).read()),
                    plain(weight_hh),
                    state_gradient,
                    true,
                )?;
            }
            let kernel = kernels::lstm_cell_backward {
                gates: at(gates, time, 4 * hidden),
                previous: cell(time.saturating_sub(1)),
                cell: cell(time),
                state_gradient: state_gradient.read(),
                dc_next,
                clip,
                batch,
                hidden,
                first: time == 0,
                last,
            };
            self.each(kernel, batch * hidden)?;
        }
        Ok(())
    }
}

/// The elements of a time step, of which there are `numel`.
fn step_of(buffer: SliceMut<'_, f32>, time: usize, numel: usize) -> SliceMut<'_, f32> {
    buffer.range(time * numel..(time + 1) * numel)
}
