//! A training step of the paper's networks in burn for each line on standard input; see README.md.
//!
//! The backend is `flex`, which is pure Rust and needs no system BLAS. `ndarray` and `cpu` were not
//! timed against it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d, Relu,
};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use laq_peers::{Block, Failure, LEARNING_RATE, NORM_EPSILON, Network};

fn main() -> ExitCode {
    laq_peers::run(train)
}

fn train(network: &Network) -> Result<(), Failure> {
    let device = Device::flex().autodiff();
    let images: Tensor<4> =
        Tensor::from_data(TensorData::new(network.images(), network.input), &device);
    let targets: Tensor<2> = Tensor::from_data(
        TensorData::new(network.targets(), network.outputs()),
        &device,
    );
    let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
    laq_peers::serve(Layers::new(network, &device), |layers| {
        let hinge = (targets.clone() * layers.forward(images.clone()))
            .neg()
            .add_scalar(1.0);
        let loss = burn::tensor::activation::relu(hinge).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &layers);
        let layers = adam.step(LEARNING_RATE, layers, gradients);
        let loss = loss.into_scalar();
        device.sync()?;
        Ok((layers, loss))
    })
}

#[derive(Module, Debug)]
struct Layers {
    convolutions: Vec<Convolution>,
    dense: Vec<Dense>,
}

#[derive(Module, Debug)]
struct Convolution {
    map: Conv2d,
    pool: Option<MaxPool2d>,
    norm: BatchNorm,
    relu: Option<Relu>,
}

#[derive(Module, Debug)]
struct Dense {
    map: Linear,
    norm: BatchNorm,
    relu: Option<Relu>,
}

impl Layers {
    fn new(network: &Network, device: &Device) -> Self {
        let init = |block: &Block| Initializer::Uniform {
            min: -block.range,
            max: block.range,
        };
        let norm = |block: &Block| {
            BatchNormConfig::new(block.outputs)
                .with_epsilon(NORM_EPSILON)
                .with_momentum(0.1)
                .init(device)
        };
        let convolution = |block: &Block| Convolution {
            map: Conv2dConfig::new([block.inputs, block.outputs], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .with_initializer(init(block))
                .init(device),
            pool: block.pooled.then(|| MaxPool2dConfig::new([2, 2]).init()),
            norm: norm(block),
            relu: block.relu.then(Relu::new),
        };
        let dense = |block: &Block| Dense {
            map: LinearConfig::new(block.inputs, block.outputs)
                .with_bias(false)
                .with_initializer(init(block))
                .init(device),
            norm: norm(block),
            relu: block.relu.then(Relu::new),
        };
        Self {
            convolutions: network.convolutions.iter().map(convolution).collect(),
            dense: network.dense.iter().map(dense).collect(),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.convolutions.iter().fold(images, |x, block| {
            let x = block.map.forward(x);
            let x = block.pool.iter().fold(x, |x, pool| pool.forward(x));
            let x = block.norm.forward(x);
            block.relu.iter().fold(x, |x, relu| relu.forward(x))
        });
        self.dense.iter().fold(x.flatten(1, 3), |x, block| {
            let x = block.norm.forward(block.map.forward(x));
            block.relu.iter().fold(x, |x, relu| relu.forward(x))
        })
    }
}
