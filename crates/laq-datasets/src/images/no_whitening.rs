//! Stands in for `whitening` in builds without the feature of that name.

use std::path::Path;

use super::{ImageError, Pixels, RawImages};

pub(super) fn whiten(_: &[RawImages; 3]) -> Result<Pixels, ImageError> {
    Err(ImageError::NoWhitening)
}

pub(super) fn whiten_cached(
    _: &[RawImages; 3],
    _: &[u8; 32],
    _: &Path,
    _: &mut dyn FnMut(&str),
) -> Result<Pixels, ImageError> {
    Err(ImageError::NoWhitening)
}
