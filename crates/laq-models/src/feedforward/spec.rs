//! Settings of a feedforward network and the list of layers that they describe.

use laq_tensor::Loss;

use crate::ModelError;
use crate::batch::ImageShape;
use crate::init::Init;
use crate::network::{LARGEST_LAYER, setting};
use crate::parameter::{ParameterSpec, WHOLE};

/// The settings of a feedforward network.
///
/// | setting | MNIST | CIFAR-10 | CIFAR-100 | SVHN |
/// |---|---|---|---|---|
/// | `input` | 28 × 28 × 1 | 32 × 32 × 3 | 32 × 32 × 3 | 32 × 32 × 3 |
/// | `filters` | – | 128, 256, 512 | 128, 256, 512 | 64, 128, 256 |
/// | `units` | 2048, 2048, 2048 | 1024, 1024 | 1024, 1024 | 1024, 1024 |
/// | `output_batch_norm` | yes | yes | no | yes |
/// | `loss` | squared hinge | squared hinge | cross-entropy | squared hinge |
#[derive(Clone, Debug, PartialEq)]
pub struct FeedforwardSpec {
    /// Shape of an image; 1 to 4096 each.
    pub input: ImageShape,
    /// Number of classes and of outputs; 2 to 256.
    pub classes: usize,
    /// Filters of the convolutions in each stage, at most 65536. A stage ends with 2 × 2 max pooling.
    pub filters: Vec<usize>,
    /// Convolutions in each stage; at most 16. Default 2.
    pub convolutions: usize,
    /// Units of each hidden dense layer; at most 65536.
    pub units: Vec<usize>,
    /// Batch normalization of the hidden layers; without it, they have a bias. Default true.
    pub batch_norm: bool,
    /// Batch normalization of the outputs; without it, they have a bias. Default true.
    pub output_batch_norm: bool,
    /// ε of batch normalization. Default 1e-4.
    pub norm_epsilon: f32,
    /// Momentum of the running averages: the weight of the newest batch. Default 0.1.
    pub norm_momentum: f32,
    /// The loss. Default: squared hinge.
    pub loss: Loss,
}

impl FeedforwardSpec {
    /// The paper's MLP 784–2048–2048–2048–10 for MNIST.
    pub fn mnist() -> Self {
        FeedforwardSpec {
            input: ImageShape {
                height: 28,
                width: 28,
                channels: 1,
            },
            classes: 10,
            filters: Vec::new(),
            convolutions: 2,
            units: vec![2048; 3],
            batch_norm: true,
            output_batch_norm: true,
            norm_epsilon: 1e-4,
            norm_momentum: 0.1,
            loss: Loss::SquaredHinge,
        }
    }

    /// The paper's VGG for CIFAR-10.
    pub fn cifar10() -> Self {
        FeedforwardSpec {
            input: ImageShape {
                height: 32,
                width: 32,
                channels: 3,
            },
            filters: vec![128, 256, 512],
            units: vec![1024; 2],
            ..Self::mnist()
        }
    }

    /// The paper's VGG for CIFAR-100, with output biases and cross-entropy.
    pub fn cifar100() -> Self {
        FeedforwardSpec {
            classes: 100,
            output_batch_norm: false,
            loss: Loss::CrossEntropy,
            ..Self::cifar10()
        }
    }

    /// The paper's VGG for SVHN, with half the filters.
    pub fn svhn() -> Self {
        FeedforwardSpec {
            filters: vec![64, 128, 256],
            ..Self::cifar10()
        }
    }

    fn check(&self) -> Result<(), ModelError> {
        let ImageShape {
            height,
            width,
            channels,
        } = self.input;
        setting(
            [height, width, channels]
                .iter()
                .all(|size| (1..=4096).contains(size)),
            "input",
            format!("{height} × {width} × {channels}"),
            "1 to 4096 each",
        )?;
        setting(
            (2..=256).contains(&self.classes),
            "classes",
            self.classes,
            "2 to 256",
        )?;
        let list = |sizes: &[usize]| format!("{sizes:?}");
        let in_range =
            |sizes: &[usize]| sizes.iter().all(|size| (1..=LARGEST_LAYER).contains(size));
        setting(
            in_range(&self.filters),
            "filters",
            list(&self.filters),
            "1 to 65536 each",
        )?;
        let halvings = u32::try_from(self.filters.len()).unwrap_or(u32::MAX);
        let smaller = height.min(width);
        setting(
            smaller.checked_shr(halvings).unwrap_or(0) > 0,
            "filters",
            list(&self.filters),
            "fewer stages: each halves the image, and nothing would be left of it",
        )?;
        setting(
            (1..=16).contains(&self.convolutions),
            "convolutions",
            self.convolutions,
            "1 to 16",
        )?;
        setting(
            in_range(&self.units),
            "units",
            list(&self.units),
            "1 to 65536 each",
        )?;
        setting(
            self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite(),
            "norm_epsilon",
            self.norm_epsilon,
            "a number above 0",
        )?;
        setting(
            self.norm_momentum > 0.0 && self.norm_momentum <= 1.0,
            "norm_momentum",
            self.norm_momentum,
            "above 0, and at most 1",
        )
    }

    /// The layers from the image to the outputs.
    pub(crate) fn layer_specs(&self) -> Result<Vec<LayerSpec>, ModelError> {
        self.check()?;
        let mut specs = Vec::new();
        let mut image = self.input;
        let mut push = |name: &str, kind| {
            let spec = LayerSpec {
                name: name.to_owned(),
                input: image,
                kind,
            };
            image = spec.output();
            specs.push(spec);
        };
        let mut convolutions = 0;
        for &filters in &self.filters {
            for in_stage in 1..=self.convolutions {
                convolutions += 1;
                let (name, bias) = (format!("conv{convolutions}"), !self.batch_norm);
                push(&name, LayerKind::Convolution { filters, bias });
                if in_stage == self.convolutions {
                    push(&name, LayerKind::MaxPool);
                }
                push(&name, LayerKind::activation(self.batch_norm));
            }
        }
        for (index, &units) in self.units.iter().enumerate() {
            let (name, bias) = (format!("dense{}", index + 1), !self.batch_norm);
            push(&name, LayerKind::Dense { units, bias });
            push(&name, LayerKind::activation(self.batch_norm));
        }
        let (units, bias) = (self.classes, !self.output_batch_norm);
        push("output", LayerKind::Dense { units, bias });
        if self.output_batch_norm {
            push("output", LayerKind::BatchNorm { relu: false });
        }
        Ok(specs)
    }
}

/// The operation of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LayerKind {
    /// 3 × 3, padded to the size of its input.
    Convolution {
        filters: usize,
        bias: bool,
    },
    /// Fully connected; flattens its input.
    Dense {
        units: usize,
        bias: bool,
    },
    /// 2 × 2 with stride 2.
    MaxPool,
    /// Batch normalization, fused with ReLU where set.
    BatchNorm {
        relu: bool,
    },
    Relu,
}

impl LayerKind {
    /// ReLU, after batch normalization where set.
    fn activation(batch_norm: bool) -> Self {
        if batch_norm {
            LayerKind::BatchNorm { relu: true }
        } else {
            LayerKind::Relu
        }
    }
}

/// A layer before its buffers are allocated.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    /// Prefix of its parameters' names. A convolution or dense layer shares it with the pooling,
    /// normalization and ReLU that follow.
    pub(crate) name: String,
    pub(crate) input: ImageShape,
    pub(crate) kind: LayerKind,
}

impl LayerSpec {
    /// The shape of the output for one image; a dense layer's is one pixel.
    pub(crate) fn output(&self) -> ImageShape {
        let ImageShape { height, width, .. } = self.input;
        let shape = |height, width, channels| ImageShape {
            height,
            width,
            channels,
        };
        match self.kind {
            LayerKind::Convolution { filters, .. } => shape(height, width, filters),
            LayerKind::Dense { units, .. } => shape(1, 1, units),
            LayerKind::MaxPool => shape(height / 2, width / 2, self.input.channels),
            LayerKind::BatchNorm { .. } | LayerKind::Relu => self.input,
        }
    }

    /// Whether it is a batch normalization of one value per image and channel.
    pub(super) fn normalizes_one_value(&self) -> bool {
        let ImageShape { height, width, .. } = self.input;
        matches!(self.kind, LayerKind::BatchNorm { .. }) && height * width == 1
    }

    /// The shape of the weight of a convolution or dense layer.
    fn weight_shape(&self) -> Option<Vec<usize>> {
        match self.kind {
            LayerKind::Convolution { filters, .. } => {
                Some(vec![filters, 3, 3, self.input.channels])
            }
            LayerKind::Dense { units, .. } => Some(vec![units, self.input.elements()]),
            _ => None,
        }
    }

    /// Rows, columns and gates of the weight; `None` for a layer without one.
    pub(crate) fn matrix(&self) -> Option<[usize; 3]> {
        let shape = self.weight_shape()?;
        Some([shape[0], shape[1..].iter().product(), 1])
    }

    /// Elements of the weight; 0 for a layer without one.
    pub(crate) fn weights(&self) -> usize {
        self.weight_shape()
            .map_or(0, |shape| shape.iter().product())
    }

    /// Trained elements that stay in full precision.
    pub(crate) fn other_weights(&self) -> usize {
        let vectors = match self.kind {
            LayerKind::Convolution { bias, .. } | LayerKind::Dense { bias, .. } => {
                usize::from(bias)
            }
            LayerKind::BatchNorm { .. } => 2,
            LayerKind::MaxPool | LayerKind::Relu => 0,
        };
        vectors * self.output().channels
    }

    /// Multiplications by a weight for one image.
    pub(crate) fn multiplications(&self) -> usize {
        let output = self.output();
        output.height * output.width * self.weights()
    }

    /// The weight and the bias, or the scale and the shift of batch normalization.
    ///
    /// A quantized weight starts uniform in ±√(1.5/(fan_in + fan_out)), a full-precision one in
    /// ±√(6/(fan_in + fan_out)); the fans of a convolution include the 3 × 3 taps (PAPER.md §4).
    pub(super) fn parameters(&self, quantized: bool) -> Vec<ParameterSpec> {
        let channels = self.output().channels;
        let vector = |part: &str, value| ParameterSpec {
            name: format!("{}.{part}", self.name),
            shape: vec![channels],
            init: Init::Blocks(vec![value]),
            gates: Vec::new(),
        };
        let (fan_in, fan_out, bias) = match self.kind {
            LayerKind::Convolution { filters, bias } => {
                (9 * self.input.channels, 9 * filters, bias)
            }
            LayerKind::Dense { units, bias } => (self.input.elements(), units, bias),
            LayerKind::BatchNorm { .. } => {
                return vec![vector("norm.scale", 1.0), vector("norm.shift", 0.0)];
            }
            LayerKind::MaxPool | LayerKind::Relu => return Vec::new(),
        };
        let numerator = if quantized { 1.5 } else { 6.0 };
        let range = (numerator / (fan_in + fan_out) as f64).sqrt() as f32;
        let mut parameters = vec![ParameterSpec {
            name: format!("{}.weight", self.name),
            shape: self.weight_shape().expect("a convolution or dense layer"),
            init: Init::Uniform { range },
            gates: vec![WHOLE],
        }];
        if bias {
            parameters.push(vector("bias", 0.0));
        }
        parameters
    }
}
