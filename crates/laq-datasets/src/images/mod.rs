//! Images in memory: splits before and after preprocessing, and batches.
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
#[cfg_attr(not(feature = "whitening"), path = "no_whitening.rs")]
mod whitening;

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::error::{FormatError, ImageError};
pub use self::preprocessing::{Preprocessing, UnknownPreprocessing};
#[cfg(feature = "whitening")]
pub use self::whitening::Whitening;
use crate::Split;

/// Height, width and channels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Colours: 1 for grey, 3 for red, green and blue.
    pub channels: usize,
}

impl ImageSize {
    /// Elements of an image: height · width · channels.
    pub const fn elements(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// Shared immutable bytes: in memory or memory-mapped.
#[derive(Clone)]
pub struct Pixels {
    storage: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Pixels {
    /// All bytes of `storage`, which must return the same bytes on every call.
    pub fn new(storage: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..storage.as_ref().len();
        Self {
            storage: Arc::new(storage),
            range,
        }
    }

    /// A subrange, without a copy.
    ///
    /// # Panics
    ///
    /// If `range` is out of bounds.
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
    pub shape: ImageSize,
    /// N × height × width × channels (NHWC).
    pub pixels: Pixels,
    /// The class of every image, from 0.
    pub labels: Vec<u8>,
}

impl RawImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The images `range`; their pixels are not copied.
    ///
    /// # Panics
    ///
    /// If `range` is out of bounds.
    pub fn part(&self, range: Range<usize>) -> Self {
        let elements = self.shape.elements();
        Self {
            shape: self.shape,
            pixels: self
                .pixels
                .part(range.start * elements..range.end * elements),
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

/// How the inputs of a network are computed.
#[derive(Clone, Debug)]
enum Inputs {
    /// The bytes over 255.
    Scaled,
    /// The bytes over 255, minus a mean image.
    Centered(Arc<[f32]>),
    /// The bytes after global contrast normalization.
    GlobalContrast,
    /// The bytes after global and local contrast normalization.
    LocalContrast,
    /// Precomputed inputs of all images, as little-endian `f32`.
    Precomputed(Pixels),
}

impl Images {
    /// Images outside of an [`ImageSet`], such as those that a trained network classifies.
    ///
    /// `mean` is the mean image of the training split, [`Images::mean`], for
    /// [`Preprocessing::MeanImage`].
    ///
    /// # Errors
    ///
    /// [`ImageError::Constant`] for a constant image if contrast is normalized;
    /// [`ImageError::Unfitted`] if the preprocessing needs the training images: `zca`, or
    /// `mean-image` without a mean of the images' shape.
    pub fn preprocessed(
        name: &str,
        raw: RawImages,
        preprocessing: Preprocessing,
        mean: Option<&[f32]>,
    ) -> Result<Self, ImageError> {
        if preprocessing.normalizes_contrast()
            && let Some(record) = contrast::first_constant(&raw)
        {
            return Err(ImageError::Constant {
                place: format!("image {record} of {name}"),
                preprocessing,
            });
        }
        let mean = mean.filter(|mean| mean.len() == raw.shape.elements());
        let inputs = match (preprocessing, mean) {
            (Preprocessing::None, _) => Inputs::Scaled,
            (Preprocessing::MeanImage, Some(mean)) => Inputs::Centered(mean.into()),
            (Preprocessing::Gcn, _) => Inputs::GlobalContrast,
            (Preprocessing::Lcn, _) => Inputs::LocalContrast,
            (Preprocessing::MeanImage | Preprocessing::Zca, _) => {
                return Err(ImageError::Unfitted { preprocessing });
            }
        };
        Ok(Self { raw, inputs })
    }

    /// The mean of the training images over 255 at each pixel, with [`Preprocessing::MeanImage`].
    pub fn mean(&self) -> Option<&[f32]> {
        match &self.inputs {
            Inputs::Centered(mean) => Some(mean),
            _ => None,
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there are no images; false for every split of an [`ImageSet`].
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The class of every image, from 0.
    pub fn labels(&self) -> &[u8] {
        &self.raw.labels
    }

    /// Writes the preprocessed images `indices` (NHWC) and their labels. Allocates nothing except,
    /// for [`Preprocessing::Lcn`], two images.
    ///
    /// # Panics
    ///
    /// If an index is not below [`len`](Self::len), or the length of `inputs` or `labels` is not
    /// that of the images.
    pub fn fill(&self, indices: &[u32], inputs: &mut [f32], labels: &mut [u8]) {
        let shape = self.raw.shape;
        let elements = shape.elements();
        assert_eq!(
            inputs.len(),
            indices.len() * elements,
            "inputs have B·H·W·C elements"
        );
        assert_eq!(labels.len(), indices.len(), "labels have B elements");
        let mut scratch = match self.inputs {
            Inputs::LocalContrast => vec![0.0; 2 * elements],
            _ => Vec::new(),
        };
        let pixels: &[u8] = &self.raw.pixels;
        let chosen = indices.iter().zip(inputs.chunks_exact_mut(elements));
        for ((&index, input), label) in chosen.zip(labels) {
            let index = index as usize;
            *label = self.raw.labels[index];
            let image = &pixels[index * elements..][..elements];
            match &self.inputs {
                Inputs::Scaled => scale(image, input),
                Inputs::Centered(mean) => {
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
                Inputs::Precomputed(bytes) => {
                    let ready = bytes[4 * index * elements..].as_chunks().0;
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
    /// The name of the data set, or the caller's name for it.
    pub name: String,
    /// The preprocessing of the pixels.
    pub preprocessing: Preprocessing,
    shape: ImageSize,
    classes: usize,
    train: Images,
    validation: Images,
    test: Images,
    fingerprint: String,
}

impl ImageSet {
    /// A set from raw splits in the order train, validation, test.
    ///
    /// Statistics of the preprocessing, such as the mean image, are those of the training split.
    ///
    /// # Errors
    ///
    /// [`ImageError::Mismatch`] if shapes differ, pixels and labels do not match, there are no
    /// pixels, the number of classes is not 1 to 256, or images are too large to be whitened;
    /// [`ImageError::Empty`] for a split without images; [`ImageError::Label`] for a label that
    /// is not a class; [`ImageError::Constant`] for a constant image if contrast is normalized;
    /// [`ImageError::NoWhitening`] for `zca` without the feature `whitening`.
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

    /// The set of checked splits with their [`content_digest`].
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
            fingerprint: hex::encode(fingerprint),
        }
    }

    /// Shape of every image.
    pub fn shape(&self) -> ImageSize {
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

    /// Identifies the set: SHA-256, in lower-case hexadecimal, of shape, classes, preprocessing,
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
        let reason = format!("found {classes} classes, expected 1 to 256");
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
                "images of the {split} split have shape {}, those of the train split {shape}",
                raw.shape
            )));
        }
        let factors = [shape.height, shape.width, shape.channels, raw.len()];
        let expected: Option<usize> = factors
            .into_iter()
            .try_fold(1, |product: usize, factor| product.checked_mul(factor));
        if expected != Some(raw.pixels.len()) || expected == Some(0) {
            return Err(mismatch(format!(
                "the {split} split has {} bytes of pixels for {} labels of {shape} images",
                raw.pixels.len(),
                raw.len()
            )));
        }
        let invalid = raw
            .labels
            .iter()
            .position(|&label| usize::from(label) >= classes);
        if let Some(record) = invalid {
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

/// SHA-256 of the shape, the image counts, the labels and the pixels of all splits.
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
