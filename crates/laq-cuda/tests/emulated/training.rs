//! Networks trained on the emulator: graphs, resuming, checkpoints across devices, and stops.

use crate::emulator::Emulator;
use crate::emulator::device::{CaptureFailure, Emulated};
use laq_cuda::{CudaBackend, Device};
use laq_models::{
    AdamSettings, Batch, CharLstmSpec, CurvatureKind, CurvatureSums, Examples, FeedforwardSpec,
    ImageShape, ModelError, StateData, StateTensor, TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::{Backend, CpuBackend};

const TEXT: TextShape = TextShape {
    length: 5,
    batch: 4,
};
const SYMBOLS: usize = 7;
const IMAGES: usize = 6;

fn backend(emulator: &'static Emulator) -> CudaBackend<Emulated> {
    CudaBackend::new(Emulated::new(emulator))
}

/// A small network with computed inputs.
pub(crate) trait Network {
    fn build<B: Backend + 'static>(&self, backend: B, method: &Method) -> Training<B>;
    fn begin<B: Backend + 'static>(&self, training: &mut Training<B>, number: usize, rate: f64);
    fn loss<B: Backend + 'static>(&self, training: &mut Training<B>, number: usize) -> f64;
}

pub(crate) struct Lstm;

impl Lstm {
    fn batch(number: usize) -> (Vec<u8>, Vec<u8>) {
        let symbol = |time: usize, sequence: usize| {
            let position = time + 5 * sequence + 3 * number;
            ((position * position / 7 + 2 * position) % SYMBOLS) as u8
        };
        let places = (0..TEXT.length * TEXT.batch).map(|row| (row / TEXT.batch, row % TEXT.batch));
        places
            .map(|(time, sequence)| (symbol(time, sequence), symbol(time + 1, sequence)))
            .unzip()
    }

    pub(crate) fn of_cells<B: Backend + 'static>(
        hidden: usize,
        backend: B,
        method: &Method,
    ) -> Training<B> {
        let spec = CharLstmSpec {
            hidden,
            ..CharLstmSpec::paper(SYMBOLS)
        };
        Training::char_lstm(backend, &spec, TEXT, method, AdamSettings::default(), 1).unwrap()
    }
}

impl Network for Lstm {
    fn build<B: Backend + 'static>(&self, backend: B, method: &Method) -> Training<B> {
        Self::of_cells(9, backend, method)
    }

    fn begin<B: Backend + 'static>(&self, training: &mut Training<B>, number: usize, rate: f64) {
        let (inputs, targets) = Self::batch(number);
        training
            .begin_step(Batch::text(&inputs, &targets), rate)
            .unwrap();
    }

    fn loss<B: Backend + 'static>(&self, training: &mut Training<B>, number: usize) -> f64 {
        let (inputs, targets) = Self::batch(number);
        let found = training.evaluate(Batch::text(&inputs, &targets));
        found.unwrap().loss
    }
}

pub(crate) struct Vgg;

impl Vgg {
    pub(crate) fn try_build<B: Backend + 'static>(
        &self,
        backend: B,
        method: &Method,
    ) -> Result<Training<B>, ModelError> {
        let spec = FeedforwardSpec {
            input: ImageShape {
                height: 4,
                width: 4,
                channels: 2,
            },
            classes: 3,
            filters: vec![5],
            units: vec![8],
            ..FeedforwardSpec::mnist()
        };
        let adam = AdamSettings::default();
        Training::feedforward(backend, &spec, IMAGES, method, adam, 1)
    }

    pub(crate) fn batch(number: usize) -> (Vec<f32>, Vec<u8>) {
        let labels: Vec<u8> = (0..IMAGES).map(|i| ((i * 7 + number) % 3) as u8).collect();
        let pixels = (0..IMAGES * 32).map(|at| {
            let (image, place) = (at / 32, at % 32);
            let phase = place as f32 * (0.3 + 0.35 * f32::from(labels[image]));
            let noise = ((image * 31 + number * 17 + place * place * 13) % 29) as f32 / 29.0;
            phase.sin() + noise - 0.5
        });
        (pixels.collect(), labels)
    }
}

impl Network for Vgg {
    fn build<B: Backend + 'static>(&self, backend: B, method: &Method) -> Training<B> {
        self.try_build(backend, method).unwrap()
    }
    fn begin<B: Backend + 'static>(&self, training: &mut Training<B>, number: usize, rate: f64) {
        let (pixels, labels) = Self::batch(number);
        training
            .begin_step(Batch::images(&pixels, &labels), rate)
            .unwrap();
    }

    fn loss<B: Backend + 'static>(&self, training: &mut Training<B>, number: usize) -> f64 {
        let (pixels, labels) = Self::batch(number);
        let found = training.evaluate(Batch::images(&pixels, &labels));
        found.unwrap().loss
    }
}

pub(crate) fn steps<B: Backend + 'static>(
    network: &impl Network,
    training: &mut Training<B>,
    numbers: std::ops::Range<usize>,
) -> Vec<f64> {
    for number in numbers {
        network.begin(training, number, 0.01);
    }
    training.report().unwrap().losses.to_vec()
}

/// Trains on the device and on the CPU and exchanges checkpoints; `backend` opens the device again.
pub(crate) fn as_on_the_cpu<D: Device + 'static>(
    network: &impl Network,
    id: &str,
    backend: impl Fn() -> CudaBackend<D>,
) {
    let method = Method::try_from(id).unwrap();
    let mut on_device = network.build(backend(), &method);
    let mut on_cpu = network.build(CpuBackend::new().unwrap(), &method);
    // The first step is eager, the second captures, the others replay. After an evaluation, which
    // solves for ŵ, a step is another graph.
    let found: Vec<f64> = (0..3)
        .flat_map(|part| {
            let losses = steps(network, &mut on_device, 4 * part..4 * part + 4);
            network.loss(&mut on_device, 100);
            losses
        })
        .collect();
    let expected: Vec<f64> = (0..3)
        .flat_map(|part| {
            let losses = steps(network, &mut on_cpu, 4 * part..4 * part + 4);
            network.loss(&mut on_cpu, 100);
            losses
        })
        .collect();
    assert_eq!(found.len(), 12);
    for (a, b) in found.iter().zip(&expected) {
        assert!(
            (a - b).abs() < 2e-3 * b.abs(),
            "{id}: {found:?}, {expected:?}"
        );
    }

    // Either resumes from the other's checkpoint.
    let state = on_device.save().unwrap();
    on_cpu.load(&state).unwrap();
    let mut again = network.build(backend(), &method);
    again.load(&on_cpu.save().unwrap()).unwrap();
    assert_eq!(again.save().unwrap(), state, "{id}");
    let losses = [&mut on_device, &mut again].map(|training| network.loss(training, 50));
    assert_eq!(losses[0], losses[1], "{id}");
    let on_cpu_too = network.loss(&mut on_cpu, 50);
    assert!((losses[0] - on_cpu_too).abs() < 1e-5 * on_cpu_too, "{id}");

    // After a load there is nothing to report until the next step.
    on_device.load(&state).unwrap();
    let quantized = id != "full";
    assert!(on_device.layers().unwrap().is_empty(), "{id}");
    steps(network, &mut on_device, 11..12);
    assert_eq!(on_device.layers().unwrap().is_empty(), !quantized, "{id}");
    on_device.load(&state).unwrap();

    // An interrupted run gives the bits of an uninterrupted one.
    let all = steps(network, &mut on_device, 12..18);
    let mut parts = steps(network, &mut again, 12..14);
    let mut third = network.build(backend(), &method);
    third.load(&again.save().unwrap()).unwrap();
    parts.extend(steps(network, &mut third, 14..18));
    assert_eq!(all, parts, "{id}");
    assert_eq!(on_device.save().unwrap(), third.save().unwrap(), "{id}");
}

#[test]
fn an_lstm_trains_as_on_the_cpu() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for id in ["full", "lat-a", "lat2-e", "ttq", "dorefa-3"] {
        as_on_the_cpu(&Lstm, id, || backend(emulator));
    }
}

#[test]
fn a_vgg_trains_as_on_the_cpu() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for id in ["full", "lat-e", "lat2-a", "laq-log-3"] {
        as_on_the_cpu(&Vgg, id, || backend(emulator));
    }
}

/// A reversed schedule of blocks and threads gives the same bits.
#[test]
fn the_schedule_does_not_change_the_bits() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let reversed = || CudaBackend::new(Emulated::new(emulator).reversed());
    for id in ["full", "lat-a", "lat2-e", "laq-log-3-e", "ttq", "dorefa-3"] {
        let method = Method::try_from(id).unwrap();
        let mut one = Lstm.build(backend(emulator), &method);
        let mut other = Lstm.build(reversed(), &method);
        let losses = [&mut one, &mut other].map(|t| steps(&Lstm, t, 0..4));
        assert_eq!(losses[0], losses[1], "{id}");
        assert_eq!(one.save().unwrap(), other.save().unwrap(), "{id}");
        let mut one = Vgg.build(backend(emulator), &method);
        let mut other = Vgg.build(reversed(), &method);
        let losses = [&mut one, &mut other].map(|t| steps(&Vgg, t, 0..4));
        assert_eq!(losses[0], losses[1], "{id}");
        assert_eq!(one.save().unwrap(), other.save().unwrap(), "{id}");
    }
    // Cooperative launches.
    let method = Method::try_from("lat-a").unwrap();
    let [mut one, mut other] = [false, true].map(|reversed| {
        let device = Emulated::cooperative(emulator, 8);
        let device = if reversed { device.reversed() } else { device };
        let backend = CudaBackend::new(device);
        Lstm::of_cells(128, backend, &method)
    });
    let losses = [&mut one, &mut other].map(|training| steps(&Lstm, training, 0..3));
    assert_eq!(losses[0], losses[1]);
    assert_eq!(one.save().unwrap(), other.save().unwrap());
    assert!(one.diagnostics().is_empty());
}

/// Steps that cannot be captured are executed, with a diagnostic.
#[test]
fn steps_that_cannot_be_captured_are_eager() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let method = Method::try_from("lat-a").unwrap();
    let mut captured = Vgg.build(backend(emulator), &method);
    let train = |training: &mut Training<CudaBackend<Emulated>>| {
        let mut losses = steps(&Vgg, training, 0..4);
        for number in 4..7 {
            losses.push(Vgg.loss(training, number));
            losses.extend(steps(&Vgg, training, number..number + 1));
        }
        losses
    };
    let expected = train(&mut captured);
    assert!(captured.diagnostics().is_empty());
    for failure in [
        CaptureFailure::Begin,
        CaptureFailure::Product,
        CaptureFailure::End,
    ] {
        let device = Emulated::without_graphs(emulator, failure);
        let mut eager = Vgg.build(CudaBackend::new(device), &method);
        assert_eq!(train(&mut eager), expected, "{failure:?}");
        assert_eq!(
            eager.save().unwrap(),
            captured.save().unwrap(),
            "{failure:?}"
        );
        let lines = eager.diagnostics();
        assert!(
            matches!(&lines[..], [line] if line.contains("cannot capture")),
            "{failure:?}: {lines:?}"
        );
    }
}

/// A lost device gives an error and no panic, and a saved state resumes elsewhere.
#[test]
fn a_lost_device_is_an_error() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let method = Method::try_from("lat-a").unwrap();
    let mut good = Vgg.build(backend(emulator), &method);
    let state = good.save().unwrap();
    let mut failures = 0;
    for launches in [1, 2, 10, 50, 60, 75, 100, 130, 200, 300] {
        let device = Emulated::limited(emulator, usize::MAX, launches);
        let mut training = Vgg.build(CudaBackend::new(device), &method);
        training.load(&state).unwrap();
        let mut error = None;
        for number in 0..3 {
            let (pixels, labels) = Vgg::batch(number);
            let begun = training.begin_step(Batch::images(&pixels, &labels), 0.01);
            if let Err(found) = begun.and_then(|()| training.report().map(drop)) {
                error.get_or_insert(found.to_string());
            }
        }
        if let Some(error) = error {
            assert!(error.contains("lost"), "{error}");
            failures += 1;
        }
    }
    assert!(failures >= 8, "{failures}");
    good.load(&state).unwrap();
    steps(&Vgg, &mut good, 0..1);
}

/// A dataset that does not fit leaves the network unchanged.
#[test]
fn out_of_memory_is_an_error() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let method = Method::try_from("lat-e").unwrap();
    for bytes in [0, 100, 3000, 10_000, 20_000] {
        let device = Emulated::limited(emulator, bytes, u64::MAX);
        let spec = CharLstmSpec::paper(SYMBOLS);
        let adam = AdamSettings::default();
        let built = Training::char_lstm(CudaBackend::new(device), &spec, TEXT, &method, adam, 1);
        let message = built.err().unwrap().to_string();
        assert!(message.contains("is out of memory"), "{message}");
    }
    let device = Emulated::limited(emulator, 3 << 20, u64::MAX);
    let mut training = Vgg.build(CudaBackend::new(device), &method);
    steps(&Vgg, &mut training, 0..1);
    let labels = vec![0; 100_000];
    let examples = Examples::Images {
        labels: &labels,
        numbers: 32,
        fill: &mut |_, _| {},
    };
    let message = training.upload(examples).unwrap_err().to_string();
    assert!(message.contains("is out of memory"), "{message}");
    steps(&Vgg, &mut training, 1..3);
}

/// Batches gathered on the device give the bits of batches from the host.
pub(crate) fn gathered_as_from_the_host<B: Backend + 'static>(backend: impl Fn() -> B) {
    let method = Method::try_from("lat-a").unwrap();
    let order: Vec<u32> = (0..3 * IMAGES as u32).map(|i| i * 5 % 18).collect();
    let sets: Vec<_> = (0..3).map(Vgg::batch).collect();
    let pixels: Vec<f32> = sets.iter().flat_map(|(pixels, _)| pixels.clone()).collect();
    let labels: Vec<u8> = sets.iter().flat_map(|(_, labels)| labels.clone()).collect();
    let mut held = Vgg.build(backend(), &method);
    let examples = Examples::Images {
        labels: &labels,
        numbers: 32,
        fill: &mut |first, piece| piece.copy_from_slice(&pixels[32 * first..][..piece.len()]),
    };
    let set = held.upload(examples).unwrap();
    held.set_order(set, &order).unwrap();
    let mut brought = Vgg.build(backend(), &method);
    for index in [0, 2, 1, 0] {
        held.begin_dataset_step(set, index, 0.01).unwrap();
        let chosen = &order[index * IMAGES..(index + 1) * IMAGES];
        let (mut images, mut classes) = (Vec::new(), Vec::new());
        for &example in chosen {
            images.extend_from_slice(&pixels[32 * example as usize..][..32]);
            classes.push(labels[example as usize]);
        }
        let batch = Batch::images(&images, &classes);
        brought.begin_step(batch, 0.01).unwrap();
    }
    let [a, b] = [&mut held, &mut brought].map(|t| t.report().unwrap().losses.to_vec());
    assert_eq!(a, b);
    assert_eq!(held.save().unwrap(), brought.save().unwrap());
    assert!(held.begin_dataset_step(set, 3, 0.01).is_err());
    assert!(held.set_order(set, &order[1..]).is_err());
    assert!(held.upload(Examples::Text(&[0; 40])).is_err());

    let text: Vec<u8> = (0..TEXT.length * 12 + 1)
        .map(|i| (i * i % SYMBOLS) as u8)
        .collect();
    let order: Vec<u32> = (0..12).map(|i| i * 7 % 12).collect();
    let mut held = Lstm.build(backend(), &method);
    let set = held.upload(Examples::Text(&text)).unwrap();
    held.set_order(set, &order).unwrap();
    let mut brought = Lstm.build(backend(), &method);
    for index in [0, 2, 1, 0] {
        held.begin_dataset_step(set, index, 0.01).unwrap();
        let place = |row: usize| {
            let sequence = order[index * TEXT.batch + row % TEXT.batch] as usize;
            sequence * TEXT.length + row / TEXT.batch
        };
        let rows = 0..TEXT.length * TEXT.batch;
        let (inputs, targets): (Vec<u8>, Vec<u8>) = rows
            .map(|row| (text[place(row)], text[place(row) + 1]))
            .unzip();
        brought
            .begin_step(Batch::text(&inputs, &targets), 0.01)
            .unwrap();
    }
    let [a, b] = [&mut held, &mut brought].map(|t| t.report().unwrap().losses.to_vec());
    assert_eq!(a, b);
    assert!(held.upload(Examples::Text(&[SYMBOLS as u8; 40])).is_err());
}

#[test]
fn batches_gathered_on_the_device_equal_those_of_the_host() {
    gathered_as_from_the_host(|| CpuBackend::new().unwrap());
    let Some(emulator) = Emulator::get() else {
        return;
    };
    gathered_as_from_the_host(|| backend(emulator));
}

/// Batches on the device are evaluated as those from the host, a smaller last one too, and the
/// evaluation does not affect training.
fn evaluated_as_from_the_host<B: Backend + 'static>(backend: impl Fn() -> B) {
    let method = Method::try_from("lat-a").unwrap();
    let sets: Vec<_> = (0..3).map(Vgg::batch).collect();
    let count = 2 * IMAGES + 4;
    let mut pixels: Vec<f32> = sets.iter().flat_map(|(pixels, _)| pixels.clone()).collect();
    let labels: Vec<u8> = sets.iter().flat_map(|(_, labels)| labels.clone()).collect();
    let mut training = Vgg.build(backend(), &method);
    let mut other = Vgg.build(backend(), &method);
    let hold = |training: &mut Training<B>, pixels: &[f32]| {
        let examples = Examples::Images {
            labels: &labels[..count],
            numbers: 32,
            fill: &mut |first, piece| piece.copy_from_slice(&pixels[32 * first..][..piece.len()]),
        };
        training.upload(examples).unwrap()
    };
    let set = hold(&mut training, &pixels);
    for number in 0..3 {
        steps(&Vgg, &mut training, number..number + 1);
        steps(&Vgg, &mut other, number..number + 1);
        let found = training.evaluate_dataset(set, 0..3).unwrap();
        let mut errors = 0;
        for (index, loss) in found.losses.iter().enumerate() {
            let images = index * IMAGES..count.min((index + 1) * IMAGES);
            let numbers = 32 * images.start..32 * images.end;
            let batch = Batch::images(&pixels[numbers], &labels[images]);
            let expected = other.evaluate(batch).unwrap();
            assert_eq!(*loss, expected.loss);
            errors += expected.errors.unwrap();
        }
        assert_eq!((found.losses.len(), found.errors), (3, Some(errors)));
        assert!(training.evaluate_dataset(set, 1..4).is_err());
        assert_eq!(
            training.evaluate_dataset(set, 1..3).unwrap().losses,
            found.losses[1..]
        );
    }
    assert_eq!(training.save().unwrap(), other.save().unwrap());

    // The error names the batch that is not finite, not the next.
    pixels[32 * IMAGES + 5] = f32::NAN;
    let bad = hold(&mut training, &pixels);
    let found = training
        .evaluate_dataset(bad, 0..3)
        .unwrap_err()
        .to_string();
    let numbers = 32 * IMAGES..64 * IMAGES;
    let batch = Batch::images(&pixels[numbers], &labels[IMAGES..2 * IMAGES]);
    assert_eq!(found, other.evaluate(batch).unwrap_err().to_string());
    assert_eq!(
        training.evaluate_dataset(set, 0..3).unwrap().losses.len(),
        3
    );

    let text: Vec<u8> = (0..TEXT.length * 12 + 1)
        .map(|i| (i * i % SYMBOLS) as u8)
        .collect();
    let mut training = Lstm.build(backend(), &method);
    let set = training.upload(Examples::Text(&text)).unwrap();
    steps(&Lstm, &mut training, 0..2);
    let found = training.evaluate_dataset(set, 0..3).unwrap();
    assert_eq!(found.errors, None);
    for (index, loss) in found.losses.iter().enumerate() {
        let place =
            |row: usize| (index * TEXT.batch + row % TEXT.batch) * TEXT.length + row / TEXT.batch;
        let rows = 0..TEXT.length * TEXT.batch;
        let (inputs, targets): (Vec<u8>, Vec<u8>) = rows
            .map(|row| (text[place(row)], text[place(row) + 1]))
            .unzip();
        let expected = training.evaluate(Batch::text(&inputs, &targets)).unwrap();
        assert_eq!(*loss, expected.loss);
    }
}

#[test]
fn batches_on_the_device_are_evaluated_as_those_of_the_host() {
    evaluated_as_from_the_host(|| CpuBackend::new().unwrap());

    // More batches than the capacity of a log.
    let text: Vec<u8> = (0..TEXT.length * TEXT.batch * 300 + 1)
        .map(|i| (i * i % SYMBOLS) as u8)
        .collect();
    let method = Method::try_from("lat-a").unwrap();
    let mut training = Lstm.build(CpuBackend::new().unwrap(), &method);
    let set = (training.upload(Examples::Text(&text))).unwrap();
    let all = training.evaluate_dataset(set, 0..300).unwrap().losses;
    assert_eq!(all.len(), 300);
    let last = training.evaluate_dataset(set, 297..300).unwrap().losses;
    assert_eq!(last, all[297..]);
    let Some(emulator) = Emulator::get() else {
        return;
    };
    evaluated_as_from_the_host(|| backend(emulator));
}

/// Steps submitted after one that is not finite change nothing; the error names the right step.
/// Of a network that starts from another and has taken steps, captured ones among them.
fn curvatures<B: Backend + 'static>(backend: B, kind: CurvatureKind) -> Vec<StateTensor> {
    let method = Method::try_from("lat-e").unwrap();
    let mut before = Lstm.build(CpuBackend::new().unwrap(), &method);
    Lstm.begin(&mut before, 0, 0.01);
    let mut training = Lstm.build(backend, &method);
    training.start_from(&before.save().unwrap()).unwrap();
    for number in 0..4 {
        Lstm.begin(&mut training, number, 0.01);
    }
    let mut sums = CurvatureSums::new(kind);
    for number in 0..2 {
        let (inputs, targets) = Lstm::batch(number);
        let batch = Batch::text(&inputs, &targets);
        training.add_curvature(batch, &mut sums).unwrap();
    }
    training.curvature(&sums)
}

#[test]
fn curvatures_are_those_of_the_cpu() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for kind in [CurvatureKind::Fisher, CurvatureKind::Inputs] {
        let expected = curvatures(CpuBackend::new().unwrap(), kind);
        let found = curvatures(backend(emulator), kind);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(
                (&found.name, &found.shape),
                (&expected.name, &expected.shape)
            );
            let (StateData::F32(found), StateData::F32(values)) = (&found.data, &expected.data)
            else {
                panic!("curvatures in f32");
            };
            let largest = values.iter().fold(0.0f32, |most, value| most.max(*value));
            for (found, value) in found.iter().zip(values) {
                let name = &expected.name;
                assert!(
                    (found - value).abs() <= 1e-3 * largest,
                    "{name}: {found} {value}"
                );
            }
        }
    }
}

#[test]
fn a_step_that_is_not_finite_stops_later_ones() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for id in ["full", "lat-a", "ttq"] {
        let method = Method::try_from(id).unwrap();
        let mut training = Vgg.build(backend(emulator), &method);
        let mut other = Vgg.build(backend(emulator), &method);
        steps(&Vgg, &mut training, 0..3);
        steps(&Vgg, &mut other, 0..3);
        let (mut pixels, labels) = Vgg::batch(3);
        Vgg.begin(&mut training, 3, 0.01);
        Vgg.begin(&mut other, 3, 0.01);
        pixels[5] = f32::NAN;
        training
            .begin_step(Batch::images(&pixels, &labels), 0.01)
            .unwrap();
        for number in 4..7 {
            Vgg.begin(&mut training, number, 0.01);
        }
        let error = training.report().unwrap_err();
        assert!(
            matches!(error, ModelError::NotFinite { step: 5, .. }),
            "{error}"
        );
        assert_eq!(training.steps_taken(), 4);
        // The failed step had solved for ŵ, as an evaluation does.
        Vgg.loss(&mut other, 0);
        assert_eq!(training.save().unwrap(), other.save().unwrap(), "{id}");
        // Training continues.
        let [a, b] = [&mut training, &mut other].map(|t| steps(&Vgg, t, 4..6));
        assert_eq!(a, b, "{id}");
    }
}

#[test]
fn a_weight_that_is_not_finite_is_an_error() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let method = Method::try_from("lat-a").unwrap();
    let mut training = Vgg.build(backend(emulator), &method);
    steps(&Vgg, &mut training, 0..2);
    let mut state = training.save().unwrap();
    let weight = state
        .iter_mut()
        .find(|tensor| tensor.name == "dense1.weight");
    if let Some(laq_models::StateTensor {
        data: laq_models::StateData::F32(values),
        ..
    }) = weight
    {
        values[3] = f32::INFINITY;
    }
    training.load(&state).unwrap();
    Vgg.begin(&mut training, 2, 0.01);
    let message = training.report().unwrap_err().to_string();
    assert!(
        message.contains("dense1.weight")
            && message.contains("step 3")
            && message.contains("weight 3"),
        "{message}"
    );
    assert_eq!(training.steps_taken(), 2);
}
