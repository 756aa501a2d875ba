//! Reads and writes GGUF files one tensor at a time.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::ElementType;
use crate::axis::elements;
use crate::files::{self, FileError};
use crate::tensor_file::BLOCK;

/// The first bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";
/// The version that is written; version 2 is read too.
const VERSION: u32 = 3;
/// The alignment of data without an entry `general.alignment`.
const ALIGNMENT: u64 = 32;
/// The most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// How deep arrays of arrays may be.
const MAX_DEPTH: u32 = 8;

/// The errors of a GGUF file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of another format.
    #[error("{path} is not a GGUF file: it does not begin with `GGUF`")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A version that is not read.
    #[error(
        "{path} has version {found} of GGUF, expected 2 or 3: convert the model again with a newer llama.cpp"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A file for processors of the other byte order.
    #[error(
        "{path} has numbers in big-endian order, expected little-endian: convert it with `gguf_convert_endian.py`"
    )]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// A file that ends before what its header describes.
    #[error(
        "{path} is truncated: it has {found} bytes, expected {expected} or more; copy or download it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// The bytes that it should have.
        expected: u64,
    },
    /// A tensor that the format does not have.
    #[error(
        "{name} of shape {shape:?} cannot be written to GGUF, which has up to 4 sizes and whole blocks"
    )]
    Tensor {
        /// The tensor.
        name: String,
        /// Its sizes.
        shape: Vec<usize>,
    },
    /// The header is inconsistent.
    #[error("the header of {path} is invalid: {detail}; copy or download the file again")]
    Header {
        /// The file.
        path: PathBuf,
        /// The defect.
        detail: String,
    },
}

/// A value of the metadata; arrays are not kept.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// An integer.
    Integer(i128),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// An array of so many values.
    Array(u64),
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Sizes, row-major: the last is the length of a row.
    pub shape: Vec<usize>,
    /// Its element type.
    pub element: ElementType,
    /// Its bytes, from the start of the data.
    offset: u64,
    bytes: usize,
}

impl GgufTensor {
    /// A tensor that is to be written; `None` if its rows are not whole blocks, if its size overflows, or if it
    /// has more than four dimensions.
    pub fn new(name: &str, shape: &[usize], element: ElementType) -> Option<Self> {
        if shape.len() > MAX_DIMENSIONS as usize {
            return None;
        }
        Some(Self {
            name: name.into(),
            shape: shape.to_vec(),
            element,
            offset: 0,
            bytes: bytes_of(shape, element)?,
        })
    }

    /// The length of a row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes in a file.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The bytes of a tensor.
fn bytes_of(shape: &[usize], element: ElementType) -> Option<usize> {
    let (columns, rows) = shape.split_last().unwrap_or((&1, &[]));
    let rows = elements(rows)?;
    rows.checked_mul(*columns)?;
    element.row_bytes(*columns)?.checked_mul(rows)
}

/// An entry of the metadata: its place in the file, and its value.
#[derive(Clone, Debug)]
struct Entry {
    key: String,
    place: Range<u64>,
    value: GgufValue,
}

/// An open GGUF file; only its header is in memory.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
    tensors: Vec<GgufTensor>,
    data_start: u64,
}

impl GgufFile {
    /// Whether a file begins as one of GGUF.
    pub fn is_gguf(path: &Path) -> bool {
        let mut start = [0; 4];
        files::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
            && start == *MAGIC
    }

    /// Reads the header and checks it against the length of the file.
    ///
    /// # Errors
    /// [`GgufError`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = files::open(path)?;
        let length = file.metadata().map_err(FileError::on("read", path))?.len();
        let mut header = Reader {
            path,
            from: BufReader::new(&file),
            place: 0,
            length,
        };
        if header.take::<4>().ok().as_ref() != Some(MAGIC) {
            return Err(GgufError::Foreign { path: path.into() });
        }
        let version = header.u32()?;
        if !(2..=VERSION).contains(&version) {
            return Err(match version.swap_bytes() {
                1..=VERSION => GgufError::BigEndian { path: path.into() },
                _ => GgufError::Version {
                    path: path.into(),
                    found: version,
                },
            });
        }
        let (tensors, entries) = (header.u64()?, header.u64()?);
        // A tensor has 24 bytes or more, and an entry 13.
        if tensors
            .saturating_mul(24)
            .saturating_add(entries.saturating_mul(13))
            > length
        {
            let detail = format!(
                "{tensors} tensors and {entries} entries are more than fit in {length} bytes"
            );
            return Err(header.invalid(detail));
        }
        let mut keys = HashSet::new();
        let entries: Vec<Entry> = (0..entries)
            .map(|_| header.entry(&mut keys))
            .collect::<Result<_, _>>()?;
        let alignment = entries
            .iter()
            .find(|entry| entry.key == "general.alignment");
        let alignment = match alignment.map(|entry| &entry.value) {
            None => ALIGNMENT,
            Some(GgufValue::Integer(found)) if (1..=1 << 20).contains(found) => *found as u64,
            Some(found) => {
                return Err(header.invalid(format!("general.alignment is {found:?}")));
            }
        };
        let mut names = HashSet::new();
        let tensors: Vec<GgufTensor> = (0..tensors)
            .map(|_| header.tensor(&mut names))
            .collect::<Result<_, _>>()?;
        let data_start = header.place.next_multiple_of(alignment);
        for tensor in &tensors {
            let end = data_start.checked_add(tensor.offset);
            let end = end.and_then(|start| start.checked_add(tensor.bytes as u64));
            match end {
                Some(end) if end <= length => {}
                Some(expected) => {
                    return Err(GgufError::Truncated {
                        path: path.into(),
                        found: length,
                        expected,
                    });
                }
                None => return Err(header.invalid(format!("{} ends beyond 2^64", tensor.name))),
            }
        }
        let all = tensors.iter().map(|tensor| tensor.bytes as u64);
        if all.fold(data_start, u64::saturating_add) > length {
            return Err(header.invalid("tensors share bytes".into()));
        }
        Ok(Self {
            path: path.into(),
            file,
            entries,
            tensors,
            data_start,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The value of a key of the metadata.
    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.value)
    }

    /// Reads the bytes of a tensor of this file into `bytes`.
    ///
    /// # Errors
    /// [`GgufError::File`].
    pub fn read(&self, tensor: &GgufTensor, bytes: &mut Vec<u8>) -> Result<(), GgufError> {
        self.read_at(self.data_start + tensor.offset, tensor.bytes, bytes)
    }

    fn read_at(&self, start: u64, length: usize, bytes: &mut Vec<u8>) -> Result<(), GgufError> {
        bytes.clear();
        bytes.reserve_exact(length);
        bytes.resize(length, 0);
        let mut file = &self.file;
        let read = file
            .seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(bytes));
        Ok(read.map_err(FileError::on("read", &self.path))?)
    }

    /// The entries of the metadata except those with a key of `others` or this one, as they are in the file, and
    /// their number.
    pub(super) fn raw_entries(
        &self,
        others: &NewEntries,
        removed: &str,
    ) -> Result<(Vec<u8>, u64), GgufError> {
        let (mut all, mut entry) = (Vec::new(), Vec::new());
        let is_kept =
            |key: &str| !["general.alignment", removed].contains(&key) && !others.contains_key(key);
        let kept = self.entries.iter().filter(|entry| is_kept(&entry.key));
        let mut count = 0;
        for Entry { place, .. } in kept {
            self.read_at(place.start, (place.end - place.start) as usize, &mut entry)?;
            all.extend_from_slice(&entry);
            count += 1;
        }
        Ok((all, count))
    }
}

/// Reads numbers and texts, and counts bytes.
struct Reader<'a> {
    path: &'a Path,
    from: BufReader<&'a File>,
    place: u64,
    length: u64,
}

impl Reader<'_> {
    fn invalid(&self, detail: String) -> GgufError {
        GgufError::Header {
            path: self.path.into(),
            detail,
        }
    }

    /// An error if fewer bytes are left.
    fn expect(&self, bytes: u64) -> Result<(), GgufError> {
        let expected = self.place.saturating_add(bytes);
        match expected <= self.length {
            true => Ok(()),
            false => Err(GgufError::Truncated {
                path: self.path.into(),
                found: self.length,
                expected,
            }),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.expect(N as u64)?;
        let mut bytes = [0; N];
        let read = self.from.read_exact(&mut bytes);
        read.map_err(FileError::on("read", self.path))?;
        self.place += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        self.expect(length)?;
        let mut bytes = vec![0; length as usize];
        let read = self.from.read_exact(&mut bytes);
        read.map_err(FileError::on("read", self.path))?;
        self.place += length;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The name of an entry or a tensor.
    fn name(&mut self) -> Result<String, GgufError> {
        let name = self.text()?;
        match name.contains(char::is_control) {
            true => Err(self.invalid(format!("the name {name:?} has a control character"))),
            false => Ok(name),
        }
    }

    fn entry(&mut self, keys: &mut HashSet<String>) -> Result<Entry, GgufError> {
        let start = self.place;
        let key = self.name()?;
        let kind = self.u32()?;
        let value = self.value(&key, kind, 0)?;
        if !keys.insert(key.clone()) {
            return Err(self.invalid(format!("the key {key} is there twice")));
        }
        Ok(Entry {
            key,
            place: start..self.place,
            value,
        })
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> Result<GgufValue, GgufError> {
        use GgufValue::{Array, Bool, Float, Integer, Text};
        Ok(match kind {
            0 => Integer(self.take::<1>()?[0].into()),
            1 => Integer(i8::from_le_bytes(self.take()?).into()),
            2 => Integer(u16::from_le_bytes(self.take()?).into()),
            3 => Integer(i16::from_le_bytes(self.take()?).into()),
            4 => Integer(self.u32()?.into()),
            5 => Integer(i32::from_le_bytes(self.take()?).into()),
            6 => Float(f32::from_le_bytes(self.take()?).into()),
            7 => Bool(self.take::<1>()?[0] != 0),
            8 => Text(self.text()?),
            9 if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                // Each value has a byte or more.
                self.expect(count)?;
                for _ in 0..count {
                    self.value(key, kind, depth + 1)?;
                }
                Array(count)
            }
            10 => Integer(self.u64()?.into()),
            11 => Integer(i64::from_le_bytes(self.take()?).into()),
            12 => Float(f64::from_le_bytes(self.take()?)),
            found => {
                return Err(self.invalid(format!("{key} has values of the unknown type {found}")));
            }
        })
    }

    fn tensor(&mut self, names: &mut HashSet<String>) -> Result<GgufTensor, GgufError> {
        let name = self.name()?;
        if !names.insert(name.clone()) {
            return Err(self.invalid(format!("the tensor {name} is there twice")));
        }
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            let detail =
                format!("{name} has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}");
            return Err(self.invalid(detail));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            let fits = usize::try_from(size);
            shape.push(fits.map_err(|_| self.invalid(format!("{name} has a size of {size}")))?);
        }
        // The first is the length of a row.
        shape.reverse();
        let number = self.u32()?;
        let Some(element) = ElementType::of_number(number) else {
            return Err(self.invalid(format!("{name} has elements of the unknown type {number}")));
        };
        let offset = self.u64()?;
        let Some(bytes) = bytes_of(&shape, element) else {
            let block = element.weights;
            return Err(self.invalid(format!(
                "{name} has shape {shape:?} in {element}, whose rows are whole blocks of {block}"
            )));
        };
        Ok(GgufTensor {
            name,
            shape,
            element,
            offset,
            bytes,
        })
    }
}

/// New entries of the metadata.
pub(super) type NewEntries = BTreeMap<String, NewValue>;

/// A value of a new entry of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum NewValue {
    /// An integer.
    Number(u32),
    /// A floating-point number.
    Float(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

/// Writes a file with entries of another and new ones.
pub(super) struct GgufWriter<'a> {
    path: &'a Path,
    file: BufWriter<&'a mut File>,
    tensors: std::vec::IntoIter<GgufTensor>,
}

impl<'a> GgufWriter<'a> {
    /// Writes the header: the entries `kept`, as they are in another file, with their number, and new ones.
    pub(super) fn new(
        path: &'a Path,
        file: &'a mut File,
        (kept, count): (Vec<u8>, u64),
        entries: &NewEntries,
        tensors: Vec<GgufTensor>,
    ) -> Result<Self, GgufError> {
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(count + entries.len() as u64).to_le_bytes());
        header.extend_from_slice(&kept);
        let put_text = |header: &mut Vec<u8>, text: &str| {
            header.extend_from_slice(&(text.len() as u64).to_le_bytes());
            header.extend_from_slice(text.as_bytes());
        };
        for (key, value) in entries {
            put_text(&mut header, key);
            match value {
                NewValue::Number(value) => {
                    header.extend_from_slice(&4u32.to_le_bytes());
                    header.extend_from_slice(&value.to_le_bytes());
                }
                NewValue::Float(value) => {
                    header.extend_from_slice(&6u32.to_le_bytes());
                    header.extend_from_slice(&value.to_le_bytes());
                }
                NewValue::Bool(value) => {
                    header.extend_from_slice(&7u32.to_le_bytes());
                    header.push(u8::from(*value));
                }
                NewValue::Text(text) => {
                    header.extend_from_slice(&8u32.to_le_bytes());
                    put_text(&mut header, text);
                }
            }
        }
        let mut offset = 0u64;
        for tensor in &tensors {
            put_text(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                header.extend_from_slice(&(*size as u64).to_le_bytes());
            }
            header.extend_from_slice(&tensor.element.number.to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            offset = (offset + tensor.bytes as u64).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        let mut writer = Self {
            path,
            file: BufWriter::new(file),
            tensors: tensors.into_iter(),
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes the bytes of the next tensor.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        self.next(bytes.len());
        self.put(bytes)?;
        self.pad(bytes.len())
    }

    /// Copies the next tensor from another file. Calls `go_on` before each block of it.
    pub(super) fn copy<E: From<GgufError>>(
        &mut self,
        from: &GgufFile,
        tensor: &GgufTensor,
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        self.next(tensor.bytes);
        let mut block = Vec::new();
        for at in (0..tensor.bytes).step_by(BLOCK) {
            go_on()?;
            let start = from.data_start + tensor.offset + at as u64;
            from.read_at(start, BLOCK.min(tensor.bytes - at), &mut block)?;
            self.put(&block)?;
        }
        Ok(self.pad(tensor.bytes)?)
    }

    fn next(&mut self, bytes: usize) {
        let tensor = self.tensors.next();
        assert_eq!(
            tensor.map(|tensor| tensor.bytes),
            Some(bytes),
            "the planned size"
        );
    }

    fn pad(&mut self, bytes: usize) -> Result<(), GgufError> {
        let padding = bytes.next_multiple_of(ALIGNMENT as usize) - bytes;
        self.put(&[0; ALIGNMENT as usize][..padding])
    }

    pub(super) fn end(mut self) -> Result<(), GgufError> {
        assert!(self.tensors.next().is_none(), "all tensors are written");
        Ok(self
            .file
            .flush()
            .map_err(FileError::on("write", self.path))?)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        let written = self.file.write_all(bytes);
        Ok(written.map_err(FileError::on("write", self.path))?)
    }
}
