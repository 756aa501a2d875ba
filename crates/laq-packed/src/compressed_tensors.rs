//! Exports tensors in the format `pack-quantized` of compressed-tensors, which vLLM and transformers
//! read: `model.safetensors` and `config.json` in a folder.
//!
//! | tensor | elements | content |
//! |---|---|---|
//! | `NAME_packed` | I32, rows × ⌈columns·b / 32⌉ | integer + 2^(b−1) in b bits, dense, least significant bit first |
//! | `NAME_scale` | F32, `[1]`, `[rows, 1]` or `[rows, blocks]` | a weight is scale · integer |
//! | `NAME_shape` | I64, `[2]` | rows, columns |
//!
//! Matrices are exported so. Other tensors, and matrices with a scale for each sign, with levels that
//! are not integers of at most 8 bits, or with rows that are not whole blocks, are written in f32.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::files::{FileError, replace, write_atomically};
use crate::integers::Integers;
use crate::packed_file::PackedFileError;
use crate::packed_format::Tensor;
use crate::stored::{StoredTensor, StoredTensors};
use crate::tensor::PackedTensor;
use crate::tensor_file::{Layout, NewTensor, Writer};

/// A tensor of the file.
struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Bits, strategy, and weights of a block.
type Group = (u32, &'static str, Option<usize>);

/// Writes the folder `out`, and returns what it has of each tensor; the description of the network is in the metadata of its safetensors file.
///
/// # Errors
/// [`PackedFileError::TensorFile`] if the folder or a file cannot be written.
pub fn write_compressed_tensors(
    out: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<StoredTensors, PackedFileError> {
    let mut parts = Vec::new();
    let mut stored = StoredTensors::new();
    // By bits, strategy and weights of a block, the layers: names without `.weight`.
    let mut groups: BTreeMap<Group, Vec<String>> = BTreeMap::new();
    let mut ignored = Vec::new();
    for (name, tensor) in tensors {
        let layer = name.strip_suffix(".weight").unwrap_or(name).to_owned();
        if let Tensor::Packed(packed) = tensor
            && packed.shape().len() == 2
            && packed.axis() == 0
            && packed
                .block()
                .is_none_or(|block| packed.shape()[1].is_multiple_of(block))
            && let Some(integers) = packed.integers()
        {
            let bits = integers.fewest_bits();
            let strategy = match (packed.block(), packed.groups()) {
                (Some(_), _) => "group",
                (None, 1) => "tensor",
                (None, _) => "channel",
            };
            groups
                .entry((bits, strategy, packed.block()))
                .or_default()
                .push(layer);
            let matrix = matrix(name, packed, &integers);
            let bytes = matrix.iter().map(|part| part.bytes.len()).sum();
            let bits = bits.into();
            stored.insert(name.clone(), StoredTensor { bits, bytes });
            parts.extend(matrix);
            continue;
        }
        if tensor.shape().len() > 1 {
            ignored.push(layer);
        }
        let f32s = f32s(name, tensor.shape(), &tensor.to_f32());
        let bytes = f32s.bytes.len();
        stored.insert(name.clone(), StoredTensor { bits: 32.0, bytes });
        parts.push(f32s);
    }
    let config = config(&groups, &ignored);
    let new = parts.iter().map(|part| NewTensor {
        name: part.name.clone(),
        dtype: part.dtype,
        shape: part.shape.clone(),
    });
    fs::create_dir_all(out).map_err(FileError::on("make the folder", out))?;
    let path = out.join("model.safetensors");
    let layout = Layout::new(&path, new.collect(), metadata)?;
    replace(&path, |file| {
        let mut writer = Writer::new(&layout, &path, file)?;
        for part in &parts {
            writer.begin(&part.name)?;
            writer.write(&part.bytes)?;
        }
        writer.end()
    })?;
    let text = format!("{config:#}\n");
    write_atomically(&out.join("config.json"), text.as_bytes())?;
    Ok(stored)
}

/// The tensors of a matrix.
fn matrix(name: &str, packed: &PackedTensor, integers: &Integers) -> [Part; 3] {
    let (rows, bits) = (packed.rows(), integers.fewest_bits() as usize);
    let columns = packed.elements().checked_div(rows).unwrap_or(0);
    let words = (columns * bits).div_ceil(32);
    let mut bytes = vec![0u8; rows * words * 4];
    let offset = 1 << (bits - 1);
    for (index, code) in packed.codes().into_iter().enumerate() {
        let value = (i32::from(integers.values[usize::from(code)]) + offset) as u16;
        let (row, bit) = (index / columns, index % columns * bits);
        // At most two bytes.
        let shifted = value << (bit % 8);
        let start = row * words * 4 + bit / 8;
        bytes[start] |= shifted as u8;
        if bit % 8 + bits > 8 {
            bytes[start + 1] |= (shifted >> 8) as u8;
        }
    }
    let (scales, shape) = match packed.block() {
        Some(block) => {
            let shape = vec![rows, columns.div_ceil(block)];
            (packed.scales_of_blocks(integers), shape)
        }
        None => {
            let scales = packed.scales_of_rows(integers, 0, &|row| packed.group_of(row * columns));
            let shape = if scales.len() == 1 {
                vec![1]
            } else {
                vec![rows, 1]
            };
            (scales, shape)
        }
    };
    let sizes = [rows, columns].map(|size| size as i64);
    [
        Part {
            name: format!("{name}_packed"),
            dtype: Dtype::I32,
            shape: vec![rows, words],
            bytes,
        },
        f32s(&format!("{name}_scale"), &shape, &scales),
        Part {
            name: format!("{name}_shape"),
            dtype: Dtype::I64,
            shape: vec![2],
            bytes: sizes.iter().flat_map(|size| size.to_le_bytes()).collect(),
        },
    ]
}

fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Part {
    Part {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}

/// The quantization part of `config.json`.
fn config(groups: &BTreeMap<Group, Vec<String>>, ignored: &[String]) -> Value {
    let groups: serde_json::Map<String, Value> = (groups.iter().enumerate())
        .map(|(index, ((bits, strategy, block), targets))| {
            let mut weights = json!({
                "num_bits": bits, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": false,
            });
            if let Some(block) = block {
                weights["group_size"] = json!(block);
            }
            let group = json!({"targets": targets, "weights": weights, "format": "pack-quantized"});
            (format!("group_{index}"), group)
        })
        .collect();
    json!({"quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
    }})
}
