//! Prepared images, which are mapped into memory. The first byte selects whether the rest is a whole file, or its content,
//! to which the target adds what the file begins and ends with. A file that is not of the images is made again.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use laq_datasets::{
    Check, DataFile, Dataset, ImageFormat, ImageSet, ImageSize, Kind, Preprocessing, Split,
};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Magic and key.
const START: usize = 48;

/// Three images of 2 × 2, and where they are prepared.
struct Images {
    folder: TempDir,
    dataset: Dataset,
    prepared: Vec<u8>,
}

impl Images {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("it")).expect("a folder");
        let idx = |dimensions: &[u32], elements: &[u8]| {
            let mut file = vec![0, 0, 8, dimensions.len() as u8];
            file.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
            file.extend(elements);
            file
        };
        let files = [
            ("images", idx(&[2, 2, 2], &[0, 1, 2, 3, 7, 2, 9, 1])),
            ("labels", idx(&[2], &[0, 1])),
            ("test-images", idx(&[1, 2, 2], &[3, 3, 3, 9])),
            ("test-labels", idx(&[1], &[1])),
        ];
        let files = files.map(|(name, content)| {
            fs::write(folder.path().join("it").join(name), &content).expect("written");
            let sum: String = (Sha256::digest(&content).iter())
                .map(|byte| format!("{byte:02x}"))
                .collect();
            DataFile {
                name,
                mirror_path: name,
                urls: &[],
                bytes: content.len() as u64,
                check: Check::Sha256(sum.leak()),
            }
        });
        let mut images = Self {
            folder,
            dataset: Dataset {
                name: "it",
                title: "it",
                files: Box::leak(Box::new(files)),
                kind: Kind::Images {
                    shape: ImageSize {
                        height: 2,
                        width: 2,
                        channels: 1,
                    },
                    classes: 2,
                    splits: [1, 1, 1],
                    format: ImageFormat::Idx,
                    preprocessing: Preprocessing::Zca,
                },
                stand_in: None,
            },
            prepared: Vec::new(),
        };
        drop(images.load());
        images.prepared = fs::read(images.path()).expect("the prepared images");
        images
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("it/whitened.images")
    }

    fn load(&self) -> Option<ImageSet> {
        let set = ImageSet::load_dataset(&self.dataset, self.folder.path(), None, &mut |_| {});
        set.inspect_err(|error| assert!(!error.to_string().is_empty()))
            .ok()
    }
}

static IMAGES: LazyLock<Images> = LazyLock::new(Images::new);

fuzz_target!(|input: &[u8]| {
    let Some((kind, content)) = input.split_first() else {
        return;
    };
    let sealed = kind % 2 == 1;
    let file = match sealed {
        false => content.to_vec(),
        true => [&IMAGES.prepared[..START], content, &Sha256::digest(content)].concat(),
    };
    fs::write(IMAGES.path(), &file).expect("the temporary folder is writable");
    let set = IMAGES.load();
    assert_eq!(
        set.is_some(),
        !sealed || file.len() == IMAGES.prepared.len()
    );
    for split in set
        .iter()
        .flat_map(|set| Split::ALL.map(|split| set.split(split)))
    {
        split.fill(&[0], &mut [0.0; 4], &mut [0]);
    }
    if !sealed {
        assert!(fs::read(IMAGES.path()).expect("a file") == IMAGES.prepared);
    }
});
