//! Weights as values of the graph: initializers, and the nodes that decode them.

use super::proto::{Attribute, TensorProto, attribute_type, data_type};
use super::{Builder, OPSETS, OnnxError, int};
use crate::integers::Integers;
use crate::packed_format::Tensor;
use crate::tensor::PackedTensor;

/// The domain of the operators of QONNX.
pub(super) const QONNX: &str = "qonnx.custom_op.general";

impl Builder<'_> {
    fn initializer(&mut self, name: &str, kind: i32, dims: &[usize], raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            dims: dims.iter().map(|size| *size as i64).collect(),
            data_type: kind,
            name: name.to_owned(),
            raw_data: raw_data.into(),
            ..TensorProto::default()
        });
    }

    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.initializer(name, data_type::FLOAT, dims, bytes.collect());
    }

    pub(super) fn int64s(&mut self, name: &str, values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.initializer(name, data_type::INT64, &[values.len()], bytes.collect());
    }

    /// A tensor as the value `name` of the graph, of shape `dims` whose first is the rows. Element
    /// `at` is element `order(at)` of the tensor; rows stay whole.
    pub(super) fn weight(
        &mut self,
        name: &str,
        dims: &[usize],
        order: &dyn Fn(usize) -> usize,
    ) -> Result<(), OnnxError> {
        let tensor = self.tensor(name)?;
        let expected = permuted(&tensor.to_f32(), order);
        let Tensor::Packed(packed) = tensor else {
            self.floats(name, dims, &expected);
            return Ok(());
        };
        if packed.axis() > 0 {
            // Its codes are not in the order of its elements.
            self.floats(name, dims, &expected);
            return Ok(());
        }
        let packed = packed.clone();
        if packed.block().is_some() {
            return self.blocks(name, dims, order, &packed, &expected);
        }
        let codes = permuted(&packed.codes(), order);
        let row = codes.len().checked_div(dims[0]).unwrap_or(0).max(1);
        let group = |r: usize| packed.group_of(order(r * row));
        let found: Vec<f32> = if self.qonnx {
            let weights = (&codes[..], &expected[..]);
            return self.quantized(name, dims, weights, &packed, &group);
        } else if let Some(integers) = packed.integers() {
            let values: Vec<i8> = codes
                .iter()
                .map(|c| integers.values[usize::from(*c)])
                .collect();
            let scales = packed.scales_of_rows(&integers, 0, &group);
            let scale = |at: usize| scales[if scales.len() == 1 { 0 } else { at / row }];
            let decoded = values.iter().enumerate();
            let decoded = decoded
                .map(|(at, value)| f32::from(*value) * scale(at))
                .collect();
            let count = scales.len();
            let (shape, attributes) = match count {
                1 => (vec![], vec![]),
                _ => (vec![count], vec![int("axis", 0)]),
            };
            let scales = (&shape[..], &scales[..], attributes);
            self.dequantized(name, dims, &values, integers.fewest_bits(), scales);
            decoded
        } else {
            let count = packed.table().multipliers().len();
            let table = packed.values();
            let indices: Vec<usize> = (codes.iter().enumerate())
                .map(|(at, code)| group(at / row) * count + usize::from(*code))
                .collect();
            self.gathered(name, dims, &indices, &table);
            indices.iter().map(|index| table[*index]).collect()
        };
        if found.iter().zip(&expected).all(|(a, b)| a == b) {
            return Ok(());
        }
        Err(OnnxError::Differs { name: name.into() })
    }

    /// Weights with a scale for each block of a row: integers in blocks along the last axis, or f32 where they
    /// have no such form.
    fn blocks(
        &mut self,
        name: &str,
        dims: &[usize],
        order: &dyn Fn(usize) -> usize,
        packed: &PackedTensor,
        expected: &[f32],
    ) -> Result<(), OnnxError> {
        let columns = dims[dims.len() - 1];
        let rows = expected.len().checked_div(columns).unwrap_or(0);
        let is_matrix = packed.shape().len() == 2 && packed.shape()[1] == columns;
        let row_is_whole = |row: usize| {
            let first = order(row * columns);
            first.is_multiple_of(columns)
                && (0..columns).all(|at| order(row * columns + at) == first + at)
        };
        let (Some(block), Some(integers)) = (packed.block(), packed.integers()) else {
            self.floats(name, dims, expected);
            return Ok(());
        };
        if self.qonnx || !is_matrix || !(0..rows).all(row_is_whole) {
            self.floats(name, dims, expected);
            return Ok(());
        }
        let codes = permuted(&packed.codes(), order);
        let values: Vec<i8> = (codes.iter().map(|c| integers.values[usize::from(*c)])).collect();
        let (all, of_row) = (packed.scales_of_blocks(&integers), columns.div_ceil(block));
        let scales: Vec<f32> = (0..rows)
            .flat_map(|row| &all[order(row * columns) / columns * of_row..][..of_row])
            .copied()
            .collect();
        let decode = |at: usize| {
            let scale = scales[at / columns * of_row + at % columns / block];
            f32::from(values[at]) * scale
        };
        if (0..values.len()).any(|at| decode(at) != expected[at]) {
            return Err(OnnxError::Differs { name: name.into() });
        }
        let mut shape = dims.to_vec();
        shape[dims.len() - 1] = of_row;
        let axis = int("axis", dims.len() as i64 - 1);
        let attributes = vec![axis, int("block_size", block as i64)];
        let scales = (&shape[..], &scales[..], attributes);
        self.dequantized(name, dims, &values, integers.fewest_bits(), scales);
        Ok(())
    }

    /// Weights in f32 that QONNX quantizes: their integers and scales are those of training. Weights
    /// with a scale for each sign are the sum of two such values, and weights that are not integers
    /// stay as they are.
    fn quantized(
        &mut self,
        name: &str,
        dims: &[usize],
        (codes, weights): (&[u8], &[f32]),
        packed: &PackedTensor,
        group_of_row: &dyn Fn(usize) -> usize,
    ) -> Result<(), OnnxError> {
        let multipliers = packed.table().multipliers();
        let Some(integers) = Integers::of(multipliers) else {
            self.floats(name, dims, weights);
            return Ok(());
        };
        let per_group = if packed.has_two_steps() { 2 } else { 1 };
        let parts = ["above", "below"].map(|part| format!("{name}.{part}"));
        for side in 0..per_group {
            let scales = packed.scales_of_rows(&integers, side, group_of_row);
            // A trained scale may be negative: the multiplier has the sign.
            let of_side = |(code, weight): (&u8, &f32)| {
                let below = multipliers[usize::from(*code)] < 0.0;
                if per_group == 1 || below == (side == 1) {
                    *weight
                } else {
                    0.0
                }
            };
            let values: Vec<f32> = codes.iter().zip(weights).map(of_side).collect();
            let row = values.len().checked_div(dims[0]).unwrap_or(0).max(1);
            let is_multiple = |(at, value): (usize, &f32)| {
                let scale = scales[if scales.len() == 1 { 0 } else { at / row }];
                *value == 0.0 || (value / scale).round() * scale == *value
            };
            if !values.iter().enumerate().all(is_multiple) {
                return Err(OnnxError::Differs { name: name.into() });
            }
            let output = if per_group == 1 { name } else { &parts[side] };
            self.int_quant(output, dims, &values, &scales, multipliers, &integers);
        }
        if per_group == 2 {
            self.node("Add", &[&parts[0], &parts[1]], &[name], vec![]);
        }
        Ok(())
    }

    /// A node of QONNX that quantizes a constant.
    fn int_quant(
        &mut self,
        name: &str,
        dims: &[usize],
        values: &[f32],
        scales: &[f32],
        multipliers: &[f32],
        integers: &Integers,
    ) {
        let input = |part: &str| format!("{name}.{part}");
        let (float, scale) = (input("float"), input("scale"));
        self.floats(&float, dims, values);
        // One scale for each row, for the broadcast of numpy.
        let mut shape = vec![1; dims.len()];
        shape[0] = scales.len();
        self.floats(&scale, if scales.len() == 1 { &[] } else { &shape }, scales);
        let is_binary = multipliers == [-1.0, 1.0];
        if is_binary {
            self.node("BipolarQuant", &[&float, &scale], &[name], vec![]);
        } else {
            let (zero, bits) = (input("zero"), input("bits"));
            self.floats(&zero, &[], &[0.0]);
            self.floats(&bits, &[], &[integers.fewest_bits() as f32]);
            let attributes = vec![
                int("signed", 1),
                int("narrow", 0),
                string("rounding_mode", "ROUND"),
            ];
            self.node(
                "IntQuant",
                &[&float, &scale, &zero, &bits],
                &[name],
                attributes,
            );
        }
        if let Some(node) = self.graph.node.last_mut() {
            QONNX.clone_into(&mut node.domain);
        }
    }

    /// Integers of `bits` bits and their scales, in a shape with the attributes that say what they are for.
    fn dequantized(
        &mut self,
        name: &str,
        dims: &[usize],
        values: &[i8],
        bits: u32,
        (shape, scales, attributes): (&[usize], &[f32], Vec<Attribute>),
    ) {
        let (bits, kind) = match bits {
            2 if self.opset >= OPSETS[1] => (2, data_type::INT2),
            ..=4 => (4, data_type::INT4),
            _ => (8, data_type::INT8),
        };
        let values: Vec<u8> = values.iter().map(|value| value.cast_unsigned()).collect();
        let (codes, scale) = (format!("{name}.integers"), format!("{name}.scale"));
        self.initializer(&codes, kind, dims, packed_flat(&values, bits));
        self.floats(&scale, shape, scales);
        self.node("DequantizeLinear", &[&codes, &scale], &[name], attributes);
    }

    /// Values of a table.
    fn gathered(&mut self, name: &str, dims: &[usize], indices: &[usize], table: &[f32]) {
        let (codes, values) = (format!("{name}.codes"), format!("{name}.values"));
        self.floats(&values, &[table.len()], table);
        if table.len() <= 16 {
            let (bits, kind) = match table.len() {
                ..=4 if self.opset >= OPSETS[1] => (2, data_type::UINT2),
                _ => (4, data_type::UINT4),
            };
            let bytes: Vec<u8> = indices.iter().map(|index| *index as u8).collect();
            let packed = format!("{name}.packed");
            self.initializer(&packed, kind, dims, packed_flat(&bytes, bits));
            let to = int("to", data_type::INT32.into());
            self.node("Cast", &[&packed], &[&codes], vec![to]);
        } else {
            let bytes = indices
                .iter()
                .flat_map(|index| (*index as i32).to_le_bytes());
            self.initializer(&codes, data_type::INT32, dims, bytes.collect());
        }
        self.node("Gather", &[&values, &codes], &[name], vec![int("axis", 0)]);
    }

    /// The vectors of a layer.
    pub(super) fn vector(&mut self, name: &str) -> Result<(), OnnxError> {
        let values = self.tensor(name)?.to_f32();
        self.floats(name, &[values.len()], &values);
        Ok(())
    }
}

pub(super) fn permuted<T: Copy>(values: &[T], order: &dyn Fn(usize) -> usize) -> Vec<T> {
    (0..values.len()).map(|at| values[order(at)]).collect()
}

/// The lowest `bits` bits of each value, first value lowest, as ONNX packs flat tensors.
fn packed_flat(values: &[u8], bits: usize) -> Vec<u8> {
    let mask = ((1u16 << bits) - 1) as u8;
    let of_byte = |values: &[u8]| {
        let fields = values.iter().enumerate();
        fields.fold(0, |byte, (place, value)| {
            byte | (value & mask) << (place * bits)
        })
    };
    values.chunks(8 / bits).map(of_byte).collect()
}

fn string(name: &str, value: &str) -> Attribute {
    Attribute {
        name: name.to_owned(),
        s: Some(value.into()),
        kind: attribute_type::STRING,
        ..Attribute::default()
    }
}
