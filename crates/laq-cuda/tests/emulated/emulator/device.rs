//! The emulator as a device, with products in f64.

use std::ffi::c_void;
use std::sync::Mutex;

use laq_cuda::{Device, Launch, Operand, Pass, Product, Settings};
use laq_tensor::{BackendError, ConvolutionShape, reference};

use super::Emulator;

/// Something to do again.
#[derive(Clone, Debug)]
enum Noted {
    Launch {
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: Vec<[u8; 8]>,
        together: bool,
    },
    Product(Product),
    Convolution(ConvolutionShape, Pass),
}

/// What a graph is made of.
#[derive(Debug)]
pub(crate) struct Graph(Vec<Noted>);

/// Memory that is aligned as that of a GPU is, for f64 at least.
#[derive(Debug)]
pub(crate) struct Memory {
    words: Vec<u64>,
    bytes: usize,
}

/// Where a device does not let itself be recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum NoGraphs {
    AtTheBeginning,
    Within,
    AtTheEnd,
}

#[derive(Debug)]
pub(crate) struct Emulated {
    emulator: &'static Emulator,
    noted: Mutex<Option<Vec<Noted>>>,
    /// Whether threads take their turns from the last to the first.
    backwards: bool,
    /// Whether it has a library of convolutions.
    has_convolutions: bool,
    /// Where noting what it is asked for fails, if it does.
    no_graphs: Option<NoGraphs>,
    /// Blocks that can wait for each other.
    blocks_together: usize,
    /// Bytes that may still be allocated, and launches after which the device has gone.
    left: Mutex<(usize, u64)>,
}

impl Emulated {
    pub(crate) fn new(emulator: &'static Emulator) -> Self {
        Emulated {
            emulator,
            noted: Mutex::default(),
            backwards: false,
            has_convolutions: false,
            no_graphs: None,
            blocks_together: 0,
            left: Mutex::new((usize::MAX, u64::MAX)),
        }
    }

    /// One that has all that a device can have, and whose threads take their turns from the last to the first.
    pub(crate) fn turned_round(self) -> Self {
        Emulated {
            backwards: true,
            ..self
        }
    }

    /// One whose threads take their turns from the last to the first.
    pub(crate) fn backwards(emulator: &'static Emulator) -> Self {
        Emulated {
            backwards: true,
            ..Self::new(emulator)
        }
    }

    /// One that has a library of convolutions.
    pub(crate) fn with_convolutions(emulator: &'static Emulator) -> Self {
        Emulated {
            has_convolutions: true,
            ..Self::new(emulator)
        }
    }

    /// One on which so many blocks can wait for each other, and recurrences are to be in one kernel.
    pub(crate) fn with_blocks_together(emulator: &'static Emulator, blocks: usize) -> Self {
        Emulated {
            blocks_together: blocks,
            ..Self::new(emulator)
        }
    }

    /// One whose recordings fail.
    pub(crate) fn without_graphs(emulator: &'static Emulator, place: NoGraphs) -> Self {
        Emulated {
            no_graphs: Some(place),
            ..Self::new(emulator)
        }
    }

    /// One with so many bytes of memory, which goes away after so many launches.
    pub(crate) fn limited(emulator: &'static Emulator, bytes: usize, launches: u64) -> Self {
        Emulated {
            left: Mutex::new((bytes, launches)),
            ..Self::new(emulator)
        }
    }

    /// Whether the device is still there.
    fn is_there(&self, launches: u64) -> Result<(), BackendError> {
        let left = &mut self.left.lock().unwrap().1;
        match left.checked_sub(launches) {
            Some(fewer) if fewer > 0 => {
                *left = fewer;
                Ok(())
            }
            _ => {
                *left = 0;
                Err(BackendError::Device {
                    device: self.describe(),
                    what: "it has gone".to_owned(),
                })
            }
        }
    }

    fn records(&self, place: NoGraphs) -> Result<(), BackendError> {
        match self.no_graphs == Some(place) {
            false => Ok(()),
            true => Err(BackendError::Device {
                device: self.describe(),
                what: "it records nothing".to_owned(),
            }),
        }
    }

    /// Whether it was noted instead of done.
    fn note(&self, what: impl FnOnce() -> Noted) -> bool {
        match self.noted.lock().unwrap().as_mut() {
            Some(noted) => {
                noted.push(what());
                true
            }
            None => false,
        }
    }

    fn launched(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        together: bool,
        arguments: &mut [[u8; 8]],
    ) {
        let mut pointers: Vec<*mut c_void> = (arguments.iter_mut())
            .map(|argument| argument.as_mut_ptr().cast())
            .collect();
        self.emulator
            .launch(kernel, grid, block, self.backwards, together, &mut pointers);
    }
}

/// The number in row `r` and column `c` of an operand with `columns` columns and `rows` rows.
unsafe fn element(operand: Operand, rows: usize, columns: usize, r: usize, c: usize) -> f64 {
    let index = if operand.transposed {
        c * rows + r
    } else {
        r * columns + c
    };
    // SAFETY: the caller's operand is as large as it says.
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
            // SAFETY: the operands are as large as the product says, which is the caller's promise.
            unsafe {
                let place = (c as *mut f32).add(row * n + column);
                let mut sum = if add { f64::from(*place) } else { 0.0 };
                for inner in 0..k {
                    sum += element(a, m, k, row, inner) * element(b, k, n, inner, column);
                }
                *place = sum as f32;
            }
        }
    }
}

/// A pass of a convolution, by the reference.
unsafe fn convolved(shape: ConvolutionShape, pass: &Pass) {
    let (pixels, filter) = (shape.pixels(), shape.filter());
    let (inputs, weights) = (pixels * shape.in_channels, shape.out_channels * filter);
    let outputs = pixels * shape.out_channels;
    let read = |address: u64, count: usize| -> Vec<f64> {
        // SAFETY: the operands are as large as the shape says, which is the caller's promise.
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

    fn describe(&self) -> String {
        "a GPU on the CPU".to_owned()
    }

    fn settings(&self) -> Settings {
        Settings {
            sequences: self.blocks_together > 0,
            ..Settings::default()
        }
    }

    fn blocks_together(&self) -> usize {
        self.blocks_together
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, BackendError> {
        assert!(
            self.noted.lock().unwrap().is_none(),
            "memory is made before a step is noted"
        );
        self.is_there(0)?;
        let left = &mut self.left.lock().unwrap().0;
        let Some(rest) = left.checked_sub(bytes) else {
            return Err(BackendError::DeviceMemory {
                device: self.describe(),
                asked: bytes as u64,
                free: *left as u64,
                total: *left as u64,
            });
        };
        *left = rest;
        let words = vec![0; bytes.div_ceil(8).max(1)];
        Ok(Memory { words, bytes })
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.words.as_ptr() as u64
    }

    fn upload(&self, bytes: &[u8], offset: usize, memory: &mut Memory) -> Result<(), BackendError> {
        assert!(
            self.noted.lock().unwrap().is_none(),
            "nothing is copied while a step is noted"
        );
        assert!(offset + bytes.len() <= memory.bytes);
        let place = memory.words.as_mut_ptr().cast::<u8>();
        // SAFETY: the memory is large enough.
        unsafe {
            (place.add(offset)).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        };
        Ok(())
    }

    fn download(&self, memory: &Memory, bytes: &mut [u8]) -> Result<(), BackendError> {
        assert!(
            self.noted.lock().unwrap().is_none(),
            "nothing is copied while a step is noted"
        );
        assert!(bytes.len() <= memory.bytes);
        self.is_there(0)?;
        let place = memory.words.as_ptr().cast::<u8>();
        // SAFETY: the memory is large enough.
        unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError> {
        let Launch {
            kernel,
            grid,
            block,
            together,
            ..
        } = *launch;
        let blocks = grid.iter().product::<u32>() as usize;
        assert!(!together || blocks <= self.blocks_together);
        self.is_there(1)?;
        let mut arguments: Vec<_> = launch.arguments.iter().map(|argument| argument.0).collect();
        let copy = arguments.clone();
        let noted = self.note(|| Noted::Launch {
            kernel,
            grid,
            block,
            arguments: copy,
            together,
        });
        if !noted {
            self.launched(kernel, grid, block, together, &mut arguments);
        }
        Ok(())
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), BackendError> {
        if self.noted.lock().unwrap().is_some() {
            self.records(NoGraphs::Within)?;
        }
        if !self.note(|| Noted::Product(*product)) {
            // SAFETY: the caller's promise.
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
        self.is_there(1)?;
        if !self.note(|| Noted::Convolution(*shape, *pass)) {
            // SAFETY: the caller's promise.
            unsafe { convolved(*shape, pass) };
        }
        Ok(())
    }

    fn begin_graph(&self) -> Result<(), BackendError> {
        self.records(NoGraphs::AtTheBeginning)?;
        let before = self.noted.lock().unwrap().replace(Vec::new());
        assert!(before.is_none(), "one graph at a time");
        Ok(())
    }

    fn end_graph(&self) -> Result<Graph, BackendError> {
        let noted = self.noted.lock().unwrap().take().expect("a graph");
        self.records(NoGraphs::AtTheEnd)?;
        Ok(Graph(noted))
    }

    unsafe fn replay(&self, graph: &mut Graph) -> Result<(), BackendError> {
        self.is_there(graph.0.len() as u64)?;
        for noted in &mut graph.0 {
            match noted {
                Noted::Launch {
                    kernel,
                    grid,
                    block,
                    arguments,
                    together,
                } => self.launched(kernel, *grid, *block, *together, arguments),
                // SAFETY: the caller's promise.
                Noted::Product(product) => unsafe { multiplied(product) },
                // SAFETY: the caller's promise.
                Noted::Convolution(shape, pass) => unsafe { convolved(*shape, pass) },
            }
        }
        Ok(())
    }
}
