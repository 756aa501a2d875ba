//! Where the time of a training step goes.

use std::time::Instant;

use laq_tensor::{ConvolutionShape, DenseShape, LstmShape, NormShape, PoolShape};

/// What a part of a step does at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Additions and multiplications of products, with the sums as the formulas have them.
    Operations(f64),
    /// Bytes read and written, if no cache holds any of them before.
    Bytes(f64),
}

/// A part of the training steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Prefix of the layer's parameters, or `all`.
    pub layer: String,
    /// What is computed.
    pub kind: &'static str,
    /// The work of one step.
    pub work: Work,
    /// Wall-clock seconds of all steps.
    pub seconds: f64,
}

/// The times of a number of training steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// In the order of a step.
    pub parts: Vec<Part>,
    /// Steps.
    pub steps: u64,
    /// Wall-clock seconds of the steps; the parts do not have all of them.
    pub seconds: f64,
}

/// Measures the parts of steps, or nothing.
#[derive(Debug, Default)]
pub(crate) struct Profiler {
    /// `None` while nothing is measured.
    pub(crate) profile: Option<Profile>,
}

/// The start of a part; `None` if it is not measured.
pub(crate) type Start = Option<Instant>;

impl Profiler {
    pub(crate) fn start(&self) -> Start {
        self.profile.as_ref().map(|_| Instant::now())
    }

    /// Ends a part, of which a step has one for each layer and kind. A part without work is left out.
    pub(crate) fn stop(&mut self, start: Start, layer: &str, kind: &'static str, work: Work) {
        let (Some(profile), Some(start)) = (&mut self.profile, start) else {
            return;
        };
        let seconds = start.elapsed().as_secs_f64();
        if matches!(work, Work::Operations(0.0) | Work::Bytes(0.0)) {
            return;
        }
        let same = |part: &&mut Part| part.layer == layer && part.kind == kind;
        match profile.parts.iter_mut().find(same) {
            Some(part) => part.seconds += seconds,
            None => profile.parts.push(Part {
                layer: layer.to_owned(),
                kind,
                work,
                seconds,
            }),
        }
    }
}

/// The bytes of `count` numbers, each moved `times` times.
pub(crate) fn floats(count: usize, times: usize) -> Work {
    Work::Bytes(4.0 * count as f64 * times as f64)
}

impl Work {
    /// The output; with `passes` = 2 the gradients of input and weights, with 1 the latter alone.
    pub(crate) fn convolution(shape: ConvolutionShape, passes: usize) -> Work {
        let products = shape.pixels() * shape.filter() * shape.out_channels;
        Work::Operations(2.0 * products as f64 * passes as f64)
    }

    /// As [`Work::convolution`].
    pub(crate) fn dense(shape: DenseShape, passes: usize) -> Work {
        let products = shape.rows * shape.inputs * shape.outputs;
        Work::Operations(2.0 * products as f64 * passes as f64)
    }

    /// The recurrent products.
    pub(crate) fn lstm(shape: LstmShape, passes: usize) -> Work {
        let products = shape.rows() * shape.hidden * 4 * shape.hidden;
        Work::Operations(2.0 * products as f64 * passes as f64)
    }

    /// Statistics, then the output.
    pub(crate) fn norm(shape: NormShape) -> Work {
        floats(shape.rows * shape.channels, 3)
    }

    /// Sums over the input and the gradient, then the input's gradient in its place.
    pub(crate) fn norm_backward(shape: NormShape) -> Work {
        floats(shape.rows * shape.channels, 5)
    }

    /// Either pass: the larger image, the smaller one and the place of each maximum.
    pub(crate) fn pool(shape: PoolShape) -> Work {
        let input = shape.batch * shape.height * shape.width * shape.channels;
        Work::Bytes((4 * input + 5 * shape.outputs()) as f64)
    }

    /// Weights, second moments and levels are read, quantized weights and levels written.
    pub(crate) fn quantize(weights: usize) -> Work {
        Work::Bytes(14.0 * weights as f64)
    }
}
