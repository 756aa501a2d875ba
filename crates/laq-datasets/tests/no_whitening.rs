//! Builds without the feature `whitening`.

#![cfg(not(feature = "whitening"))]

use laq_datasets::{ImageError, ImageSet, Preprocessing};

#[test]
fn whitening_without_its_feature_is_an_error() {
    let load = |preprocessing| {
        let no_files = std::path::Path::new("");
        ImageSet::load("demo-digits", no_files, Some(preprocessing), &mut |_| {})
    };
    assert!(matches!(
        load(Preprocessing::Zca),
        Err(ImageError::NoWhitening)
    ));
    assert!(load(Preprocessing::Gcn).is_ok());
}
