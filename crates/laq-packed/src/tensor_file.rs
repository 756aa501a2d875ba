//! Reads and writes safetensors files one tensor at a time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use thiserror::Error;

use crate::axis::elements;
use crate::files::{self, FileError};
use crate::memory::{MemoryShortage, check_memory};
use crate::tensor_header::{Header, HeaderDefect, NewEntry, NewHeader};

/// Bytes read at a time; a multiple of every element size.
pub(crate) const BLOCK: usize = 1 << 20;

/// Maximum length of a header in the format.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes in memory for a byte of the header, with what is planned for its tensors.
const PARSED_BYTES: u64 = 24;

/// Bytes of the header length, which precedes the header.
const LENGTH_BYTES: u64 = 8;
/// Bytes that tell which format a file has.
const START_BYTES: u64 = 256;

/// An error of a safetensors file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TensorFileError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file written by `torch.save`.
    #[error(
        "{path} was written by torch.save ({kind}), expected safetensors: in Python, `import torch, \
         safetensors.torch; safetensors.torch.save_file(torch.load(\"{path}\", map_location=\"cpu\", \
         weights_only=True), \"model.safetensors\")` converts a state_dict"
    )]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// The format of `torch.save`.
        kind: &'static str,
    },
    /// Two tensors of the file to write have one name.
    #[error("{path} would have two tensors {name:?}: rename one of them")]
    Twice {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// An archive of numpy.
    #[error(
        "{path} is an archive of numpy arrays (npz), expected safetensors: in Python, numpy.load reads it"
    )]
    Numpy {
        /// The file.
        path: PathBuf,
    },
    /// A file of another format.
    #[error("{path} is not a safetensors file: {detail}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The defect.
        detail: String,
    },
    /// A truncated file.
    #[error(
        "{path} is truncated: it has {found} bytes, expected {expected} from its header; copy or download it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// Too little memory for the header.
    #[error("the header of {path}, of {length} bytes, {source}")]
    Memory {
        /// The file.
        path: PathBuf,
        /// Bytes of the header.
        length: u64,
        /// The memory.
        source: MemoryShortage,
    },
    /// The header is inconsistent.
    #[error("the header of {path} is invalid: {detail}; copy or download the file again")]
    Header {
        /// The file.
        path: PathBuf,
        /// The inconsistency.
        detail: String,
    },
    /// Elements of a type that is not known.
    #[error(
        "{name} in {path} has elements of the type {dtype:?}, which is not known here: convert it to one of F64, F32, F16, \
         BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U64, U32, U16, U8 and BOOL"
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type found.
        dtype: String,
    },
    /// The output header exceeds the maximum of the format.
    #[error(
        "{path} cannot be written: its header would have {bytes} bytes, the format allows {MAX_HEADER}; quantize \
         fewer tensors at a time"
    )]
    LongHeader {
        /// The file.
        path: PathBuf,
        /// Bytes of the header.
        bytes: u64,
    },
    /// The size of the output overflows.
    #[error("{path} cannot be written: its size exceeds 64 bits")]
    Huge {
        /// The file.
        path: PathBuf,
    },
}

/// An open safetensors file; only its header is in memory.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    header: Metadata,
}

impl TensorFile {
    /// Reads the header and checks it against the length of the file.
    pub(crate) fn open(path: &Path) -> Result<Self, TensorFileError> {
        Self::of(files::open(path)?, path)
    }

    /// [`open`](Self::open) for a file that is open, and that errors call `path`.
    pub(crate) fn of(mut file: File, path: &Path) -> Result<Self, TensorFileError> {
        let found = file.metadata().map_err(FileError::on("read", path))?.len();
        let mut start = Vec::new();
        file.rewind().map_err(FileError::on("read", path))?;
        Read::by_ref(&mut file)
            .take(START_BYTES)
            .read_to_end(&mut start)
            .map_err(FileError::on("read", path))?;
        let foreign = |detail: String| TensorFileError::Foreign {
            path: path.into(),
            detail,
        };
        let invalid = |detail: String| TensorFileError::Header {
            path: path.into(),
            detail,
        };
        // Any eight bytes are a valid length, so other formats are recognised only where no header
        // follows.
        let Some((length, [b'{', ..])) = start.split_first_chunk::<8>() else {
            if is_npz(&start) {
                return Err(TensorFileError::Numpy { path: path.into() });
            }
            if let Some(kind) = pytorch_kind(&start) {
                return Err(TensorFileError::PyTorch {
                    path: path.into(),
                    kind,
                });
            }
            return Err(foreign(format!(
                "it has {found} bytes and no `{{` after the first eight, where a header begins"
            )));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            return Err(foreign(format!(
                "its header has {length} bytes, the format allows {MAX_HEADER}"
            )));
        }
        let truncated = |expected: u64| TensorFileError::Truncated {
            path: path.into(),
            found,
            expected,
        };
        let data_start = LENGTH_BYTES + length;
        if data_start > found {
            return Err(truncated(data_start));
        }
        // A smaller one is in what the program takes anyway.
        if length > BLOCK as u64 {
            check_memory(PARSED_BYTES * length, 0).map_err(|source| TensorFileError::Memory {
                path: path.into(),
                length,
                source,
            })?;
        }
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(LENGTH_BYTES))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(FileError::on("read", path))?;
        let header: Header =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let header = header.checked().map_err(|defect| match defect {
            HeaderDefect::Invalid(detail) => invalid(detail),
            HeaderDefect::Dtype { name, dtype } => TensorFileError::Dtype {
                path: path.into(),
                name,
                dtype,
            },
        })?;
        let expected = data_start.saturating_add(header.data_len() as u64);
        if expected > found {
            return Err(truncated(expected));
        }
        if expected < found {
            return Err(invalid(format!(
                "it describes {expected} bytes, the file has {found}"
            )));
        }
        Ok(Self {
            path: path.into(),
            file,
            data_start,
            header,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the tensors begin; the header before them was read, so it fits in memory.
    pub(crate) fn data_start(&self) -> usize {
        self.data_start as usize
    }

    pub(crate) fn header(&self) -> &Metadata {
        &self.header
    }

    pub(crate) fn into_header(self) -> Metadata {
        self.header
    }

    /// Maps the file into memory.
    #[allow(unsafe_code)]
    pub(crate) fn map(&self) -> Result<Mmap, FileError> {
        // SAFETY: the mapped bytes must not change while they are borrowed. This crate replaces files
        // by renaming and never writes to an existing one, so that a map keeps the old file. If
        // another program overwrites the file in place, reads may see other bytes, which are
        // checked as they are copied, or end the process, as with any mapped file.
        let map = unsafe { Mmap::map(&self.file) };
        map.map_err(FileError::on("map", &self.path))
    }

    /// The tensors in file order.
    pub(crate) fn tensors(&self) -> Vec<(String, &TensorInfo)> {
        let names = self.header.offset_keys().into_iter();
        let tensor = |name: String| self.info(&name).map(|info| (name, info));
        names.filter_map(tensor).collect()
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// The entries of `__metadata__`.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let entries = self.header.metadata().iter().flatten();
        entries.map(|(key, value)| (key.clone(), value.clone()))
    }

    /// Calls `consume` with the bytes of a tensor in blocks of [`BLOCK`] bytes; the last may be
    /// shorter.
    pub(crate) fn read<E: From<FileError>>(
        &self,
        info: &TensorInfo,
        mut consume: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = info.data_offsets;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .map_err(FileError::on("read", &self.path))?;
        let mut left = end - start;
        let mut block = vec![0; BLOCK.min(left)];
        while left > 0 {
            let block = &mut block[..BLOCK.min(left)];
            file.read_exact(block)
                .map_err(FileError::on("read", &self.path))?;
            consume(block)?;
            left -= block.len();
        }
        Ok(())
    }
}

/// Whether these bytes begin a zip archive whose first file is an array of numpy.
fn is_npz(start: &[u8]) -> bool {
    let name = |header: &[u8]| {
        let length = u16::from_le_bytes([*header.get(26)?, *header.get(27)?]);
        Some(header.get(30..30 + usize::from(length))?.ends_with(b".npy"))
    };
    start.starts_with(b"PK\x03\x04") && name(start) == Some(true)
}

/// The format of `torch.save` that begins with these bytes.
fn pytorch_kind(start: &[u8]) -> Option<&'static str> {
    match start {
        [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
        [0x80, 2..=5, ..] => Some("a pickle"),
        _ => None,
    }
}

/// A tensor of an output file.
#[derive(Debug)]
pub(crate) struct NewTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

/// The header of an output file and the offset of each tensor.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The header, preceded by its length.
    header: Vec<u8>,
    /// The place of each tensor behind the header.
    starts: HashMap<String, u64>,
    total: u64,
}

impl Layout {
    /// Orders tensors as the `safetensors` crate does, by decreasing element size and then by name,
    /// which aligns every element. Deterministic in tensors and metadata.
    pub(crate) fn new(
        path: &Path,
        mut tensors: Vec<NewTensor>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, TensorFileError> {
        let huge = || TensorFileError::Huge { path: path.into() };
        tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut header = NewHeader {
            metadata,
            tensors: Vec::with_capacity(tensors.len()),
        };
        let mut starts = HashMap::with_capacity(tensors.len());
        let mut end = 0_usize;
        for NewTensor { name, dtype, shape } in &tensors {
            let start = end;
            end = elements(shape)
                .and_then(|elements| elements.checked_mul(dtype.bitsize()))
                .and_then(|bits| start.checked_add(bits / 8))
                .ok_or_else(huge)?;
            let entry = NewEntry {
                dtype: *dtype,
                shape,
                data_offsets: (start, end),
            };
            header.tensors.push((name, entry));
            if starts.insert(name.clone(), start as u64).is_some() {
                return Err(TensorFileError::Twice {
                    path: path.into(),
                    name: name.clone(),
                });
            }
        }
        let mut text = serde_json::to_vec(&header).map_err(|error| TensorFileError::Header {
            path: path.into(),
            detail: error.to_string(),
        })?;
        text.resize(text.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
        let length = text.len() as u64;
        if length > MAX_HEADER {
            return Err(TensorFileError::LongHeader {
                path: path.into(),
                bytes: length,
            });
        }
        let data_start = LENGTH_BYTES + length;
        let total = data_start.checked_add(end as u64).ok_or_else(huge)?;
        Ok(Self {
            header: [length.to_le_bytes().to_vec(), text].concat(),
            starts,
            total,
        })
    }

    /// The names of the tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.starts.keys().map(String::as_str)
    }

    fn header_bytes(&self) -> u64 {
        self.header.len() as u64
    }

    /// The bytes of all elements.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.total - self.header_bytes()
    }
}

/// Writes a file; tensors may come in any order, each of them whole.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    layout: &'a Layout,
    path: &'a Path,
    file: BufWriter<&'a File>,
}

impl<'a> Writer<'a> {
    /// Writes the header into an empty file; errors name `path`.
    pub(crate) fn new(
        layout: &'a Layout,
        path: &'a Path,
        file: &'a File,
    ) -> Result<Self, FileError> {
        let mut writer = Self {
            layout,
            path,
            file: BufWriter::with_capacity(BLOCK, file),
        };
        file.set_len(layout.total)
            .map_err(FileError::on("write", path))?;
        writer.write(&layout.header)?;
        Ok(writer)
    }

    /// Moves to the tensor `name` of the layout.
    pub(crate) fn begin(&mut self, name: &str) -> Result<(), FileError> {
        let start = self.layout.header_bytes() + self.layout.starts[name];
        self.file
            .seek(SeekFrom::Start(start))
            .map(drop)
            .map_err(FileError::on("write", self.path))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file
            .write_all(bytes)
            .map_err(FileError::on("write", self.path))
    }

    pub(crate) fn end(mut self) -> Result<(), FileError> {
        self.file.flush().map_err(FileError::on("write", self.path))
    }
}
