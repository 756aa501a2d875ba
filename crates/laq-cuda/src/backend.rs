//! Every operation of [`Backend`] as launches and products of a [`Device`].

use std::sync::{Mutex, PoisonError};

use laq_solvers::Method;
use laq_tensor::{
    AdamSettings, Backend, BackendError, ConvolutionShape, DenseShape, GroupReport, LstmGradients,
    LstmParameters, LstmShape, NormShape, PoolShape, QuantizeJob, QuantizerSnapshot, Recorded,
};
use ndarray::{ArrayD, ArrayViewD, IxDyn};

use crate::device::{Argument, Device, Launch, Operand, Pass, Product};
use crate::quantize::{QuantizeSpace, Quantizer};
use crate::record::RawRecord;

/// Computes on a [`Device`].
#[derive(Debug)]
pub struct CudaBackend<D: Device> {
    pub(crate) device: D,
    /// Room for what one operation leaves to the next launch of the same operation. What has become too small stays, for
    /// it may be in a recording.
    scratch: Mutex<Vec<(usize, D::Memory)>>,
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

/// Numbers of examples in the device's memory.
#[derive(Debug)]
pub struct Order<D: Device> {
    memory: D::Memory,
    count: usize,
}

impl<D: Device> Order<D> {
    /// The address of `count` numbers from number `first` on.
    fn part(&self, device: &D, first: usize, count: usize) -> u64 {
        assert!(first + count <= self.count);
        device.address(&self.memory) + 4 * first as u64
    }
}

/// What an LSTM keeps and works in.
#[derive(Debug)]
pub struct LstmSpace<D: Device> {
    shape: LstmShape,
    /// V × 4H: what each symbol adds to the gates.
    table: D::Memory,
    /// T·B × 4H: activations, and then gradients of pre-activations.
    gates: D::Memory,
    /// T·B × H.
    cells: D::Memory,
    /// B × H.
    carried: D::Memory,
    /// T·B × V.
    hot: D::Memory,
}

/// What a convolution is done by.
#[derive(Debug)]
pub enum ConvolutionSpace<D: Device> {
    /// A library.
    Library(D::Convolution),
    /// Products, with the neighbours of every pixel of the last forward pass.
    Products(D::Memory),
}

/// What a batch normalization keeps of a batch, and works in.
#[derive(Debug)]
pub struct NormSpace<D: Device> {
    /// N each, in f64.
    mean: D::Memory,
    variance: D::Memory,
    /// y = x · factor + offset, N each.
    factor: D::Memory,
    offset: D::Memory,
    /// ∂x = ∂y · factor + x · slope + base, N each.
    slope: D::Memory,
    base: D::Memory,
}

/// What steps leave behind.
#[derive(Debug)]
pub struct Record<D: Device> {
    memory: D::Memory,
    bytes: Vec<u8>,
}

/// A step that is noted once and then repeated.
#[derive(Debug)]
pub enum Recording<G> {
    /// Never done: the first time it is done as it is, so that libraries have made what they need.
    Fresh,
    /// Done once: the next time it is noted.
    Done,
    /// Noted.
    Noted(G),
}

/// Threads of a block, where nothing else decides.
pub(crate) const THREADS: u32 = 256;

/// Enough blocks to fill every GPU that there is; each thread then does several elements.
const MOST_BLOCKS: u64 = 4096;

/// Rows that one block adds up.
const ROWS_OF_A_CHUNK: usize = 256;

impl<D: Device> CudaBackend<D> {
    /// The backend on this device.
    pub fn new(device: D) -> Self {
        CudaBackend {
            device,
            scratch: Mutex::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        let launch = Launch {
            kernel,
            grid,
            block,
            arguments,
        };
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

    /// The address of room for so many f64, until the next call.
    fn scratch(&self, count: usize) -> Result<u64, BackendError> {
        let mut rooms = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.last().is_none_or(|(size, _)| *size < count) {
            rooms.push((count, self.device.allocate(8 * count)?));
        }
        let room = rooms.last().expect("there is one now");
        Ok(self.device.address(&room.1))
    }

    /// The sums of all rows of a matrix.
    fn sum_columns(
        &self,
        values: u64,
        rows: usize,
        columns: usize,
        sums: u64,
    ) -> Result<(), BackendError> {
        let chunk = chunk_of(rows);
        let chunks = rows.div_ceil(chunk);
        let partial = self.scratch(chunks * columns)?;
        self.launch(
            "column_sums",
            [columns.div_ceil(32) as u32, chunks as u32, 1],
            [32, 8, 1],
            &[
                values.into(),
                partial.into(),
                int(rows),
                int(columns),
                int(chunk),
            ],
        )?;
        let arguments = [partial.into(), int(chunks), int(columns), sums.into()];
        self.each("add_chunks", columns, &arguments)
    }

    /// Every row of the output becomes the bias.
    fn spread(
        &self,
        bias: u64,
        output: u64,
        rows: usize,
        columns: usize,
    ) -> Result<(), BackendError> {
        let count = rows * columns;
        let arguments = [bias.into(), output.into(), long(count), int(columns)];
        self.each("spread_bias", count, &arguments)
    }

    fn convolve(&self, convolution: &D::Convolution, pass: &Pass) -> Result<(), BackendError> {
        // SAFETY: as for `launch`.
        unsafe { self.device.convolve(convolution, pass) }
    }

    /// y ← x Wᵀ + b.
    fn affine(
        &self,
        shape: DenseShape,
        [input, weight, output]: [u64; 3],
        bias: Option<u64>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        if let Some(bias) = bias {
            self.spread(bias, output, rows, outputs)?;
        }
        self.multiply(Product {
            m: rows,
            n: outputs,
            k: inputs,
            a: plain(input),
            b: transposed(weight),
            c: output,
            add: bias.is_some(),
        })
    }

    /// ∂W ← ∂yᵀ x, and ∂b where there is a place for it.
    fn affine_gradients(
        &self,
        shape: DenseShape,
        [input, output_gradient, weight_gradient]: [u64; 3],
        bias_gradient: Option<u64>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        self.multiply(Product {
            m: outputs,
            n: inputs,
            k: rows,
            a: transposed(output_gradient),
            b: plain(input),
            c: weight_gradient,
            add: false,
        })?;
        match bias_gradient {
            Some(bias_gradient) => self.sum_columns(output_gradient, rows, outputs, bias_gradient),
            None => Ok(()),
        }
    }

    /// A loss and its gradient, and the loss into the record; `factor` of rows and classes makes a mean of the sum.
    fn loss(
        &self,
        kernel: &'static str,
        targets: &Symbols<D>,
        outputs: &mut Tensor<D>,
        record: &mut Record<D>,
        factor: impl Fn(usize, usize) -> f64,
    ) -> Result<(), BackendError> {
        let rows = targets.count;
        let classes = outputs.count() / rows;
        assert_eq!(rows * classes, outputs.count());
        let losses = self.scratch(rows)?;
        let warps = THREADS / 32;
        let blocks = (rows as u32).div_ceil(warps).min(MOST_BLOCKS as u32);
        self.launch(
            kernel,
            [blocks, 1, 1],
            [THREADS, 1, 1],
            &[
                self.symbols_at(targets, rows).into(),
                self.at(outputs).into(),
                losses.into(),
                int(rows),
                int(classes),
            ],
        )?;
        let arguments = [
            losses.into(),
            long(rows),
            factor(rows, classes).into(),
            self.record_at(record).into(),
        ];
        self.launch("push_loss", [1, 1, 1], [1024, 1, 1], &arguments)
    }

    fn norm_apply(
        &self,
        shape: NormShape,
        input: &Tensor<D>,
        space: &NormSpace<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let count = shape.rows * shape.channels;
        let arguments = [
            self.pointer(input, count).into(),
            self.device.address(&space.factor).into(),
            self.device.address(&space.offset).into(),
            self.pointer(output, count).into(),
            long(count),
            int(shape.channels),
            shape.relu.into(),
        ];
        self.each("norm_apply", count, &arguments)
    }
}

/// Rows of a chunk: so many that the chunks of a large batch still fill the device.
fn chunk_of(rows: usize) -> usize {
    rows.clamp(1, ROWS_OF_A_CHUNK)
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
    type Record = Record<D>;
    type Recording = Recording<D::Graph>;

    fn describe(&self) -> String {
        self.device.describe()
    }

    fn record(&self) -> Result<Record<D>, BackendError> {
        let mut memory = self.device.allocate(RawRecord::SIZE)?;
        let bytes = RawRecord::default().to_bytes();
        self.device.upload(&bytes, 0, &mut memory)?;
        Ok(Record { memory, bytes })
    }

    fn begin_step(&self, step_size: f64, record: &mut Record<D>) -> Result<(), BackendError> {
        let arguments = [self.record_at(record).into(), (step_size as f32).into()];
        self.launch("begin_step", [1, 1, 1], [1, 1, 1], &arguments)
    }

    fn read_record(
        &self,
        record: &mut Record<D>,
        losses: &mut Vec<f64>,
    ) -> Result<Recorded, BackendError> {
        self.device.download(&record.memory, &mut record.bytes)?;
        let raw = RawRecord::from_bytes(&record.bytes);
        let (recorded, found) = raw.recorded();
        losses.extend(found);
        let empty = RawRecord {
            step_size: raw.step_size,
            ..RawRecord::default()
        };
        self.device
            .upload(&empty.to_bytes()[..RawRecord::HEAD], 0, &mut record.memory)?;
        Ok(recorded)
    }

    fn start_clock(&self, record: &mut Record<D>) -> Result<(), BackendError> {
        let arguments = [self.record_at(record).into()];
        self.launch("start_clock", [1, 1, 1], [1, 1, 1], &arguments)
    }

    fn stop_clock(&self, record: &mut Record<D>) -> Result<(), BackendError> {
        let arguments = [self.record_at(record).into()];
        self.launch("stop_clock", [1, 1, 1], [1, 1, 1], &arguments)
    }

    fn recording(&self) -> Recording<D::Graph> {
        Recording::Fresh
    }

    fn run(
        &self,
        recording: &mut Recording<D::Graph>,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        match recording {
            Recording::Fresh => {
                body()?;
                *recording = Recording::Done;
                Ok(())
            }
            Recording::Done => {
                self.device.begin_graph()?;
                let noted = body();
                let mut graph = self.device.end_graph()?;
                noted?;
                // SAFETY: what was noted was asked for by `launch` and `multiply`, whose promises hold; that its operands
                // live is the caller's promise to `run`.
                unsafe { self.device.replay(&mut graph)? };
                *recording = Recording::Noted(graph);
                Ok(())
            }
            // SAFETY: as above.
            Recording::Noted(graph) => unsafe { self.device.replay(graph) },
        }
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
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();
        self.device.upload(&bytes, 0, &mut order.memory)
    }

    fn gather_images(
        &self,
        images: &Tensor<D>,
        labels: &Symbols<D>,
        order: &Order<D>,
        first: usize,
        pixels: &mut Tensor<D>,
        targets: &mut Symbols<D>,
    ) -> Result<(), BackendError> {
        let size = images.count() / labels.count;
        let (rows, count) = (targets.count, pixels.count());
        assert!(images.count() == size * labels.count && count == size * rows);
        let arguments = [
            self.at(images).into(),
            self.symbols_at(labels, labels.count).into(),
            order.part(&self.device, first, rows).into(),
            self.at(pixels).into(),
            self.symbols_at(targets, rows).into(),
            long(count),
            int(size),
        ];
        self.each("gather_images", count, &arguments)
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
        let count = inputs.count;
        assert!(count.is_multiple_of(batch));
        let arguments = [
            self.symbols_at(text, text.count).into(),
            order.part(&self.device, first, batch).into(),
            self.symbols_at(inputs, count).into(),
            self.symbols_at(targets, count).into(),
            int(count / batch),
            int(batch),
        ];
        self.each("gather_text", count, &arguments)
    }

    fn lstm_space(&self, shape: LstmShape) -> Result<LstmSpace<D>, BackendError> {
        let LstmShape {
            batch,
            symbols,
            hidden,
            ..
        } = shape;
        let rows = shape.rows();
        Ok(LstmSpace {
            shape,
            table: self.floats(symbols * 4 * hidden)?,
            gates: self.floats(rows * 4 * hidden)?,
            cells: self.floats(rows * hidden)?,
            carried: self.floats(batch * hidden)?,
            hot: self.floats(rows * symbols)?,
        })
    }

    fn lstm_forward(
        &self,
        input: &Symbols<D>,
        parameters: LstmParameters<'_, Tensor<D>>,
        space: &mut LstmSpace<D>,
        hidden_states: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            symbols,
            hidden,
        } = space.shape;
        let rows = space.shape.rows();
        let input = self.symbols_at(input, rows);
        let weight_ih = self.pointer(parameters.weight_ih, 4 * hidden * symbols);
        let weight_hh = self.pointer(parameters.weight_hh, 4 * hidden * hidden);
        let bias = self.pointer(parameters.bias, 4 * hidden);
        let states = self.pointer(hidden_states, rows * hidden);
        let [table, gates, cells] =
            [&space.table, &space.gates, &space.cells].map(|memory| self.device.address(memory));
        self.each(
            "lstm_table",
            symbols * 4 * hidden,
            &[
                weight_ih.into(),
                bias.into(),
                table.into(),
                int(symbols),
                int(4 * hidden),
            ],
        )?;
        for time in 0..length {
            let Step {
                gates,
                cell,
                state,
                before,
            } = Step::at(time, batch, hidden, [gates, cells, states]);
            if time > 0 {
                self.multiply(Product {
                    m: batch,
                    n: 4 * hidden,
                    k: hidden,
                    a: plain(before.state),
                    b: transposed(weight_hh),
                    c: gates,
                    add: false,
                })?;
            }
            self.each(
                "lstm_cell",
                batch * hidden,
                &[
                    (input + (time * batch) as u64).into(),
                    table.into(),
                    gates.into(),
                    before.cell.into(),
                    cell.into(),
                    state.into(),
                    int(batch),
                    int(hidden),
                    (time == 0).into(),
                ],
            )?;
        }
        Ok(())
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
        let LstmShape {
            length,
            batch,
            symbols,
            hidden,
        } = space.shape;
        let rows = space.shape.rows();
        let input = self.symbols_at(input, rows);
        let weight_hh = self.pointer(parameters.weight_hh, 4 * hidden * hidden);
        let states = self.pointer(hidden_states, rows * hidden);
        let state_gradients = self.pointer(hidden_gradient, rows * hidden);
        let [gates, cells, carried, hot] = [&space.gates, &space.cells, &space.carried, &space.hot]
            .map(|memory| self.device.address(memory));
        for time in (0..length).rev() {
            let step = Step::at(time, batch, hidden, [gates, cells, state_gradients]);
            if time + 1 < length {
                self.multiply(Product {
                    m: batch,
                    n: hidden,
                    k: 4 * hidden,
                    a: plain(step.gates + (batch * 4 * hidden * 4) as u64),
                    b: plain(weight_hh),
                    c: step.state,
                    add: true,
                })?;
            }
            self.each(
                "lstm_cell_backward",
                batch * hidden,
                &[
                    step.gates.into(),
                    step.before.cell.into(),
                    step.cell.into(),
                    step.state.into(),
                    carried.into(),
                    clip.into(),
                    int(batch),
                    int(hidden),
                    (time == 0).into(),
                    (time + 1 == length).into(),
                ],
            )?;
        }
        // ∂W_h = Σ_t (∂a_t)ᵀ h_{t−1}; h before the first step is zero.
        let weight_hh_gradient = self.pointer(gradients.weight_hh, 4 * hidden * hidden);
        let later = rows - batch;
        if later == 0 {
            let arguments = [
                weight_hh_gradient.into(),
                long(4 * hidden * hidden),
                0.0f32.into(),
            ];
            self.each("fill", 4 * hidden * hidden, &arguments)?;
        } else {
            self.multiply(Product {
                m: 4 * hidden,
                n: hidden,
                k: later,
                a: transposed(gates + (batch * 4 * hidden * 4) as u64),
                b: plain(states),
                c: weight_hh_gradient,
                add: false,
            })?;
        }
        let arguments = [input.into(), hot.into(), long(rows * symbols), int(symbols)];
        self.each("one_hot", rows * symbols, &arguments)?;
        self.multiply(Product {
            m: 4 * hidden,
            n: symbols,
            k: rows,
            a: transposed(gates),
            b: plain(hot),
            c: self.pointer(gradients.weight_ih, 4 * hidden * symbols),
            add: false,
        })?;
        let of_bias = self.pointer(gradients.bias, 4 * hidden);
        self.sum_columns(gates, rows, 4 * hidden, of_bias)
    }

    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &Tensor<D>,
        weight: &Tensor<D>,
        bias: Option<&Tensor<D>>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let operands = [
            self.pointer(input, rows * inputs),
            self.pointer(weight, outputs * inputs),
            self.pointer(output, rows * outputs),
        ];
        let bias = bias.map(|bias| self.pointer(bias, outputs));
        self.affine(shape, operands, bias)
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
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let from_above = self.pointer(output_gradient, rows * outputs);
        if let Some(input_gradient) = input_gradient {
            self.multiply(Product {
                m: rows,
                n: inputs,
                k: outputs,
                a: plain(from_above),
                b: plain(self.pointer(weight, outputs * inputs)),
                c: self.pointer(input_gradient, rows * inputs),
                add: false,
            })?;
        }
        let operands = [
            self.pointer(input, rows * inputs),
            from_above,
            self.pointer(weight_gradient, outputs * inputs),
        ];
        let bias_gradient = bias_gradient.map(|bias| self.pointer(bias, outputs));
        self.affine_gradients(shape, operands, bias_gradient)
    }

    fn convolution_space(
        &self,
        shape: ConvolutionShape,
    ) -> Result<ConvolutionSpace<D>, BackendError> {
        Ok(match self.device.convolution(shape)? {
            Some(convolution) => ConvolutionSpace::Library(convolution),
            None => ConvolutionSpace::Products(self.floats(shape.pixels() * shape.filter())?),
        })
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
        let ConvolutionShape {
            height,
            width,
            inputs,
            outputs,
            ..
        } = shape;
        let (pixels, filter) = (shape.pixels(), shape.filter());
        let input = self.pointer(input, pixels * inputs);
        let weight = self.pointer(weight, outputs * filter);
        let output = self.pointer(output, pixels * outputs);
        let bias = bias.map(|bias| self.pointer(bias, outputs));
        let columns = match space {
            ConvolutionSpace::Library(convolution) => {
                if let Some(bias) = bias {
                    self.spread(bias, output, pixels, outputs)?;
                }
                let pass = Pass::Output {
                    input,
                    weight,
                    output,
                    add: bias.is_some(),
                };
                return self.convolve(convolution, &pass);
            }
            ConvolutionSpace::Products(columns) => self.device.address(columns),
        };
        self.each(
            "neighbours",
            pixels * filter,
            &[
                input.into(),
                columns.into(),
                long(pixels * filter),
                int(height),
                int(width),
                int(inputs),
            ],
        )?;
        self.affine(as_dense(shape), [columns, weight, output], bias)
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
        let ConvolutionShape {
            height,
            width,
            inputs,
            outputs,
            ..
        } = shape;
        let (pixels, filter) = (shape.pixels(), shape.filter());
        let from_above = self.pointer(output_gradient, pixels * outputs);
        let weight = self.pointer(weight, outputs * filter);
        let weight_gradient = self.pointer(weight_gradient, outputs * filter);
        let input_gradient = input_gradient.map(|gradient| self.pointer(gradient, pixels * inputs));
        let bias_gradient = bias_gradient.map(|bias| self.pointer(bias, outputs));
        let columns = match space {
            ConvolutionSpace::Library(convolution) => {
                let pass = Pass::Weight {
                    input: self.pointer(input, pixels * inputs),
                    output_gradient: from_above,
                    weight_gradient,
                };
                self.convolve(convolution, &pass)?;
                if let Some(bias_gradient) = bias_gradient {
                    self.sum_columns(from_above, pixels, outputs, bias_gradient)?;
                }
                let Some(input_gradient) = input_gradient else {
                    return Ok(());
                };
                let pass = Pass::Input {
                    output_gradient: from_above,
                    weight,
                    input_gradient,
                };
                return self.convolve(convolution, &pass);
            }
            ConvolutionSpace::Products(columns) => self.device.address(columns),
        };
        let operands = [columns, from_above, weight_gradient];
        self.affine_gradients(as_dense(shape), operands, bias_gradient)?;
        let Some(input_gradient) = input_gradient else {
            return Ok(());
        };
        // The neighbours have done their work; their gradients take their place.
        self.multiply(Product {
            m: pixels,
            n: filter,
            k: outputs,
            a: plain(from_above),
            b: plain(weight),
            c: columns,
            add: false,
        })?;
        self.each(
            "from_neighbours",
            pixels * inputs,
            &[
                columns.into(),
                input_gradient.into(),
                long(pixels * inputs),
                int(height),
                int(width),
                int(inputs),
            ],
        )
    }

    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Tensor<D>,
        places: &mut Symbols<D>,
        output: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        let outputs = shape.outputs();
        self.each(
            "max_pool",
            outputs,
            &[
                self.pointer(input, batch * height * width * channels)
                    .into(),
                self.symbols_at(places, outputs).into(),
                self.pointer(output, outputs).into(),
                long(outputs),
                int(height),
                int(width),
                int(channels),
            ],
        )
    }

    fn max_pool_backward(
        &self,
        shape: PoolShape,
        places: &Symbols<D>,
        output_gradient: &Tensor<D>,
        input_gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        let (inputs, outputs) = (batch * height * width * channels, shape.outputs());
        self.each(
            "max_pool_backward",
            inputs,
            &[
                self.symbols_at(places, outputs).into(),
                self.pointer(output_gradient, outputs).into(),
                self.pointer(input_gradient, inputs).into(),
                long(inputs),
                int(height),
                int(width),
                int(channels),
            ],
        )
    }

    fn norm_space(&self, shape: NormShape) -> Result<NormSpace<D>, BackendError> {
        let channels = shape.channels;
        Ok(NormSpace {
            mean: self.doubles(channels)?,
            variance: self.doubles(channels)?,
            factor: self.floats(channels)?,
            offset: self.floats(channels)?,
            slope: self.floats(channels)?,
            base: self.floats(channels)?,
        })
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
        let NormShape { rows, channels, .. } = shape;
        let chunk = chunk_of(rows);
        let chunks = rows.div_ceil(chunk);
        let partial = self.scratch(chunks * 2 * channels)?;
        self.launch(
            "norm_moments",
            [channels.div_ceil(32) as u32, chunks as u32, 1],
            [32, 8, 1],
            &[
                self.pointer(input, rows * channels).into(),
                partial.into(),
                int(rows),
                int(channels),
                int(chunk),
            ],
        )?;
        self.each(
            "norm_factors",
            channels,
            &[
                partial.into(),
                int(chunks),
                self.pointer(scale, channels).into(),
                self.pointer(shift, channels).into(),
                self.device.address(&space.mean).into(),
                self.device.address(&space.variance).into(),
                self.device.address(&space.factor).into(),
                self.device.address(&space.offset).into(),
                int(rows),
                int(channels),
                shape.epsilon.into(),
            ],
        )?;
        self.norm_apply(shape, input, space, output)
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
        let NormShape { rows, channels, .. } = shape;
        let count = rows * channels;
        let chunk = chunk_of(rows);
        let chunks = rows.div_ceil(chunk);
        let partial = self.scratch(chunks * 2 * channels)?;
        let [mean, variance, factor, offset, slope, base] = [
            &space.mean,
            &space.variance,
            &space.factor,
            &space.offset,
            &space.slope,
            &space.base,
        ]
        .map(|memory| self.device.address(memory));
        let (input, gradient) = (self.pointer(input, count), self.pointer(gradient, count));
        self.launch(
            "norm_products",
            [channels.div_ceil(32) as u32, chunks as u32, 1],
            [32, 8, 1],
            &[
                input.into(),
                gradient.into(),
                factor.into(),
                offset.into(),
                partial.into(),
                int(rows),
                int(channels),
                int(chunk),
                shape.relu.into(),
            ],
        )?;
        self.each(
            "norm_slopes",
            channels,
            &[
                partial.into(),
                int(chunks),
                self.pointer(scale, channels).into(),
                mean.into(),
                variance.into(),
                self.pointer(scale_gradient, channels).into(),
                self.pointer(shift_gradient, channels).into(),
                slope.into(),
                base.into(),
                int(rows),
                int(channels),
                shape.epsilon.into(),
            ],
        )?;
        self.each(
            "norm_through",
            count,
            &[
                input.into(),
                factor.into(),
                offset.into(),
                slope.into(),
                base.into(),
                gradient.into(),
                long(count),
                int(channels),
                shape.relu.into(),
            ],
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
        let NormShape { rows, channels, .. } = shape;
        self.each(
            "norm_average",
            channels,
            &[
                self.record_at(record).into(),
                self.device.address(&space.mean).into(),
                self.device.address(&space.variance).into(),
                self.pointer(mean, channels).into(),
                self.pointer(variance, channels).into(),
                int(rows),
                int(channels),
                factor.into(),
            ],
        )
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
        let channels = shape.channels;
        self.each(
            "norm_running_factors",
            channels,
            &[
                self.pointer(mean, channels).into(),
                self.pointer(variance, channels).into(),
                self.pointer(scale, channels).into(),
                self.pointer(shift, channels).into(),
                self.device.address(&space.factor).into(),
                self.device.address(&space.offset).into(),
                int(channels),
                shape.epsilon.into(),
            ],
        )?;
        self.norm_apply(shape, input, space, output)
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
        let mean = |rows: usize, _: usize| 1.0 / rows as f64;
        self.loss("softmax_cross_entropy", targets, logits, record, mean)
    }

    fn squared_hinge(
        &self,
        targets: &Symbols<D>,
        outputs: &mut Tensor<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        let mean = |rows: usize, classes: usize| 1.0 / (rows as f64 * classes as f64);
        self.loss("squared_hinge", targets, outputs, record, mean)
    }

    fn check_gradient(
        &self,
        gradient: &Tensor<D>,
        parameter: usize,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        let count = gradient.count();
        let arguments = [
            self.at(gradient).into(),
            long(count),
            int(parameter),
            self.record_at(record).into(),
        ];
        self.each("check_gradient", count, &arguments)
    }

    fn adam(
        &self,
        adam: AdamSettings,
        clip: Option<f32>,
        record: &Record<D>,
        gradient: &Tensor<D>,
        weight: &mut Tensor<D>,
        first_moment: &mut Tensor<D>,
        second_moment: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let count = gradient.count();
        let [beta1, rest1, beta2, rest2, epsilon] = rates(adam);
        let arguments = [
            self.record_at(record).into(),
            self.at(gradient).into(),
            self.pointer(weight, count).into(),
            self.pointer(first_moment, count).into(),
            self.pointer(second_moment, count).into(),
            long(count),
            beta1,
            rest1,
            beta2,
            rest2,
            epsilon,
            clip.unwrap_or(f32::INFINITY).into(),
        ];
        self.each("adam", count, &arguments)
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

/// β₁, 1 − β₁, β₂, 1 − β₂ and ε, rounded as the CPU backend rounds them.
pub(crate) fn rates(adam: AdamSettings) -> [Argument; 5] {
    [
        adam.beta1,
        1.0 - adam.beta1,
        adam.beta2,
        1.0 - adam.beta2,
        adam.epsilon,
    ]
    .map(|rate| (rate as f32).into())
}

/// The product that a convolution of its neighbours is.
fn as_dense(shape: ConvolutionShape) -> DenseShape {
    DenseShape {
        rows: shape.pixels(),
        inputs: shape.filter(),
        outputs: shape.outputs,
    }
}

/// Where the numbers of one time step are.
struct Step {
    gates: u64,
    cell: u64,
    state: u64,
    before: Before,
}

/// Where those of the step before are; at the first step nobody looks there.
struct Before {
    cell: u64,
    state: u64,
}

impl Step {
    fn at(time: usize, batch: usize, hidden: usize, [gates, cells, states]: [u64; 3]) -> Self {
        let bytes = |time: usize, numbers: usize| (time * batch * numbers * 4) as u64;
        let earlier = time.saturating_sub(1);
        Step {
            gates: gates + bytes(time, 4 * hidden),
            cell: cells + bytes(time, hidden),
            state: states + bytes(time, hidden),
            before: Before {
                cell: cells + bytes(earlier, hidden),
                state: states + bytes(earlier, hidden),
            },
        }
    }
}
