//! SVHN from its files to splits: decoded once, image by image, into a copy that is mapped into memory.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::load::Files;
use super::{FormatError, ImageError, decoded, svhn};

/// One of the three files.
struct Source {
    path: PathBuf,
    labels: Vec<u8>,
    /// For every image whether it is for validation.
    held_out: Vec<bool>,
}

impl Files<'_> {
    /// Training images, extra ones and test images, from the decoded copy if there is one. Of every class the last
    /// `per_class[0]` of the training images and the last `per_class[1]` of the extra ones are for validation.
    pub(super) fn svhn(
        &mut self,
        classes: usize,
        per_class: [usize; 2],
        most: usize,
    ) -> Result<decoded::Found, ImageError> {
        let copy = self.data_dir.join(self.dataset.name).join("decoded.images");
        let key = self.key(per_class);
        let failed = |source| ImageError::Io {
            path: copy.clone(),
            source,
        };
        if let Some(found) = decoded::open(&copy, &key).map_err(failed)? {
            return Ok(found);
        }
        let mut paths = Vec::new();
        for index in 0..3 {
            paths.push(self.check(index)?);
        }
        let _lock = decoded::lock(&copy, self.report).map_err(failed)?;
        // Another process may have made the copy while this one waited.
        if let Some(found) = decoded::open(&copy, &key).map_err(failed)? {
            return Ok(found);
        }
        let (title, path) = (self.dataset.title, copy.display());
        (self.report)(&format!("decoding {title} into {path}, once"));

        let per_class = [per_class[0], per_class[1], 0];
        let mut sources = Vec::new();
        for (path, count) in paths.into_iter().zip(per_class) {
            sources.push(self.source(path, classes, count, most)?);
        }
        let labels = |files: &[Source], validation: bool| -> Vec<u8> {
            let of = |source: &Source| {
                let pairs = source.labels.iter().zip(&source.held_out);
                let chosen = pairs.filter(|(_, held_out)| **held_out == validation);
                chosen.map(|(&label, _)| label).collect::<Vec<_>>()
            };
            files.iter().flat_map(of).collect()
        };
        let splits = [
            labels(&sources[..2], false),
            labels(&sources[..2], true),
            labels(&sources[2..], false),
        ];
        let mut writer = decoded::Writer::new(&copy, &key, svhn::SHAPE, &splits).map_err(failed)?;
        match self.decode(&sources, most, &mut writer) {
            Ok(()) => writer.finish().map_err(failed)?,
            Err(error) => {
                writer.abandon();
                return Err(error);
            }
        }
        decoded::open(&copy, &key)
            .map_err(failed)?
            .ok_or_else(|| failed(io::Error::other("what was just written reads differently")))
    }

    /// What a copy is made from: the files as the catalogue knows them, and the rule of the split.
    fn key(&self, per_class: [usize; 2]) -> [u8; 32] {
        let mut key = Sha256::new();
        key.update(format!("svhn {per_class:?}"));
        for file in self.dataset.files {
            key.update(format!("\n{} {} {:?}", file.name, file.bytes, file.check));
        }
        key.finalize().into()
    }

    /// The labels of a file, and which of its images are for validation: the last `count` of every class.
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
                "{} has {} images of class {class}, and {count} of every class are for validation; it has to be a file \
                 with more",
                path.display(),
                count - left[class]
            ))),
        }
    }

    /// Writes the images for training, then those for validation, then those for testing.
    fn decode(
        &self,
        sources: &[Source],
        most: usize,
        writer: &mut decoded::Writer,
    ) -> Result<(), ImageError> {
        let (train, test) = sources.split_at(2);
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

    /// Calls `each` with every image of a file, and whether it is for validation.
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
