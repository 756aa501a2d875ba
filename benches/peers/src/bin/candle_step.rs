//! A training step of the paper's networks in candle for each line on standard input; see README.md.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{
    Activation, AdamW, BatchNormConfig, Conv2d, Conv2dConfig, Init, Linear, Module, Optimizer,
    ParamsAdamW, Sequential, VarBuilder, VarMap, batch_norm, seq,
};
use laq_peers::{Block, Failure, LEARNING_RATE, NORM_EPSILON, Network};

fn main() -> ExitCode {
    laq_peers::run(train)
}

fn train(network: &Network) -> std::result::Result<(), Failure> {
    let device = Device::Cpu;
    let images = Tensor::from_vec(network.images(), &network.input, &device)?;
    let targets = Tensor::from_vec(network.targets(), &network.outputs(), &device)?;
    let variables = VarMap::new();
    let layers = layers(
        network,
        &VarBuilder::from_varmap(&variables, DType::F32, &device),
    )?;
    // Its other defaults are Adam's, and without decay it is Adam.
    let adam = ParamsAdamW {
        lr: LEARNING_RATE,
        weight_decay: 0.0,
        ..Default::default()
    };
    let adam = AdamW::new(variables.all_vars(), adam)?;
    laq_peers::serve(adam, |mut adam| {
        let hinge = (&targets * layers.forward(&images)?)?
            .affine(-1.0, 1.0)?
            .relu()?;
        let loss = hinge.sqr()?.mean_all()?;
        adam.backward_step(&loss)?;
        let loss = loss.to_scalar()?;
        device.synchronize()?;
        Ok((adam, loss))
    })
}

fn layers(network: &Network, variables: &VarBuilder<'_>) -> Result<Sequential> {
    let convolution = Conv2dConfig {
        padding: 1,
        ..Default::default()
    };
    let mut layers = seq();
    for (i, block) in network.convolutions.iter().enumerate() {
        let variables = variables.pp("convolution").pp(i);
        let weight = weight((block.outputs, block.inputs, 3, 3), block, &variables)?;
        layers = rest(
            layers.add(Conv2d::new(weight, None, convolution)),
            block,
            &variables,
        )?;
    }
    layers = layers.add_fn(|x| x.flatten_from(1));
    for (i, block) in network.dense.iter().enumerate() {
        let variables = variables.pp("dense").pp(i);
        let weight = weight((block.outputs, block.inputs), block, &variables)?;
        layers = rest(layers.add(Linear::new(weight, None)), block, &variables)?;
    }
    Ok(layers)
}

fn weight(
    shape: impl Into<candle_core::Shape>,
    block: &Block,
    variables: &VarBuilder<'_>,
) -> Result<Tensor> {
    let init = Init::Uniform {
        lo: -block.range,
        up: block.range,
    };
    variables.get_with_hints(shape.into(), "map", init)
}

/// Adds what follows the linear map of a block.
fn rest(mut layers: Sequential, block: &Block, variables: &VarBuilder<'_>) -> Result<Sequential> {
    if block.pooled {
        layers = layers.add_fn(|x| x.max_pool2d(2));
    }
    let config = BatchNormConfig {
        eps: NORM_EPSILON,
        momentum: 0.1,
        ..Default::default()
    };
    let norm = batch_norm(block.outputs, config, variables.pp("norm"))?;
    layers = layers.add_fn(move |x| norm.forward_train(x));
    Ok(if block.relu {
        layers.add(Activation::Relu)
    } else {
        layers
    })
}
