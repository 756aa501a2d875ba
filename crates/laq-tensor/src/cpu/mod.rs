//! The CPU backend: every operation of [`Backend`] on the threads of the current rayon pool.
//!
//! Kernels are picked once at run time by what the processor has; the environment variable
//! `LAQ_KERNEL` (`portable`, `avx2`, `avx512`) forces one. Sums that cross threads are cut at
//! places that depend on the sizes alone and combined in order: the same bits with any number of
//! threads. Different kernels round differently.

mod convolution;
mod dense;
mod gemm;
mod kernel;
mod lstm;
mod math;
mod norm;
mod pool;
mod quantize;
mod record;
mod shared;

use laq_solvers::Method;
use ndarray::{ArrayD, ArrayViewD, IxDyn};

use crate::{
    AdamSettings, Backend, BackendError, ConvolutionShape, DenseShape, GroupReport, Loss,
    LstmGradients, LstmParameters, LstmShape, NormShape, PoolShape, QuantizeJob, QuantizerSnapshot,
    Recorded, Stop, UpdateJob,
};
pub use kernel::{KERNEL_VARIABLE, Kernel};
pub use lstm::LstmSpace;
pub use norm::NormSpace;
pub use quantize::ParameterQuantizer;
pub use record::Record;

/// Computes on the processor, in f32, with rayon.
#[derive(Clone, Copy, Debug)]
pub struct CpuBackend {
    kernel: Kernel,
}

impl CpuBackend {
    /// The backend with the fastest kernel of this processor, or the one that `LAQ_KERNEL` names.
    ///
    /// # Errors
    /// [`BackendError::UnknownKernel`] when `LAQ_KERNEL` names none that this processor has.
    pub fn new() -> Result<Self, BackendError> {
        Ok(CpuBackend {
            kernel: Kernel::from_environment()?,
        })
    }

    /// The backend with a kernel of [`Kernel::available`].
    pub fn with_kernel(kernel: Kernel) -> Self {
        CpuBackend { kernel }
    }

    /// The kernel in use.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
}

/// The numbers of a tensor; every tensor is made dense and row-major by [`Backend::zeros`].
fn numbers(tensor: &ArrayD<f32>) -> &[f32] {
    tensor
        .as_slice()
        .expect("tensors of this backend are dense")
}

fn numbers_mut(tensor: &mut ArrayD<f32>) -> &mut [f32] {
    tensor
        .as_slice_mut()
        .expect("tensors of this backend are dense")
}

impl Backend for CpuBackend {
    type Tensor = ArrayD<f32>;
    type Symbols = Vec<u8>;
    type Order = Vec<u32>;
    type LstmSpace = LstmSpace;
    type ConvolutionSpace = ();
    type NormSpace = NormSpace;
    type Quantizer = ParameterQuantizer;
    type QuantizeSpace = ();
    type UpdateSpace = ();
    type Record = Record;
    type Recording = ();

    fn describe(&self) -> String {
        format!("cpu ({})", self.kernel.name())
    }

    fn record(&self) -> Result<Record, BackendError> {
        Ok(Record::new())
    }

    fn begin_step(&self, step_size: f64, record: &mut Record) -> Result<(), BackendError> {
        record.step_size = step_size;
        Ok(())
    }

    fn read_record(
        &self,
        record: &mut Record,
        losses: &mut Vec<f64>,
    ) -> Result<Recorded, BackendError> {
        Ok(record.take(losses))
    }

    fn start_clock(&self, record: &mut Record) -> Result<(), BackendError> {
        record.start_clock();
        Ok(())
    }

    fn stop_clock(&self, record: &mut Record) -> Result<(), BackendError> {
        record.stop_clock();
        Ok(())
    }

    fn recording(&self) {}

    fn run(
        &self,
        _recording: &mut (),
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        body()
    }

    fn zeros(&self, shape: &[usize]) -> Result<ArrayD<f32>, BackendError> {
        Ok(ArrayD::zeros(IxDyn(shape)))
    }

    fn write(
        &self,
        values: ArrayViewD<'_, f32>,
        tensor: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        assert_eq!(tensor.len(), values.len());
        tensor
            .iter_mut()
            .zip(values)
            .for_each(|(number, &value)| *number = value);
        Ok(())
    }

    fn read(&self, tensor: &ArrayD<f32>) -> Result<ArrayD<f32>, BackendError> {
        Ok(tensor.clone())
    }

    fn symbols(&self, count: usize) -> Result<Vec<u8>, BackendError> {
        Ok(vec![0; count])
    }

    fn write_symbols(&self, values: &[u8], symbols: &mut Vec<u8>) -> Result<(), BackendError> {
        symbols.copy_from_slice(values);
        Ok(())
    }

    fn write_part(
        &self,
        values: &[f32],
        offset: usize,
        tensor: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        numbers_mut(tensor)[offset..offset + values.len()].copy_from_slice(values);
        Ok(())
    }

    fn order(&self, count: usize) -> Result<Vec<u32>, BackendError> {
        Ok(vec![0; count])
    }

    fn write_order(&self, values: &[u32], order: &mut Vec<u32>) -> Result<(), BackendError> {
        order.copy_from_slice(values);
        Ok(())
    }

    fn gather_images(
        &self,
        images: &ArrayD<f32>,
        labels: &Vec<u8>,
        order: &Vec<u32>,
        first: usize,
        rows: usize,
        pixels: &mut ArrayD<f32>,
        targets: &mut Vec<u8>,
    ) -> Result<(), BackendError> {
        let size = images.len() / labels.len();
        let places = numbers_mut(pixels).chunks_exact_mut(size).zip(targets);
        for ((row, target), &example) in places.zip(&order[first..first + rows]) {
            let example = example as usize;
            row.copy_from_slice(&numbers(images)[example * size..(example + 1) * size]);
            *target = labels[example];
        }
        Ok(())
    }

    fn gather_text(
        &self,
        text: &Vec<u8>,
        order: &Vec<u32>,
        first: usize,
        batch: usize,
        inputs: &mut Vec<u8>,
        targets: &mut Vec<u8>,
    ) -> Result<(), BackendError> {
        let length = inputs.len() / batch;
        for (row, (input, target)) in inputs.iter_mut().zip(targets).enumerate() {
            let (time, sequence) = (row / batch, row % batch);
            let place = length * order[first + sequence] as usize + time;
            (*input, *target) = (text[place], text[place + 1]);
        }
        Ok(())
    }

    fn lstm_space(&self, shape: LstmShape) -> Result<LstmSpace, BackendError> {
        Ok(LstmSpace::new(self.kernel, shape))
    }

    fn lstm_forward(
        &self,
        input: &Vec<u8>,
        parameters: LstmParameters<'_, ArrayD<f32>>,
        space: &mut LstmSpace,
        hidden: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        space.forward(
            input,
            numbers(parameters.weight_ih),
            numbers(parameters.weight_hh),
            numbers(parameters.bias),
            numbers_mut(hidden),
        );
        Ok(())
    }

    fn lstm_backward(
        &self,
        input: &Vec<u8>,
        parameters: LstmParameters<'_, ArrayD<f32>>,
        hidden: &ArrayD<f32>,
        hidden_gradient: &mut ArrayD<f32>,
        clip: f32,
        space: &mut LstmSpace,
        gradients: LstmGradients<'_, ArrayD<f32>>,
    ) -> Result<(), BackendError> {
        space.backward(
            input,
            numbers(parameters.weight_hh),
            numbers(hidden),
            numbers_mut(hidden_gradient),
            clip,
            numbers_mut(gradients.weight_ih),
            numbers_mut(gradients.weight_hh),
            numbers_mut(gradients.bias),
        );
        Ok(())
    }

    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &ArrayD<f32>,
        weight: &ArrayD<f32>,
        bias: Option<&ArrayD<f32>>,
        output: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        dense::forward(
            self.kernel,
            shape,
            numbers(input),
            numbers(weight),
            bias.map(numbers),
            numbers_mut(output),
        );
        Ok(())
    }

    fn dense_backward(
        &self,
        shape: DenseShape,
        input: &ArrayD<f32>,
        weight: &ArrayD<f32>,
        output_gradient: &ArrayD<f32>,
        input_gradient: Option<&mut ArrayD<f32>>,
        weight_gradient: &mut ArrayD<f32>,
        bias_gradient: Option<&mut ArrayD<f32>>,
    ) -> Result<(), BackendError> {
        dense::backward(
            self.kernel,
            shape,
            numbers(input),
            numbers(weight),
            numbers(output_gradient),
            input_gradient.map(numbers_mut),
            numbers_mut(weight_gradient),
            bias_gradient.map(numbers_mut),
        );
        Ok(())
    }

    fn convolution_space(&self, _shape: ConvolutionShape) -> Result<(), BackendError> {
        Ok(())
    }

    fn convolution_forward(
        &self,
        shape: ConvolutionShape,
        input: &ArrayD<f32>,
        weight: &ArrayD<f32>,
        bias: Option<&ArrayD<f32>>,
        _space: &mut (),
        output: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        convolution::forward(
            self.kernel,
            shape,
            numbers(input),
            numbers(weight),
            bias.map(numbers),
            numbers_mut(output),
        );
        Ok(())
    }

    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &ArrayD<f32>,
        weight: &ArrayD<f32>,
        output_gradient: &ArrayD<f32>,
        _space: &mut (),
        input_gradient: Option<&mut ArrayD<f32>>,
        weight_gradient: &mut ArrayD<f32>,
        bias_gradient: Option<&mut ArrayD<f32>>,
    ) -> Result<(), BackendError> {
        convolution::backward(
            self.kernel,
            shape,
            numbers(input),
            numbers(weight),
            numbers(output_gradient),
            input_gradient.map(numbers_mut),
            numbers_mut(weight_gradient),
            bias_gradient.map(numbers_mut),
        );
        Ok(())
    }

    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &ArrayD<f32>,
        places: &mut Vec<u8>,
        output: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        pool::forward(
            self.kernel,
            shape,
            numbers(input),
            places,
            numbers_mut(output),
        );
        Ok(())
    }

    fn max_pool_backward(
        &self,
        shape: PoolShape,
        places: &Vec<u8>,
        output_gradient: &ArrayD<f32>,
        input_gradient: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        pool::backward(
            self.kernel,
            shape,
            places,
            numbers(output_gradient),
            numbers_mut(input_gradient),
        );
        Ok(())
    }

    fn norm_space(&self, shape: NormShape) -> Result<NormSpace, BackendError> {
        Ok(NormSpace::new(shape))
    }

    fn norm_forward(
        &self,
        shape: NormShape,
        input: &ArrayD<f32>,
        scale: &ArrayD<f32>,
        shift: &ArrayD<f32>,
        space: &mut NormSpace,
        output: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        norm::forward(
            self.kernel,
            shape,
            numbers(input),
            numbers(scale),
            numbers(shift),
            space,
            numbers_mut(output),
        );
        Ok(())
    }

    fn norm_backward(
        &self,
        shape: NormShape,
        input: &ArrayD<f32>,
        scale: &ArrayD<f32>,
        space: &mut NormSpace,
        gradient: &mut ArrayD<f32>,
        scale_gradient: &mut ArrayD<f32>,
        shift_gradient: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        norm::backward(
            self.kernel,
            shape,
            numbers(input),
            numbers(scale),
            space,
            numbers_mut(gradient),
            numbers_mut(scale_gradient),
            numbers_mut(shift_gradient),
        );
        Ok(())
    }

    fn norm_average(
        &self,
        shape: NormShape,
        factor: f32,
        space: &NormSpace,
        record: &Record,
        mean: &mut ArrayD<f32>,
        variance: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        if record.is_stopped() {
            return Ok(());
        }
        norm::average(
            shape,
            factor,
            space,
            numbers_mut(mean),
            numbers_mut(variance),
        );
        Ok(())
    }

    fn norm_evaluate(
        &self,
        shape: NormShape,
        input: &ArrayD<f32>,
        scale: &ArrayD<f32>,
        shift: &ArrayD<f32>,
        mean: &ArrayD<f32>,
        variance: &ArrayD<f32>,
        space: &mut NormSpace,
        output: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        norm::evaluate(
            self.kernel,
            shape,
            numbers(input),
            numbers(scale),
            numbers(shift),
            numbers(mean),
            numbers(variance),
            space,
            numbers_mut(output),
        );
        Ok(())
    }

    fn relu(&self, values: &mut ArrayD<f32>) -> Result<(), BackendError> {
        dense::relu(numbers_mut(values));
        Ok(())
    }

    fn relu_backward(
        &self,
        output: &ArrayD<f32>,
        gradient: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        dense::relu_backward(numbers(output), numbers_mut(gradient));
        Ok(())
    }

    fn squared_hinge(
        &self,
        targets: &Vec<u8>,
        outputs: &mut ArrayD<f32>,
        record: &mut Record,
    ) -> Result<(), BackendError> {
        record.add_loss(dense::squared_hinge(targets, numbers_mut(outputs)));
        Ok(())
    }

    fn softmax_cross_entropy(
        &self,
        targets: &Vec<u8>,
        logits: &mut ArrayD<f32>,
        record: &mut Record,
    ) -> Result<(), BackendError> {
        let loss = dense::softmax_cross_entropy(self.kernel, targets, numbers_mut(logits));
        record.add_loss(loss);
        Ok(())
    }

    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Vec<u8>,
        outputs: &ArrayD<f32>,
        record: &mut Record,
    ) -> Result<(), BackendError> {
        let (mean, errors) =
            dense::evaluate(loss, &targets[..rows], targets.len(), numbers(outputs));
        if !record.is_stopped() {
            record.count_errors(errors);
        }
        record.add_loss(mean);
        Ok(())
    }

    fn update_space(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        _space: &mut (),
        record: &mut Record,
    ) -> Result<(), BackendError> {
        for (parameter, job) in jobs.enumerate() {
            if dense::first_not_finite(self.kernel, numbers(job.gradient)).is_some() {
                record.stop(Stop::Gradient { parameter });
            }
        }
        Ok(())
    }

    fn update(
        &self,
        adam: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        _space: &mut (),
        record: &Record,
    ) -> Result<(), BackendError> {
        if record.is_stopped() {
            return Ok(());
        }
        for job in jobs {
            dense::adam(
                self.kernel,
                adam,
                record.step_size,
                job.clip,
                numbers(job.gradient),
                numbers_mut(job.weight),
                numbers_mut(job.first_moment),
                numbers_mut(job.second_moment),
            );
        }
        Ok(())
    }

    fn first_not_finite(&self, tensor: &ArrayD<f32>) -> Result<Option<usize>, BackendError> {
        Ok(dense::first_not_finite(self.kernel, numbers(tensor)))
    }

    fn quantizer(
        &self,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<ParameterQuantizer, BackendError> {
        Ok(ParameterQuantizer::new(
            self.kernel,
            method,
            weights,
            groups,
        ))
    }

    fn quantize_space(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        _space: &mut (),
        record: &mut Record,
    ) -> Result<(), BackendError> {
        if record.is_stopped() {
            return Ok(());
        }
        for (parameter, job) in jobs.enumerate() {
            let solved = job.quantizer.solve(
                numbers(job.latent),
                numbers(job.second_moment),
                numbers_mut(job.quantized),
            );
            solved.map_err(|(group, source)| BackendError::Solve {
                parameter,
                group,
                source,
            })?;
        }
        Ok(())
    }

    fn quantizer_backward(
        &self,
        latent: &ArrayD<f32>,
        quantizer: &mut ParameterQuantizer,
        gradient: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        quantizer.backward(numbers(latent), numbers_mut(gradient));
        Ok(())
    }

    fn quantizer_update(
        &self,
        adam: AdamSettings,
        record: &Record,
        quantizer: &mut ParameterQuantizer,
    ) -> Result<(), BackendError> {
        if !record.is_stopped() {
            quantizer.update_scales(adam, record.step_size);
        }
        Ok(())
    }

    fn quantizer_reports(
        &self,
        quantizer: &ParameterQuantizer,
    ) -> Result<Vec<GroupReport>, BackendError> {
        Ok(quantizer.reports())
    }

    fn quantizer_save(
        &self,
        quantizer: &ParameterQuantizer,
    ) -> Result<QuantizerSnapshot, BackendError> {
        Ok(quantizer.save())
    }

    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut ParameterQuantizer,
        quantized: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        quantizer.load(snapshot, numbers_mut(quantized))
    }
}
