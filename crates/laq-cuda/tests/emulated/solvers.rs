//! The solvers on groups of several blocks and on hard input, compared with the CPU backend.

use laq_cuda::CudaBackend;
use laq_solvers::{Groups, Method, Scale};
use laq_tensor::{
    AdamSettings, Backend, CpuBackend, GroupReport, QuantizeJob, QuantizerSnapshot, Tensor,
};
use laq_test_support::Random;

use crate::emulator::Emulator;
use crate::emulator::device::Emulated;

/// A problem: weights and second moments.
type Problem = (Vec<f32>, Vec<f32>);

/// Weights and second moments; `seed` modulo 10 selects the distribution.
fn problem(count: usize, seed: u64) -> Problem {
    let mut random = Random(seed.wrapping_mul(77) + count as u64);
    let (mut weights, mut moments) = (Vec::new(), Vec::new());
    for index in 0..count {
        let w = random.normal();
        let v = random.uniform();
        let (w, v) = match seed % 10 {
            // As in training.
            0 | 1 => (0.1 * w, 1e-6 * v * v),
            // Before the first step: second moments of zero.
            2 => (0.08 * (2.0 * random.uniform() - 1.0), 0.0),
            // Many clipped weights.
            3 => ((2.0 * w).clamp(-1.0, 1.0), 1e-4 * v),
            4 => (if v < 0.6 { 0.0 } else { w }, v),
            // One outlier weight and one outlier curvature.
            5 => (
                if index == count / 2 { 1e6 } else { 1e-3 * w },
                if index == 7 { 1e12 } else { v },
            ),
            // Few distinct values.
            6 => ((w * 2.0).round() / 4.0, (v * 3.0).round()),
            // Magnitudes over many octaves.
            7 => (w * 2f64.powi(-((60.0 * v) as i32)), random.uniform()),
            // Two clusters, and so two optima.
            8 => (if v < 0.5 { 0.2 } else { 1.0 } + 0.01 * w, 1.0),
            // All equal.
            _ => (0.25, 1e-8),
        };
        weights.push(w as f32);
        moments.push(v as f32);
    }
    (weights, moments)
}

/// A tensor of these values.
fn tensor<B: Backend>(backend: &B, values: &[f32]) -> Tensor<B> {
    let mut tensor = backend.zeros(&[values.len()]).unwrap();
    backend.write(values, &mut tensor).unwrap();
    tensor
}

/// A parameter quantized on its own.
struct Quantized<'a, B: Backend> {
    backend: &'a B,
    quantizer: B::Quantizer,
    workspace: B::QuantizeWorkspace,
    log: B::StepLog,
    quantized: Tensor<B>,
}

impl<'a, B: Backend> Quantized<'a, B> {
    fn new(backend: &'a B, method: &Method, count: usize, groups: usize) -> Self {
        Quantized {
            quantizer: backend
                .quantizer(method, Groups::equal(count, groups))
                .unwrap(),
            workspace: B::QuantizeWorkspace::default(),
            log: backend.step_log().unwrap(),
            quantized: backend.zeros(&[count]).unwrap(),
            backend,
        }
    }

    fn solve(&mut self, latent: &Tensor<B>, second_moment: &Tensor<B>) {
        let mut jobs = std::iter::once(QuantizeJob {
            latent,
            second_moment,
            quantizer: &mut self.quantizer,
            quantized: &mut self.quantized,
        });
        self.backend
            .quantize(&mut jobs, &mut self.workspace, &mut self.log)
            .unwrap();
    }
}

/// Solves the problem in `groups` groups, twice: reports, quantized weights, levels.
fn solved<B: Backend>(
    backend: &B,
    method: &Method,
    groups: usize,
    (weights, moments): &Problem,
) -> Vec<(Vec<GroupReport>, Vec<f32>, Vec<i8>)> {
    let mut parameter = Quantized::new(backend, method, weights.len(), groups);
    let second_moment = tensor(backend, moments);
    let moved: Vec<f32> = weights.iter().map(|w| w * 1.01).collect();
    let mut found = Vec::new();
    for weights in [weights, &moved] {
        parameter.solve(&tensor(backend, weights), &second_moment);
        let stop = backend
            .read_log(&mut parameter.log, &mut Vec::new())
            .unwrap()
            .stop;
        assert_eq!(stop, None);
        found.push((
            backend.quantizer_reports(&parameter.quantizer).unwrap(),
            (backend.read(&parameter.quantized).unwrap())
                .into_iter()
                .collect(),
            backend.quantizer_save(&parameter.quantizer).unwrap().levels,
        ));
    }
    found
}

/// The largest relative difference of two scales.
fn relative_difference(a: Scale, b: Scale) -> f64 {
    let pairs = a.pair().into_iter().zip(b.pair());
    let each =
        pairs.map(|(a, b)| f64::from((a - b).abs()) / f64::from(a.abs().max(b.abs()).max(1e-30)));
    each.fold(0.0, f64::max)
}

fn solves_as_the_cpu(id: &str, groups: usize, size: usize, seed: u64, emulator: &'static Emulator) {
    let method = Method::try_from(id).unwrap();
    let problem = problem(groups * size, seed);
    let on_device = CudaBackend::new(Emulated::new(emulator));
    let on_cpu = CpuBackend::new().unwrap();
    let found = solved(&on_device, &method, groups, &problem);
    let expected = solved(&on_cpu, &method, groups, &problem);
    let case = format!("{id}, {groups} groups of {size}, kind {seed}");
    if size > 8000 {
        // The schedule does not change the bits.
        let reversed = CudaBackend::new(Emulated::new(emulator).reversed());
        assert_eq!(
            found,
            solved(&reversed, &method, groups, &problem),
            "{case}"
        );
    }
    for (found, expected) in found.iter().zip(&expected) {
        for (group, (a, b)) in found.0.iter().zip(&expected.0).enumerate() {
            let case = format!("{case}, group {group}: {a:?}, {b:?}");
            // The errors agree to the accuracy of the sums.
            let error = (a.weighted_error - b.weighted_error).abs();
            let range = group * size..(group + 1) * size;
            // Sums of weights rounded to f32 are accurate relative to the error of all zeros.
            let pairs = problem.0[range.clone()]
                .iter()
                .zip(&problem.1[range.clone()]);
            let zeros =
                pairs.map(|(&w, v)| 0.5 * f64::from(v.sqrt() + 1e-8) * f64::from(w).powi(2));
            let wrong = 1e-8 * zeros.sum::<f64>() + 1e-5 * b.weighted_error + 1e-300;
            if relative_difference(a.scale, b.scale) > 1e-6 {
                // Two optima of equal error, which only exact solvers may exchange.
                let exact = id.ends_with("-e");
                assert!(exact && error <= wrong, "{case}");
                continue;
            }
            assert!(error <= wrong, "{case}");
            let pairs = found.2[range.clone()].iter().zip(&expected.2[range]);
            let different = pairs.filter(|(a, b)| a != b).count();
            // A scale that differs in its last bit may move a weight at a threshold.
            assert!(
                different == 0 || (different <= size / 1000 + 1 && a.scale != b.scale),
                "{different} levels, {case}"
            );
        }
    }
}

#[test]
fn groups_of_several_blocks() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for id in [
        "binary-connect",
        "bwn",
        "absmean",
        "absmax-4",
        "lab",
        "twn",
        "ttq",
        "dorefa-3",
        "lat-a",
        "lat2-a",
        "laq-log-3",
        "lat-e",
        "lat2-e",
        "laq-linear-4-e",
        "laq-log-3-e",
    ] {
        for (groups, size) in [(1, 8191), (2, 8193), (1, 20_000)] {
            solves_as_the_cpu(id, groups, size, 0, emulator);
        }
    }
}

#[test]
fn hard_input() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for id in [
        "lat-a",
        "lat2-a",
        "laq-linear-3",
        "twn",
        "ttq",
        "lab",
        "lat-e",
        "lat2-e",
        "laq-linear-3-e",
        "laq-linear-8-e",
        "laq-log-4-e",
        "laq-log-8-e",
    ] {
        for seed in 1..10 {
            for size in [1, 2, 40, 3000] {
                solves_as_the_cpu(id, 1, size, seed, emulator);
            }
        }
    }
}

/// The gradient of the latent weights, and the state after a step of the scales, twice.
fn gradients<B: Backend>(
    backend: &B,
    method: &Method,
    groups: usize,
    (weights, moments): &Problem,
) -> (Vec<f32>, QuantizerSnapshot) {
    let mut parameter = Quantized::new(backend, method, weights.len(), groups);
    let (latent, second_moment) = (tensor(backend, weights), tensor(backend, moments));
    let mut random = Random(5);
    let mut found = Vec::new();
    for _ in 0..2 {
        parameter.solve(&latent, &second_moment);
        let gradient: Vec<f32> = weights.iter().map(|_| random.normal() as f32).collect();
        let mut gradient = tensor(backend, &gradient);
        let Quantized { quantizer, log, .. } = &mut parameter;
        backend
            .quantizer_backward(&latent, quantizer, &mut gradient)
            .unwrap();
        backend.set_step_size(0.01, log).unwrap();
        backend
            .quantizer_update(AdamSettings::default(), log, quantizer)
            .unwrap();
        found = backend.read(&gradient).unwrap().into_iter().collect();
    }
    (found, backend.quantizer_save(&parameter.quantizer).unwrap())
}

#[test]
fn gradients_of_several_blocks() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for (id, groups, size) in [
        ("ttq", 2, 20_000),
        ("ttq", 3, 5),
        ("dorefa-3", 2, 20_000),
        ("dorefa-2", 1, 8192),
        ("dorefa-4", 3, 5),
    ] {
        let method = Method::try_from(id).unwrap();
        let mut problem = problem(groups * size, 0);
        // The first of equally large weights counts, across blocks and signs.
        problem.0[2] = -3.0;
        problem.0[size - 1] = 3.0;
        let on_device = CudaBackend::new(Emulated::new(emulator));
        let found = gradients(&on_device, &method, groups, &problem);
        let reversed = CudaBackend::new(Emulated::new(emulator).reversed());
        assert_eq!(
            found,
            gradients(&reversed, &method, groups, &problem),
            "{id}"
        );
        let expected = gradients(&CpuBackend::new().unwrap(), &method, groups, &problem);
        let near = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            for (index, (a, b)) in found.iter().zip(expected).enumerate() {
                let most = 1e-5 * b.abs().max(1e-3);
                assert!((a - b).abs() <= most, "{id}, {index}: {a}, {b}");
            }
        };
        near(&found.0, &expected.0);
        near(&found.1.scales, &expected.1.scales);
        near(&found.1.moments, &expected.1.moments);
    }
}

/// The optimum of few weights by brute force over all sets of nonzero levels.
#[test]
fn ternary_optima_by_brute_force() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let method = Method::try_from("lat-e").unwrap();
    let backend = CudaBackend::new(Emulated::new(emulator));
    for seed in 0..40 {
        let count = 3 + seed as usize % 12;
        let mut random = Random(seed + 1000);
        let weights: Vec<f32> = (0..count).map(|_| random.normal() as f32).collect();
        let moments: Vec<f32> = (0..count).map(|_| random.uniform() as f32).collect();
        let d: Vec<f64> = moments.iter().map(|v| f64::from(v.sqrt() + 1e-8)).collect();
        let mut best = f64::INFINITY;
        for subset in 0..1u32 << count {
            let mut sums = [0.0; 3];
            for (i, &w) in weights.iter().enumerate() {
                let w = f64::from(w.abs());
                sums[2] += d[i] * w * w;
                if subset >> i & 1 == 1 {
                    sums[0] += d[i] * w;
                    sums[1] += d[i];
                }
            }
            let gain = if sums[1] > 0.0 {
                sums[0] * sums[0] / sums[1]
            } else {
                0.0
            };
            best = best.min(0.5 * (sums[2] - gain));
        }
        let found = solved(&backend, &method, 1, &(weights, moments));
        let error = found[0].0[0].weighted_error;
        assert!(
            (error - best).abs() <= 1e-6 * best.max(1e-9),
            "seed {seed}: {error}, {best}"
        );
    }
}
