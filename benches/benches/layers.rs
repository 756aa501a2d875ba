//! Layers: the product of a dense layer with every instruction set and with matrixmultiply alone,
//! and the convolutions, batch normalizations with ReLU and max poolings of the CIFAR-10 network,
//! forward and backward, for a batch of 50 images.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use laq_tensor::cpu::Isa;
use laq_tensor::{
    Convolution, ConvolutionShape, CpuBackend, Dense, DenseShape, Memory, Norm, NormShape, Pool,
    PoolShape, Tensor,
};
use ndarray::{Array2, linalg::general_mat_mul};

const BATCH: usize = 50;

/// Rows, inputs and outputs of dense layers: the MLP, the output of the character LSTM.
const PRODUCTS: [[usize; 3]; 2] = [[100, 2048, 2048], [5000, 512, 87]];

/// Side of the images, channels of the input and filters of a convolution.
const CONVOLUTIONS: [[usize; 3]; 6] = [
    [32, 3, 128],
    [32, 128, 128],
    [16, 128, 256],
    [16, 256, 256],
    [8, 256, 512],
    [8, 512, 512],
];

/// Side and channels of what is normalized and pooled.
const STAGES: [[usize; 2]; 3] = [[32, 128], [16, 256], [8, 512]];

/// A tensor of pseudo-random values in [−1, 1).
fn tensor(backend: &CpuBackend, shape: &[usize]) -> Tensor<CpuBackend> {
    let count = shape.iter().product::<usize>() as u32;
    let values = (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32);
    let values: Vec<f32> = values.map(|value| value / (1 << 23) as f32 - 1.0).collect();
    let mut tensor = backend.zeros(shape).unwrap();
    backend.write(&values, &mut tensor).unwrap();
    tensor
}

fn product(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    group.sample_size(10);
    for [rows, inputs, outputs] in PRODUCTS {
        let shape = DenseShape {
            rows,
            inputs,
            outputs,
        };
        let size = format!("{rows}x{inputs}x{outputs}");
        let operations = 2 * rows * inputs * outputs;
        group.throughput(Throughput::Elements(operations as u64));
        for isa in Isa::available() {
            let backend = CpuBackend::with_isa(isa);
            let input = tensor(&backend, &[rows, inputs]);
            let weight = tensor(&backend, &[outputs, inputs]);
            let mut output = tensor(&backend, &[rows, outputs]);
            group.bench_function(BenchmarkId::new(isa.name(), &size), |bencher| {
                bencher.iter(|| {
                    backend
                        .dense_forward(shape, &input, &weight, None, &mut output)
                        .unwrap();
                });
            });
        }
        // ndarray's products of f32 are those of matrixmultiply.
        let input = Array2::from_elem([rows, inputs], 0.5f32);
        let weight = Array2::from_elem([outputs, inputs], 0.25f32);
        let mut output = Array2::zeros([rows, outputs]);
        group.bench_function(BenchmarkId::new("matrixmultiply", &size), |bencher| {
            bencher.iter(|| general_mat_mul(1.0, &input, &weight.t(), 0.0, &mut output));
        });
    }
}

fn convolution(criterion: &mut Criterion) {
    let backend = CpuBackend::new().unwrap();
    let mut group = criterion.benchmark_group("convolution");
    group.sample_size(10);
    for [side, inputs, outputs] in CONVOLUTIONS {
        let shape = ConvolutionShape {
            batch: BATCH,
            height: side,
            width: side,
            in_channels: inputs,
            out_channels: outputs,
        };
        let name = format!("{side}x{side}, {inputs} to {outputs}");
        let input = tensor(&backend, &[shape.pixels(), inputs]);
        let weight = tensor(&backend, &[outputs, shape.filter()]);
        let mut output = tensor(&backend, &[shape.pixels(), outputs]);
        let (mut input_gradient, mut weight_gradient) = (input.clone(), weight.clone());
        #[expect(clippy::let_unit_value, reason = "other backends have a workspace")]
        let mut workspace = backend.convolution_workspace(shape).unwrap();
        let operations = 2 * shape.pixels() * shape.filter() * outputs;
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                backend
                    .convolution_forward(shape, &input, &weight, None, &mut workspace, &mut output)
                    .unwrap();
            });
        });
        group.throughput(Throughput::Elements(2 * operations as u64));
        group.bench_function(BenchmarkId::new("backward", &name), |bencher| {
            bencher.iter(|| {
                backend
                    .convolution_backward(
                        shape,
                        &input,
                        &weight,
                        &output,
                        &mut workspace,
                        Some(&mut input_gradient),
                        &mut weight_gradient,
                        None,
                    )
                    .unwrap();
            });
        });
    }
}

fn norm(criterion: &mut Criterion) {
    let backend = CpuBackend::new().unwrap();
    let mut group = criterion.benchmark_group("batch normalization with ReLU");
    for [side, channels] in STAGES {
        let shape = NormShape {
            rows: BATCH * side * side,
            channels,
            epsilon: 1e-4,
            relu: true,
        };
        let name = format!("{side}x{side}, {channels}");
        let input = tensor(&backend, &[shape.rows, channels]);
        let (scale, shift) = (tensor(&backend, &[channels]), tensor(&backend, &[channels]));
        let (mut output, mut gradient) = (input.clone(), input.clone());
        let (mut scale_gradient, mut shift_gradient) = (scale.clone(), shift.clone());
        let mut workspace = backend.norm_workspace(shape).unwrap();
        group.throughput(Throughput::Elements((shape.rows * channels) as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                backend
                    .batch_norm_forward(shape, &input, &scale, &shift, &mut workspace, &mut output)
                    .unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("backward", &name), |bencher| {
            bencher.iter(|| {
                backend
                    .batch_norm_backward(
                        shape,
                        &input,
                        &scale,
                        &mut workspace,
                        &mut gradient,
                        &mut scale_gradient,
                        &mut shift_gradient,
                    )
                    .unwrap();
            });
        });
    }
}

fn pool(criterion: &mut Criterion) {
    let backend = CpuBackend::new().unwrap();
    let mut group = criterion.benchmark_group("max pooling");
    for [side, channels] in STAGES {
        let shape = PoolShape {
            batch: BATCH,
            height: side,
            width: side,
            channels,
        };
        let name = format!("{side}x{side}, {channels}");
        let input = tensor(&backend, &[BATCH * side * side, channels]);
        let mut output = tensor(&backend, &[BATCH * side * side / 4, channels]);
        let mut input_gradient = input.clone();
        let mut argmax = backend.indices(shape.outputs(), PoolShape::WINDOW).unwrap();
        group.throughput(Throughput::Elements(
            (BATCH * side * side * channels) as u64,
        ));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                backend
                    .max_pool_forward(shape, &input, &mut argmax, &mut output)
                    .unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("backward", &name), |bencher| {
            bencher.iter(|| {
                backend
                    .max_pool_backward(shape, &argmax, &output, &mut input_gradient)
                    .unwrap();
            });
        });
    }
}

criterion_group!(benches, product, convolution, norm, pool);
criterion_main!(benches);
