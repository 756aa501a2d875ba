//! The solvers on groups of several blocks and on hard input, beside the CPU backend's.

use laq_cuda::CudaBackend;
use laq_solvers::{Method, Scale};
use laq_tensor::{
    AdamSettings, Backend, CpuBackend, GroupReport, QuantizeJob, QuantizerSnapshot, Tensor,
};

use crate::emulator::Emulator;
use crate::emulator::device::Emulated;

/// Numbers that a test draws.
struct Draw(u64);

impl Draw {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal.
    fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.unit() - 0.5).sum::<f64>() * 1.414
    }
}

/// A problem: weights and second moments.
type Problem = (Vec<f32>, Vec<f32>);

/// Weights and curvatures of many kinds; `seed` 0 to 9 picks the kind.
fn problem(count: usize, seed: u64) -> Problem {
    let mut draw = Draw(seed.wrapping_mul(77) + count as u64);
    let (mut weights, mut moments) = (Vec::new(), Vec::new());
    for index in 0..count {
        let w = draw.normal();
        let v = draw.unit();
        let (w, v) = match seed % 10 {
            // As in training.
            0 | 1 => (0.1 * w, 1e-6 * v * v),
            // Before the first step: no second moment at all.
            2 => (0.08 * (2.0 * draw.unit() - 1.0), 0.0),
            // Many at the limits of clipping, many zeros.
            3 => ((2.0 * w).clamp(-1.0, 1.0), 1e-4 * v),
            4 => (if v < 0.6 { 0.0 } else { w }, v),
            // One weight far away from all others, and one curvature.
            5 => (
                if index == count / 2 { 1e6 } else { 1e-3 * w },
                if index == 7 { 1e12 } else { v },
            ),
            // Few values.
            6 => ((w * 2.0).round() / 4.0, (v * 3.0).round()),
            // Magnitudes over many octaves.
            7 => (w * 2f64.powi(-((60.0 * v) as i32)), draw.unit()),
            // Two clusters, so that there are two optima.
            8 => (if v < 0.5 { 0.2 } else { 1.0 } + 0.01 * w, 1.0),
            // All of one sign and size.
            _ => (0.25, 1e-8),
        };
        weights.push(w as f32);
        moments.push(v as f32);
    }
    (weights, moments)
}

/// These numbers in a backend's memory.
fn tensor<B: Backend>(backend: &B, values: &[f32]) -> Tensor<B> {
    let mut tensor = backend.zeros(&[values.len()]).unwrap();
    backend.write(values, &mut tensor).unwrap();
    tensor
}

/// A parameter that is quantized by itself.
struct Quantized<'a, B: Backend> {
    backend: &'a B,
    quantizer: B::Quantizer,
    space: B::QuantizeWorkspace,
    record: B::StepLog,
    quantized: Tensor<B>,
}

impl<'a, B: Backend> Quantized<'a, B> {
    fn new(backend: &'a B, method: &Method, count: usize, groups: usize) -> Self {
        Quantized {
            quantizer: backend.quantizer(method, count, groups).unwrap(),
            space: B::QuantizeWorkspace::default(),
            record: backend.step_log().unwrap(),
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
            .quantize(&mut jobs, &mut self.space, &mut self.record)
            .unwrap();
    }
}

/// What a backend makes of the problem in so many groups, twice: the reports, the quantized weights, the levels.
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
            .read_log(&mut parameter.record, &mut Vec::new())
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
fn apart(a: Scale, b: Scale) -> f64 {
    let pairs = a.pair().into_iter().zip(b.pair());
    let each =
        pairs.map(|(a, b)| f64::from((a - b).abs()) / f64::from(a.abs().max(b.abs()).max(1e-30)));
    each.fold(0.0, f64::max)
}

fn as_the_cpu_solves(id: &str, groups: usize, size: usize, seed: u64, emulator: &'static Emulator) {
    let method = Method::try_from(id).unwrap();
    let problem = problem(groups * size, seed);
    let on_device = CudaBackend::new(Emulated::new(emulator));
    let on_cpu = CpuBackend::new().unwrap();
    let found = solved(&on_device, &method, groups, &problem);
    let expected = solved(&on_cpu, &method, groups, &problem);
    let case = format!("{id}, {groups} groups of {size}, kind {seed}");
    if size > 8000 {
        // The same bits whichever block comes last, and whichever thread.
        let backwards = CudaBackend::new(Emulated::backwards(emulator));
        assert_eq!(
            found,
            solved(&backwards, &method, groups, &problem),
            "{case}"
        );
    }
    for (found, expected) in found.iter().zip(&expected) {
        for (group, (a, b)) in found.0.iter().zip(&expected.0).enumerate() {
            let case = format!("{case}, group {group}: {a:?}, {b:?}");
            // Neither does better than the other by more than sums are wrong by.
            let error = (a.weighted_error - b.weighted_error).abs();
            let range = group * size..(group + 1) * size;
            // The error of all zeros, of which errors, sums over weights rounded to f32, are exact to a share.
            let pairs = problem.0[range.clone()]
                .iter()
                .zip(&problem.1[range.clone()]);
            let zeros =
                pairs.map(|(&w, v)| 0.5 * f64::from(v.sqrt() + 1e-8) * f64::from(w).powi(2));
            let wrong = 1e-8 * zeros.sum::<f64>() + 1e-5 * b.weighted_error + 1e-300;
            if apart(a.scale, b.scale) > 1e-6 {
                // Two optima that are as good: that is for exact solvers alone.
                let exact = id.ends_with("-e");
                assert!(exact && error <= wrong, "{case}");
                continue;
            }
            assert!(error <= wrong, "{case}");
            let pairs = found.2[range.clone()].iter().zip(&expected.2[range]);
            let different = pairs.filter(|(a, b)| a != b).count();
            // A scale that differs in its last bit may move a weight that lies at a threshold.
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
            as_the_cpu_solves(id, groups, size, 0, emulator);
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
                as_the_cpu_solves(id, 1, size, seed, emulator);
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
    let mut draw = Draw(5);
    let mut found = Vec::new();
    for _ in 0..2 {
        parameter.solve(&latent, &second_moment);
        let gradient: Vec<f32> = weights.iter().map(|_| draw.normal() as f32).collect();
        let mut gradient = tensor(backend, &gradient);
        let Quantized {
            quantizer, record, ..
        } = &mut parameter;
        backend
            .quantizer_backward(&latent, quantizer, &mut gradient)
            .unwrap();
        backend.set_step_size(0.01, record).unwrap();
        backend
            .quantizer_update(AdamSettings::default(), record, quantizer)
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
        // Of the largest weights the first counts, in whichever block and of whichever sign they are.
        problem.0[2] = -3.0;
        problem.0[size - 1] = 3.0;
        let on_device = CudaBackend::new(Emulated::new(emulator));
        let found = gradients(&on_device, &method, groups, &problem);
        let backwards = CudaBackend::new(Emulated::backwards(emulator));
        assert_eq!(
            found,
            gradients(&backwards, &method, groups, &problem),
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

/// Few weights whose optimum is found by trying every assignment's own scale: thresholds between any two neighbours.
#[test]
fn the_optimum_of_ternary_levels_by_trying_all() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let method = Method::try_from("lat-e").unwrap();
    let backend = CudaBackend::new(Emulated::new(emulator));
    for seed in 0..40 {
        let count = 3 + seed as usize % 12;
        let mut draw = Draw(seed + 1000);
        let weights: Vec<f32> = (0..count).map(|_| draw.normal() as f32).collect();
        let moments: Vec<f32> = (0..count).map(|_| draw.unit() as f32).collect();
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
