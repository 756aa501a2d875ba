//! The emulator as a device, with products in f64.

use std::ffi::c_void;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use laq_cuda::{Device, Launch, Operand, Pass, Product, Settings};
use laq_tensor::{BackendError, ConvolutionShape, reference};

use super::Emulator;

/// A captured call.
#[derive(Clone, Debug)]
enum Captured {
    Launch {
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: Vec<[u8; 8]>,
        cooperative: bool,
    },
    Product(Product),
    Convolution(ConvolutionShape, Pass),
}

/// Captured calls.
#[derive(Debug)]
pub(crate) struct Graph(Vec<Captured>);

/// Memory aligned for f64. Kernels write to it through shared references, hence the atomics.
#[derive(Debug)]
pub(crate) struct Memory {
    words: Vec<AtomicU64>,
    bytes: usize,
    _allocation: Arc<()>,
}

/// Where a capture fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CaptureFailure {
    Begin,
    Product,
    End,
}

#[derive(Debug)]
pub(crate) struct Emulated {
    emulator: &'static Emulator,
    capture: Mutex<Option<Vec<Captured>>>,
    /// Whether blocks and threads are scheduled from the last to the first.
    reversed: bool,
    /// Whether it has a library of convolutions.
    has_convolutions: bool,
    /// Where captures fail, if they do.
    capture_failure: Option<CaptureFailure>,
    max_cooperative_blocks: usize,
    /// Bytes that may still be allocated, and launches until the device is lost.
    left: Mutex<(usize, u64)>,
    /// One owner more than there are allocations.
    allocations: Arc<()>,
}

impl Emulated {
    pub(crate) fn new(emulator: &'static Emulator) -> Self {
        Emulated {
            emulator,
            capture: Mutex::default(),
            reversed: false,
            has_convolutions: false,
            capture_failure: None,
            max_cooperative_blocks: 0,
            left: Mutex::new((usize::MAX, u64::MAX)),
            allocations: Arc::default(),
        }
    }

    /// The same with a reversed schedule.
    pub(crate) fn reversed(self) -> Self {
        Emulated {
            reversed: true,
            ..self
        }
    }

    /// With a library of convolutions.
    pub(crate) fn with_convolutions(emulator: &'static Emulator) -> Self {
        Emulated {
            has_convolutions: true,
            ..Self::new(emulator)
        }
    }

    /// With cooperative launches, which compute LSTMs in one kernel.
    pub(crate) fn cooperative(emulator: &'static Emulator, blocks: usize) -> Self {
        Emulated {
            max_cooperative_blocks: blocks,
            ..Self::new(emulator)
        }
    }

    /// With captures that fail.
    pub(crate) fn without_graphs(emulator: &'static Emulator, failure: CaptureFailure) -> Self {
        Emulated {
            capture_failure: Some(failure),
            ..Self::new(emulator)
        }
    }

    /// With `bytes` of memory, and lost after `launches` launches.
    pub(crate) fn limited(emulator: &'static Emulator, bytes: usize, launches: u64) -> Self {
        Emulated {
            left: Mutex::new((bytes, launches)),
            ..Self::new(emulator)
        }
    }

    /// The number of allocations that exist.
    pub(crate) fn allocations(&self) -> usize {
        Arc::strong_count(&self.allocations) - 1
    }

    /// Fails once the device is lost.
    fn count_launches(&self, launches: u64) -> Result<(), BackendError> {
        let left = &mut self.left.lock().unwrap().1;
        match left.checked_sub(launches) {
            Some(fewer) if fewer > 0 => {
                *left = fewer;
                Ok(())
            }
            _ => {
                *left = 0;
                Err(BackendError::Device {
                    device: self.name(),
                    what: "lost".to_owned(),
                })
            }
        }
    }

    fn check_capture(&self, at: CaptureFailure) -> Result<(), BackendError> {
        match self.capture_failure == Some(at) {
            false => Ok(()),
            true => Err(BackendError::Device {
                device: self.name(),
                what: "cannot capture".to_owned(),
            }),
        }
    }

    /// Whether the call was captured and so must not be executed.
    fn captured(&self, call: impl FnOnce() -> Captured) -> bool {
        match self.capture.lock().unwrap().as_mut() {
            Some(calls) => {
                calls.push(call());
                true
            }
            None => false,
        }
    }

    fn execute(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        cooperative: bool,
        arguments: &mut [[u8; 8]],
    ) {
        let mut pointers: Vec<*mut c_void> = (arguments.iter_mut())
            .map(|argument| argument.as_mut_ptr().cast())
            .collect();
        self.emulator.launch(
            kernel,
            grid,
            block,
            self.reversed,
            cooperative,
            &mut pointers,
        );
    }
}

/// Element (`r`, `c`) of an operand of `rows` × `columns`.
unsafe fn element(operand: Operand, rows: usize, columns: usize, r: usize, c: usize) -> f64 {
    let index = if operand.transposed {
        c * rows + r
    } else {
        r * columns + c
    };
    // SAFETY: the caller guarantees the size of the operand.
    f64::from(unsafe { *(operand.address as *const f32).add(index) })
}

unsafe fn multiplied(product: &Product) {
    let Product {
        m,
        n,
        k,
        a,
        b,
        c,
        add,
    } = *product;
    for row in 0..m {
        for column in 0..n {
            // SAFETY: the caller guarantees the sizes of the operands.
            unsafe {
                let element_at = (c as *mut f32).add(row * n + column);
                let mut sum = if add { f64::from(*element_at) } else { 0.0 };
                for inner in 0..k {
                    sum += element(a, m, k, row, inner) * element(b, k, n, inner, column);
                }
                *element_at = sum as f32;
            }
        }
    }
}

/// A pass of a convolution by the reference implementation.
unsafe fn convolved(shape: ConvolutionShape, pass: &Pass) {
    let (pixels, filter) = (shape.pixels(), shape.filter());
    let (inputs, weights) = (pixels * shape.in_channels, shape.out_channels * filter);
    let outputs = pixels * shape.out_channels;
    let read = |address: u64, count: usize| -> Vec<f64> {
        // SAFETY: the caller guarantees the sizes of the operands.
        let values = unsafe { std::slice::from_raw_parts(address as *const f32, count) };
        values.iter().map(|&value| f64::from(value)).collect()
    };
    let write = |address: u64, values: &[f64]| {
        for (index, &value) in values.iter().enumerate() {
            // SAFETY: as above.
            unsafe { *(address as *mut f32).add(index) = value as f32 };
        }
    };
    match *pass {
        Pass::Output {
            input,
            weight,
            output,
            add,
        } => {
            let none = vec![0.0; shape.out_channels];
            let (x, w) = (read(input, inputs), read(weight, weights));
            let mut y = reference::convolution_forward(shape, &x, &w, &none);
            if add {
                let before = read(output, outputs);
                y.iter_mut()
                    .zip(before)
                    .for_each(|(y, before)| *y += before);
            }
            write(output, &y);
        }
        Pass::Input {
            output_gradient,
            weight,
            input_gradient,
        } => {
            let (x, w) = (vec![0.0; inputs], read(weight, weights));
            let dy = read(output_gradient, outputs);
            let [dx, _, _] = reference::convolution_backward(shape, &x, &w, &dy);
            write(input_gradient, &dx);
        }
        Pass::Weight {
            input,
            output_gradient,
            weight_gradient,
        } => {
            let (x, w) = (read(input, inputs), vec![0.0; weights]);
            let dy = read(output_gradient, outputs);
            let [_, dw, _] = reference::convolution_backward(shape, &x, &w, &dy);
            write(weight_gradient, &dw);
        }
    }
}

impl Device for Emulated {
    type Memory = Memory;
    type Convolution = ConvolutionShape;
    type Graph = Graph;

    fn name(&self) -> String {
        "emulator".to_owned()
    }

    fn settings(&self) -> Settings {
        Settings {
            sequences: self.max_cooperative_blocks > 0,
            ..Settings::default()
        }
    }

    fn max_cooperative_blocks(&self) -> usize {
        self.max_cooperative_blocks
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, BackendError> {
        assert!(
            self.capture.lock().unwrap().is_none(),
            "allocation in a capture"
        );
        self.count_launches(0)?;
        let left = &mut self.left.lock().unwrap().0;
        let Some(rest) = left.checked_sub(bytes) else {
            return Err(BackendError::DeviceMemory {
                device: self.name(),
                requested: bytes as u64,
                free: *left as u64,
                total: *left as u64,
            });
        };
        *left = rest;
        let words = (0..bytes.div_ceil(8).max(1))
            .map(|_| AtomicU64::new(0))
            .collect();
        Ok(Memory {
            words,
            bytes,
            _allocation: self.allocations.clone(),
        })
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.words.as_ptr() as u64
    }

    fn upload(&self, bytes: &[u8], offset: usize, memory: &Memory) -> Result<(), BackendError> {
        assert!(self.capture.lock().unwrap().is_none(), "copy in a capture");
        assert!(offset + bytes.len() <= memory.bytes);
        let start = memory.words.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: the memory is large enough.
        unsafe {
            (start.add(offset)).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        };
        Ok(())
    }

    fn download(&self, memory: &Memory, bytes: &mut [u8]) -> Result<(), BackendError> {
        assert!(self.capture.lock().unwrap().is_none(), "copy in a capture");
        assert!(bytes.len() <= memory.bytes);
        self.count_launches(0)?;
        let start = memory.words.as_ptr().cast::<u8>();
        // SAFETY: the memory is large enough.
        unsafe { start.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError> {
        let Launch {
            kernel,
            grid,
            block,
            cooperative,
            ..
        } = *launch;
        let blocks = grid.iter().product::<u32>() as usize;
        assert!(!cooperative || blocks <= self.max_cooperative_blocks);
        self.count_launches(1)?;
        let mut arguments: Vec<_> = launch.arguments.iter().map(|argument| argument.0).collect();
        let copy = arguments.clone();
        let captured = self.captured(|| Captured::Launch {
            kernel,
            grid,
            block,
            arguments: copy,
            cooperative,
        });
        if !captured {
            self.execute(kernel, grid, block, cooperative, &mut arguments);
        }
        Ok(())
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), BackendError> {
        if self.capture.lock().unwrap().is_some() {
            self.check_capture(CaptureFailure::Product)?;
        }
        if !self.captured(|| Captured::Product(*product)) {
            // SAFETY: the caller guarantees the operands.
            unsafe { multiplied(product) };
        }
        Ok(())
    }

    fn convolution(
        &self,
        shape: ConvolutionShape,
    ) -> Result<Option<ConvolutionShape>, BackendError> {
        Ok(self.has_convolutions.then_some(shape))
    }

    unsafe fn convolve(&self, shape: &ConvolutionShape, pass: &Pass) -> Result<(), BackendError> {
        self.count_launches(1)?;
        if !self.captured(|| Captured::Convolution(*shape, *pass)) {
            // SAFETY: the caller guarantees the operands.
            unsafe { convolved(*shape, pass) };
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), BackendError> {
        self.check_capture(CaptureFailure::Begin)?;
        let before = self.capture.lock().unwrap().replace(Vec::new());
        assert!(before.is_none(), "one capture at a time");
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, BackendError> {
        let calls = self.capture.lock().unwrap().take().expect("a capture");
        self.check_capture(CaptureFailure::End)?;
        Ok(Graph(calls))
    }

    unsafe fn replay(&self, graph: &mut Graph) -> Result<(), BackendError> {
        self.count_launches(graph.0.len() as u64)?;
        for call in &mut graph.0 {
            match call {
                Captured::Launch {
                    kernel,
                    grid,
                    block,
                    arguments,
                    cooperative,
                } => self.execute(kernel, *grid, *block, *cooperative, arguments),
                // SAFETY: the caller guarantees the operands.
                Captured::Product(product) => unsafe { multiplied(product) },
                // SAFETY: the caller guarantees the operands.
                Captured::Convolution(shape, pass) => unsafe { convolved(*shape, pass) },
            }
        }
        Ok(())
    }
}
