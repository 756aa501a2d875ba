//! Exports tensors to numpy's archive of arrays, an uncompressed zip file.
//!
//! ```python
//! arrays = numpy.load("network.npz")
//! described = json.loads(arrays["laq.json"].tobytes())   # tensors and metadata, as in the packed file
//! ```

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use serde_json::json;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::packed_file::steps_shape;
use crate::packed_format::{Tensor, TensorEntry, packed_name, scale_name};
use crate::stored::{StoredTensor, StoredTensors};

/// The array with the description of the tensors, as the bytes of JSON.
const DESCRIPTION: &str = "laq.json";

/// The arrays of the tensors, as the bytes of an npz file, and what it has of each.
///
/// A packed tensor NAME is `NAME.packed` (uint8, rows × bytes) and `NAME.scale`.
///
/// # Errors
/// The archive is larger than the format allows.
pub fn to_npz(
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, StoredTensors), ZipError> {
    let mut stored = StoredTensors::new();
    let mut archive = Archive(ZipWriter::new(Cursor::new(Vec::new())));
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors {
        let mut bytes = tensor.bytes();
        match tensor {
            Tensor::Packed(packed) => {
                let row_bytes = packed
                    .packed()
                    .len()
                    .checked_div(packed.rows())
                    .unwrap_or(0);
                let shape = [packed.rows(), row_bytes];
                archive.add(&packed_name(name), "|u1", &shape, packed.packed())?;
                archive.floats(&scale_name(name), &steps_shape(packed), packed.steps())?;
                entries.insert(name.clone(), TensorEntry::of(packed));
                bytes = packed.packed().len() + 4 * packed.steps().len();
            }
            Tensor::F32 { shape, values } => archive.floats(name, shape, values)?,
        }
        let of_tensor = StoredTensor {
            bytes,
            ..StoredTensor::packed(tensor)
        };
        stored.insert(name.clone(), of_tensor);
    }
    let description = json!({"tensors": entries, "metadata": metadata}).to_string();
    let description = description.as_bytes();
    archive.add(DESCRIPTION, "|u1", &[description.len()], description)?;
    Ok((archive.0.finish()?.into_inner(), stored))
}

struct Archive(ZipWriter<Cursor<Vec<u8>>>);

impl Archive {
    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), ZipError> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.add(name, "<f4", shape, &bytes)
    }

    /// An array of numpy's format, version 1.0.
    fn add(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<(), ZipError> {
        let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
        let mut header =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({sizes}), }}");
        // Magic, version and length take 10 bytes; the data begin at a multiple of 64.
        while !(10 + header.len() + 1).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        // The same bytes at any time.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(bytes.len() > u32::MAX as usize / 2);
        self.0.start_file(format!("{name}.npy"), options)?;
        self.0.write_all(b"\x93NUMPY\x01\x00")?;
        self.0.write_all(&(header.len() as u16).to_le_bytes())?;
        self.0.write_all(header.as_bytes())?;
        self.0.write_all(bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use laq_solvers::{Codebook, Granularity, Scale};
    use zip::ZipArchive;

    use super::*;
    use crate::codes::Packing;
    use crate::tensor::PackedTensor;

    /// One scale for each of three blocks in two rows, one for each sign, and one for each row.
    #[test]
    fn scales_have_the_shapes_of_packed_files() {
        let two = Scale::Two {
            positive: 0.5,
            negative: 0.25,
        };
        for (granularity, scales, expected) in [
            (Granularity::Block(2), vec![Scale::One(0.5); 6], "(2, 3, )"),
            (Granularity::Block(2), vec![two; 6], "(2, 3, 2, )"),
            (Granularity::Tensor, vec![two], "(2, )"),
            (Granularity::Row, vec![two; 2], "(2, 2, )"),
            (Granularity::Row, vec![Scale::One(0.5); 2], "(2, )"),
        ] {
            let groups = granularity.groups(2, 5, 1);
            let (levels, codebook) = ([1; 10], Codebook::Ternary);
            let packing = Packing::of(&codebook).expect("a packing");
            let packed =
                PackedTensor::from_groups(&[2, 5], &levels, &codebook, groups, &scales, packing);
            let tensor = Tensor::Packed(packed.expect("a tensor"));
            let tensors = BTreeMap::from([("w".to_owned(), tensor)]);
            let (bytes, _) = to_npz(&tensors, &BTreeMap::new()).expect("an archive");
            let mut archive = ZipArchive::new(Cursor::new(bytes)).expect("an archive");
            let mut array = Vec::new();
            let mut file = archive.by_name("w.scale.npy").expect("the scales");
            file.read_to_end(&mut array).expect("read");
            let header = String::from_utf8_lossy(&array).into_owned();
            assert!(header.contains(&format!("'shape': {expected}")), "{header}");
        }
    }
}
