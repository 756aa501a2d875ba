//! Writers of the formats that the crate reads, for files that no one else would write: tiny,
//! big-endian, damaged; and a data set of such files.

// Each test uses some of them.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use laq_datasets::{Check, DataFile, Dataset, Kind};
use md5::{Digest, Md5};
use sha2::Sha256;

/// Writes the files into the folder `small` of `data_dir`, and makes the entry of a catalogue for
/// them; the checksums are md5 if `md5` is set.
pub(crate) fn small_set(
    data_dir: &Path,
    files: &[(&'static str, Vec<u8>)],
    md5: bool,
    kind: Kind,
) -> Dataset {
    let folder = data_dir.join("small");
    fs::create_dir_all(&folder).unwrap();
    let mut entries = Vec::new();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
        entries.push(DataFile {
            name,
            mirror_path: name,
            urls: &["https://example.org/"],
            bytes: content.len() as u64,
            check: match md5 {
                true => Check::Md5(hex(&Md5::digest(content))),
                false => Check::Sha256(hex(&Sha256::digest(content))),
            },
        });
    }
    Dataset {
        name: "small",
        title: "Small set",
        files: entries.leak(),
        kind,
        stand_in: None,
    }
}

fn hex(bytes: &[u8]) -> &'static str {
    hex::encode(bytes).leak()
}

/// An idx file of bytes.
pub(crate) fn idx(dimensions: &[u32], numbers: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    for dimension in dimensions {
        file.extend(dimension.to_be_bytes());
    }
    file.extend(numbers);
    file
}

/// The value of a pixel of image `image`: different for every neighbour, channel and image.
pub(crate) fn pixel(row: usize, column: usize, channel: usize, image: usize) -> u8 {
    ((7 * row + 13 * column + 101 * channel + 31 * image) % 251) as u8
}

/// Images `from..to` pixel by pixel with channels innermost, 32 x 32 x 3 each.
pub(crate) fn interleaved(images: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut pixels = Vec::new();
    for image in images {
        for row in 0..32 {
            for column in 0..32 {
                pixels.extend([0, 1, 2].map(|channel| pixel(row, column, channel, image)));
            }
        }
    }
    pixels
}

/// Records of CIFAR's binary format: for each the bytes of its label, and which image it is.
pub(crate) fn cifar(records: &[(&[u8], usize)]) -> Vec<u8> {
    let mut file = Vec::new();
    for &(labels, image) in records {
        file.extend(labels);
        for channel in 0..3 {
            for row in 0..32 {
                file.extend((0..32).map(|column| pixel(row, column, channel, image)));
            }
        }
    }
    file
}

/// A gzip-compressed tar file.
pub(crate) fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// MAT-files of level 5 in either byte order.
#[derive(Clone, Copy)]
pub(crate) struct Mat {
    pub(crate) big: bool,
    pub(crate) compressed: bool,
}

impl Mat {
    fn u32(self, number: u32) -> [u8; 4] {
        match self.big {
            true => number.to_be_bytes(),
            false => number.to_le_bytes(),
        }
    }

    /// The header, and the arrays one after the other.
    pub(crate) fn file(self, arrays: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![b' '; 124];
        file.extend(if self.big {
            *b"\x01\x00MI"
        } else {
            *b"\x00\x01IM"
        });
        for array in arrays {
            if self.compressed {
                let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
                packed.write_all(array).unwrap();
                let packed = packed.finish().unwrap();
                file.extend([self.u32(15), self.u32(packed.len() as u32)].concat());
                file.extend(packed);
            } else {
                file.extend(array);
            }
        }
        file
    }

    /// An element; one of at most four bytes has them in its tag.
    pub(crate) fn element(self, code: u32, data: &[u8]) -> Vec<u8> {
        let size = data.len() as u32;
        let mut element = match size {
            1..=4 => self.u32(size << 16 | code).to_vec(),
            _ => [self.u32(code), self.u32(size)].concat(),
        };
        element.extend(data);
        element.resize(element.len().next_multiple_of(8), 0);
        element
    }

    /// An array of `class` whose numbers are stored as `code`.
    pub(crate) fn array(
        self,
        name: &str,
        class: u32,
        dimensions: &[u32],
        code: u32,
        data: &[u8],
    ) -> Vec<u8> {
        let dimensions: Vec<u8> = dimensions.iter().flat_map(|&d| self.u32(d)).collect();
        let parts = [
            self.element(6, &[self.u32(class), self.u32(0)].concat()),
            self.element(5, &dimensions),
            self.element(1, name.as_bytes()),
            self.element(code, data),
        ];
        self.element(14, &parts.concat())
    }

    /// The array of images `images`.
    pub(crate) fn x(self, images: &[usize]) -> Vec<u8> {
        let mut data = Vec::new();
        for &image in images {
            for channel in 0..3 {
                for column in 0..32 {
                    data.extend((0..32).map(|row| pixel(row, column, channel, image)));
                }
            }
        }
        self.array("X", 9, &[32, 32, 3, images.len() as u32], 2, &data)
    }

    /// The array of labels, as bytes.
    pub(crate) fn y(self, labels: &[u8]) -> Vec<u8> {
        self.array("y", 9, &[labels.len() as u32, 1], 2, labels)
    }
}
