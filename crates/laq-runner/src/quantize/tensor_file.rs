//! Safetensors files, read and written one tensor at a time. What is in the tensors is left to the caller.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::files::FileError;

/// Bytes that are read at a time; every element type has a size that divides it.
pub(crate) const PIECE: usize = 1 << 20;

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// The header's length as a number, in front of the header.
const LENGTH_BYTES: u64 = 8;

/// Why a file of tensors cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TensorFileError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that `torch.save` wrote.
    #[error(
        "{path} was written by torch.save ({kind}), and this program reads safetensors: in Python, `import torch, \
         safetensors.torch; safetensors.torch.save_file(torch.load(\"{path}\", map_location=\"cpu\", \
         weights_only=True), \"model.safetensors\")` converts a state_dict"
    )]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// Which of its formats.
        kind: &'static str,
    },
    /// A file of another kind.
    #[error("{path} is not a safetensors file: {detail}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with its beginning.
        detail: String,
    },
    /// The file is shorter than it says.
    #[error(
        "{path} is cut off: it has {found} bytes, its header promises {expected}; copy or download it again"
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// The bytes that there should be.
        expected: u64,
    },
    /// The header contradicts itself or the file.
    #[error("the header of {path} is damaged: {detail}; copy or download the file again")]
    Header {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// More names than the format has room for.
    #[error(
        "{path} cannot be written: its header would have {bytes} bytes, and the format allows {LONGEST_HEADER}; quantize \
         fewer tensors at a time"
    )]
    LongHeader {
        /// The file.
        path: PathBuf,
        /// The bytes of the header.
        bytes: u64,
    },
    /// More bytes than can be counted.
    #[error("{path} cannot be written: it would have more bytes than any file can")]
    Huge {
        /// The file.
        path: PathBuf,
    },
}

/// A safetensors file that is open; of its content, only the header is in memory.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    header: Metadata,
}

impl TensorFile {
    /// Reads the header, and checks it against the file's length.
    pub(crate) fn open(path: &Path) -> Result<Self, TensorFileError> {
        let mut file = File::open(path).map_err(FileError::on("read", path))?;
        let found = file.metadata().map_err(FileError::on("read", path))?.len();
        let mut start = Vec::new();
        Read::by_ref(&mut file)
            .take(LENGTH_BYTES + 1)
            .read_to_end(&mut start)
            .map_err(FileError::on("read", path))?;
        let foreign = |detail: String| TensorFileError::Foreign {
            path: path.into(),
            detail,
        };
        let damaged = |detail: String| TensorFileError::Header {
            path: path.into(),
            detail,
        };
        // The first eight bytes may be any number, so what they look like counts only where no header follows.
        let Some((length, b"{")) = start.split_first_chunk::<8>() else {
            if let Some(kind) = pytorch_kind(&start) {
                return Err(TensorFileError::PyTorch {
                    path: path.into(),
                    kind,
                });
            }
            return Err(foreign(format!(
                "it has {found} bytes, and no `{{` after the first eight, where the header begins"
            )));
        };
        let length = u64::from_le_bytes(*length);
        if length > LONGEST_HEADER {
            return Err(foreign(format!(
                "it begins with a header of {length} bytes, and the format allows {LONGEST_HEADER}"
            )));
        }
        let cut_off = |expected: u64| TensorFileError::CutOff {
            path: path.into(),
            found,
            expected,
        };
        let data_start = LENGTH_BYTES + length;
        if data_start > found {
            return Err(cut_off(data_start));
        }
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(LENGTH_BYTES))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(FileError::on("read", path))?;
        let header: Metadata =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let expected = data_start.saturating_add(header.data_len() as u64);
        if expected > found {
            return Err(cut_off(expected));
        }
        if expected < found {
            return Err(damaged(format!(
                "it accounts for {expected} bytes, and the file has {found}"
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

    /// The tensors in the order of their bytes.
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

    /// Passes the bytes of a tensor on, piece by piece; each but the last has [`PIECE`] bytes.
    pub(crate) fn read<E: From<FileError>>(
        &self,
        info: &TensorInfo,
        mut pass: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = info.data_offsets;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .map_err(FileError::on("read", &self.path))?;
        let mut left = end - start;
        let mut piece = vec![0; PIECE.min(left)];
        while left > 0 {
            let piece = &mut piece[..PIECE.min(left)];
            file.read_exact(piece)
                .map_err(FileError::on("read", &self.path))?;
            pass(piece)?;
            left -= piece.len();
        }
        Ok(())
    }
}

/// Which of its formats `torch.save` writes files with this beginning in.
fn pytorch_kind(start: &[u8]) -> Option<&'static str> {
    match start {
        [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
        [0x80, 2..=5, ..] => Some("a pickle"),
        _ => None,
    }
}

/// The element types that weights are read from and written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Appends the numbers that whole elements stand for, which f32 holds exactly.
    pub(crate) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F32 => {
                let elements = bytes.as_chunks().0.iter();
                values.extend(elements.map(|bytes| f32::from_le_bytes(*bytes)));
            }
            Self::F16 => {
                let elements = bytes.as_chunks().0.iter();
                values.extend(elements.map(|bytes| f16::from_le_bytes(*bytes).to_f32()));
            }
            Self::Bf16 => {
                let elements = bytes.as_chunks().0.iter();
                values.extend(elements.map(|bytes| bf16::from_le_bytes(*bytes).to_f32()));
            }
        }
    }

    /// Appends the elements nearest to the numbers, ties to the even one. A finite number beyond the largest finite
    /// element becomes that: no weight turns infinite.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        let within = |value: f32, most: f32| value.clamp(-most, most);
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => {
                bytes.extend(values.iter().flat_map(|&value| {
                    f16::from_f32(within(value, f16::MAX.to_f32())).to_le_bytes()
                }))
            }
            Self::Bf16 => bytes.extend(values.iter().flat_map(|&value| {
                bf16::from_f32(within(value, bf16::MAX.to_f32())).to_le_bytes()
            })),
        }
    }
}

/// A tensor of a file to be written.
#[derive(Debug)]
pub(crate) struct NewTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

/// The header of a file to be written, and with it the place of every tensor.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The header with its length in front.
    header: Vec<u8>,
    starts: HashMap<String, u64>,
    total: u64,
}

impl Layout {
    /// Places the tensors as the format's own library does, widest elements first and then by name, so that every
    /// element stands at a multiple of its size. The same tensors and metadata give the same bytes.
    pub(crate) fn new(
        path: &Path,
        mut tensors: Vec<NewTensor>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, TensorFileError> {
        let huge = || TensorFileError::Huge { path: path.into() };
        tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut header = Map::new();
        if !metadata.is_empty() {
            let entries = metadata.iter().map(|(key, value)| (key, value.as_str()));
            header.insert("__metadata__".into(), entries.collect());
        }
        let mut places = Vec::with_capacity(tensors.len());
        let mut end = 0_usize;
        for tensor in tensors {
            let start = end;
            let elements = tensor.shape.iter().copied().try_fold(1, usize::checked_mul);
            end = elements
                .and_then(|elements: usize| elements.checked_mul(tensor.dtype.bitsize()))
                .and_then(|bits| start.checked_add(bits / 8))
                .ok_or_else(huge)?;
            let info = TensorInfo {
                dtype: tensor.dtype,
                shape: tensor.shape,
                data_offsets: (start, end),
            };
            let info = serde_json::to_value(info).map_err(|error| TensorFileError::Header {
                path: path.into(),
                detail: error.to_string(),
            })?;
            header.insert(tensor.name.clone(), info);
            places.push((tensor.name, start as u64));
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
        let length = text.len() as u64;
        if length > LONGEST_HEADER {
            return Err(TensorFileError::LongHeader {
                path: path.into(),
                bytes: length,
            });
        }
        let data_start = LENGTH_BYTES + length;
        let total = data_start.checked_add(end as u64).ok_or_else(huge)?;
        Ok(Self {
            header: [length.to_le_bytes().to_vec(), text].concat(),
            starts: places
                .into_iter()
                .map(|(name, start)| (name, data_start + start))
                .collect(),
            total,
        })
    }
}

/// A file while it is written: the tensors may come in any order, each of them whole.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    layout: &'a Layout,
    path: &'a Path,
    file: BufWriter<&'a File>,
}

impl<'a> Writer<'a> {
    /// Writes the header into an empty file; `path` is what errors call it.
    pub(crate) fn new(
        layout: &'a Layout,
        path: &'a Path,
        file: &'a File,
    ) -> Result<Self, FileError> {
        let mut writer = Self {
            layout,
            path,
            file: BufWriter::with_capacity(PIECE, file),
        };
        file.set_len(layout.total)
            .map_err(FileError::on("write", path))?;
        writer.write(&layout.header)?;
        Ok(writer)
    }

    /// What is written next is the tensor `name` of the layout.
    pub(crate) fn begin(&mut self, name: &str) -> Result<(), FileError> {
        let place = self.layout.starts[name];
        self.file
            .seek(SeekFrom::Start(place))
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
