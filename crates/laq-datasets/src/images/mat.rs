//! MATLAB MAT-files of level 5: arrays of real numbers.
//!
//! A file has a header of 128 bytes, whose last four give version and byte order, then elements:
//! eight bytes of type and size, then data, padded to a multiple of eight. An array element
//! contains elements: flags with the class, dimensions, name, and values in column-major order,
//! possibly in a smaller type than the class. The data of a compressed (zlib) top-level element are
//! an array element. If the data of an inner element fit into four bytes, type and size take two
//! bytes each and the data the other four.
//!
//! The reader streams: its memory does not depend on the sizes in the file, and arrays that the
//! caller does not read are skipped. Version 7.3 files are HDF5, another format. The reader is our
//! own because the crates that read MAT-files load whole arrays, and SVHN's extra file unpacks to
//! 1.6 GB.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

use super::FormatError;
use super::error::{fill, unreadable};

/// Limits of the number of dimensions and of the bytes of a name; MATLAB limits names to 63.
const MAX_DIMENSIONS: usize = 32;
const MAX_NAME: usize = 256;

/// The element type of the stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Signed 8-bit integers.
    I8,
    /// Unsigned 8-bit integers.
    U8,
    /// Signed 16-bit integers.
    I16,
    /// Unsigned 16-bit integers.
    U16,
    /// Signed 32-bit integers.
    I32,
    /// Unsigned 32-bit integers.
    U32,
    /// 32-bit floating point.
    F32,
    /// 64-bit floating point.
    F64,
    /// Signed 64-bit integers.
    I64,
    /// Unsigned 64-bit integers.
    U64,
}

impl Stored {
    fn from_type(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::I8,
            2 => Self::U8,
            3 => Self::I16,
            4 => Self::U16,
            5 => Self::I32,
            6 => Self::U32,
            7 => Self::F32,
            9 => Self::F64,
            12 => Self::I64,
            13 => Self::U64,
            _ => return None,
        })
    }

    /// Bytes per value.
    pub fn width(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }
}

/// Byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// Decodes the first value of `bytes`.
    fn f64(self, stored: Stored, bytes: &[u8]) -> f64 {
        let mut little = [0; 8];
        let width = stored.width();
        little[..width].copy_from_slice(&bytes[..width]);
        if self == Self::Big {
            little[..width].reverse();
        }
        let [a, b, c, d, ..] = little;
        match stored {
            Stored::I8 => f64::from(a as i8),
            Stored::U8 => f64::from(a),
            Stored::I16 => f64::from(i16::from_le_bytes([a, b])),
            Stored::U16 => f64::from(u16::from_le_bytes([a, b])),
            Stored::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Stored::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
            Stored::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Stored::F64 => f64::from_le_bytes(little),
            Stored::I64 => i64::from_le_bytes(little) as f64,
            Stored::U64 => u64::from_le_bytes(little) as f64,
        }
    }
}

/// An array of real numbers; the values are read on demand.
pub struct Array<'a> {
    /// Its name.
    pub name: String,
    /// Its dimensions; the first is innermost in the file.
    pub dimensions: Vec<usize>,
    /// The element type of its stored values.
    pub stored: Stored,
    order: Order,
    /// Unread bytes.
    left: u64,
    /// The values, if they are within the tag.
    in_tag: Option<[u8; 4]>,
    content: &'a mut dyn Read,
}

impl Array<'_> {
    /// Product of the dimensions.
    pub fn elements(&self) -> u64 {
        // Compared with the size of the element when the tag was read, so it does not overflow.
        self.dimensions.iter().map(|&d| d as u64).product()
    }

    /// Reads the next stored bytes. `place` describes the position for errors.
    ///
    /// # Errors
    ///
    /// [`FormatError`] if the array or the file ends before `buffer` is full, or reading or
    /// decompressing fails.
    pub fn read_bytes(
        &mut self,
        buffer: &mut [u8],
        place: impl Fn() -> String,
    ) -> Result<(), FormatError> {
        if buffer.len() as u64 > self.left {
            let found = format!("the end of array {}", self.name);
            let expected = format!("{} bytes more", buffer.len());
            return Err(FormatError::new(place(), found, expected));
        }
        match self.in_tag {
            Some(bytes) => {
                let size = self.elements() as usize * self.stored.width();
                let start = size - self.left as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
            }
            None => exact(self.content, buffer, place)?,
        }
        self.left -= buffer.len() as u64;
        Ok(())
    }

    /// Reads the next value, converted to f64.
    ///
    /// # Errors
    ///
    /// As [`read_bytes`](Self::read_bytes).
    pub fn read_number(&mut self, place: impl Fn() -> String) -> Result<f64, FormatError> {
        let mut bytes = [0; 8];
        self.read_bytes(&mut bytes[..self.stored.width()], place)?;
        Ok(self.order.f64(self.stored, &bytes))
    }
}

/// Calls `visit` with every array of real numbers in `content`, in file order. Values that `visit`
/// does not read are skipped; if it reads all values of a compressed array, the checksum is
/// verified.
///
/// # Errors
///
/// [`FormatError`] if the file is not a MAT-file of level 5, is damaged or truncated, and any error
/// of `visit`.
pub fn read(
    mut content: impl Read,
    visit: &mut dyn FnMut(&mut Array<'_>) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let order = header(&mut content)?;
    for element in 0.. {
        let place = || format!("element {element}");
        // The file may end only between elements.
        let Some(tag) = Tag::read(&mut content, order, &place)? else {
            break;
        };
        let size = u64::from(tag.size);
        match tag.code {
            COMPRESSED => {
                let mut packed = (&mut content).take(size);
                let mut unpacked = ZlibDecoder::new(&mut packed);
                let inner = Tag::read(&mut unpacked, order, &place)?;
                if let Some(inner) = inner.filter(|inner| inner.code == MATRIX) {
                    let mut array = (&mut unpacked).take(inner.size.into());
                    if matrix(&mut array, order, &place, visit)? {
                        // The checksum is at the end of the stream, after at most the padding.
                        finish(&mut unpacked, &place)?;
                    }
                }
                skip_rest(&mut packed, &place)?;
            }
            MATRIX => {
                let mut array = (&mut content).take(size);
                matrix(&mut array, order, &place, visit)?;
                skip_rest(&mut array, &place)?;
                skip_rest(&mut (&mut content).take(padding(size)), &place)?;
            }
            code if tag.in_tag.is_none() && (1..=18).contains(&code) => {
                let mut other = (&mut content).take(size + padding(size));
                skip_rest(&mut other, &place)?;
            }
            code => {
                let found = format!("an element of type {code}");
                let expected = "an array or a compressed one: types 14 and 15";
                return Err(FormatError::new(place(), found, expected));
            }
        }
    }
    Ok(())
}

const COMPRESSED: u32 = 15;
const MATRIX: u32 = 14;

fn header(content: &mut impl Read) -> Result<Order, FormatError> {
    let mut header = [0; 128];
    exact(content, &mut header, || "header".into())?;
    let order = match &header[126..] {
        b"IM" => Order::Little,
        b"MI" => Order::Big,
        found => {
            return Err(FormatError::new(
                "header",
                format!("{found:02x?} as the byte order"),
                "\"IM\" or \"MI\": a MAT-file of level 5",
            ));
        }
    };
    match order.u16([header[124], header[125]]) {
        0x0100 => Ok(order),
        0x0200 => Err(FormatError::new(
            "header",
            "version 7.3, which is HDF5",
            "a MAT-file of level 5; save it with -v7 or -v6",
        )),
        version => Err(FormatError::new(
            "header",
            format!("version {version:#06x}"),
            "0x0100: a MAT-file of level 5",
        )),
    }
}

/// Type and size of an element, and its data if they are within the tag.
struct Tag {
    code: u32,
    size: u32,
    in_tag: Option<[u8; 4]>,
}

impl Tag {
    /// Reads the next tag; `None` at the end of the content.
    fn read(
        content: &mut dyn Read,
        order: Order,
        place: &dyn Fn() -> String,
    ) -> Result<Option<Self>, FormatError> {
        let mut tag = [0; 8];
        match fill(content, &mut tag).map_err(unreadable(place))? {
            0 => return Ok(None),
            8 => {}
            found => {
                let found = format!("the end after {found} bytes");
                return Err(FormatError::new(place(), found, "8 bytes of type and size"));
            }
        }
        let [a, b, c, d, rest @ ..] = tag;
        let first = order.u32([a, b, c, d]);
        Ok(Some(match first >> 16 {
            0 => Self {
                code: first,
                size: order.u32(rest),
                in_tag: None,
            },
            small => Self {
                code: first & 0xffff,
                size: small,
                in_tag: Some(rest),
            },
        }))
    }
}

/// Bytes of padding after `size` bytes, to a multiple of eight.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % 8
}

/// Reads the inner elements of an array and calls `visit`. Returns whether `visit` read all values.
fn matrix(
    content: &mut dyn Read,
    order: Order,
    place: &dyn Fn() -> String,
    visit: &mut dyn FnMut(&mut Array<'_>) -> Result<(), FormatError>,
) -> Result<bool, FormatError> {
    let Some(flags) = small_element(content, order, 6, 8, "flags", place)? else {
        // An element without bytes is an empty array without a name.
        return Ok(false);
    };
    if flags.len() != 8 {
        let found = format!("{} bytes of flags", flags.len());
        return Err(FormatError::new(place(), found, "8"));
    }
    let flags = order.u32([flags[0], flags[1], flags[2], flags[3]]);
    let (class, complex) = (flags & 0xff, flags & 0x0800 != 0);
    let missing = |what: &str| FormatError::new(place(), format!("an array without {what}"), "it");
    let dimensions = small_element(content, order, 5, 4 * MAX_DIMENSIONS, "dimensions", place)?
        .ok_or_else(|| missing("dimensions"))?;
    let dimensions = dimensions
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| {
            let dimension = order.u32(bytes) as i32;
            usize::try_from(dimension).map_err(|_| {
                FormatError::new(place(), format!("dimension {dimension}"), "at least 0")
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let name = small_element(content, order, 1, MAX_NAME, "name", place)?
        .ok_or_else(|| missing("a name"))?;
    let name = String::from_utf8_lossy(&name).into_owned();
    // Classes 6 to 15 are numeric; others (text, cells, structures) and complex arrays are skipped.
    if !(6..=15).contains(&class) || complex {
        return Ok(false);
    }

    let tag = Tag::read(content, order, place)?.ok_or_else(|| missing("values"))?;
    let Some(stored) = Stored::from_type(tag.code) else {
        return Err(FormatError::new(
            format!("array {name}"),
            format!("values of type {}", tag.code),
            "a numeric type: 1 to 7, 9, 12 or 13",
        ));
    };
    let product: Option<u64> = dimensions
        .iter()
        .try_fold(stored.width() as u64, |product, &d| {
            product.checked_mul(d as u64)
        });
    let size = u64::from(tag.size);
    if product != Some(size) || (tag.in_tag.is_some() && size > 4) {
        return Err(FormatError::new(
            format!("array {name}"),
            format!("{size} bytes of values"),
            format!("{dimensions:?} values of {} bytes", stored.width()),
        ));
    }
    let mut array = Array {
        name,
        dimensions,
        stored,
        order,
        left: size,
        in_tag: tag.in_tag,
        content,
    };
    visit(&mut array)?;
    Ok(array.left == 0)
}

/// The data of an inner element of at most `limit` bytes; `None` at the end of the content.
fn small_element(
    content: &mut dyn Read,
    order: Order,
    code: u32,
    limit: usize,
    what: &str,
    place: &dyn Fn() -> String,
) -> Result<Option<Vec<u8>>, FormatError> {
    let Some(tag) = Tag::read(content, order, place)? else {
        return Ok(None);
    };
    let size = tag.size as usize;
    if tag.code != code || size > limit || (tag.in_tag.is_some() && size > 4) {
        return Err(FormatError::new(
            place(),
            format!("{what} of type {} and {size} bytes", tag.code),
            format!("type {code} and at most {limit} bytes"),
        ));
    }
    if let Some(bytes) = tag.in_tag {
        return Ok(Some(bytes[..size].to_vec()));
    }
    let mut data = vec![0; size + padding(size as u64) as usize];
    exact(content, &mut data, place)?;
    data.truncate(size);
    Ok(Some(data))
}

/// Fills `buffer`.
fn exact(
    content: &mut dyn Read,
    buffer: &mut [u8],
    place: impl Fn() -> String,
) -> Result<(), FormatError> {
    let filled = fill(content, buffer).map_err(unreadable(&place))?;
    if filled < buffer.len() {
        let found = format!("the end after {filled} bytes");
        let expected = format!("{} bytes", buffer.len());
        return Err(FormatError::new(place(), found, expected));
    }
    Ok(())
}

/// Skips the rest of an element.
fn skip_rest(
    rest: &mut io::Take<impl Read>,
    place: &dyn Fn() -> String,
) -> Result<(), FormatError> {
    io::copy(rest, &mut io::sink()).map_err(unreadable(place))?;
    match rest.limit() {
        0 => Ok(()),
        left => {
            let expected = format!("{left} bytes more");
            Err(FormatError::new(place(), "the end of the file", expected))
        }
    }
}

/// Reads the end of a compressed element, which may contain padding only.
fn finish(unpacked: &mut dyn Read, place: &dyn Fn() -> String) -> Result<(), FormatError> {
    let copied = io::copy(&mut unpacked.take(8), &mut io::sink()).map_err(unreadable(place))?;
    match copied {
        0..8 => Ok(()),
        _ => Err(FormatError::new(
            place(),
            "more data after the array",
            "its end",
        )),
    }
}
