//! Every operation of [`Backend`] as launches and products of a [`Device`].
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

use std::sync::{Mutex, PoisonError};

use laq_solvers::Method;
use laq_tensor::{
    AdamSettings, Backend, BackendError, ConvolutionShape, DenseShape, GroupReport, Loss,
    LstmGradients, LstmParameters, LstmShape, NormShape, PoolShape, QuantizeJob, QuantizerSnapshot,
    Recorded, UpdateJob,
};
use ndarray::{ArrayD, ArrayViewD, IxDyn};

pub use batch::Order;
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

/// Numbers in the device's memory, dense and row-major.
#[derive(Debug)]
pub struct Tensor<D: Device> {
    memory: D::Memory,
    shape: Vec<usize>,
}

impl<D: Device> Tensor<D> {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Indices in the device's memory.
#[derive(Debug)]
pub struct Symbols<D: Device> {
    memory: D::Memory,
    count: usize,
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

    /// Something for [`Backend::notes`].
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
    // SAFETY: an f32 is four bytes, none of them padding, and any byte is a u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn floats_of(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| f32::from_ne_bytes(*word)).collect()
}

impl<D: Device> Backend for CudaBackend<D> {
    type Tensor = Tensor<D>;
    type Symbols = Symbols<D>;
    type Order = Order<D>;
    type LstmSpace = LstmSpace<D>;
    type ConvolutionSpace = ConvolutionSpace<D>;
    type NormSpace = NormSpace<D>;
    type Quantizer = Quantizer<D>;
    type QuantizeSpace = QuantizeSpace<D>;
    type UpdateSpace = UpdateSpace<D>;
    type Record = Record<D>;
    type Recording = Recording<D::Graph>;

    fn describe(&self) -> String {
        let device = self.device.describe();
        match self.settings.sequences {
            true => format!("{device}, recurrences in one kernel where they fit"),
            false => device,
        }
    }

    fn notes(&self) -> Vec<String> {
        let own = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        [self.device.notes(), own.clone()].concat()
    }

    fn record(&self) -> Result<Record<D>, BackendError> {
        step::record(self)
    }

    fn begin_step(&self, step_size: f64, record: &mut Record<D>) -> Result<(), BackendError> {
        step::begin_step(self, step_size, record)
    }

    fn read_record(
        &self,
        record: &mut Record<D>,
        losses: &mut Vec<f64>,
    ) -> Result<Recorded, BackendError> {
        step::read_record(self, record, losses)
    }

    fn start_clock(&self, record: &mut Record<D>) -> Result<(), BackendError> {
        step::start_clock(self, record)
    }

    fn stop_clock(&self, record: &mut Record<D>) -> Result<(), BackendError> {
        step::stop_clock(self, record)
    }

    fn recording(&self) -> Recording<D::Graph> {
        Recording::Fresh
    }

    fn run(
        &self,
        recording: &mut Recording<D::Graph>,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        step::run(self, recording, body)
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor<D>, BackendError> {
        let count = shape.iter().product();
        Ok(Tensor {
            memory: self.floats(count)?,
            shape: shape.to_vec(),
        })
    }

    fn write(
        &self,
        values: ArrayViewD<'_, f32>,
        tensor: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        assert_eq!(tensor.count(), values.len());
        match values.as_slice() {
            Some(values) => self.device.upload(bytes_of(values), 0, &mut tensor.memory),
            None => {
                let values: Vec<f32> = values.iter().copied().collect();
                self.device.upload(bytes_of(&values), 0, &mut tensor.memory)
            }
        }
    }

    fn read(&self, tensor: &Tensor<D>) -> Result<ArrayD<f32>, BackendError> {
        let mut bytes = vec![0; 4 * tensor.count()];
        self.device.download(&tensor.memory, &mut bytes)?;
        let values = floats_of(&bytes);
        Ok(
            ArrayD::from_shape_vec(IxDyn(&tensor.shape), values)
                .expect("as many as the shape says"),
        )
    }

    fn symbols(&self, count: usize) -> Result<Symbols<D>, BackendError> {
        Ok(Symbols {
            memory: self.device.allocate(count)?,
            count,
        })
    }

    fn write_symbols(&self, values: &[u8], symbols: &mut Symbols<D>) -> Result<(), BackendError> {
        assert_eq!(symbols.count, values.len());
        self.device.upload(values, 0, &mut symbols.memory)
    }

    fn write_part(
        &self,
        values: &[f32],
        offset: usize,
        tensor: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        assert!(offset + values.len() <= tensor.count());
        let bytes = bytes_of(values);
        self.device.upload(bytes, 4 * offset, &mut tensor.memory)
    }

    fn order(&self, count: usize) -> Result<Order<D>, BackendError> {
        Ok(Order {
            memory: self.device.allocate(4 * count)?,
            count,
        })
    }

    fn write_order(&self, values: &[u32], order: &mut Order<D>) -> Result<(), BackendError> {
        assert_eq!(order.count, values.len());
        self.device.upload(&words(values), 0, &mut order.memory)
    }

    fn gather_images(
        &self,
        images: &Tensor<D>,
        labels: &Symbols<D>,
        order: &Order<D>,
        first: usize,
        rows: usize,
        pixels: &mut Tensor<D>,
        targets: &mut Symbols<D>,
    ) -> Result<(), BackendError> {
        batch::images(self, images, labels, order, first, rows, pixels, targets)
    }

    fn gather_text(
        &self,
        text: &Symbols<D>,
        order: &Order<D>,
        first: usize,
        batch: usize,
        inputs: &mut Symbols<D>,
        targets: &mut Symbols<D>,
    ) -> Result<(), BackendError> {
        batch::text(self, text, order, first, batch, inputs, targets)
    }

    fn lstm_space(&self, shape: LstmShape) -> Result<LstmSpace<D>, BackendError> {
        lstm::space(self, shape)
    }

    fn lstm_forward(
        &self,
        input: &Symbols<D>,
        parameters: LstmParameters<'_, Tensor<D>>,
        space: &mut LstmSpace<D>,
        hidden_states: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        lstm::forward(self, input, parameters, space, hidden_states)
    }

    fn lstm_backward(
        &self,
        input: &Symbols<D>,
        parameters: LstmParameters<'_, Tensor<D>>,
        hidden_states: &Tensor<D>,
        hidden_gradient: &mut Tensor<D>,
        clip: f32,
        space: &mut LstmSpace<D>,
        gradients: LstmGradients<'_, Tensor<D>>,
    ) -> Result<(), BackendError> {
        lstm::backward(
            self,
            input,
            parameters,
            hidden_states,
            hidden_gradient,
            clip,
            space,
            gradients,
        )
    }

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

    fn convolution_space(
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
        space: &mut ConvolutionSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        convolution::forward(self, shape, input, weight, bias, space, output)
    }

    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &Tensor<D>,
        weight: &Tensor<D>,
        output_gradient: &Tensor<D>,
        space: &mut ConvolutionSpace<D>,
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
            space,
            input_gradient,
            weight_gradient,
            bias_gradient,
        )
    }

    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Tensor<D>,
        places: &mut Symbols<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        pool::forward(self, shape, input, places, output)
    }

    fn max_pool_backward(
        &self,
        shape: PoolShape,
        places: &Symbols<D>,
        output_gradient: &Tensor<D>,
        input_gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        pool::backward(self, shape, places, output_gradient, input_gradient)
    }

    fn norm_space(&self, shape: NormShape) -> Result<NormSpace<D>, BackendError> {
        norm::space(self, shape)
    }

    fn norm_forward(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        scale: &Tensor<D>,
        shift: &Tensor<D>,
        space: &mut NormSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::forward(self, shape, input, scale, shift, space, output)
    }

    fn norm_backward(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        scale: &Tensor<D>,
        space: &mut NormSpace<D>,
        gradient: &mut Tensor<D>,
        scale_gradient: &mut Tensor<D>,
        shift_gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::backward(
            self,
            shape,
            input,
            scale,
            space,
            gradient,
            scale_gradient,
            shift_gradient,
        )
    }

    fn norm_average(
        &self,
        shape: NormShape,
        factor: f32,
        space: &NormSpace<D>,
        record: &Record<D>,
        mean: &mut Tensor<D>,
        variance: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::average(self, shape, factor, space, record, mean, variance)
    }

    fn norm_evaluate(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        scale: &Tensor<D>,
        shift: &Tensor<D>,
        mean: &Tensor<D>,
        variance: &Tensor<D>,
        space: &mut NormSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        norm::evaluate(
            self, shape, input, scale, shift, mean, variance, space, output,
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

    fn softmax_cross_entropy(
        &self,
        targets: &Symbols<D>,
        logits: &mut Tensor<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        loss::softmax_cross_entropy(self, targets, logits, record)
    }

    fn squared_hinge(
        &self,
        targets: &Symbols<D>,
        outputs: &mut Tensor<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        loss::squared_hinge(self, targets, outputs, record)
    }

    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Symbols<D>,
        outputs: &Tensor<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        loss::evaluate_outputs(self, loss, rows, targets, outputs, record)
    }

    fn update_space(&self) -> Result<UpdateSpace<D>, BackendError> {
        Ok(UpdateSpace::default())
    }

    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        space: &mut UpdateSpace<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        update::check_gradients(self, jobs, space, record)
    }

    fn update(
        &self,
        adam: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        space: &mut UpdateSpace<D>,
        record: &Record<D>,
    ) -> Result<(), BackendError> {
        update::update(self, adam, jobs, space, record)
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

    fn quantizer(
        &self,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<Quantizer<D>, BackendError> {
        Quantizer::new(&self.device, method, weights, groups)
    }

    fn quantize_space(&self) -> Result<QuantizeSpace<D>, BackendError> {
        Ok(QuantizeSpace::default())
    }

    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        space: &mut QuantizeSpace<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        self.solve(jobs, space, record)
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
        record: &Record<D>,
        quantizer: &mut Quantizer<D>,
    ) -> Result<(), BackendError> {
        self.update_scales(adam, record, quantizer)
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
