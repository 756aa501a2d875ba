//! Networks on images.

use laq_simd::{Isa, multiversion};
use rayon::prelude::*;

use super::{LayerSpec, LossSpec, NetworkError, Tensors};
use crate::axis::elements;
use crate::dense::{Activations, Matrix};
use crate::matrix::DENSE_DEPTH;

/// A network on images.
#[derive(Clone, Debug)]
pub struct Feedforward {
    pub(super) compute: (Isa, Activations),
    input: [usize; 3],
    classes: usize,
    loss: LossSpec,
    preprocessing: String,
    mean_image: Option<Vec<f32>>,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
enum Layer {
    /// On an input of height × width × channels.
    Convolution {
        shape: [usize; 3],
        weight: Matrix,
        bias: Option<Vec<f32>>,
    },
    Dense {
        weight: Matrix,
        bias: Option<Vec<f32>>,
    },
    MaxPool {
        shape: [usize; 3],
    },
    /// y = x·factor + offset per channel, then ReLU where set.
    BatchNorm {
        factor: Vec<f32>,
        offset: Vec<f32>,
        relu: bool,
    },
    Relu,
}

/// The tensor of the mean of the training images, height × width × channels; see
/// [`Feedforward::mean_image`].
pub const MEAN_IMAGE: &str = "preprocessing.mean";

/// A class and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The class, from 0.
    pub class: usize,
    /// The output of the network.
    pub output: f32,
    /// The softmax of the outputs, for networks that were trained with cross-entropy.
    pub probability: Option<f64>,
}

impl Feedforward {
    pub(super) fn new(
        tensors: &Tensors<'_>,
        (input, classes, loss, preprocessing): ([usize; 3], usize, LossSpec, String),
        specs: &[LayerSpec],
    ) -> Result<Self, NetworkError> {
        let elements = |shape: [usize; 3]| {
            elements(&shape).ok_or_else(|| tensors.invalid(format!("an input of shape {shape:?}")))
        };
        let mut shape = input;
        let mut layers = Vec::with_capacity(specs.len());
        for spec in specs {
            if elements(shape)? == 0 {
                return Err(tensors.invalid(format!("a layer on an input of shape {shape:?}")));
            }
            let bias = |name: &str, length: usize, has: bool| {
                has.then(|| tensors.values(&format!("{name}.bias"), &[length]))
                    .transpose()
            };
            layers.push(match spec {
                LayerSpec::Convolution {
                    name,
                    filters,
                    bias: has_bias,
                } => {
                    let weight_shape = [*filters, 3, 3, shape[2]];
                    let weight = tensors.matrix(&format!("{name}.weight"), &weight_shape)?;
                    let layer = Layer::Convolution {
                        shape,
                        weight,
                        bias: bias(name, *filters, *has_bias)?,
                    };
                    shape[2] = *filters;
                    layer
                }
                LayerSpec::Dense {
                    name,
                    units,
                    bias: has_bias,
                } => {
                    let weight_shape = [*units, elements(shape)?];
                    let weight = tensors.matrix(&format!("{name}.weight"), &weight_shape)?;
                    shape = [1, 1, *units];
                    Layer::Dense {
                        weight,
                        bias: bias(name, *units, *has_bias)?,
                    }
                }
                LayerSpec::MaxPool => {
                    let layer = Layer::MaxPool { shape };
                    shape = [shape[0] / 2, shape[1] / 2, shape[2]];
                    layer
                }
                LayerSpec::BatchNorm {
                    name,
                    epsilon,
                    relu,
                } => {
                    let part = |part| tensors.values(&format!("{name}.norm.{part}"), &[shape[2]]);
                    let (scale, shift) = (part("scale")?, part("shift")?);
                    let (mean, variance) = (part("mean")?, part("variance")?);
                    let mut norm = (Vec::new(), Vec::new());
                    for channel in 0..shape[2] {
                        let variance = f64::from(variance[channel]) + f64::from(*epsilon);
                        let factor = f64::from(scale[channel]) / variance.sqrt();
                        let offset = f64::from(shift[channel]) - f64::from(mean[channel]) * factor;
                        norm.0.push(factor as f32);
                        norm.1.push(offset as f32);
                    }
                    Layer::BatchNorm {
                        factor: norm.0,
                        offset: norm.1,
                        relu: *relu,
                    }
                }
                LayerSpec::Relu => Layer::Relu,
            });
        }
        if shape != [1, 1, classes] || classes == 0 {
            return Err(tensors.invalid(format!(
                "its last layer has outputs of shape {shape:?}, expected {classes} classes"
            )));
        }
        let mean_image = match tensors.has(MEAN_IMAGE) {
            true => Some(tensors.values(MEAN_IMAGE, &input)?),
            false => None,
        };
        Ok(Self {
            compute: (Isa::selected(), Activations::F32),
            mean_image,
            input,
            classes,
            loss,
            preprocessing,
            layers,
        })
    }

    /// Height, width and channels of an image.
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The loss that the network was trained with.
    pub fn loss(&self) -> LossSpec {
        self.loss
    }

    /// The preprocessing of the images that the network was trained on.
    pub fn preprocessing(&self) -> &str {
        &self.preprocessing
    }

    /// The mean of the training images, height × width × channels, which the preprocessing
    /// `mean-image` subtracts; if the file has it.
    pub fn mean_image(&self) -> Option<&[f32]> {
        self.mean_image.as_deref()
    }

    /// The outputs of preprocessed images, N × classes; an image is height × width × channels. The
    /// bits are those of training, with activations in f32.
    ///
    /// # Errors
    /// [`NetworkError::Input`] if there are not whole images; [`NetworkError::NotFinite`] with 8-bit
    /// activations.
    pub fn outputs(&self, images: &[f32]) -> Result<Vec<f32>, NetworkError> {
        let elements: usize = self.input.iter().product();
        if !images.len().is_multiple_of(elements) {
            let [height, width, channels] = self.input;
            return Err(NetworkError::Input {
                found: format!("{} elements", images.len()),
                expected: format!("whole images of {height} × {width} × {channels} elements"),
            });
        }
        let count = images.len() / elements;
        let mut values = images.to_vec();
        for layer in &self.layers {
            values = self.apply(layer, count, values)?;
        }
        Ok(values)
    }

    /// The classes of preprocessed images, by falling output.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs).
    pub fn classify(&self, images: &[f32]) -> Result<Vec<Vec<Prediction>>, NetworkError> {
        let outputs = self.outputs(images)?;
        let of_image = |outputs: &[f32]| {
            let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weight = |output: f32| (f64::from(output) - f64::from(largest)).exp();
            let total: f64 = outputs.iter().map(|output| weight(*output)).sum();
            let mut predictions: Vec<Prediction> = (outputs.iter().enumerate())
                .map(|(class, &output)| Prediction {
                    class,
                    output,
                    probability: (self.loss == LossSpec::CrossEntropy)
                        .then(|| weight(output) / total),
                })
                .collect();
            predictions.sort_by(|a, b| b.output.total_cmp(&a.output).then(a.class.cmp(&b.class)));
            predictions
        };
        Ok(outputs.chunks_exact(self.classes).map(of_image).collect())
    }

    /// The output of a layer for `count` images.
    fn apply(
        &self,
        layer: &Layer,
        count: usize,
        mut values: Vec<f32>,
    ) -> Result<Vec<f32>, NetworkError> {
        let isa = self.compute.0;
        Ok(match layer {
            Layer::Convolution {
                shape,
                weight,
                bias,
            } => {
                let pixels = shape[0] * shape[1];
                let mut output = vec![0.0; count * pixels * weight.rows()];
                let images = values.par_chunks_exact(pixels * shape[2]);
                images
                    .zip(output.par_chunks_exact_mut(pixels * weight.rows()))
                    .try_for_each(|(image, output)| {
                        let patches = patches(*shape, image);
                        self.product(weight, bias.as_deref(), &patches, pixels, output)
                    })?;
                output
            }
            Layer::Dense { weight, bias } => {
                let mut output = vec![0.0; count * weight.rows()];
                self.product(weight, bias.as_deref(), &values, count, &mut output)?;
                output
            }
            Layer::MaxPool { shape } => {
                let [height, width, channels] = *shape;
                let out_row = width / 2 * channels;
                let mut output = vec![0.0; count * (height / 2) * out_row];
                for (index, output) in output.chunks_exact_mut(out_row.max(1)).enumerate() {
                    let (image, i) = (index / (height / 2), index % (height / 2));
                    let row = width * channels;
                    let rows = &values[(image * height + 2 * i) * row..][..2 * row];
                    pool_row(isa, channels, &rows[..row], &rows[row..], output);
                }
                output
            }
            Layer::BatchNorm {
                factor,
                offset,
                relu,
            } => {
                let rows = values.par_chunks_mut(factor.len() * 64);
                rows.for_each(|rows| scale_rows(isa, *relu, factor, offset, rows));
                values
            }
            Layer::Relu => {
                for value in &mut values {
                    // Unlike f32::max, this propagates NaN.
                    *value = if *value < 0.0 { 0.0 } else { *value };
                }
                values
            }
        })
    }

    /// The product of a layer, with its bias.
    fn product(
        &self,
        weight: &Matrix,
        bias: Option<&[f32]>,
        x: &[f32],
        rows: usize,
        output: &mut [f32],
    ) -> Result<(), NetworkError> {
        if let Some(bias) = bias {
            for output in output.chunks_exact_mut(bias.len()) {
                output.copy_from_slice(bias);
            }
        }
        weight.product(self.compute, x, rows, DENSE_DEPTH, bias.is_some(), output)?;
        Ok(())
    }
}

/// One row for each pixel: the channels of the pixels under each of the nine taps, or zeros outside
/// of the image.
fn patches([height, width, channels]: [usize; 3], image: &[f32]) -> Vec<f32> {
    let mut patches = vec![0.0; height * width * 9 * channels];
    let rows = patches.chunks_exact_mut(9 * channels).enumerate();
    for (pixel, row) in rows {
        let (i, j) = (pixel / width, pixel % width);
        for (tap, target) in row.chunks_exact_mut(channels).enumerate() {
            let (p, q) = (i + tap / 3, j + tap % 3);
            if (1..=height).contains(&p) && (1..=width).contains(&q) {
                let seen = (p - 1) * width + q - 1;
                target.copy_from_slice(&image[seen * channels..][..channels]);
            }
        }
    }
    patches
}

multiversion! {
    /// The maxima of the 2 × 2 windows of two rows; NaN is larger than any number.
    fn pool_row(channels: usize, upper: &[f32], lower: &[f32], output: &mut [f32]) {
        for (j, output) in output.chunks_exact_mut(channels).enumerate() {
            let pair = 2 * j * channels..2 * (j + 1) * channels;
            let (a, b) = upper[pair.clone()].split_at(channels);
            let (c, d) = lower[pair].split_at(channels);
            for k in 0..channels {
                let mut largest = a[k];
                for x in [b[k], c[k], d[k]] {
                    let larger = x > largest || (x.is_nan() && !largest.is_nan());
                    largest = if larger { x } else { largest };
                }
                output[k] = largest;
            }
        }
    }
}

multiversion! {
    /// y = x·factor + offset, row by row, then ReLU where set.
    fn scale_rows(relu: bool, factor: &[f32], offset: &[f32], rows: &mut [f32]) {
        let n = factor.len();
        let offset = &offset[..n];
        for row in rows.chunks_exact_mut(n) {
            for c in 0..n {
                let y = row[c] * factor[c] + offset[c];
                // Unlike f32::max, this propagates NaN.
                row[c] = if relu && y < 0.0 { 0.0 } else { y };
            }
        }
    }
}
