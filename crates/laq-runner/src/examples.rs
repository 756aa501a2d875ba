//! The data of a run, texts or images, in batches.

use laq_datasets::{
    Fractions, ImageSet, Images, Kind, Sequences, Split, Text, TextError, identity_order,
};
use laq_models::{Batch, DatasetHandle, Evaluation, ImageShape, ModelError};
use laq_tensor::BackendError;
use sha2::{Digest, Sha256};

use crate::RunError;
use crate::config::{Data, FILE};
use crate::device::{Evaluator, Network};

/// The input of a network, which sets the sizes of the first and the last layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    Symbols(usize),
    Images { shape: ImageShape, classes: usize },
}

impl Input {
    /// The input for `examples`.
    pub(crate) fn of(examples: &Examples) -> Self {
        match examples {
            Examples::Text(text) => Self::Symbols(text.alphabet.len()),
            Examples::Images(images) => Self::images(images.shape(), images.classes()),
        }
    }

    pub(crate) fn images(shape: laq_datasets::ImageSize, classes: usize) -> Self {
        let laq_datasets::ImageSize {
            height,
            width,
            channels,
        } = shape;
        let shape = ImageShape {
            height,
            width,
            channels,
        };
        Self::Images { shape, classes }
    }
}

/// All splits of the data of a run.
pub(crate) enum Examples {
    Text(Text),
    Images(Box<ImageSet>),
}

/// Loads the data; `report` receives the names of slow steps.
pub(crate) fn load(data: &Data, report: &mut dyn FnMut(&str)) -> Result<Examples, RunError> {
    if let Some(path) = data.path.as_ref().filter(|_| data.name == FILE) {
        let share = |share: Option<f64>| share.unwrap_or_default();
        let fractions = Fractions {
            train: share(data.train_fraction),
            validation: share(data.validation_fraction),
        };
        return Ok(Examples::Text(Text::from_file(path, fractions)?));
    }
    let Some(name) = &data.preprocessing else {
        return Ok(Examples::Text(Text::load(&data.name, &data.dir)?));
    };
    let preprocessing = name
        .parse()
        .map_err(|error: laq_datasets::UnknownPreprocessing| {
            RunError::Internal(error.to_string())
        })?;
    let images = ImageSet::load(&data.name, &data.dir, Some(preprocessing), report)?;
    Ok(Examples::Images(Box::new(images)))
}

impl Examples {
    /// The name of the dataset, or the path of the file.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Text(text) => &text.name,
            Self::Images(images) => &images.name,
        }
    }

    /// The bytes of the alphabet; empty for images.
    pub(crate) fn alphabet(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.alphabet.bytes(),
            Self::Images(_) => &[],
        }
    }

    /// A digest of the data; for a text the SHA-256 of alphabet and splits, each after its length.
    pub(crate) fn fingerprint(&self) -> String {
        let text = match self {
            Self::Text(text) => text,
            Self::Images(images) => return images.fingerprint().into(),
        };
        let mut digest = Sha256::new();
        for part in [
            text.alphabet.bytes(),
            &text.train,
            &text.validation,
            &text.test,
        ] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        hex::encode(digest.finalize())
    }

    /// The batches of `split`.
    pub(crate) fn batches(&self, split: Split, data: &Data) -> Result<Batches<'_>, RunError> {
        match self {
            Self::Text(text) => {
                let sequences = cut(text.split(split), &text.name, split, data)?;
                Ok(Batches::Text(sequences))
            }
            Self::Images(images) => {
                let found = images.split(split);
                enough(found.len(), &images.name, split, data)?;
                Ok(Batches::Images {
                    images: found,
                    numbers: images.shape().elements(),
                    batch: data.batch,
                })
            }
        }
    }
}

/// The batches of the three splits and the input, from the catalogue or from the user's file.
pub(crate) fn sizes(data: &Data) -> Result<([usize; 3], Input), RunError> {
    if data.name == FILE {
        let examples = load(data, &mut |_| {})?;
        let of = |split| examples.batches(split, data);
        let batches = [
            of(Split::Train)?.trained(),
            of(Split::Validation)?.evaluated(),
            of(Split::Test)?.evaluated(),
        ];
        return Ok((batches, Input::of(&examples)));
    }
    let dataset = laq_datasets::find(&data.name).map_err(TextError::Unknown)?;
    let batches = |split| -> Result<usize, RunError> {
        match dataset.kind {
            Kind::Text { .. } => {
                let symbols = vec![0; dataset.expected_symbols(split)];
                Ok(cut(&symbols, &data.name, split, data)?.batches())
            }
            Kind::Images { splits, .. } => {
                let images = splits[split as usize];
                enough(images, &data.name, split, data)?;
                Ok(match split {
                    Split::Train => images / data.batch,
                    _ => images.div_ceil(data.batch),
                })
            }
        }
    };
    let input = match dataset.kind {
        Kind::Text { symbols, .. } => Input::Symbols(symbols),
        Kind::Images { shape, classes, .. } => Input::images(shape, classes),
    };
    let [train, validation, test] = Split::ALL.map(batches);
    Ok(([train?, validation?, test?], input))
}

/// The whole batches of a split of a text.
fn cut<'a>(
    symbols: &'a [u8],
    name: &str,
    split: Split,
    data: &Data,
) -> Result<Sequences<'a>, RunError> {
    let length = data.length.unwrap_or_default();
    Sequences::new(symbols, length, data.batch).map_err(|source| RunError::TooShort {
        split,
        data: name.into(),
        length,
        batch: data.batch,
        source,
    })
}

/// Returns an error if the training split does not fill a batch.
fn enough(images: usize, name: &str, split: Split, data: &Data) -> Result<(), RunError> {
    if split != Split::Train || images >= data.batch {
        return Ok(());
    }
    Err(RunError::TooFewImages {
        data: name.into(),
        batch: data.batch,
        found: images,
    })
}

/// A split in batches.
#[derive(Clone, Copy)]
pub(crate) enum Batches<'a> {
    Text(Sequences<'a>),
    Images {
        images: &'a Images,
        /// Of one image.
        numbers: usize,
        batch: usize,
    },
}

impl Batches<'_> {
    /// The number of sequences or images.
    pub(crate) fn examples(&self) -> usize {
        match self {
            Self::Text(sequences) => sequences.count(),
            Self::Images { images, .. } => images.len(),
        }
    }

    /// Training batches of an epoch: the full ones.
    pub(crate) fn trained(&self) -> usize {
        match self {
            Self::Text(sequences) => sequences.batches(),
            Self::Images { images, batch, .. } => images.len() / batch,
        }
    }

    /// Uploads all examples; `None` if they do not fit into device memory.
    pub(crate) fn upload(
        &self,
        network: &mut Network,
    ) -> Result<Option<DatasetHandle>, ModelError> {
        let held = match self {
            Self::Text(sequences) => {
                network.upload(laq_models::Examples::Text(sequences.symbols()))
            }
            Self::Images {
                images, numbers, ..
            } => {
                let (all, mut none) = (identity_order(images.len()), Vec::new());
                network.upload(laq_models::Examples::Images {
                    labels: images.labels(),
                    numbers: *numbers,
                    fill: &mut |first, pixels| {
                        let chosen = &all[first..first + pixels.len() / numbers];
                        none.resize(chosen.len(), 0);
                        images.fill(chosen, pixels, &mut none);
                    },
                })
            }
        };
        match held {
            Ok(held) => Ok(Some(held)),
            Err(ModelError::Backend(BackendError::DeviceMemory { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Evaluated batches: all of images, the full ones of a text.
    pub(crate) fn evaluated(&self) -> usize {
        match self {
            Self::Text(sequences) => sequences.batches(),
            Self::Images { images, batch, .. } => images.len().div_ceil(*batch),
        }
    }
}

/// A reusable batch in host memory.
#[derive(Default)]
pub(crate) struct BatchBuffer {
    inputs: Vec<u8>,
    targets: Vec<u8>,
    pixels: Vec<f32>,
}

impl BatchBuffer {
    /// Fills the buffer with batch `index` of `order`; the last may have fewer images.
    pub(crate) fn fill(&mut self, batches: &Batches<'_>, order: &[u32], index: usize) -> Batch<'_> {
        match batches {
            Batches::Text(sequences) => {
                let size = sequences.length() * sequences.batch_size();
                self.inputs.resize(size, 0);
                self.targets.resize(size, 0);
                sequences.fill(order, index, &mut self.inputs, &mut self.targets);
                Batch::text(&self.inputs, &self.targets)
            }
            Batches::Images {
                images,
                numbers,
                batch,
            } => {
                let chosen = &order[index * batch..order.len().min((index + 1) * batch)];
                self.pixels.resize(chosen.len() * numbers, 0.0);
                self.targets.resize(chosen.len(), 0);
                images.fill(chosen, &mut self.pixels, &mut self.targets);
                Batch::images(&self.pixels, &self.targets)
            }
        }
    }
}

/// The evaluation of a split, with quantized weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Score {
    /// The mean loss, of texts in nats per character.
    pub(crate) loss: f64,
    /// The percentage of misclassified images; `None` for texts.
    pub(crate) error: Option<f64>,
}

/// Batches evaluated on a device between two synchronizations.
const CHUNK: usize = 32;

/// Evaluates all batches of a split, from device memory if `held`. Calls `go_on` with the index of
/// each batch or chunk, and returns `None` if it is false.
pub(crate) fn score(
    network: &mut dyn Evaluator,
    batches: &Batches<'_>,
    held: Option<DatasetHandle>,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Score>, ModelError> {
    let (all, examples) = (batches.evaluated(), batches.examples());
    let order = identity_order(examples);
    let mut buffer = BatchBuffer::default();
    let (mut losses, mut errors) = (Vec::with_capacity(all), None);
    while losses.len() < all {
        let first = losses.len();
        if !go_on(first) {
            return Ok(None);
        }
        let found = match held {
            Some(set) => {
                let found = network.evaluate_dataset(set, first..all.min(first + CHUNK))?;
                losses.extend(found.losses);
                found.errors
            }
            None => {
                let Evaluation { loss, errors } =
                    network.evaluate(buffer.fill(batches, &order, first))?;
                losses.push(loss);
                errors
            }
        };
        if let Some(found) = found {
            *errors.get_or_insert(0) += found;
        }
    }
    let (mut loss, mut weight) = (0.0, 0.0);
    for (index, found) in losses.iter().enumerate() {
        // A partial batch counts in proportion.
        let share = match batches {
            Batches::Images { batch, .. } => {
                (examples - index * batch).min(*batch) as f64 / *batch as f64
            }
            Batches::Text(_) => 1.0,
        };
        loss += share * found;
        weight += share;
    }
    let percent = |errors: usize| 100.0 * errors as f64 / examples as f64;
    Ok(Some(Score {
        loss: loss / weight,
        error: errors.map(percent),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::device::{DeviceOptions, OpenDevice};
    use crate::session::network;
    use laq_datasets::epoch_order;

    /// Batches gathered on the device give the same steps as batches of the host.
    #[test]
    fn examples_on_a_device_make_the_same_batches() {
        for experiment in [
            "[data]\nname = 'demo'\nlength = 9\nbatch = 7\n[model]\nhidden = 6\n[quantize]\nmethod = 'lat-a'",
            "[data]\nname = 'demo-digits'\nbatch = 10\n[model]\nkind = 'feedforward'\nfilters = [3]\nunits = [5]\n[quantize]\nmethod = 'lat-a'",
        ] {
            let experiment = parse(experiment, "test").expect("an experiment");
            let examples = load(&experiment.data, &mut |_| {}).expect("data");
            let batches = examples
                .batches(Split::Train, &experiment.data)
                .expect("batches");
            let order = epoch_order(batches.examples(), 1, 1);
            let mut losses = [false, true].map(|held| {
                let (device, _) = OpenDevice::open(DeviceOptions::CPU, None).expect("a processor");
                let input = Input::of(&examples);
                let mut network =
                    network(device, &experiment, input, experiment.data.batch).expect("a network");
                let train =
                    held.then(|| batches.upload(&mut network).expect("room").expect("room"));
                if let Some(train) = train {
                    network.set_order(train, &order).expect("an order");
                }
                let mut buffer = BatchBuffer::default();
                for index in [0, batches.trained() - 1, 1] {
                    match train {
                        Some(train) => network.begin_dataset_step(train, index, 0.01),
                        None => network.begin_step(buffer.fill(&batches, &order, index), 0.01),
                    }
                    .expect("a step");
                }
                let test = examples
                    .batches(Split::Test, &experiment.data)
                    .expect("batches");
                let set = held.then(|| test.upload(&mut network).expect("room"));
                let mut reported = Vec::new();
                let found = score(&mut *network, &test, set.flatten(), &mut |batch| {
                    reported.push(batch);
                    true
                });
                let score = found.expect("an evaluation").expect("all of it");
                let every = if held { CHUNK } else { 1 };
                let expected: Vec<usize> = (0..test.evaluated()).step_by(every).collect();
                assert_eq!(reported, expected);
                let mut found = network.report().expect("steps").losses.to_vec();
                assert_eq!(found.len(), 3);
                found.extend([score.loss, score.error.unwrap_or(0.0)]);
                found
            });
            let [brought, held] = &mut losses;
            assert_eq!(brought, held);
        }
    }
}
