//! The data of a run, texts or images, in batches.

use laq_datasets::{
    Fractions, ImageSet, Images, Kind, Sequences, Split, Text, TextError, identity_order,
};
use laq_models::{Batch, DatasetHandle, Evaluation, ModelError};
use laq_tensor::BackendError;
use sha2::{Digest, Sha256};

use crate::RunError;
use crate::checkpoint::hex;
use crate::config::{Data, FILE};
use crate::session::{Input, Network};

/// All splits of the data of a run.
pub(crate) enum Examples {
    Text(Text),
    Images(Box<ImageSet>),
}

/// The data that `data` describes. `tell` hears of work that takes its time.
pub(crate) fn load(data: &Data, tell: &mut dyn FnMut(&str)) -> Result<Examples, RunError> {
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
    let images = ImageSet::load(&data.name, &data.dir, Some(preprocessing), tell)?;
    Ok(Examples::Images(Box::new(images)))
}

impl Examples {
    /// The name of the data, or the path of a file of the user's.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Text(text) => &text.name,
            Self::Images(images) => &images.name,
        }
    }

    /// The bytes that symbols stand for; none for images.
    pub(crate) fn alphabet(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.alphabet.bytes(),
            Self::Images(_) => &[],
        }
    }

    /// What tells these data from others. For a text the SHA-256 of alphabet and splits, each after its length.
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
        hex(&digest.finalize())
    }

    /// `split` in batches of the size that `data` says.
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
                    numbers: images.shape().numbers(),
                    batch: data.batch,
                })
            }
        }
    }
}

/// Batches of the three splits (those that are trained on, then those that are evaluated) and what the network looks at,
/// as the catalogue promises them; a file of the user's is looked into.
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

/// A split of a text in whole batches.
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

/// Refuses a training split that does not fill a batch; what is evaluated need not.
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
    /// Sequences or images, which an epoch puts in order.
    pub(crate) fn examples(&self) -> usize {
        match self {
            Self::Text(sequences) => sequences.count(),
            Self::Images { images, .. } => images.len(),
        }
    }

    /// Batches that an epoch trains on: the whole ones.
    pub(crate) fn trained(&self) -> usize {
        match self {
            Self::Text(sequences) => sequences.batches(),
            Self::Images { images, batch, .. } => images.len() / batch,
        }
    }

    /// Copies all examples to the device of `network`; none where there was no room for them.
    pub(crate) fn hold(&self, network: &mut Network) -> Result<Option<DatasetHandle>, ModelError> {
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

    /// Batches that are evaluated: all of the images; of a text the whole ones.
    pub(crate) fn evaluated(&self) -> usize {
        match self {
            Self::Text(sequences) => sequences.batches(),
            Self::Images { images, batch, .. } => images.len().div_ceil(*batch),
        }
    }
}

/// Room for a batch in host memory, kept from one to the next.
#[derive(Default)]
pub(crate) struct Room {
    inputs: Vec<u8>,
    targets: Vec<u8>,
    pixels: Vec<f32>,
}

impl Room {
    /// Batch number `index` of the examples in `order`; the last may have fewer images.
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

/// How well a network predicts a split, with quantized weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Score {
    /// Mean loss: nats per character, or the images' loss.
    pub(crate) loss: f64,
    /// Percent of the images that are put in a wrong class; none for texts.
    pub(crate) error: Option<f64>,
}

/// Batches of examples on the device that are evaluated before they are waited for.
const AT_ONCE: usize = 32;

/// The score of `network` on all batches of a split, which may be on the device as `held`; `None` as soon as `go_on`, which
/// hears of batches before they are evaluated, says no.
pub(crate) fn score(
    network: &mut Network,
    batches: &Batches<'_>,
    held: Option<DatasetHandle>,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Score>, ModelError> {
    let (all, examples) = (batches.evaluated(), batches.examples());
    let order = identity_order(examples);
    let mut room = Room::default();
    let (mut losses, mut errors) = (Vec::with_capacity(all), None);
    while losses.len() < all {
        let first = losses.len();
        if !go_on(first) {
            return Ok(None);
        }
        let found = match held {
            Some(set) => {
                let found = network.evaluate_dataset(set, first..all.min(first + AT_ONCE))?;
                losses.extend(found.losses);
                found.errors
            }
            None => {
                let Evaluation { loss, errors } =
                    network.evaluate(room.fill(batches, &order, first))?;
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
        // A batch that is not full counts as much of one as it is.
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

    /// What is copied to a device and put together there gives the steps of batches that the host fills.
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
                let (computer, _) =
                    OpenDevice::open(DeviceOptions::CPU, None).expect("a processor");
                let input = Input::of(&examples);
                let mut network = network(computer, &experiment, input, experiment.data.batch)
                    .expect("a network");
                let train = held.then(|| batches.hold(&mut network).expect("room").expect("room"));
                if let Some(train) = train {
                    network.set_order(train, &order).expect("an order");
                }
                let mut room = Room::default();
                for index in [0, batches.trained() - 1, 1] {
                    match train {
                        Some(train) => network.begin_dataset_step(train, index, 0.01),
                        None => network.begin_step(room.fill(&batches, &order, index), 0.01),
                    }
                    .expect("a step");
                }
                let test = examples
                    .batches(Split::Test, &experiment.data)
                    .expect("batches");
                let set = held.then(|| test.hold(&mut network).expect("room"));
                let mut heard = Vec::new();
                let found = score(&mut network, &test, set.flatten(), &mut |batch| {
                    heard.push(batch);
                    true
                });
                let score = found.expect("an evaluation").expect("all of it");
                let every = if held { AT_ONCE } else { 1 };
                let expected: Vec<usize> = (0..test.evaluated()).step_by(every).collect();
                assert_eq!(heard, expected);
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
