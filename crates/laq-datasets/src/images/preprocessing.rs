//! Preprocessing of pixels.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{ImageError, Inputs, Pixels, RawImages, contrast};
use crate::Split;

/// The preprocessing of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preprocessing {
    /// x / 255, in [0, 1].
    None,
    /// x / 255, minus the mean of the training images at each pixel.
    MeanImage,
    /// Global contrast normalization: 55 (x − mean(x)) / ‖x − mean(x)‖ over all elements of an
    /// image.
    Gcn,
    /// Global contrast normalization, then ZCA whitening fitted to the training images. Needs the
    /// feature `whitening`.
    Zca,
    /// Global contrast normalization, then local in windows of 7 × 7 pixels per channel.
    Lcn,
}

impl Preprocessing {
    /// All values.
    pub const ALL: [Self; 5] = [Self::None, Self::MeanImage, Self::Gcn, Self::Zca, Self::Lcn];

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::MeanImage => "mean-image",
            Self::Gcn => "gcn",
            Self::Zca => "zca",
            Self::Lcn => "lcn",
        }
    }

    /// Whether an image is divided by its contrast, which must not be zero.
    pub(super) fn normalizes_contrast(self) -> bool {
        matches!(self, Self::Gcn | Self::Zca | Self::Lcn)
    }

    /// The split and index of the first constant image, if this preprocessing divides by the
    /// contrast.
    pub(super) fn first_constant(self, splits: &[RawImages; 3]) -> Option<(Split, usize)> {
        let mut splits = Split::ALL.into_iter().zip(splits);
        self.normalizes_contrast().then(|| {
            splits.find_map(|(split, raw)| Some((split, contrast::first_constant(raw)?)))
        })?
    }

    /// How the inputs of the splits are computed; `whiten` returns the whitened images of all
    /// splits.
    pub(super) fn inputs(
        self,
        splits: &[RawImages; 3],
        whiten: impl FnOnce(&[RawImages; 3]) -> Result<Pixels, ImageError>,
    ) -> Result<[Inputs; 3], ImageError> {
        Ok(match self {
            Self::None => [(); 3].map(|()| Inputs::Scaled),
            Self::MeanImage => {
                let mean = mean_image(&splits[0]);
                [(); 3].map(|()| Inputs::Centered(Arc::clone(&mean)))
            }
            Self::Gcn => [(); 3].map(|()| Inputs::GlobalContrast),
            Self::Lcn => [(); 3].map(|()| Inputs::LocalContrast),
            Self::Zca => {
                let whitened = whiten(splits)?;
                let mut start = 0;
                splits.each_ref().map(|raw| {
                    let bytes = 4 * raw.pixels.len();
                    start += bytes;
                    Inputs::Precomputed(whitened.part(start - bytes..start))
                })
            }
        })
    }
}

/// The name of no preprocessing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown preprocessing {name:?}, expected none, mean-image, gcn, zca or lcn")]
pub struct UnknownPreprocessing {
    /// The name found.
    pub name: String,
}

impl FromStr for Preprocessing {
    type Err = UnknownPreprocessing;

    fn from_str(name: &str) -> Result<Self, UnknownPreprocessing> {
        let mut all = Self::ALL.into_iter();
        all.find(|known| known.name() == name)
            .ok_or_else(|| UnknownPreprocessing {
                name: name.to_owned(),
            })
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The mean of the images over 255 at each pixel. Sums are exact, the quotient is rounded once.
fn mean_image(raw: &RawImages) -> Arc<[f32]> {
    let mut sums = vec![0u64; raw.shape.elements()];
    for image in raw.pixels.chunks_exact(sums.len()) {
        for (sum, &byte) in sums.iter_mut().zip(image) {
            *sum += u64::from(byte);
        }
    }
    let scale = 255.0 * raw.len() as f64;
    sums.into_iter()
        .map(|sum| (sum as f64 / scale) as f32)
        .collect()
}
