//! A constant of an ONNX model: its sizes, checked, and its elements.

use half::{bf16, f16};
use prost::bytes::Bytes;

use super::proto::{EXTERNAL, TensorProto};
use crate::axis::elements;

/// A tensor that does not have what it should have.
#[derive(Debug)]
pub(super) struct Defect {
    pub(super) name: String,
    pub(super) found: String,
    pub(super) expected: String,
}

/// Name and bits of the element types by their number, from 1; texts have no bits.
const ELEMENT_TYPES: [(&str, u32); 28] = [
    ("FLOAT", 32),
    ("UINT8", 8),
    ("INT8", 8),
    ("UINT16", 16),
    ("INT16", 16),
    ("INT32", 32),
    ("INT64", 64),
    ("STRING", 0),
    ("BOOL", 8),
    ("FLOAT16", 16),
    ("DOUBLE", 64),
    ("UINT32", 32),
    ("UINT64", 64),
    ("COMPLEX64", 64),
    ("COMPLEX128", 128),
    ("BFLOAT16", 16),
    ("FLOAT8E4M3FN", 8),
    ("FLOAT8E4M3FNUZ", 8),
    ("FLOAT8E5M2", 8),
    ("FLOAT8E5M2FNUZ", 8),
    ("UINT4", 4),
    ("INT4", 4),
    ("FLOAT4E2M1", 4),
    ("FLOAT8E8M0", 8),
    ("UINT2", 2),
    ("INT2", 2),
    ("FLOAT6E2M3", 6),
    ("FLOAT6E3M2", 6),
];

/// A constant with as many elements as its shape, or in another file.
#[derive(Debug)]
pub(super) struct Constant<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: &'static str,
    /// Bits of an element.
    pub(super) bits: u32,
    pub(super) shape: Vec<usize>,
    pub(super) elements: usize,
    pub(super) bytes: usize,
    /// The file that has the elements, if it is another.
    pub(super) external: Option<&'a str>,
    tensor: &'a TensorProto,
}

impl<'a> Constant<'a> {
    pub(super) fn new(name: &'a str, tensor: &'a TensorProto) -> Result<Self, Defect> {
        let defect = |found: String, expected: String| Defect {
            name: name.into(),
            found,
            expected,
        };
        let number = usize::try_from(tensor.data_type).unwrap_or(0);
        let Some(&(dtype, bits)) = ELEMENT_TYPES.get(number.wrapping_sub(1)) else {
            let found = format!("the element type {}", tensor.data_type);
            return Err(defect(found, "1 (FLOAT) to 28 (FLOAT6E3M2)".into()));
        };
        let sizes = tensor.dims.iter().map(|size| usize::try_from(*size).ok());
        let shape: Option<Vec<usize>> = sizes.collect();
        let elements = shape.as_deref().and_then(elements);
        let total_bits = elements.and_then(|elements| elements.checked_mul(bits as usize));
        let (Some(shape), Some(elements), Some(total_bits)) = (shape, elements, total_bits) else {
            let found = format!("the shape {:?}", tensor.dims);
            let expected = "sizes from 0 whose product does not overflow".into();
            return Err(defect(found, expected));
        };
        let location = (tensor.external_data.iter())
            .find(|entry| entry.key == "location")
            .map_or("unknown", |entry| &entry.value);
        let constant = Self {
            name,
            dtype,
            bits,
            shape,
            elements,
            bytes: total_bits.div_ceil(8)
                + tensor.string_data.iter().map(Bytes::len).sum::<usize>(),
            external: (tensor.data_location == EXTERNAL).then_some(location),
            tensor,
        };
        let (found, expected, field) = constant.stored();
        if constant.external.is_none() && found != expected {
            let expected = format!("{expected} for the shape {:?}", constant.shape);
            return Err(defect(format!("{found} {field}"), expected));
        }
        Ok(constant)
    }

    /// How many entries the field with the elements has and should have.
    fn stored(&self) -> (usize, usize, &'static str) {
        let (tensor, elements) = (self.tensor, self.elements);
        if !tensor.raw_data.is_empty() {
            return (tensor.raw_data.len(), self.bytes, "bytes of raw_data");
        }
        match self.dtype {
            "FLOAT" => (tensor.float_data.len(), elements, "float_data"),
            "COMPLEX64" => (tensor.float_data.len(), 2 * elements, "float_data"),
            "STRING" => (tensor.string_data.len(), elements, "string_data"),
            "INT64" => (tensor.int64_data.len(), elements, "int64_data"),
            "DOUBLE" => (tensor.double_data.len(), elements, "double_data"),
            "COMPLEX128" => (tensor.double_data.len(), 2 * elements, "double_data"),
            "UINT32" | "UINT64" => (tensor.uint64_data.len(), elements, "uint64_data"),
            // An entry has a whole byte of these.
            _ if self.bits <= 4 => (tensor.int32_data.len(), self.bytes, "int32_data"),
            _ => (tensor.int32_data.len(), elements, "int32_data"),
        }
    }

    /// Its integers, if its elements are in the model and integers that `DequantizeLinear` takes.
    pub(super) fn integers(&self) -> Option<impl Fn(usize) -> i32 + '_> {
        let signed = match self.dtype {
            "UINT2" | "UINT4" | "UINT8" | "UINT16" => false,
            "INT2" | "INT4" | "INT8" | "INT16" | "INT32" => true,
            _ => return None,
        };
        let unused = 32 - self.bits;
        let extend = move |word: u32| match signed {
            true => (word << unused).cast_signed() >> unused,
            false => word.cast_signed(),
        };
        (self.external.is_none()).then_some(move |index| extend(self.word(index)))
    }

    /// Its elements in f32, if they are in the model and FLOAT, FLOAT16 or BFLOAT16.
    pub(super) fn floats(&self) -> Option<Vec<f32>> {
        if self.external.is_some() {
            return None;
        }
        let decode = match self.dtype {
            "FLOAT" if self.tensor.raw_data.is_empty() => {
                return Some(self.tensor.float_data.clone());
            }
            "FLOAT" => f32::from_bits,
            "FLOAT16" => |word| f16::from_bits(word as u16).to_f32(),
            "BFLOAT16" => |word| bf16::from_bits(word as u16).to_f32(),
            _ => return None,
        };
        Some((0..self.elements).map(|i| decode(self.word(i))).collect())
    }

    /// The bits of an element of 2, 4, 8, 16 or 32 bits in `raw_data` or `int32_data`.
    fn word(&self, index: usize) -> u32 {
        let bits = self.bits as usize;
        // A unit is an element, or a byte of several, the first lowest.
        let unit = bits.max(8);
        let (at, shift) = (index * bits / unit, index * bits % unit);
        let word = match &self.tensor.raw_data[..] {
            [] => self.tensor.int32_data[at].cast_unsigned(),
            raw => (raw[at * unit / 8..][..unit / 8].iter().rev())
                .fold(0, |word, byte| word << 8 | u32::from(*byte)),
        };
        (word >> shift) & (u32::MAX >> (32 - bits))
    }
}
