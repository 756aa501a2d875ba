//! Loads an image set from the files of a data set: verifies, reads and splits them.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{
    FormatError, ImageError, ImageSet, Pixels, Preprocessing, RawImages, check, cifar,
    content_digest, digits, idx, whitening,
};
use crate::text::advice;
use crate::{Dataset, FileState, ImageFormat, Kind, Split, catalogue, find};

impl ImageSet {
    /// The data set `name` from its files under `data_dir`; `demo-digits` needs no files.
    ///
    /// Verifies size and checksum of every file. `None` stands for the preprocessing of the data
    /// set. `report` is called with a message before steps that take more than a second.
    ///
    /// # Errors
    ///
    /// [`ImageError`]: the data set is unknown or a text, a file is invalid, or reading or writing fails.
    pub fn load(
        name: &str,
        data_dir: &Path,
        preprocessing: Option<Preprocessing>,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, ImageError> {
        Self::load_dataset(find(name)?, data_dir, preprocessing, report)
    }

    /// [`load`](Self::load) for any [`Dataset`].
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
        let most = splits.iter().sum();
        let (raw, digest) = match format {
            ImageFormat::DemoDigits => (digits::draw(), None),
            ImageFormat::Idx => (files.idx(splits[1])?, None),
            ImageFormat::Cifar {
                labels,
                train,
                test,
            } => {
                let raw = files.cifar(train, test, labels, classes, most)?;
                let [train, test] = raw.map(concat);
                (hold_out(train, splits[1], test), None)
            }
            ImageFormat::Svhn {
                validation_per_class,
            } => {
                let (raw, digest) = files.svhn(classes, validation_per_class, most)?;
                (raw, Some(digest))
            }
        };
        for (split, (raw, expected)) in Split::ALL.into_iter().zip(raw.iter().zip(splits)) {
            if raw.len() != expected {
                return Err(files.mismatch(format!(
                    "the files have {} images in the {split} split, expected {expected}",
                    raw.len()
                )));
            }
        }
        check(dataset.name, classes, &raw)?;
        let digest = digest.unwrap_or_else(|| content_digest(&raw));
        let preprocessing = preprocessing.unwrap_or(own);
        if let Some(constant) = preprocessing.first_constant(&raw) {
            let place = files.place(constant, raw[0].len())?;
            return Err(ImageError::Constant {
                place,
                preprocessing,
            });
        }
        let inputs = preprocessing.inputs(&raw, |raw| match dataset.files {
            [] => whitening::whiten(raw),
            _ => {
                let path = data_dir.join(dataset.name).join("whitened.images");
                whitening::whiten_cached(raw, &digest, &path, files.report)
            }
        })?;
        Ok(Self::assemble(
            dataset.name,
            classes,
            raw,
            digest,
            preprocessing,
            inputs,
        ))
    }
}

/// The files of one data set; [`super::load_svhn`] has further methods.
pub(super) struct Files<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) data_dir: &'a Path,
    pub(super) report: &'a mut dyn FnMut(&str),
}

impl Files<'_> {
    /// Reads training and test images; the last `validation` training images are for validation.
    fn idx(&mut self, validation: usize) -> Result<[RawImages; 3], ImageError> {
        let train = self.idx_pair([0, 1])?;
        let test = self.idx_pair([2, 3])?;
        Ok(hold_out(train, validation, test))
    }

    fn idx_pair(&mut self, [images, labels]: [usize; 2]) -> Result<RawImages, ImageError> {
        let [(images_path, images), (labels_path, labels)] =
            [self.read(images)?, self.read(labels)?];
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

    /// Reads the files `train` and `test`, from the archive or as separate files.
    fn cifar(
        &mut self,
        train: &[&str],
        test: &[&str],
        labels: cifar::Labels,
        classes: usize,
        most: usize,
    ) -> Result<[Vec<RawImages>; 2], ImageError> {
        let names = [train, test].concat();
        let mut found = match self.dataset.files {
            [archive] if archive.name.ends_with(".tar.gz") => {
                let (path, content) = self.open(0)?;
                cifar::read_archive(content, &names, labels, classes, most)
                    .map_err(|source| self.format(&path, source))?
            }
            _ => {
                let mut found = Vec::new();
                for index in 0..names.len() {
                    let (path, content) = self.open(index)?;
                    let images = cifar::read(content, labels, classes, most);
                    found.push(images.map_err(|source| self.format(&path, source))?);
                }
                found
            }
        };
        let test = found.split_off(train.len());
        Ok([found, test])
    }

    /// Describes the origin of image `record` of `split`; the training split has `training` images.
    fn place(
        &mut self,
        (split, record): (Split, usize),
        training: usize,
    ) -> Result<String, ImageError> {
        let Kind::Images {
            classes,
            splits,
            format,
            ..
        } = self.dataset.kind
        else {
            return Ok(format!("image {record} of the {split} split"));
        };
        let most = splits.iter().sum();
        // Validation images are the last of the training files.
        let in_files = match split {
            Split::Validation => training + record,
            Split::Train | Split::Test => record,
        };
        let path = |index: usize| self.dataset.path(&self.dataset.files[index], self.data_dir);
        let (file, record) = match format {
            ImageFormat::DemoDigits => return Ok(format!("image {record} of the {split} split")),
            ImageFormat::Idx => (path(if split == Split::Test { 2 } else { 0 }), in_files),
            ImageFormat::Svhn {
                validation_per_class,
            } => self.svhn_place((split, record), classes, validation_per_class, most)?,
            ImageFormat::Cifar {
                labels,
                train,
                test,
            } => {
                let parts = self.cifar(train, test, labels, classes, most)?;
                let (names, parts) = match split {
                    Split::Test => (test, &parts[1]),
                    Split::Train | Split::Validation => (train, &parts[0]),
                };
                let mut record = in_files;
                let mut index = 0;
                while index + 1 < parts.len() && record >= parts[index].len() {
                    record -= parts[index].len();
                    index += 1;
                }
                (
                    self.data_dir.join(self.dataset.name).join(names[index]),
                    record,
                )
            }
        };
        Ok(format!("record {record} of {}", file.display()))
    }

    /// The path and content of file `index`, verified.
    fn read(&mut self, index: usize) -> Result<(PathBuf, Vec<u8>), ImageError> {
        let path = self.check(index)?;
        match fs::read(&path) {
            Ok(content) => Ok((path, content)),
            Err(source) => Err(ImageError::Io { path, source }),
        }
    }

    /// The path of file `index`, and the verified file, opened.
    fn open(&mut self, index: usize) -> Result<(PathBuf, BufReader<File>), ImageError> {
        let path = self.check(index)?;
        match File::open(&path) {
            Ok(file) => Ok((path, BufReader::new(file))),
            Err(source) => Err(ImageError::Io { path, source }),
        }
    }

    /// Verifies size and checksum of file `index` and returns its path.
    pub(super) fn check(&mut self, index: usize) -> Result<PathBuf, ImageError> {
        let files = self.dataset.files;
        let file = files.get(index).ok_or_else(|| {
            self.mismatch(format!(
                "the entry has {} files, and the format needs more",
                files.len()
            ))
        })?;
        let path = self.dataset.path(file, self.data_dir);
        if file.bytes > 100_000_000 {
            (self.report)(&format!("verifying {}", path.display()));
        }
        match file.inspect(&path) {
            Ok(FileState::Valid) => Ok(path),
            Ok(state) => Err(ImageError::Data {
                dataset: self.dataset.name,
                path,
                state,
                advice: advice(self.dataset, self.data_dir),
            }),
            Err(source) => Err(ImageError::Io { path, source }),
        }
    }

    pub(super) fn format(&self, path: &Path, source: FormatError) -> ImageError {
        ImageError::Format {
            path: path.to_owned(),
            source,
            advice: advice(self.dataset, self.data_dir),
        }
    }

    pub(super) fn mismatch(&self, reason: String) -> ImageError {
        ImageError::Mismatch {
            name: self.dataset.name.to_owned(),
            reason,
        }
    }
}

/// Concatenates the images of `parts`.
fn concat(mut parts: Vec<RawImages>) -> RawImages {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let pixels: Vec<u8> = parts
        .iter()
        .flat_map(|part| &part.pixels[..])
        .copied()
        .collect();
    RawImages {
        shape: cifar::SHAPE,
        pixels: pixels.into(),
        labels: parts.into_iter().flat_map(|part| part.labels).collect(),
    }
}

/// Splits off the last `validation` images of `train`.
fn hold_out(train: RawImages, validation: usize, test: RawImages) -> [RawImages; 3] {
    let kept = train.len().saturating_sub(validation);
    [train.part(0..kept), train.part(kept..train.len()), test]
}
