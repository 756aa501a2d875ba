//! The curvature of trained networks, against Adam's second moment and plain loops.

use laq_models::{
    AdamSettings, Batch, CharLstmSpec, CurvatureKind, CurvatureSums, FeedforwardSpec, ImageShape,
    Loss, ModelError, StateData, StateTensor, TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

const TEXT: TextShape = TextShape {
    length: 5,
    batch: 4,
};
const SYMBOLS: usize = 6;
const HIDDEN: usize = 7;
const IMAGE: ImageShape = ImageShape {
    height: 6,
    width: 4,
    channels: 3,
};
const BATCH: usize = 8;

fn lstm(method: &str) -> Training<CpuBackend> {
    let spec = CharLstmSpec {
        hidden: HIDDEN,
        ..CharLstmSpec::paper(SYMBOLS)
    };
    let method = Method::try_from(method).unwrap();
    let backend = CpuBackend::new().unwrap();
    Training::char_lstm(backend, &spec, TEXT, &method, AdamSettings::default(), 1).unwrap()
}

fn small() -> FeedforwardSpec {
    FeedforwardSpec {
        input: IMAGE,
        classes: 5,
        filters: vec![4],
        units: vec![9],
        ..FeedforwardSpec::cifar10()
    }
}

fn build(spec: &FeedforwardSpec, method: &str) -> Training<CpuBackend> {
    let method = Method::try_from(method).unwrap();
    let backend = CpuBackend::new().unwrap();
    Training::feedforward(backend, spec, BATCH, &method, AdamSettings::default(), 1).unwrap()
}

fn feedforward(method: &str) -> Training<CpuBackend> {
    build(&small(), method)
}

fn text(number: usize) -> Vec<u8> {
    let rows = TEXT.length * TEXT.batch;
    (0..rows)
        .map(|i| ((i * i + 3 * i + number) % 11 % SYMBOLS) as u8)
        .collect()
}

fn images(number: usize) -> (Vec<f32>, Vec<u8>) {
    let count = BATCH * IMAGE.elements();
    let pixels = (0..count).map(|i| ((i * i * 7 + number * 31) % 23) as f32 / 23.0 - 0.4);
    (
        pixels.collect(),
        (0..BATCH).map(|i| ((i + number) % 5) as u8).collect(),
    )
}

fn curvature(
    training: &mut Training<CpuBackend>,
    kind: CurvatureKind,
    batches: &[Batch<'_>],
) -> Vec<StateTensor> {
    let mut sums = CurvatureSums::new(kind);
    for batch in batches {
        training.add_curvature(*batch, &mut sums).unwrap();
    }
    assert_eq!(sums.batches(), batches.len() as u64);
    training.curvature(&sums)
}

/// Its gradients, their squares and those of the inputs.
#[test]
fn curvature_beyond_f32_is_an_error() {
    let (pixels, labels) = images(0);
    let spec = FeedforwardSpec {
        batch_norm: false,
        output_batch_norm: false,
        loss: Loss::CrossEntropy,
        ..small()
    };
    for kind in [CurvatureKind::Fisher, CurvatureKind::Inputs] {
        let large: Vec<f32> = pixels.iter().map(|pixel| pixel * 1e22).collect();
        let error = build(&spec, "full")
            .add_curvature(
                Batch::images(&large, &labels),
                &mut CurvatureSums::new(kind),
            )
            .unwrap_err();
        assert!(
            matches!(error, ModelError::NotFiniteEvaluation { .. }),
            "{kind:?}: {error}"
        );
    }
}

fn values<'a>(state: &'a [StateTensor], name: &str) -> &'a [f32] {
    let tensor = state.iter().find(|tensor| tensor.name == name);
    match &tensor.expect("a tensor of this name").data {
        StateData::F32(values) => values,
        _ => panic!("{name} has no f32"),
    }
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let difference = (f64::from(*found) - expected).abs();
        assert!(
            difference <= 1e-5 * expected + 1e-12,
            "{what}: {found}, expected {expected}"
        );
    }
}

/// After its first step, Adam's second moment is (1 − β₂) g².
#[test]
fn fisher_is_the_square_of_the_gradient_that_adam_sees() {
    for method in ["full", "lat-e", "q4_0", "twn"] {
        let (inputs, targets) = (text(0), text(1));
        let (pixels, labels) = images(0);
        let cases = [
            (lstm(method), Batch::text(&inputs, &targets)),
            (feedforward(method), Batch::images(&pixels, &labels)),
        ];
        for (mut training, batch) in cases {
            let before = training.save().unwrap();
            let fisher = curvature(&mut training, CurvatureKind::Fisher, &[batch]);
            if method == "full" {
                assert_eq!(training.save().unwrap()[1..], before[1..]);
            }
            training.step(batch, 0.01).unwrap();
            let state = training.save().unwrap();
            let share = 1.0 - AdamSettings::default().beta2;
            assert!(fisher.len() >= 5);
            for tensor in &fisher {
                let moment = values(&state, &format!("{}.second_moment", tensor.name));
                let expected: Vec<f64> = moment.iter().map(|&v| f64::from(v) / share).collect();
                let found = values(&fisher, &tensor.name);
                // The moment has the square rounded.
                assert_close(found, &expected, &format!("{method} {}", tensor.name));
                assert!(found.iter().any(|&value| value > 0.0));
            }
        }
    }
}

#[test]
fn fisher_of_batches_is_their_mean() {
    let texts: Vec<_> = (0..4).map(text).collect();
    let batches: Vec<_> = (texts.windows(2))
        .map(|pair| Batch::text(&pair[0], &pair[1]))
        .collect();
    let all = curvature(&mut lstm("full"), CurvatureKind::Fisher, &batches);
    let each = batches
        .iter()
        .map(|batch| curvature(&mut lstm("full"), CurvatureKind::Fisher, &[*batch]));
    let each: Vec<_> = each.collect();
    for tensor in &all {
        let found = values(&all, &tensor.name);
        let mean = |index: usize| {
            let sum = each
                .iter()
                .map(|one| f64::from(values(one, &tensor.name)[index]));
            sum.sum::<f64>() / batches.len() as f64
        };
        let expected: Vec<f64> = (0..found.len()).map(mean).collect();
        assert_close(found, &expected, &tensor.name);
    }
}

/// The states of the LSTM in f64, time-major.
fn states(state: &[StateTensor], tokens: &[u8]) -> Vec<f64> {
    let of = |name| values(state, name).iter().map(|&v| f64::from(v)).collect();
    let (input, recurrent, bias): (Vec<f64>, Vec<f64>, Vec<f64>) =
        (of("lstm.weight_ih"), of("lstm.weight_hh"), of("lstm.bias"));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut all = vec![0.0; tokens.len() * HIDDEN];
    let mut cells = vec![0.0; TEXT.batch * HIDDEN];
    for (row, &token) in tokens.iter().enumerate() {
        let before = match row.checked_sub(TEXT.batch) {
            Some(row) => all[row * HIDDEN..][..HIDDEN].to_vec(),
            None => vec![0.0; HIDDEN],
        };
        for unit in 0..HIDDEN {
            let gate = |gate: usize| {
                let place = gate * HIDDEN + unit;
                let products = before.iter().zip(&recurrent[place * HIDDEN..]);
                let sum: f64 = products.map(|(x, w)| x * w).sum();
                bias[place] + input[place * SYMBOLS + usize::from(token)] + sum
            };
            let cell = &mut cells[row % TEXT.batch * HIDDEN + unit];
            *cell = sigmoid(gate(1)) * *cell + sigmoid(gate(0)) * gate(2).tanh();
            all[row * HIDDEN + unit] = sigmoid(gate(3)) * cell.tanh();
        }
    }
    all
}

#[test]
fn inputs_of_the_lstm_are_symbols_and_states() {
    let mut training = lstm("full");
    let (inputs, targets) = (text(0), text(1));
    let batch = Batch::text(&inputs, &targets);
    let found = curvature(&mut training, CurvatureKind::Inputs, &[batch]);
    let states = states(&training.save().unwrap(), &inputs);
    let rows = inputs.len() as f64;
    let frequency = |symbol: usize| {
        let count = inputs.iter().filter(|&&token| usize::from(token) == symbol);
        count.count() as f64 / rows
    };
    let mean = |states: &[f64], unit: usize| {
        let squares = states.iter().skip(unit).step_by(HIDDEN).map(|h| h * h);
        squares.sum::<f64>() / rows
    };
    let before = &states[..states.len() - TEXT.batch * HIDDEN];
    let rows = |row: Vec<f64>, count: usize| row.repeat(count);
    let gates = 4 * HIDDEN;
    let expected = [
        (
            "lstm.weight_ih",
            rows((0..SYMBOLS).map(frequency).collect(), gates),
        ),
        (
            "lstm.weight_hh",
            rows((0..HIDDEN).map(|unit| mean(before, unit)).collect(), gates),
        ),
        (
            "output.weight",
            rows(
                (0..HIDDEN).map(|unit| mean(&states, unit)).collect(),
                SYMBOLS,
            ),
        ),
    ];
    assert_eq!(found.len(), expected.len());
    for (name, expected) in &expected {
        assert_close(values(&found, name), expected, name);
    }
}

/// The first convolution reads the images.
#[test]
fn inputs_of_a_convolution_are_the_pixels_under_each_weight() {
    let mut training = feedforward("full");
    let (pixels, labels) = images(3);
    let batch = Batch::images(&pixels, &labels);
    let found = curvature(&mut training, CurvatureKind::Inputs, &[batch]);
    let pixel = |image: usize, row: isize, column: isize, channel: usize| {
        let inside = (0..IMAGE.height as isize).contains(&row)
            && (0..IMAGE.width as isize).contains(&column);
        let place = (image * IMAGE.height) as isize + row;
        match inside {
            true => f64::from(
                pixels[(place * IMAGE.width as isize + column) as usize * IMAGE.channels + channel],
            ),
            false => 0.0,
        }
    };
    let mut filter = Vec::new();
    for (tap, channel) in (0..9).flat_map(|tap| (0..IMAGE.channels).map(move |c| (tap, c))) {
        let mut sum = 0.0;
        for image in 0..BATCH {
            for (row, column) in
                (0..IMAGE.height).flat_map(|row| (0..IMAGE.width).map(move |column| (row, column)))
            {
                let row = row as isize + tap / 3 - 1;
                sum += pixel(image, row, column as isize + tap % 3 - 1, channel).powi(2);
            }
        }
        filter.push(sum / (BATCH * IMAGE.height * IMAGE.width) as f64);
    }
    let matrices = training.save().unwrap();
    let matrices = matrices
        .iter()
        .filter(|tensor| tensor.shape.len() >= 2 && !tensor.name.ends_with("moment"));
    let names: Vec<_> = matrices.map(|tensor| tensor.name.clone()).collect();
    let found_names: Vec<_> = found.iter().map(|tensor| tensor.name.clone()).collect();
    assert_eq!(names, found_names);
    assert_close(values(&found, &names[0]), &filter.repeat(4), &names[0]);
}

#[test]
fn weights_that_are_not_finite_have_no_curvature() {
    for kind in [CurvatureKind::Fisher, CurvatureKind::Inputs] {
        let mut training = lstm("full");
        let mut state = training.save().unwrap();
        let bias = state.iter_mut().find(|tensor| tensor.name == "output.bias");
        match &mut bias.unwrap().data {
            StateData::F32(values) => values[0] = f32::NAN,
            _ => panic!("a bias of f32"),
        }
        training.load(&state).unwrap();
        let (inputs, targets) = (text(0), text(1));
        let batch = Batch::text(&inputs, &targets);
        let error = training.add_curvature(batch, &mut CurvatureSums::new(kind));
        assert!(error.unwrap_err().to_string().contains("output.bias"));
    }
}
