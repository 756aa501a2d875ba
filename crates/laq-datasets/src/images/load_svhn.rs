//! Loads SVHN: decodes the files once, image by image, into a cache file that is memory-mapped.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::load::Files;
use super::{FormatError, ImageError, RawImages, cache, decoded, svhn};
use crate::Split;

/// One of the three files.
struct Source {
    path: PathBuf,
    labels: Vec<u8>,
    /// Whether each image is for validation.
    held_out: Vec<bool>,
}

impl Files<'_> {
    /// The splits, from the decoded copy if it exists. Of every class, the last `per_class[0]`
    /// training images and the last `per_class[1]` extra images are for validation.
    pub(super) fn svhn(
        &mut self,
        classes: usize,
        per_class: [usize; 2],
        most: usize,
    ) -> Result<([RawImages; 3], [u8; 32]), ImageError> {
        let copy = self.data_dir.join(self.dataset.name).join("decoded.images");
        let key = self.key(per_class);
        let failed = |source| ImageError::Io {
            path: copy.clone(),
            source,
        };
        let read = |found| {
            let invalid = || {
                failed(io::Error::other(
                    "its size does not match its header; remove it",
                ))
            };
            let splits = decoded::splits(&found).ok_or_else(invalid)?;
            Ok((splits, found.digest))
        };
        if let Some(found) = cache::open(&copy, &decoded::MAGIC, &key).map_err(failed)? {
            return read(found);
        }
        let mut paths = Vec::new();
        for index in 0..3 {
            paths.push(self.check(index)?);
        }
        let sources = self.sources(&paths, classes, per_class, most)?;
        let (dataset, data_dir) = (self.dataset, self.data_dir);
        let magic = &decoded::MAGIC;
        let found =
            cache::open_or_make(&copy, magic, &key, self.report, failed, |writer, report| {
                let (title, path) = (dataset.title, copy.display());
                report(&format!("decoding {title} to {path}, once"));
                let files = Files {
                    dataset,
                    data_dir,
                    report,
                };
                files.decode(&sources, most, writer)
            })?;
        read(found)
    }

    /// The origin of image `record` of `split`: its file and index.
    pub(super) fn svhn_place(
        &self,
        (split, record): (Split, usize),
        classes: usize,
        per_class: [usize; 2],
        most: usize,
    ) -> Result<(PathBuf, usize), ImageError> {
        let path = |index: usize| self.dataset.path(&self.dataset.files[index], self.data_dir);
        let paths = [path(0), path(1), path(2)];
        let sources = self.sources(&paths, classes, per_class, most)?;
        let files = match split {
            Split::Test => &sources[2..],
            _ => &sources[..2],
        };
        let places = files.iter().flat_map(|source| {
            let numbered = source.held_out.iter().enumerate();
            numbered.map(move |(record, held_out)| (source, record, held_out))
        });
        let validation = split == Split::Validation;
        let place = places
            .filter(|(_, _, held_out)| **held_out == validation)
            .nth(record);
        let (source, record, _) = place
            .ok_or_else(|| self.mismatch(format!("the {split} split has no image {record}")))?;
        Ok((source.path.clone(), record))
    }

    /// The labels of the three files, and which images are for validation.
    fn sources(
        &self,
        paths: &[PathBuf],
        classes: usize,
        per_class: [usize; 2],
        most: usize,
    ) -> Result<Vec<Source>, ImageError> {
        let per_class = [per_class[0], per_class[1], 0];
        let counted = paths.iter().zip(per_class);
        counted
            .map(|(path, count)| self.source(path.clone(), classes, count, most))
            .collect()
    }

    /// The key of the decoded copy: files as in the catalogue, and the rule of the split.
    fn key(&self, per_class: [usize; 2]) -> [u8; 32] {
        let mut key = Sha256::new();
        key.update(format!("svhn {per_class:?}"));
        for file in self.dataset.files {
            key.update(format!("\n{} {} {:?}", file.name, file.bytes, file.check));
        }
        key.finalize().into()
    }

    /// The labels of a file; the last `count` images of every class are for validation.
    fn source(
        &self,
        path: PathBuf,
        classes: usize,
        count: usize,
        most: usize,
    ) -> Result<Source, ImageError> {
        let labels = svhn::read_labels(open(&path)?, most).map_err(|e| self.format(&path, e))?;
        let mut left = vec![count; classes];
        let mut held_out = vec![false; labels.len()];
        for (&label, held_out) in labels.iter().zip(&mut held_out).rev() {
            if let Some(left) = left.get_mut(usize::from(label))
                && *left > 0
            {
                *left -= 1;
                *held_out = true;
            }
        }
        match left.iter().position(|&left| left > 0) {
            None => Ok(Source {
                path,
                labels,
                held_out,
            }),
            Some(class) => Err(self.mismatch(format!(
                "{} has {} images of class {class}, expected at least {count}, which are for validation",
                path.display(),
                count - left[class]
            ))),
        }
    }

    /// Writes the content of the copy: training, validation, then test images.
    fn decode(
        &self,
        sources: &[Source],
        most: usize,
        writer: &mut cache::Writer,
    ) -> Result<(), ImageError> {
        let (train, test) = sources.split_at(2);
        let labels = |files: &[Source], validation: bool| -> Vec<u8> {
            let of = |source: &Source| {
                let pairs = source.labels.iter().zip(&source.held_out);
                let chosen = pairs.filter(|(_, held_out)| **held_out == validation);
                chosen.map(|(&label, _)| label).collect::<Vec<_>>()
            };
            files.iter().flat_map(of).collect()
        };
        let splits = [
            labels(train, false),
            labels(train, true),
            labels(test, false),
        ];
        decoded::write_header(writer, svhn::SHAPE, &splits);
        let mut validation = Vec::new();
        for source in train {
            self.images(source, most, &mut |image, held_out| match held_out {
                true => validation.extend_from_slice(image),
                false => writer.write(image),
            })?;
        }
        writer.write(&validation);
        for source in test {
            self.images(source, most, &mut |image, _| writer.write(image))?;
        }
        Ok(())
    }

    /// Calls `each` with every image of a file and whether it is for validation.
    fn images(
        &self,
        source: &Source,
        most: usize,
        each: &mut dyn FnMut(&[u8], bool),
    ) -> Result<(), ImageError> {
        let (path, labels) = (&source.path, source.labels.len());
        let mut held_out = source.held_out.iter();
        let read = svhn::read_images(open(path)?, most, &mut |image| match held_out.next() {
            Some(&held_out) => {
                each(image, held_out);
                Ok(())
            }
            None => Err(unequal("more", labels)),
        });
        match read.map_err(|error| self.format(path, error))? {
            images if images < labels => {
                Err(self.format(path, unequal(&images.to_string(), labels)))
            }
            _ => Ok(()),
        }
    }
}

fn unequal(images: &str, labels: usize) -> FormatError {
    let expected = format!("{labels}, one for each label of y");
    FormatError::new("array X", format!("{images} images"), expected)
}

fn open(path: &Path) -> Result<BufReader<File>, ImageError> {
    let file = File::open(path).map_err(|source| ImageError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(BufReader::with_capacity(1 << 16, file))
}
