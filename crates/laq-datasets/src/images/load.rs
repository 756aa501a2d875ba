//! From the files of a data set to an image set: each file is checked, read, and split.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{FormatError, ImageError, ImageSet, Pixels, Preprocessing, RawImages, digits, idx};
use crate::text::advice;
use crate::{DataFile, Dataset, FileState, ImageFormat, Kind, Split, catalogue, find};

impl ImageSet {
    /// The data set called `name`, from its files under `data_dir`; `demo-digits` needs no files.
    ///
    /// Size and checksum of every file are verified. `preprocessing` is the data set's own where it is `None`.
    /// `report` hears a sentence before anything that takes more than a moment.
    ///
    /// # Errors
    ///
    /// [`ImageError`]: there is no such data set or it is a text, a file is not what it should be, or the disk
    /// cannot be used.
    pub fn load(
        name: &str,
        data_dir: &Path,
        preprocessing: Option<Preprocessing>,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, ImageError> {
        Self::load_dataset(find(name)?, data_dir, preprocessing, report)
    }

    /// [`load`](Self::load) for a data set that need not be in the catalogue.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_dataset(
        dataset: &Dataset,
        data_dir: &Path,
        preprocessing: Option<Preprocessing>,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, ImageError> {
        let Kind::Images {
            classes,
            splits,
            format,
            preprocessing: own,
            ..
        } = dataset.kind
        else {
            return Err(ImageError::NotImages {
                name: dataset.name.to_owned(),
                image_sets: catalogue()
                    .iter()
                    .filter(|dataset| matches!(dataset.kind, Kind::Images { .. }))
                    .map(|dataset| dataset.name)
                    .collect(),
            });
        };
        let mut files = Files {
            dataset,
            data_dir,
            report,
        };
        let raw = match format {
            ImageFormat::DemoDigits => digits::draw(),
            ImageFormat::Idx => files.idx(splits[1])?,
        };
        for (split, (raw, expected)) in Split::ALL.into_iter().zip(raw.iter().zip(splits)) {
            if raw.len() != expected {
                return Err(ImageError::Unequal {
                    name: dataset.name.to_owned(),
                    reason: format!(
                        "the files have {} images for the {split} split, and {expected} are expected",
                        raw.len()
                    ),
                });
            }
        }
        Self::from_raw(dataset.name, classes, raw, preprocessing.unwrap_or(own))
    }
}

/// The files of one data set.
struct Files<'a> {
    dataset: &'a Dataset,
    data_dir: &'a Path,
    report: &'a mut dyn FnMut(&str),
}

impl Files<'_> {
    /// Training images and labels, test images and labels; the last `validation` of the training images are for
    /// validation.
    fn idx(&mut self, validation: usize) -> Result<[RawImages; 3], ImageError> {
        let train = self.idx_pair([0, 1])?;
        let test = self.idx_pair([2, 3])?;
        Ok(hold_out(train, validation, test))
    }

    fn idx_pair(&mut self, [images, labels]: [usize; 2]) -> Result<RawImages, ImageError> {
        let (images_path, images) = self.read(images)?;
        let (labels_path, labels) = self.read(labels)?;
        let (shape, offset, count) =
            idx::image_file(&images).map_err(|source| self.format(&images_path, source))?;
        let labels = idx::label_file(&labels, count)
            .map_err(|source| self.format(&labels_path, source))?
            .to_vec();
        let bytes = images.len();
        Ok(RawImages {
            shape,
            pixels: Pixels::new(images).part(offset..bytes),
            labels,
        })
    }

    /// The path and the content of file number `index`, after its size and checksum have been compared.
    fn read(&mut self, index: usize) -> Result<(PathBuf, Vec<u8>), ImageError> {
        let file = self.file(index)?;
        let path = self.dataset.path(file, self.data_dir);
        (self.report)(&format!("reading {}", path.display()));
        // What has the wrong size is not read at all.
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.bad(path, FileState::Missing));
            }
            Err(source) => return Err(ImageError::Io { path, source }),
        };
        if size != file.bytes {
            let (found, expected) = (size, file.bytes);
            return Err(self.bad(path, FileState::WrongSize { found, expected }));
        }
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(source) => return Err(ImageError::Io { path, source }),
        };
        match file.inspect_bytes(&content) {
            FileState::Good => Ok((path, content)),
            state => Err(self.bad(path, state)),
        }
    }

    fn file(&self, index: usize) -> Result<&'static DataFile, ImageError> {
        self.dataset
            .files
            .get(index)
            .ok_or_else(|| ImageError::Unequal {
                name: self.dataset.name.to_owned(),
                reason: format!(
                    "the catalogue has {} files, and file {} is needed",
                    self.dataset.files.len(),
                    index + 1
                ),
            })
    }

    fn bad(&self, path: PathBuf, state: FileState) -> ImageError {
        ImageError::Data {
            dataset: self.dataset.name,
            path,
            state,
            advice: advice(self.dataset, self.data_dir),
        }
    }

    fn format(&self, path: &Path, source: FormatError) -> ImageError {
        ImageError::Format {
            path: path.to_owned(),
            source,
            advice: advice(self.dataset, self.data_dir),
        }
    }
}

/// Train, validation and test, where validation is the last `validation` images of `train`.
fn hold_out(train: RawImages, validation: usize, test: RawImages) -> [RawImages; 3] {
    let kept = train.len().saturating_sub(validation);
    [train.part(0..kept), train.part(kept..train.len()), test]
}
