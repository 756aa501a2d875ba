//! Every operation of [`Backend`](laq_tensor::Backend) as launches and products of a [`Device`].
//!
//! Every operation is in the module of its layer; what they share is here.

mod batch;
mod convolution;
mod dense;
mod loss;
mod lstm;
mod norm;
mod pool;
mod quantize;
mod settings;
mod step;
mod update;

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use laq_solvers::Method;
use laq_tensor::{
    AdamSettings, BackendError, Convolution, ConvolutionShape, Dense, DenseShape, Element, Gather,
    GroupReport, Index, Loss, Losses, Lstm, LstmGradients, LstmParameters, LstmShape, Memory, Norm,
    NormShape, Optimizer, Pool, PoolShape, Quantize, QuantizeJob, QuantizerSnapshot, StepStatus,
    Steps, UpdateJob, check_indices,
};
use ndarray::{ArrayD, IxDyn};

pub use convolution::ConvolutionSpace;
pub use lstm::LstmSpace;
pub use norm::NormSpace;
pub use quantize::{QuantizeSpace, Quantizer};
pub use settings::Settings;
pub use step::{Record, Recording};
pub use update::UpdateSpace;

use crate::device::{Argument, Device, Launch, Operand, Product};

/// Computes on a [`Device`].
#[derive(Debug)]
pub struct CudaBackend<D: Device> {
    pub(crate) device: D,
    /// Room for what one operation leaves to the next launch of the same operation. What has become too small stays, for
    /// it may be in a recording.
    scratch: Mutex<Vec<(usize, D::Memory)>>,
    notes: Mutex<Vec<String>>,
    settings: Settings,
}

/// A dense row-major array in the device's memory.
#[derive(Debug)]
pub struct Buffer<D: Device, E> {
    memory: D::Memory,
    shape: Vec<usize>,
    count: usize,
    /// The exclusive bound of indices; of no meaning for `f32`.
    bound: usize,
    element: PhantomData<E>,
}

pub(crate) type Tensor<D> = Buffer<D, f32>;
pub(crate) type Symbols<D> = Buffer<D, u8>;
pub(crate) type Order<D> = Buffer<D, u32>;

impl<D: Device, E> Buffer<D, E> {
    fn count(&self) -> usize {
        self.count
    }
}

impl<D: Device, E: Index> Buffer<D, E> {
    /// Panics unless all indices are below `bound`.
    fn assert_bound(&self, bound: usize) {
        assert!(
            self.bound <= bound,
            "indices below {} for {bound} items",
            self.bound
        );
    }
}

/// Threads of a block, where nothing else decides.
pub(crate) const THREADS: u32 = 256;

/// Enough blocks to fill every GPU that there is; each thread then does several elements.
const MOST_BLOCKS: u64 = 4096;

/// Rows that one block adds up, unless there are too many blocks.
const ROWS_OF_A_CHUNK: usize = 256;

/// The most blocks along y.
const MOST_CHUNKS: usize = 65_535;

impl<D: Device> CudaBackend<D> {
    /// The backend on this device, with its settings.
    pub fn new(device: D) -> Self {
        CudaBackend {
            settings: device.settings(),
            device,
            scratch: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Something for [`Memory::diagnostics`].
    fn note(&self, what: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&what) {
            notes.push(what);
        }
    }

    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        self.launch_as(Launch {
            kernel,
            grid,
            block,
            arguments,
            together: false,
        })
    }

    fn launch_as(&self, launch: Launch<'_>) -> Result<(), BackendError> {
        // SAFETY: every call in this crate passes what the kernel of that name takes, and memory of the size that the
        // shapes say, which the caller has checked; tests run every kernel through these calls. Memory that is dropped is
        // given back behind all that was asked for before.
        unsafe { self.device.launch(&launch) }
    }

    /// A kernel over `count` elements.
    pub(crate) fn each(
        &self,
        kernel: &'static str,
        count: usize,
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        let blocks = (count as u64)
            .div_ceil(THREADS.into())
            .clamp(1, MOST_BLOCKS) as u32;
        self.launch(kernel, [blocks, 1, 1], [THREADS, 1, 1], arguments)
    }

    /// A kernel over the columns of a matrix whose rows are in `chunks`: 32 columns and eight rows at a time a block.
    fn columns(
        &self,
        kernel: &'static str,
        columns: usize,
        chunks: usize,
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        let grid = [columns.div_ceil(32) as u32, chunks as u32, 1];
        self.launch(kernel, grid, [32, 8, 1], arguments)
    }

    fn multiply(&self, product: Product) -> Result<(), BackendError> {
        // SAFETY: as for `launch`.
        unsafe { self.device.multiply(&product) }
    }

    fn at(&self, tensor: &Tensor<D>) -> u64 {
        self.device.address(&tensor.memory)
    }

    pub(crate) fn pointer(&self, tensor: &Tensor<D>, count: usize) -> u64 {
        assert_eq!(tensor.count(), count);
        self.at(tensor)
    }

    fn symbols_at(&self, symbols: &Symbols<D>, count: usize) -> u64 {
        assert_eq!(symbols.count, count);
        self.device.address(&symbols.memory)
    }

    pub(crate) fn record_at(&self, record: &Record<D>) -> u64 {
        self.device.address(&record.memory)
    }

    fn floats(&self, count: usize) -> Result<D::Memory, BackendError> {
        self.device.allocate(4 * count)
    }

    fn doubles(&self, count: usize) -> Result<D::Memory, BackendError> {
        self.device.allocate(8 * count)
    }

    /// These bytes in memory of their own.
    fn table(&self, bytes: &[u8]) -> Result<D::Memory, BackendError> {
        let mut memory = self.device.allocate(bytes.len())?;
        self.device.upload(bytes, 0, &mut memory)?;
        Ok(memory)
    }

    /// The address of room for so many f64, until the next call.
    fn scratch(&self, count: usize) -> Result<u64, BackendError> {
        let mut rooms = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.last().is_none_or(|(size, _)| *size < count) {
            rooms.push((count, self.device.allocate(8 * count)?));
        }
        let room = rooms.last().expect("there is one now");
        Ok(self.device.address(&room.1))
    }
}

/// Rows of the pieces of a matrix that are added up apart, and how many pieces there are, which a grid has room for.
fn chunks_of(rows: usize) -> (usize, usize) {
    let chunk = rows.div_ceil(MOST_CHUNKS).max(ROWS_OF_A_CHUNK);
    (chunk, rows.div_ceil(chunk).max(1))
}

fn plain(address: u64) -> Operand {
    Operand {
        address,
        transposed: false,
    }
}

fn transposed(address: u64) -> Operand {
    Operand {
        address,
        transposed: true,
    }
}

/// A size as kernels take it.
pub(crate) fn int(size: usize) -> Argument {
    u32::try_from(size)
        .expect("sizes of layers fit into 32 bits")
        .into()
}

/// A count as kernels take it.
pub(crate) fn long(count: usize) -> Argument {
    (count as u64).into()
}

/// The bytes of whole numbers, as the device has them.
fn words(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect()
}

/// The bytes of numbers, as the device has them.
fn bytes_of(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

impl<D: Device> Memory for CudaBackend<D> {
    type Buffer<E: Element> = Buffer<D, E>;

    fn device_name(&self) -> String {
        let device = self.device.describe();
        match self.settings.sequences {
            true => format!("{device}, recurrences in one kernel where they fit"),
            false => device,
        }
    }

    fn diagnostics(&self) -> Vec<String> {
        let own = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        [self.device.notes(), own.clone()].concat()
    }

    fn zeros(&self, shape: &[usize]) -> Result<Buffer<D, f32>, BackendError> {
        let count = shape.iter().product();
        Ok(Buffer {
            memory: self.floats(count)?,
            shape: shape.to_vec(),
            count,
            bound: 0,
            element: PhantomData,
        })
    }

    fn indices<E: Index>(&self, count: usize, bound: usize) -> Result<Buffer<D, E>, BackendError> {
        assert!(count == 0 || bound > 0, "no index is below 0");
        Ok(Buffer {
            memory: self.device.allocate(count * size_of::<E>())?,
            shape: vec![count],
            count,
            bound,
            element: PhantomData,
        })
    }

    fn write<E: Element>(
        &self,
        values: &[E],
        buffer: &mut Buffer<D, E>,
    ) -> Result<(), BackendError> {
        assert_eq!(values.len(), buffer.count);
        self.write_at(values, 0, buffer)
    }

    fn write_at<E: Element>(
        &self,
        values: &[E],
        offset: usize,
        buffer: &mut Buffer<D, E>,
    ) -> Result<(), BackendError> {
        assert!(offset + values.len() <= buffer.count);
        check_indices(values, buffer.bound)?;
        let (bytes, offset) = (bytemuck::cast_slice(values), offset * size_of::<E>());
        self.device.upload(bytes, offset, &mut buffer.memory)
    }

    fn read<E: Element>(&self, buffer: &Buffer<D, E>) -> Result<ArrayD<E>, BackendError> {
        let mut values = vec![E::zeroed(); buffer.count];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.device.download(&buffer.memory, bytes)?;
        let array = ArrayD::from_shape_vec(IxDyn(&buffer.shape), values);
        Ok(array.expect("a buffer has as many elements as its shape"))
    }

    fn first_not_finite(&self, tensor: &Tensor<D>) -> Result<Option<usize>, BackendError> {
        let count = tensor.count();
        let mut found = self.device.allocate(8)?;
        let mut bytes = u64::MAX.to_ne_bytes();
        self.device.upload(&bytes, 0, &mut found)?;
        let arguments = [
            self.at(tensor).into(),
            long(count),
            self.device.address(&found).into(),
        ];
        self.each("first_not_finite", count, &arguments)?;
        self.device.download(&found, &mut bytes)?;
        let index = u64::from_ne_bytes(bytes);
        Ok((index != u64::MAX).then_some(index as usize))
    }
}

impl<D: Device> Steps for CudaBackend<D> {
    type StepLog = Record<D>;
    type StepGraph = Recording<D::Graph>;

    fn step_log(&self) -> Result<Record<D>, BackendError> {
        step::record(self)
    }

    fn set_step_size(&self, step_size: f64, log: &mut Record<D>) -> Result<(), BackendError> {
        step::begin_step(self, step_size, log)
    }

    fn read_log(
        &self,
        log: &mut Record<D>,
        losses: &mut Vec<f64>,
    ) -> Result<StepStatus, BackendError> {
        step::read_record(self, log, losses)
    }

    fn start_clock(&self, log: &mut Record<D>) -> Result<(), BackendError> {
        step::start_clock(self, log)
    }

    fn stop_clock(&self, log: &mut Record<D>) -> Result<(), BackendError> {
        step::stop_clock(self, log)
    }

    fn capture_or_replay(
        &self,
        graph: &mut Recording<D::Graph>,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        step::run(self, graph, body)
    }
}

impl<D: Device> Gather for CudaBackend<D> {
    fn gather_images(
        &self,
        images: &Tensor<D>,
        labels: &Symbols<D>,
        permutation: &Order<D>,
        first: usize,
        rows: usize,
        pixels: &mut Tensor<D>,
        targets: &mut Symbols<D>,
    ) -> Result<(), BackendError> {
        batch::images(
            self,
            images,
            labels,
            permutation,
            first,
            rows,
            pixels,
            targets,
        )
    }

    fn gather_text(
        &self,
        text: &Symbols<D>,
        permutation: &Order<D>,
        first: usize,
        batch: usize,
        inputs: &mut Symbols<D>,
        targets: &mut Symbols<D>,
    ) -> Result<(), BackendError> {
        batch::text(self, text, permutation, first, batch, inputs, targets)
    }
}

impl<D: Device> Lstm for CudaBackend<D> {
    type LstmWorkspace = LstmSpace<D>;

    fn lstm_workspace(&self, shape: LstmShape) -> Result<LstmSpace<D>, BackendError> {
        lstm::space(self, shape)
    }

    fn lstm_forward(
        &self,
        tokens: &Symbols<D>,
        parameters: LstmParameters<'_, Tensor<D>>,
        workspace: &mut LstmSpace<D>,
        hidden_states: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        lstm::forward(self, tokens, parameters, workspace, hidden_states)
    }

    fn lstm_backward(
        &self,
        tokens: &Symbols<D>,
        parameters: LstmParameters<'_, Tensor<D>>,
        hidden_states: &Tensor<D>,
        hidden_gradient: &mut Tensor<D>,
        clip: f32,
        workspace: &mut LstmSpace<D>,
        gradients: LstmGradients<'_, Tensor<D>>,
    ) -> Result<(), BackendError> {
        lstm::backward(
            self,
            tokens,
            parameters,
            hidden_states,
            hidden_gradient,
            clip,
            workspace,
            gradients,
        )
    }
}

impl<D: Device> Dense for CudaBackend<D> {
    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &Tensor<D>,
        weight: &Tensor<D>,
        bias: Option<&Tensor<D>>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        dense::forward(self, shape, input, weight, bias, output)
    }

    fn dense_backward(
        &self,
        shape: DenseShape,
        input: &Tensor<D>,
        weight: &Tensor<D>,
        output_gradient: &Tensor<D>,
        input_gradient: Option<&mut Tensor<D>>,
        weight_gradient: &mut Tensor<D>,
        bias_gradient: Option<&mut Tensor<D>>,
    ) -> Result<(), BackendError> {
        dense::backward(
            self,
            shape,
            input,
            weight,
            output_gradient,
            input_gradient,
            weight_gradient,
            bias_gradient,
        )
    }

    fn relu(&self, values: &mut Tensor<D>) -> Result<(), BackendError> {
        let count = values.count();
        self.each("relu", count, &[self.at(values).into(), long(count)])
    }

    fn relu_backward(
        &self,
        output: &Tensor<D>,
        gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let count = output.count();
        let arguments = [
            self.at(output).into(),
            self.pointer(gradient, count).into(),
            long(count),
        ];
        self.each("relu_backward", count, &arguments)
    }
}

impl<D: Device> Convolution for CudaBackend<D> {
    type ConvolutionWorkspace = ConvolutionSpace<D>;

    fn convolution_workspace(
        &self,
        shape: ConvolutionShape,
    ) -> Result<ConvolutionSpace<D>, BackendError> {
        convolution::space(self, shape)
    }

    fn convolution_forward(
        &self,
        shape: ConvolutionShape,
        input: &Tensor<D>,
        weight: &Tensor<D>,
        bias: Option<&Tensor<D>>,
        workspace: &mut ConvolutionSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        convolution::forward(self, shape, input, weight, bias, workspace, output)
    }

    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &Tensor<D>,
        weight: &Tensor<D>,
        output_gradient: &Tensor<D>,
        workspace: &mut ConvolutionSpace<D>,
        input_gradient: Option<&mut Tensor<D>>,
        weight_gradient: &mut Tensor<D>,
        bias_gradient: Option<&mut Tensor<D>>,
    ) -> Result<(), BackendError> {
        convolution::backward(
            self,
            shape,
            input,
            weight,
            output_gradient,
            workspace,
            input_gradient,
            weight_gradient,
            bias_gradient,
        )
    }
}

impl<D: Device> Pool for CudaBackend<D> {
    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Tensor<D>,
        argmax: &mut Symbols<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        pool::forward(self, shape, input, argmax, output)
    }

    fn max_pool_backward(
        &self,
        shape: PoolShape,
        argmax: &Symbols<D>,
        output_gradient: &Tensor<D>,
        input_gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        pool::backward(self, shape, argmax, output_gradient, input_gradient)
    }
}

impl<D: Device> Norm for CudaBackend<D> {
    type NormWorkspace = NormSpace<D>;

    fn norm_workspace(&self, shape: NormShape) -> Result<NormSpace<D>, BackendError> {
        norm::space(self, shape)
    }

    fn batch_norm_forward(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        scale: &Tensor<D>,
        shift: &Tensor<D>,
        workspace: &mut NormSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::forward(self, shape, input, scale, shift, workspace, output)
    }

    fn batch_norm_backward(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        scale: &Tensor<D>,
        workspace: &mut NormSpace<D>,
        gradient: &mut Tensor<D>,
        scale_gradient: &mut Tensor<D>,
        shift_gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::backward(
            self,
            shape,
            input,
            scale,
            workspace,
            gradient,
            scale_gradient,
            shift_gradient,
        )
    }

    fn update_running_stats(
        &self,
        shape: NormShape,
        momentum: f32,
        workspace: &NormSpace<D>,
        log: &Record<D>,
        mean: &mut Tensor<D>,
        variance: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::average(self, shape, momentum, workspace, log, mean, variance)
    }

    fn batch_norm_inference(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        scale: &Tensor<D>,
        shift: &Tensor<D>,
        mean: &Tensor<D>,
        variance: &Tensor<D>,
        workspace: &mut NormSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::evaluate(
            self, shape, input, scale, shift, mean, variance, workspace, output,
        )
    }
}

impl<D: Device> Losses for CudaBackend<D> {
    fn loss_and_gradient(
        &self,
        loss: Loss,
        targets: &Symbols<D>,
        outputs: &mut Tensor<D>,
        log: &mut Record<D>,
    ) -> Result<(), BackendError> {
        match loss {
            Loss::SquaredHinge => loss::squared_hinge(self, targets, outputs, log),
            Loss::CrossEntropy => loss::softmax_cross_entropy(self, targets, outputs, log),
        }
    }

    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Symbols<D>,
        outputs: &Tensor<D>,
        log: &mut Record<D>,
    ) -> Result<(), BackendError> {
        loss::evaluate_outputs(self, loss, rows, targets, outputs, log)
    }
}

impl<D: Device> Optimizer for CudaBackend<D> {
    type UpdateWorkspace = UpdateSpace<D>;

    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        workspace: &mut UpdateSpace<D>,
        log: &mut Record<D>,
    ) -> Result<(), BackendError> {
        update::check_gradients(self, jobs, workspace, log)
    }

    fn update(
        &self,
        adam: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        workspace: &mut UpdateSpace<D>,
        log: &Record<D>,
    ) -> Result<(), BackendError> {
        update::update(self, adam, jobs, workspace, log)
    }
}

impl<D: Device> Quantize for CudaBackend<D> {
    type Quantizer = Quantizer<D>;
    type QuantizeWorkspace = QuantizeSpace<D>;

    fn quantizer(
        &self,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<Quantizer<D>, BackendError> {
        Quantizer::new(&self.device, method, weights, groups)
    }

    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        workspace: &mut QuantizeSpace<D>,
        log: &mut Record<D>,
    ) -> Result<(), BackendError> {
        self.solve(jobs, workspace, log)
    }

    fn quantizer_backward(
        &self,
        latent: &Tensor<D>,
        quantizer: &mut Quantizer<D>,
        gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        self.gradient_of_latent(latent, quantizer, gradient)
    }

    fn quantizer_update(
        &self,
        adam: AdamSettings,
        log: &Record<D>,
        quantizer: &mut Quantizer<D>,
    ) -> Result<(), BackendError> {
        self.update_scales(adam, log, quantizer)
    }

    fn quantizer_reports(
        &self,
        quantizer: &Quantizer<D>,
    ) -> Result<Vec<GroupReport>, BackendError> {
        quantizer.reports(&self.device)
    }

    fn quantizer_save(&self, quantizer: &Quantizer<D>) -> Result<QuantizerSnapshot, BackendError> {
        quantizer.save(&self.device)
    }

    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut Quantizer<D>,
        quantized: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        if let Some(values) = quantizer.load(&self.device, snapshot)? {
            assert_eq!(values.len(), quantized.count());
            self.device
                .upload(bytes_of(&values), 0, &mut quantized.memory)?;
        }
        Ok(())
    }
}
