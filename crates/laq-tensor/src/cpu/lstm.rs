//! The LSTM over a whole sequence.
//!
//! The recurrence dominates the time: at every time step one product of B × H by H × 4H, then the
//! arithmetic of the gates. Both are partitioned by hidden units (columns of h): a task owns one
//! block of units with all four gates, computes their pre-activations and finishes them while they
//! are in the cache; the threads synchronize once per time step. The weights are packed once per
//! call, and every task writes its part of h in the packed order that the product of the next step
//! reads. [`multiply_panel`] is the only interface to that product.

use rayon::prelude::*;

use super::CpuBackend;
use super::gemm::{Matrix, gemm, multiply_panel, pack_panel, tile_columns, tile_rows};

use super::memory::Buffer;
use super::shared::Shared;
use crate::{BackendError, Lstm, LstmGradients, LstmParameters, LstmShape};
use laq_simd::{Isa, math, multiversion};

/// Activations kept from forward to backward, and scratch. Sizes in the letters of [`LstmShape`].
#[derive(Debug)]
pub struct LstmWorkspace {
    shape: LstmShape,
    isa: Isa,
    /// T·B × 4H: activations of the gates; after backward, gradients of the pre-activations.
    gates: Vec<f32>,
    /// T·B × H: `c_t`.
    cells: Vec<f32>,
    /// `W_h`, packed for the forward or the backward product: a panel for each block and gate.
    panels: Vec<f32>,
    /// Left operands of the recurrence, of this step and the previous: tiles × H for each gate.
    packed: [Vec<f32>; 2],
    /// V × 4H: `W_x` transposed plus bias, one row per token.
    table: Vec<f32>,
    /// V × 4H: gradient of `table`.
    table_gradient: Vec<f32>,
    /// B × H: ∂L/∂`c_t` from step t + 1.
    cell_gradient: Vec<f32>,
    /// H zeros: `c` before the first step.
    initial_cell: Vec<f32>,
}

impl Lstm for CpuBackend {
    type LstmWorkspace = LstmWorkspace;

    fn lstm_workspace(&self, shape: LstmShape) -> Result<LstmWorkspace, BackendError> {
        let LstmShape {
            batch,
            vocabulary,
            hidden,
            ..
        } = shape;
        let isa = self.isa;
        let (mr, nr) = (tile_rows(isa), tile_columns(isa));
        let blocks = hidden.div_ceil(nr);
        let packed = vec![0.0; 4 * batch.div_ceil(mr) * mr * hidden];
        Ok(LstmWorkspace {
            shape,
            isa,
            gates: vec![0.0; shape.rows() * 4 * hidden],
            cells: vec![0.0; shape.rows() * hidden],
            panels: vec![0.0; blocks * 4 * hidden * nr],
            packed: [packed.clone(), packed],
            table: vec![0.0; vocabulary * 4 * hidden],
            table_gradient: vec![0.0; vocabulary * 4 * hidden],
            cell_gradient: vec![0.0; batch * hidden],
            initial_cell: vec![0.0; hidden],
        })
    }

    fn lstm_forward(
        &self,
        tokens: &Buffer<u8>,
        parameters: LstmParameters<'_, Buffer<f32>>,
        workspace: &mut LstmWorkspace,
        hidden_states: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            vocabulary,
            hidden,
        } = workspace.shape;
        let isa = workspace.isa;
        let tokens = tokens.indices_below(vocabulary);
        let weight_ih = parameters.weight_ih.as_slice();
        let weight_hh = parameters.weight_hh.as_slice();
        let bias = parameters.bias.as_slice();
        let hidden_states = hidden_states.as_mut_slice();
        let (mr, nr) = (tile_rows(isa), tile_columns(isa));
        assert_eq!(tokens.len(), length * batch);
        assert_eq!(weight_ih.len(), 4 * hidden * vocabulary);
        assert_eq!(bias.len(), 4 * hidden);
        assert_eq!(hidden_states.len(), length * batch * hidden);

        workspace
            .table
            .par_chunks_exact_mut(4 * hidden)
            .enumerate()
            .for_each(|(token, row)| {
                for (gate_row, value) in row.iter_mut().enumerate() {
                    *value = weight_ih[gate_row * vocabulary + token] + bias[gate_row];
                }
            });
        let weight = Matrix::new(weight_hh, 4 * hidden, hidden);
        workspace
            .panels
            .par_chunks_exact_mut(hidden * nr)
            .enumerate()
            .for_each(|(index, panel)| {
                let (block, gate) = (index / 4, index % 4);
                let first = gate * hidden + block * nr;
                pack_panel(weight, first, (gate + 1) * hidden, nr, 0..hidden, panel);
            });

        let tile_length = hidden * mr;
        let panels = &workspace.panels;
        let table = &workspace.table;
        let initial_cell = &workspace.initial_cell;
        let gates = Shared::new(&mut workspace.gates);
        let cells = Shared::new(&mut workspace.cells);
        let states = Shared::new(hidden_states);
        let [this, other] = &mut workspace.packed;
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
                    // SAFETY: gate rows `first..first + width` of every time step belong to this
                    // block only, and a row's four gates do not overlap.
                    unsafe { gates.part(start..start + width) }
                };
                for row in 0..batch {
                    let token = usize::from(tokens[time * batch + row]);
                    for gate in 0..4 {
                        let start = token * 4 * hidden + gate * hidden + first;
                        row_gates(row, gate).copy_from_slice(&table[start..start + width]);
                    }
                }
                if time > 0 {
                    for gate in 0..4 {
                        let panel = &panels[(block * 4 + gate) * hidden * nr..][..hidden * nr];
                        let start = time * batch * 4 * hidden + gate * hidden + first;
                        // SAFETY: the same elements as `row_gates` returns, none of which is
                        // borrowed now.
                        unsafe {
                            multiply_panel(
                                isa,
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
                    // SAFETY: units `first..first + width` of every time step belong to this
                    // block only; the previous step is read, this step is written.
                    let (previous, cell, state) = unsafe {
                        (
                            if time == 0 {
                                &initial_cell[..width]
                            } else {
                                &*cells.part(start - batch * hidden..start - batch * hidden + width)
                            },
                            cells.part(start..start + width),
                            states.part(start..start + width),
                        )
                    };
                    cell_forward(
                        isa,
                        row_gates(row, 0),
                        row_gates(row, 1),
                        row_gates(row, 2),
                        row_gates(row, 3),
                        previous,
                        cell,
                        state,
                    );
                    // SAFETY: columns `first..first + width` of the packed operand belong to this
                    // block only.
                    unsafe { write_packed(after, tile_length, mr, row, first, state) };
                }
            });
            packed.swap(0, 1);
        }
        Ok(())
    }

    fn lstm_backward(
        &self,
        tokens: &Buffer<u8>,
        parameters: LstmParameters<'_, Buffer<f32>>,
        hidden_states: &Buffer<f32>,
        hidden_gradient: &mut Buffer<f32>,
        clip: f32,
        workspace: &mut LstmWorkspace,
        gradients: LstmGradients<'_, Buffer<f32>>,
    ) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            vocabulary,
            hidden,
        } = workspace.shape;
        let isa = workspace.isa;
        let tokens = tokens.indices_below(vocabulary);
        let weight_hh = parameters.weight_hh.as_slice();
        let hidden_states = hidden_states.as_slice();
        let hidden_gradient = hidden_gradient.as_mut_slice();
        let weight_ih_gradient = gradients.weight_ih.as_mut_slice();
        let weight_hh_gradient = gradients.weight_hh.as_mut_slice();
        let bias_gradient = gradients.bias.as_mut_slice();
        let (mr, nr) = (tile_rows(isa), tile_columns(isa));
        assert_eq!(tokens.len(), length * batch);
        assert_eq!(hidden_states.len(), length * batch * hidden);
        assert_eq!(hidden_gradient.len(), hidden_states.len());
        assert_eq!(weight_ih_gradient.len(), 4 * hidden * vocabulary);
        assert_eq!(bias_gradient.len(), 4 * hidden);

        let weight = Matrix::new(weight_hh, 4 * hidden, hidden).transposed();
        workspace
            .panels
            .par_chunks_exact_mut(hidden * nr)
            .enumerate()
            .for_each(|(index, panel)| {
                let (block, gate) = (index / 4, index % 4);
                let columns = gate * hidden..(gate + 1) * hidden;
                pack_panel(weight, block * nr, hidden, nr, columns, panel);
            });
        workspace.table_gradient.fill(0.0);
        workspace.cell_gradient.fill(0.0);

        let tile_length = hidden * mr;
        let gate_length = batch.div_ceil(mr) * tile_length;
        let panels = &workspace.panels;
        let initial_cell = &workspace.initial_cell;
        let all_cells = &workspace.cells;
        let gates = Shared::new(&mut workspace.gates);
        let state_gradient = Shared::new(hidden_gradient);
        let cell_gradient = Shared::new(&mut workspace.cell_gradient);
        let table_gradient = Shared::new(&mut workspace.table_gradient);
        let [this, other] = &mut workspace.packed;
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
                        // SAFETY: units `first..first + width` of the gradient of h belong to this
                        // block only.
                        unsafe {
                            multiply_panel(
                                isa,
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
                        &initial_cell[..width]
                    } else {
                        &all_cells[start - batch * hidden..][..width]
                    };
                    // SAFETY: units `first..first + width` of gates, gradients and table belong to
                    // this block only, and the four gates of a row do not overlap.
                    unsafe {
                        let gate = |gate: usize| {
                            let start = (time * batch + row) * 4 * hidden + gate * hidden + first;
                            gates.part(start..start + width)
                        };
                        let row_gates = [gate(0), gate(1), gate(2), gate(3)];
                        let dc_next = row * hidden + first;
                        let [i, f, g, o] = row_gates;
                        cell_backward(
                            isa,
                            i,
                            f,
                            g,
                            o,
                            previous,
                            &all_cells[start..start + width],
                            state_gradient.part(start..start + width),
                            cell_gradient.part(dc_next..dc_next + width),
                            clip,
                        );
                        let token = usize::from(tokens[time * batch + row]);
                        for (gate, values) in [i, f, g, o].into_iter().enumerate() {
                            write_packed(after[gate], tile_length, mr, row, first, values);
                            let start = token * 4 * hidden + gate * hidden + first;
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
            &workspace.gates[workspace.gates.len() - rows * 4 * hidden..],
            rows,
            4 * hidden,
        );
        let states = Matrix::new(&hidden_states[..rows * hidden], rows, hidden);
        gemm(
            isa,
            gate_gradient.transposed(),
            states,
            false,
            weight_hh_gradient,
        );
        let table_gradient = &workspace.table_gradient;
        weight_ih_gradient
            .par_chunks_exact_mut(vocabulary)
            .zip(bias_gradient.par_iter_mut())
            .enumerate()
            .for_each(|(gate_row, (row, bias))| {
                let mut sum = 0.0f64;
                for (token, value) in row.iter_mut().enumerate() {
                    *value = table_gradient[token * 4 * hidden + gate_row];
                    sum += f64::from(*value);
                }
                // Every row of the batch was added to the table row of exactly one token.
                *bias = sum as f32;
            });
        Ok(())
    }
}

/// Writes row `row`, columns `first..`, of the recurrence's left operand in tile order.
///
/// # Safety
/// No other thread accesses these columns of `packed` during the call.
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
    // Checks both ends, and with them everything between.
    packed.address(start + last * mr + 1);
    let start = packed.address(start);
    for (step, &value) in values.iter().enumerate() {
        // SAFETY: within the slice by the check above, and not shared by the caller's promise.
        unsafe { *start.add(step * mr) = value };
    }
}

multiversion! {
    /// One row of one block: from pre-activations to activations, `cell` and `state`.
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

multiversion! {
    /// One row of one block: from activations to clipped gradients of the pre-activations;
    /// `dc_next` becomes ∂L/∂c_{t−1}.
    fn cell_backward(
        i: &mut [f32], f: &mut [f32], g: &mut [f32], o: &mut [f32],
        previous: &[f32], cell: &[f32], state_gradient: &[f32], dc_next: &mut [f32], clip: f32,
    ) {
        let width = cell.len();
        let (i, f, g, o) = (&mut i[..width], &mut f[..width], &mut g[..width], &mut o[..width]);
        let (previous, state_gradient) = (&previous[..width], &state_gradient[..width]);
        let dc_next = &mut dc_next[..width];
        for j in 0..width {
            let (input, forget, candidate, output) = (i[j], f[j], g[j], o[j]);
            let tanh_cell = math::tanh(cell[j]);
            let dh = state_gradient[j];
            let dc = dc_next[j] + dh * output * (1.0 - tanh_cell * tanh_cell);
            i[j] = (dc * candidate * input * (1.0 - input)).clamp(-clip, clip);
            f[j] = (dc * previous[j] * forget * (1.0 - forget)).clamp(-clip, clip);
            g[j] = (dc * input * (1.0 - candidate * candidate)).clamp(-clip, clip);
            o[j] = (dh * tanh_cell * output * (1.0 - output)).clamp(-clip, clip);
            dc_next[j] = dc * forget;
        }
    }
}
