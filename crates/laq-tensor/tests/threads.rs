//! Layers have the same bits for any number of threads, and propagate NaN.

use laq_solvers::{Granularity, Groups, Method};
use laq_tensor::{
    BackendError, CpuBackend, Dense, Loss, Losses, Memory, Norm, NormShape, Pool, PoolShape,
    Quantize, QuantizeJob, Steps, Stop, Tensor,
};
use ndarray::ArrayD;

fn tensor(backend: &CpuBackend, values: &[f32]) -> Tensor<CpuBackend> {
    let mut tensor = backend.zeros(&[values.len()]).unwrap();
    backend.write(values, &mut tensor).unwrap();
    tensor
}

fn uniform(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|at| {
            ((at ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// The results of all layers for one batch of images with more rows than chunks.
fn all_results(threads: usize) -> Vec<ArrayD<f32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| {
        let backend = CpuBackend::new().unwrap();
        let (batch, height, width, channels) = (9, 12, 14, 37);
        let pooled = PoolShape {
            batch,
            height,
            width,
            channels,
        };
        let shape = NormShape {
            rows: batch * height * width,
            channels,
            epsilon: 1e-4,
            relu: true,
        };
        let count = shape.rows * channels;
        let input = tensor(&backend, &uniform(count, 1));
        let (scale, shift) = (
            tensor(&backend, &uniform(channels, 2)),
            tensor(&backend, &uniform(channels, 3)),
        );
        let mut workspace = backend.norm_workspace(shape).unwrap();
        let zeros = |count: usize| backend.zeros(&[count]).unwrap();
        let (mut normed, mut inference) = (zeros(count), zeros(count));
        backend
            .batch_norm_forward(shape, &input, &scale, &shift, &mut workspace, &mut normed)
            .unwrap();
        let mut gradient = tensor(&backend, &uniform(count, 4));
        let (mut of_scale, mut of_shift) = (zeros(channels), zeros(channels));
        backend
            .batch_norm_backward(
                shape,
                &input,
                &scale,
                &mut workspace,
                &mut gradient,
                &mut of_scale,
                &mut of_shift,
            )
            .unwrap();
        let (mut mean, mut variance) = (zeros(channels), zeros(channels));
        backend
            .update_running_stats(
                shape,
                0.1,
                &workspace,
                &backend.step_log().unwrap(),
                &mut mean,
                &mut variance,
            )
            .unwrap();
        backend
            .batch_norm_inference(
                shape,
                &input,
                &scale,
                &shift,
                &mean,
                &variance,
                &mut workspace,
                &mut inference,
            )
            .unwrap();
        let mut argmax = backend
            .indices(pooled.outputs(), PoolShape::WINDOW)
            .unwrap();
        let mut output = zeros(pooled.outputs());
        backend
            .max_pool_forward(pooled, &normed, &mut argmax, &mut output)
            .unwrap();
        let mut of_input = zeros(count);
        backend
            .max_pool_backward(pooled, &argmax, &output, &mut of_input)
            .unwrap();
        let mut open = tensor(&backend, &uniform(count, 5));
        backend.relu(&mut open).unwrap();
        let mut through = tensor(&backend, &uniform(count, 6));
        backend.relu_backward(&open, &mut through).unwrap();
        [
            normed, gradient, of_scale, of_shift, mean, variance, inference, output, of_input,
            open, through,
        ]
        .iter()
        .map(|tensor| backend.read(tensor).unwrap())
        .collect()
    })
}

#[test]
fn bits_do_not_depend_on_threads() {
    let one = all_results(1);
    for threads in [2, 5] {
        for (at, (a, b)) in one.iter().zip(all_results(threads)).enumerate() {
            let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "result {at} with {threads} threads");
        }
    }
}

#[test]
fn nan_propagates() {
    let backend = CpuBackend::new().unwrap();
    let mut values = tensor(&backend, &[-1.0, f32::NAN, 2.0]);
    backend.relu(&mut values).unwrap();
    let values = backend.read(&values).unwrap();
    assert!(values[0] == 0.0 && values[1].is_nan() && values[2] == 2.0);

    // At each position of the window.
    for position in 0..4 {
        let mut image = [1.0, 2.0, 3.0, 4.0];
        image[position] = f32::NAN;
        let shape = PoolShape {
            batch: 1,
            height: 2,
            width: 2,
            channels: 1,
        };
        let mut argmax = backend.indices(1, PoolShape::WINDOW).unwrap();
        let mut output = backend.zeros(&[1]).unwrap();
        let input = tensor(&backend, &image);
        backend
            .max_pool_forward(shape, &input, &mut argmax, &mut output)
            .unwrap();
        assert!(backend.read(&output).unwrap()[0].is_nan());
    }

    let mut outputs = tensor(&backend, &[0.5, f32::NAN]);
    let mut target = backend.indices(1, 2).unwrap();
    backend.write(&[0], &mut target).unwrap();
    let (mut log, mut losses) = (backend.step_log().unwrap(), Vec::new());
    backend
        .loss_and_gradient(Loss::SquaredHinge, &target, &mut outputs, &mut log)
        .unwrap();
    let status = backend.read_log(&mut log, &mut losses).unwrap();
    assert!(losses[0].is_nan());
    assert_eq!(status.stop, Some(Stop::Loss));
}

/// The groups of a matrix with more rows than the tasks that they are shared out to, of which the last is shorter: each
/// is solved as on its own, and so is its failure.
#[test]
fn many_small_groups_are_solved_as_each_on_its_own() {
    let backend = CpuBackend::new().unwrap();
    let (rows, columns) = (130, 70);
    let weights = uniform(rows * columns, 1);
    let moments: Vec<f32> = uniform(rows * columns, 2).iter().map(|v| v * v).collect();
    for (id, granularity) in [("q2_0", 64), ("lat-e", 20), ("lat-a", 70), ("lat2-a", 9)] {
        let method: Method = id.parse().unwrap();
        let method = method
            .with_granularity(Granularity::Block(granularity))
            .unwrap();
        let groups = method.granularity().groups(rows, columns, 1);
        let solve = |weights: &[f32], moments: &[f32], groups: Groups| {
            let (latent, second_moment) = (tensor(&backend, weights), tensor(&backend, moments));
            let mut quantized = backend.zeros(&[weights.len()]).unwrap();
            let mut quantizer = backend.quantizer(&method, groups).unwrap();
            let mut jobs = std::iter::once(QuantizeJob {
                latent: &latent,
                second_moment: &second_moment,
                quantizer: &mut quantizer,
                quantized: &mut quantized,
            });
            let mut log = backend.step_log().unwrap();
            backend.quantize(&mut jobs, &mut (), &mut log)?;
            let reports = backend.quantizer_reports(&quantizer)?;
            Ok::<_, BackendError>((backend.read(&quantized)?, reports))
        };
        let (all, reports) = solve(&weights, &moments, groups).unwrap();
        assert_eq!(reports.len(), groups.count());
        for (group, range) in groups.ranges().enumerate() {
            let one = Groups::equal(range.len(), 1);
            let (own, report) =
                solve(&weights[range.clone()], &moments[range.clone()], one).unwrap();
            assert_eq!(reports[group], report[0], "{id}");
            assert!(
                own.iter()
                    .eq(all.iter().skip(range.start).take(range.len())),
                "{id}"
            );
        }
        let mut bad = weights.clone();
        bad[127 * columns + 69] = f32::NAN;
        let failed = solve(&bad, &moments, groups).unwrap_err();
        let expected = groups.group_of(127 * columns + 69);
        assert!(
            matches!(failed, BackendError::Solve { group, .. } if group == expected),
            "{failed}"
        );
    }
}
