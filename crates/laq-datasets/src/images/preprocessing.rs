//! What is done with the pixels before a network sees them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{ImageError, Inputs, Pixels, RawImages, contrast};
use crate::Split;

/// What is done with the pixels before a network sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preprocessing {
    /// To [0, 1]: x / 255.
    None,
    /// To [0, 1], less the mean of the training images, pixel by pixel.
    MeanImage,
    /// Global contrast normalization: 55 (x − mean(x)) / ‖x − mean(x)‖ over all numbers of an image.
    Gcn,
    /// Global contrast normalization, then ZCA whitening that was fitted to the training images
    /// ([`Whitening`](super::Whitening)).
    Zca,
    /// Global contrast normalization, then local, over windows of 7 × 7 pixels of one colour.
    Lcn,
}

impl Preprocessing {
    /// All of them.
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

    /// The first image, by split and number, that is the same everywhere, if this divides by an image's contrast.
    pub(super) fn first_constant(self, splits: &[RawImages; 3]) -> Option<(Split, usize)> {
        match self {
            Self::None | Self::MeanImage => None,
            Self::Gcn | Self::Zca | Self::Lcn => Split::ALL
                .into_iter()
                .zip(splits)
                .find_map(|(split, raw)| Some((split, contrast::first_constant(raw)?))),
        }
    }

    /// What the splits' inputs are made from; `whiten` makes the numbers of all splits, one after the other.
    pub(super) fn inputs(
        self,
        splits: &[RawImages; 3],
        whiten: impl FnOnce(&[RawImages; 3]) -> Result<Pixels, ImageError>,
    ) -> Result<[Inputs; 3], ImageError> {
        Ok(match self {
            Self::None => [(); 3].map(|()| Inputs::Scaled),
            Self::MeanImage => {
                let mean = mean_image(&splits[0]);
                [(); 3].map(|()| Inputs::Centred(Arc::clone(&mean)))
            }
            Self::Gcn => [(); 3].map(|()| Inputs::GlobalContrast),
            Self::Lcn => [(); 3].map(|()| Inputs::LocalContrast),
            Self::Zca => {
                let whitened = whiten(splits)?;
                let mut start = 0;
                splits.each_ref().map(|raw| {
                    let bytes = 4 * raw.pixels.len();
                    start += bytes;
                    Inputs::Ready(whitened.part(start - bytes..start))
                })
            }
        })
    }
}

/// A name that no preprocessing has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no preprocessing called {name:?}; did you mean {nearest}? There are none, mean-image, gcn, zca and lcn"
)]
pub struct UnknownPreprocessing {
    /// The name that was asked for.
    pub name: String,
    /// The most similar name there is.
    pub nearest: Preprocessing,
}

impl FromStr for Preprocessing {
    type Err = UnknownPreprocessing;

    fn from_str(name: &str) -> Result<Self, UnknownPreprocessing> {
        let similarity = |known: Self| strsim::jaro_winkler(known.name(), name);
        let nearest = Self::ALL
            .into_iter()
            .max_by(|&a, &b| similarity(a).total_cmp(&similarity(b)))
            .unwrap_or(Self::None);
        match nearest.name() == name {
            true => Ok(nearest),
            false => Err(UnknownPreprocessing {
                name: name.to_owned(),
                nearest,
            }),
        }
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The mean of the images over 255, pixel by pixel: sums are exact, the quotient is rounded once.
fn mean_image(raw: &RawImages) -> Arc<[f32]> {
    let mut sums = vec![0u64; raw.shape.numbers()];
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
