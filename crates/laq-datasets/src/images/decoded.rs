//! A decoded copy on the disk of images that are too many to decode for every run, or to hold in memory.
//!
//! The file is written once, beside its final name, and mapped into memory from then on:
//!
//! ```text
//! 16 bytes    MAGIC
//! 32 bytes    key: SHA-256 of what the images were made from
//! u64 × 3     height, width, channels; all numbers are little-endian
//! u64 × 3     images for training, validation and testing
//! bytes       labels of the three splits, one after the other
//! bytes       pixels of the three splits
//! 32 bytes    SHA-256 of everything between the key and here: the content's digest
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::{ImageShape, Pixels, RawImages};

const MAGIC: &[u8; 16] = b"laq-images-v1\n\0\0";
const HEADER: usize = 16 + 32 + 6 * 8;

/// The splits of a copy, and their [`content_digest`](super::content_digest).
pub(super) type Found = ([RawImages; 3], [u8; 32]);

/// The copy at `path`, if it is there, was made from the same (`key`), and is whole.
pub(super) fn open(path: &Path, key: &[u8; 32]) -> io::Result<Option<Found>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let bytes = file.metadata()?.len();
    let mut header = [0; HEADER];
    if bytes < HEADER as u64 {
        return Ok(None);
    }
    file.read_exact(&mut header)?;
    if header[..16] != MAGIC[..] || header[16..48] != key[..] {
        return Ok(None);
    }
    let mut numbers = [0; 6];
    for (number, &bytes) in numbers.iter_mut().zip(header[48..].as_chunks::<8>().0) {
        match usize::try_from(u64::from_le_bytes(bytes)) {
            Ok(value) => *number = value,
            Err(_) => return Ok(None),
        }
    }
    let [height, width, channels, counts @ ..] = numbers;
    let product = [height, width, channels]
        .into_iter()
        .try_fold(1usize, |product, factor| product.checked_mul(factor));
    let images = counts
        .into_iter()
        .try_fold(0usize, |sum, count| sum.checked_add(count));
    let (Some(product), Some(images)) = (product, images) else {
        return Ok(None);
    };
    let expected = (product as u128 + 1) * images as u128 + (HEADER + 32) as u128;
    if expected != u128::from(bytes) {
        return Ok(None);
    }
    let whole = Pixels::new(map(&file)?);
    let (content, sum) = whole[48..].split_at(whole.len() - 48 - 32);
    let digest: [u8; 32] = Sha256::digest(content).into();
    if digest[..] != *sum {
        return Ok(None);
    }
    let shape = ImageShape {
        height,
        width,
        channels,
    };
    let (mut label, mut pixel) = (HEADER, HEADER + images);
    let splits = counts.map(|count| {
        let labels = whole[label..label + count].to_vec();
        let pixels = whole.part(pixel..pixel + count * product);
        label += count;
        pixel += count * product;
        RawImages {
            shape,
            pixels,
            labels,
        }
    });
    Ok(Some((splits, digest)))
}

/// Maps `file` into memory.
#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapped bytes must not change while they are borrowed. The file got its name when it was whole, and
    // this crate never writes to a file under that name again: a new copy is another file that takes its name, and
    // the old one stays what it is for whoever has it mapped. A user who overwrites it in place, against what the
    // documentation asks, gets other pixels or ends the program, as with any mapped file.
    unsafe { Mmap::map(file) }
}

/// A copy in the making: pixels have to come in the order in which the file holds them.
pub(super) struct Writer {
    target: PathBuf,
    unfinished: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    /// The first error of writing; nothing is written after it.
    failed: Option<io::Error>,
}

impl Writer {
    /// Begins a copy that will be `target`, with everything that precedes the pixels. The caller holds the
    /// [`lock`].
    pub(super) fn new(
        target: &Path,
        key: &[u8; 32],
        shape: ImageShape,
        labels: &[Vec<u8>; 3],
    ) -> io::Result<Self> {
        let unfinished = target.with_extension("new");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
        file.write_all(MAGIC)?;
        file.write_all(key)?;
        let mut writer = Self {
            target: target.to_owned(),
            unfinished,
            file,
            hash: Sha256::new(),
            failed: None,
        };
        let counts = labels.each_ref().map(Vec::len);
        for number in [shape.height, shape.width, shape.channels]
            .into_iter()
            .chain(counts)
        {
            writer.write(&(number as u64).to_le_bytes());
        }
        for labels in labels {
            writer.write(labels);
        }
        Ok(writer)
    }

    /// Appends pixels. An error is returned by [`finish`](Self::finish).
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.hash.update(bytes);
            self.failed = self.file.write_all(bytes).err();
        }
    }

    /// Gives the copy its name, or removes it if something could not be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let finished = match self.failed.take() {
            Some(error) => Err(error),
            None => self.put_in_place(),
        };
        if finished.is_err() {
            self.abandon();
        }
        finished
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let sum = self.hash.finalize_reset();
        self.file.write_all(&sum)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.unfinished, &self.target)
    }

    /// Removes what was written so far.
    pub(super) fn abandon(self) {
        // A leftover does no harm: the next copy begins by emptying it.
        let _ = fs::remove_file(&self.unfinished);
    }
}

/// Waits until this process alone may make a copy beside `path`; for as long as the file that is returned lives.
/// `report` hears of waiting.
pub(super) fn lock(path: &Path, report: &mut dyn FnMut(&str)) -> io::Result<File> {
    let path = path.with_extension("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    if file.try_lock().is_err() {
        report(&format!(
            "waiting for another process that decodes the same images ({})",
            path.display()
        ));
        file.lock()?;
    }
    Ok(file)
}
