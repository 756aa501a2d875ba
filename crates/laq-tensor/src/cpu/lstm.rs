//! The LSTM over a whole sequence.
//!
//! The recurrence is what decides the speed: at every time step one product of B × H by H × 4H,
//! then arithmetic on the gates. Both are cut by units (columns of h): a task owns one block of
//! units, all four gates of it, computes their pre-activations and finishes them while they are
//! still in the cache; there is one meeting of the threads a time step. The weights are packed
//! once a call, and h of the previous step is written by its makers in the packed order that the
//! next product reads. [`multiply_panel`] is the only thing known of that product.

use rayon::prelude::*;

use super::gemm::{Matrix, gemm, multiply_panel, pack_panel, tile_columns, tile_rows};
use super::kernel::{Kernel, for_each_set};
use super::math;
use super::shared::Shared;
use crate::LstmShape;

/// What an LSTM keeps from forward to backward, and its scratch. Sizes in `LstmShape`'s letters.
#[derive(Debug)]
pub struct LstmSpace {
    shape: LstmShape,
    kernel: Kernel,
    /// T·B × 4H: activations of the gates; after backward, gradients of the pre-activations.
    gates: Vec<f32>,
    /// T·B × H: `c_t`.
    cells: Vec<f32>,
    /// `W_h`, packed for the forward or the backward product: a panel for each block and gate.
    panels: Vec<f32>,
    /// Left operands of the recurrence, of this step and the one before: tiles × H for each gate.
    packed: [Vec<f32>; 2],
    /// V × 4H: `W_x` transposed plus bias, so that an input symbol is one row.
    table: Vec<f32>,
    /// V × 4H: gradient of `table`.
    table_gradient: Vec<f32>,
    /// B × H: ∂L/∂`c_t` that comes from step t + 1.
    cell_gradient: Vec<f32>,
    /// H zeros: `c` before the first step.
    no_cell: Vec<f32>,
}

impl LstmSpace {
    pub(crate) fn new(kernel: Kernel, shape: LstmShape) -> Self {
        let LstmShape {
            batch,
            symbols,
            hidden,
            ..
        } = shape;
        let (mr, nr) = (tile_rows(kernel), tile_columns(kernel));
        let blocks = hidden.div_ceil(nr);
        let packed = vec![0.0; 4 * batch.div_ceil(mr) * mr * hidden];
        LstmSpace {
            shape,
            kernel,
            gates: vec![0.0; shape.rows() * 4 * hidden],
            cells: vec![0.0; shape.rows() * hidden],
            panels: vec![0.0; blocks * 4 * hidden * nr],
            packed: [packed.clone(), packed],
            table: vec![0.0; symbols * 4 * hidden],
            table_gradient: vec![0.0; symbols * 4 * hidden],
            cell_gradient: vec![0.0; batch * hidden],
            no_cell: vec![0.0; hidden],
        }
    }

    pub(crate) fn forward(
        &mut self,
        input: &[u8],
        weight_ih: &[f32],
        weight_hh: &[f32],
        bias: &[f32],
        hidden_states: &mut [f32],
    ) {
        let LstmShape {
            length,
            batch,
            symbols,
            hidden,
        } = self.shape;
        let kernel = self.kernel;
        let (mr, nr) = (tile_rows(kernel), tile_columns(kernel));
        assert_eq!(input.len(), length * batch);
        assert_eq!(weight_ih.len(), 4 * hidden * symbols);
        assert_eq!(bias.len(), 4 * hidden);
        assert_eq!(hidden_states.len(), length * batch * hidden);
        assert!(input.iter().all(|&symbol| usize::from(symbol) < symbols));

        self.table
            .par_chunks_exact_mut(4 * hidden)
            .enumerate()
            .for_each(|(symbol, row)| {
                for (gate_row, value) in row.iter_mut().enumerate() {
                    *value = weight_ih[gate_row * symbols + symbol] + bias[gate_row];
                }
            });
        let weight = Matrix::new(weight_hh, 4 * hidden, hidden);
        self.panels
            .par_chunks_exact_mut(hidden * nr)
            .enumerate()
            .for_each(|(index, panel)| {
                let (block, gate) = (index / 4, index % 4);
                let first = gate * hidden + block * nr;
                pack_panel(weight, first, (gate + 1) * hidden, nr, 0..hidden, panel);
            });

        let tile_length = hidden * mr;
        let panels = &self.panels;
        let table = &self.table;
        let no_cell = &self.no_cell;
        let gates = Shared::new(&mut self.gates);
        let cells = Shared::new(&mut self.cells);
        let states = Shared::new(hidden_states);
        let [this, other] = &mut self.packed;
        let mut packed = [this, other];
        for time in 0..length {
            let [before, after] = &mut packed;
            let before = &before[..];
            let after = Shared::new(after);
            (0..hidden.div_ceil(nr)).into_par_iter().for_each(|block| {
                let first = block * nr;
                let width = nr.min(hidden - first);
                let row_gates = |row: usize, gate: usize| {
                    let start = (time * batch + row) * 4 * hidden + gate * hidden + first;
                    // SAFETY: gate rows `first..first + width` of every time step are this
                    // block's alone, and a row's four gates do not overlap.
                    unsafe { gates.part(start..start + width) }
                };
                for row in 0..batch {
                    let symbol = usize::from(input[time * batch + row]);
                    for gate in 0..4 {
                        let start = symbol * 4 * hidden + gate * hidden + first;
                        row_gates(row, gate).copy_from_slice(&table[start..start + width]);
                    }
                }
                if time > 0 {
                    for gate in 0..4 {
                        let panel = &panels[(block * 4 + gate) * hidden * nr..][..hidden * nr];
                        let start = time * batch * 4 * hidden + gate * hidden + first;
                        // SAFETY: the same numbers as `row_gates` hands out, of which none is
                        // borrowed now.
                        unsafe {
                            multiply_panel(
                                kernel,
                                hidden,
                                before,
                                batch,
                                panel,
                                width,
                                gates.address(start),
                                4 * hidden,
                                true,
                            );
                        }
                    }
                }
                for row in 0..batch {
                    let start = (time * batch + row) * hidden + first;
                    // SAFETY: units `first..first + width` of every time step are this block's
                    // alone; the step before is read, this step is written.
                    let (previous, cell, state) = unsafe {
                        (
                            if time == 0 {
                                &no_cell[..width]
                            } else {
                                &*cells.part(start - batch * hidden..start - batch * hidden + width)
                            },
                            cells.part(start..start + width),
                            states.part(start..start + width),
                        )
                    };
                    cell_forward(
                        kernel,
                        row_gates(row, 0),
                        row_gates(row, 1),
                        row_gates(row, 2),
                        row_gates(row, 3),
                        previous,
                        cell,
                        state,
                    );
                    // SAFETY: columns `first..first + width` of the packed operand are this
                    // block's alone.
                    unsafe { write_packed(after, tile_length, mr, row, first, state) };
                }
            });
            packed.swap(0, 1);
        }
    }

    pub(crate) fn backward(
        &mut self,
        input: &[u8],
        weight_hh: &[f32],
        hidden_states: &[f32],
        hidden_gradient: &mut [f32],
        clip: f32,
        weight_ih_gradient: &mut [f32],
        weight_hh_gradient: &mut [f32],
        bias_gradient: &mut [f32],
    ) {
        let LstmShape {
            length,
            batch,
            symbols,
            hidden,
        } = self.shape;
        let kernel = self.kernel;
        let (mr, nr) = (tile_rows(kernel), tile_columns(kernel));
        assert_eq!(input.len(), length * batch);
        assert_eq!(hidden_states.len(), length * batch * hidden);
        assert_eq!(hidden_gradient.len(), hidden_states.len());
        assert_eq!(weight_ih_gradient.len(), 4 * hidden * symbols);
        assert_eq!(bias_gradient.len(), 4 * hidden);
        assert!(input.iter().all(|&symbol| usize::from(symbol) < symbols));

        let weight = Matrix::new(weight_hh, 4 * hidden, hidden).transposed();
        self.panels
            .par_chunks_exact_mut(hidden * nr)
            .enumerate()
            .for_each(|(index, panel)| {
                let (block, gate) = (index / 4, index % 4);
                let columns = gate * hidden..(gate + 1) * hidden;
                pack_panel(weight, block * nr, hidden, nr, columns, panel);
            });
        self.table_gradient.fill(0.0);
        self.cell_gradient.fill(0.0);

        let tile_length = hidden * mr;
        let gate_length = batch.div_ceil(mr) * tile_length;
        let panels = &self.panels;
        let no_cell = &self.no_cell;
        let all_cells = &self.cells;
        let gates = Shared::new(&mut self.gates);
        let state_gradient = Shared::new(hidden_gradient);
        let cell_gradient = Shared::new(&mut self.cell_gradient);
        let table_gradient = Shared::new(&mut self.table_gradient);
        let [this, other] = &mut self.packed;
        let mut packed = [this, other];
        for time in (0..length).rev() {
            let [before, after] = &mut packed;
            let before = &before[..];
            let after = after.as_mut_slice();
            let after: [Shared<'_, f32>; 4] = {
                let mut parts = after.chunks_exact_mut(gate_length.max(1));
                std::array::from_fn(|_| Shared::new(parts.next().unwrap_or_default()))
            };
            (0..hidden.div_ceil(nr)).into_par_iter().for_each(|block| {
                let first = block * nr;
                let width = nr.min(hidden - first);
                if time + 1 < length {
                    for gate in 0..4 {
                        let panel = &panels[(block * 4 + gate) * hidden * nr..][..hidden * nr];
                        // SAFETY: units `first..first + width` of the gradient of h are this
                        // block's alone.
                        unsafe {
                            multiply_panel(
                                kernel,
                                hidden,
                                &before[gate * gate_length..][..gate_length],
                                batch,
                                panel,
                                width,
                                state_gradient.address(time * batch * hidden + first),
                                hidden,
                                true,
                            );
                        }
                    }
                }
                for row in 0..batch {
                    let start = (time * batch + row) * hidden + first;
                    let previous = if time == 0 {
                        &no_cell[..width]
                    } else {
                        &all_cells[start - batch * hidden..][..width]
                    };
                    // SAFETY: units `first..first + width` of gates, gradients and table are this
                    // block's alone, and the four gates of a row do not overlap.
                    unsafe {
                        let gate = |gate: usize| {
                            let start = (time * batch + row) * 4 * hidden + gate * hidden + first;
                            gates.part(start..start + width)
                        };
                        let row_gates = [gate(0), gate(1), gate(2), gate(3)];
                        let carried = row * hidden + first;
                        let [i, f, g, o] = row_gates;
                        cell_backward(
                            kernel,
                            i,
                            f,
                            g,
                            o,
                            previous,
                            &all_cells[start..start + width],
                            state_gradient.part(start..start + width),
                            cell_gradient.part(carried..carried + width),
                            clip,
                        );
                        let symbol = usize::from(input[time * batch + row]);
                        for (gate, values) in [i, f, g, o].into_iter().enumerate() {
                            write_packed(after[gate], tile_length, mr, row, first, values);
                            let start = symbol * 4 * hidden + gate * hidden + first;
                            let sums = table_gradient.part(start..start + width);
                            for (sum, &value) in sums.iter_mut().zip(values.iter()) {
                                *sum += value;
                            }
                        }
                    }
                }
            });
            packed.swap(0, 1);
        }

        // ∂W_h = Σ_t (∂a_t)ᵀ h_{t−1}; h before the first step is zero.
        let rows = length.saturating_sub(1) * batch;
        let gate_gradient = Matrix::new(
            &self.gates[self.gates.len() - rows * 4 * hidden..],
            rows,
            4 * hidden,
        );
        let states = Matrix::new(&hidden_states[..rows * hidden], rows, hidden);
        gemm(
            kernel,
            gate_gradient.transposed(),
            states,
            false,
            weight_hh_gradient,
        );
        let table_gradient = &self.table_gradient;
        weight_ih_gradient
            .par_chunks_exact_mut(symbols)
            .zip(bias_gradient.par_iter_mut())
            .enumerate()
            .for_each(|(gate_row, (row, bias))| {
                let mut sum = 0.0f64;
                for (symbol, value) in row.iter_mut().enumerate() {
                    *value = table_gradient[symbol * 4 * hidden + gate_row];
                    sum += f64::from(*value);
                }
                // Every row of the batch added to exactly one symbol's row of the table.
                *bias = sum as f32;
            });
    }
}

/// Writes row `row`, columns `first..`, of the recurrence's left operand in tile order.
///
/// # Safety
/// Nobody else touches these columns of `packed` meanwhile.
unsafe fn write_packed(
    packed: Shared<'_, f32>,
    tile_length: usize,
    mr: usize,
    row: usize,
    first: usize,
    values: &[f32],
) {
    let start = row / mr * tile_length + first * mr + row % mr;
    let Some(last) = values.len().checked_sub(1) else {
        return;
    };
    // Checks both ends, and so all that lies between.
    packed.address(start + last * mr + 1);
    let start = packed.address(start);
    for (step, &value) in values.iter().enumerate() {
        // SAFETY: within the slice by the check above, and the caller's alone.
        unsafe { *start.add(step * mr) = value };
    }
}

for_each_set! {
    /// One row of one block: pre-activations become activations, and `cell` and `state` follow.
    fn cell_forward(
        i: &mut [f32], f: &mut [f32], g: &mut [f32], o: &mut [f32],
        previous: &[f32], cell: &mut [f32], state: &mut [f32],
    ) {
        let width = cell.len();
        let (i, f, g, o) = (&mut i[..width], &mut f[..width], &mut g[..width], &mut o[..width]);
        let (previous, state) = (&previous[..width], &mut state[..width]);
        for j in 0..width {
            i[j] = math::sigmoid(i[j]);
            f[j] = math::sigmoid(f[j]);
            g[j] = math::tanh(g[j]);
            o[j] = math::sigmoid(o[j]);
            cell[j] = f[j] * previous[j] + i[j] * g[j];
            state[j] = o[j] * math::tanh(cell[j]);
        }
    }
}

for_each_set! {
    /// One row of one block: activations become gradients of the pre-activations, clipped, and
    /// `carried` goes from ∂L/∂c_t to ∂L/∂c_{t−1}.
    fn cell_backward(
        i: &mut [f32], f: &mut [f32], g: &mut [f32], o: &mut [f32],
        previous: &[f32], cell: &[f32], state_gradient: &[f32], carried: &mut [f32], clip: f32,
    ) {
        let width = cell.len();
        let (i, f, g, o) = (&mut i[..width], &mut f[..width], &mut g[..width], &mut o[..width]);
        let (previous, state_gradient) = (&previous[..width], &state_gradient[..width]);
        let carried = &mut carried[..width];
        for j in 0..width {
            let (input, forget, candidate, output) = (i[j], f[j], g[j], o[j]);
            let shown = math::tanh(cell[j]);
            let dh = state_gradient[j];
            let dc = carried[j] + dh * output * (1.0 - shown * shown);
            i[j] = (dc * candidate * input * (1.0 - input)).clamp(-clip, clip);
            f[j] = (dc * previous[j] * forget * (1.0 - forget)).clamp(-clip, clip);
            g[j] = (dc * input * (1.0 - candidate * candidate)).clamp(-clip, clip);
            o[j] = (dh * shown * output * (1.0 - output)).clamp(-clip, clip);
            carried[j] = dc * forget;
        }
    }
}
