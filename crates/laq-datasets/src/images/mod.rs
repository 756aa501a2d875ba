//! Images in memory: what a split is before and after preprocessing, and how a batch is taken from it.
//!
//! [`load`] turns files into splits; the readers of the formats are [`idx`] and its siblings.

mod cache;
pub mod cifar;
mod contrast;
mod decoded;
pub(crate) mod digits;
mod error;
pub mod idx;
mod load;
mod load_svhn;
pub mod mat;
mod preprocessing;
pub mod svhn;
mod whitening;

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::error::{FormatError, ImageError};
pub use self::preprocessing::{Preprocessing, UnknownPreprocessing};
pub use self::whitening::Whitening;
use crate::Split;

/// Height, width and channels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Colours: 1 for grey, 3 for red, green and blue.
    pub channels: usize,
}

impl ImageShape {
    /// Numbers an image: height · width · channels.
    pub const fn numbers(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// Bytes that are shared and never change: in memory, or a file that is mapped into it.
#[derive(Clone)]
pub struct Pixels {
    storage: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Pixels {
    /// All bytes of `storage`, which must give the same bytes every time.
    pub fn new(storage: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..storage.as_ref().len();
        Self {
            storage: Arc::new(storage),
            range,
        }
    }

    /// A part of these bytes, without copying them.
    ///
    /// # Panics
    ///
    /// If `range` does not lie within them.
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len());
        let start = self.range.start;
        Self {
            storage: Arc::clone(&self.storage),
            range: start + range.start..start + range.end,
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.storage).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// One split before preprocessing.
#[derive(Clone, Debug)]
pub struct RawImages {
    /// Shape of every image.
    pub shape: ImageShape,
    /// Images × height × width × channels: pixel by pixel, with the channels innermost.
    pub pixels: Pixels,
    /// The class of every image, from 0.
    pub labels: Vec<u8>,
}

impl RawImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Images `range`, without copying their pixels.
    ///
    /// # Panics
    ///
    /// If there are not so many images.
    pub fn part(&self, range: Range<usize>) -> Self {
        let numbers = self.shape.numbers();
        Self {
            shape: self.shape,
            pixels: self.pixels.part(range.start * numbers..range.end * numbers),
            labels: self.labels[range].to_vec(),
        }
    }
}

/// One split, ready for a network.
#[derive(Clone, Debug)]
pub struct Images {
    raw: RawImages,
    inputs: Inputs,
}

/// Where a network's inputs come from.
#[derive(Clone, Debug)]
enum Inputs {
    /// The bytes over 255.
    Scaled,
    /// The bytes over 255, less a mean.
    Centred(Arc<[f32]>),
    /// The bytes, normalized as a whole.
    GlobalContrast,
    /// The bytes, normalized as a whole and then around every pixel.
    LocalContrast,
    /// Ready numbers of all images, as little-endian `f32`.
    Ready(Pixels),
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there are none, which no split of an [`ImageSet`] is.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The class of every image, from 0.
    pub fn labels(&self) -> &[u8] {
        &self.raw.labels
    }

    /// Writes the preprocessed images `indices` one after the other, each as height × width × channels with the
    /// channels innermost, and their labels. Nothing is allocated but, with [`Preprocessing::Lcn`], two images.
    ///
    /// # Panics
    ///
    /// If an index is not below [`len`](Self::len), `inputs` does not hold as many numbers as these images have, or
    /// `labels` not as many as there are indices.
    pub fn fill(&self, indices: &[u32], inputs: &mut [f32], labels: &mut [u8]) {
        let shape = self.raw.shape;
        let numbers = shape.numbers();
        assert_eq!(
            inputs.len(),
            indices.len() * numbers,
            "inputs hold B images"
        );
        assert_eq!(labels.len(), indices.len(), "labels hold B labels");
        let mut scratch = match self.inputs {
            Inputs::LocalContrast => vec![0.0; 2 * numbers],
            _ => Vec::new(),
        };
        let pixels: &[u8] = &self.raw.pixels;
        let chosen = indices.iter().zip(inputs.chunks_exact_mut(numbers));
        for ((&index, input), label) in chosen.zip(labels) {
            let index = index as usize;
            *label = self.raw.labels[index];
            let image = &pixels[index * numbers..][..numbers];
            match &self.inputs {
                Inputs::Scaled => scale(image, input),
                Inputs::Centred(mean) => {
                    scale(image, input);
                    for (input, mean) in input.iter_mut().zip(mean.iter()) {
                        *input -= mean;
                    }
                }
                Inputs::GlobalContrast => normalize(image, input),
                Inputs::LocalContrast => {
                    normalize(image, input);
                    contrast::local(shape, input, &mut scratch);
                }
                Inputs::Ready(bytes) => {
                    let ready = bytes[4 * index * numbers..].as_chunks().0;
                    for (input, &bytes) in input.iter_mut().zip(ready) {
                        *input = f32::from_le_bytes(bytes);
                    }
                }
            }
        }
    }
}

fn scale(image: &[u8], input: &mut [f32]) {
    for (input, &byte) in input.iter_mut().zip(image) {
        *input = f32::from(byte) / 255.0;
    }
}

fn normalize(image: &[u8], input: &mut [f32]) {
    for (input, x) in input.iter_mut().zip(contrast::global(image)) {
        *input = x as f32;
    }
}

/// A set of images in three splits, preprocessed.
#[derive(Clone, Debug)]
pub struct ImageSet {
    /// The data set's name, or what the caller calls it.
    pub name: String,
    /// What was done with the pixels.
    pub preprocessing: Preprocessing,
    shape: ImageShape,
    classes: usize,
    train: Images,
    validation: Images,
    test: Images,
    fingerprint: String,
}

impl ImageSet {
    /// A set of the caller's own: the splits in the order train, validation, test.
    ///
    /// What is fitted to images, as a mean is, is fitted to the training split.
    ///
    /// # Errors
    ///
    /// [`ImageError::Mismatch`] if the splits have different shapes, a split's pixels are not as many as its labels
    /// need, there are no pixels, no classes or more than 256, or images are too large to be whitened;
    /// [`ImageError::Empty`] for a split without images; [`ImageError::Label`] for a label that is no class;
    /// [`ImageError::Constant`] for an image without contrast where that is normalized.
    pub fn from_raw(
        name: &str,
        classes: usize,
        splits: [RawImages; 3],
        preprocessing: Preprocessing,
    ) -> Result<Self, ImageError> {
        check(name, classes, &splits)?;
        let digest = content_digest(&splits);
        if let Some((split, record)) = preprocessing.first_constant(&splits) {
            return Err(ImageError::Constant {
                place: format!("image {record} of the {split} split of {name}"),
                preprocessing,
            });
        }
        let inputs = preprocessing.inputs(&splits, whitening::whiten)?;
        Ok(Self::assemble(
            name,
            classes,
            splits,
            digest,
            preprocessing,
            inputs,
        ))
    }

    /// The set of splits that have been checked, and whose [`content_digest`] is known.
    fn assemble(
        name: &str,
        classes: usize,
        splits: [RawImages; 3],
        digest: [u8; 32],
        preprocessing: Preprocessing,
        inputs: [Inputs; 3],
    ) -> Self {
        let shape = splits[0].shape;
        let fingerprint = Sha256::new()
            .chain_update(digest)
            .chain_update((classes as u64).to_le_bytes())
            .chain_update(preprocessing.name())
            .finalize();
        let [train, validation, test] = splits;
        let [for_train, for_validation, for_test] = inputs;
        let images = |raw, inputs| Images { raw, inputs };
        Self {
            name: name.to_owned(),
            preprocessing,
            shape,
            classes,
            train: images(train, for_train),
            validation: images(validation, for_validation),
            test: images(test, for_test),
            fingerprint: crate::check::hex(&fingerprint),
        }
    }

    /// Shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Number of classes; labels are below it.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The images of one split.
    pub fn split(&self, split: Split) -> &Images {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }

    /// What tells one set from another: the SHA-256, in lower-case hexadecimal, of shape, classes, preprocessing, and
    /// pixels and labels of all splits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn check(name: &str, classes: usize, splits: &[RawImages; 3]) -> Result<(), ImageError> {
    let mismatch = |reason| ImageError::Mismatch {
        name: name.to_owned(),
        reason,
    };
    if !(1..=256).contains(&classes) {
        let reason = format!("there are {classes} classes, and 1 to 256 are possible");
        return Err(mismatch(reason));
    }
    let shape = splits[0].shape;
    for (split, raw) in Split::ALL.into_iter().zip(splits) {
        if raw.is_empty() {
            return Err(ImageError::Empty {
                name: name.to_owned(),
                split,
            });
        }
        if raw.shape != shape {
            return Err(mismatch(format!(
                "images of the {split} split are {}, those of the train split {shape}",
                raw.shape
            )));
        }
        let numbers = [shape.height, shape.width, shape.channels, raw.len()];
        let expected: Option<usize> = numbers
            .into_iter()
            .try_fold(1, |product: usize, factor| product.checked_mul(factor));
        if expected != Some(raw.pixels.len()) || expected == Some(0) {
            return Err(mismatch(format!(
                "the {split} split has {} bytes of pixels, and {} labels of {shape} images",
                raw.pixels.len(),
                raw.len()
            )));
        }
        let bad = raw
            .labels
            .iter()
            .position(|&label| usize::from(label) >= classes);
        if let Some(record) = bad {
            return Err(ImageError::Label {
                name: name.to_owned(),
                split,
                record,
                label: raw.labels[record],
                classes,
            });
        }
    }
    Ok(())
}

/// SHA-256 of the shape, the numbers of images, the labels of all splits and the pixels of all splits.
fn content_digest(splits: &[RawImages; 3]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let shape = splits[0].shape;
    for number in [shape.height, shape.width, shape.channels] {
        digest.update((number as u64).to_le_bytes());
    }
    for raw in splits {
        digest.update((raw.len() as u64).to_le_bytes());
    }
    for raw in splits {
        digest.update(&raw.labels);
    }
    for raw in splits {
        digest.update(&raw.pixels[..]);
    }
    digest.finalize().into()
}
