//! The traits of [`laq_tensor::Backend`] as launches and products of a [`Device`], one module per
//! subject.

mod convolution;
mod dense;
mod gather;
mod losses;
mod lstm;
mod memory;
mod norm;
mod optimizer;
mod pool;
mod quantize;
mod settings;
mod solve;
mod steps;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use laq_tensor::BackendError;

pub use convolution::ConvolutionWorkspace;
pub use lstm::LstmWorkspace;
pub use norm::NormWorkspace;
pub use optimizer::UpdateWorkspace;
pub use quantize::{QuantizeWorkspace, Quantizer};
pub use settings::Settings;
pub use steps::{StepGraph, StepLog};

use crate::buffer::{Buffer, DeviceElement, Retain, Slice, SliceMut};
use crate::device::{Device, Launch, Operand, Product};
use crate::kernels::Kernel;
use crate::layout::{BLOCK_THREADS, COLUMN_LANES, COLUMN_ROWS};

/// The owners of the operands of a capture, by allocation.
type Operands = BTreeMap<usize, Arc<dyn Send + Sync>>;

/// Computes on a [`Device`].
#[derive(Debug)]
pub struct CudaBackend<D: Device> {
    device: Arc<D>,
    /// Scratch between the launches of one operation.
    scratch: Mutex<Option<Buffer<D, f64>>>,
    capture: Capture,
    diagnostics: Mutex<Vec<String>>,
    settings: Settings,
}

/// The operands of the capture in progress, if there is one.
#[derive(Default)]
struct Capture(Mutex<Option<Operands>>);

impl std::fmt::Debug for Capture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Capture")
    }
}

/// Threads of a block of a kernel over elements.
const THREADS: u32 = BLOCK_THREADS as u32;

/// Enough blocks to occupy any GPU; threads loop over the elements beyond.
const MAX_BLOCKS: u64 = 4096;

/// Rows of a chunk whose sums one block computes.
const CHUNK_ROWS: usize = 256;

/// The limit of a grid along y.
const MAX_CHUNKS: usize = 65_535;

impl<D: Device> CudaBackend<D> {
    /// The backend on this device, with the device's settings.
    pub fn new(device: D) -> Self {
        CudaBackend {
            settings: device.settings(),
            device: Arc::new(device),
            scratch: Mutex::default(),
            capture: Capture::default(),
            diagnostics: Mutex::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Adds a line to [`Memory::diagnostics`](laq_tensor::Memory::diagnostics).
    fn diagnose(&self, line: String) {
        let mut lines = lock(&self.diagnostics);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }

    /// Keeps what a captured call uses alive until its graph is dropped.
    fn retain(&self, operand: &dyn Retain) {
        if let Some(operands) = lock(&self.capture.0).as_mut() {
            operands
                .entry(operand.id())
                .or_insert_with(|| operand.retain());
        }
    }

    /// Launches a kernel over `grid` blocks of `block` threads.
    fn launch<K: Kernel>(
        &self,
        kernel: K,
        grid: [u32; 3],
        block: [u32; 3],
    ) -> Result<(), BackendError> {
        self.submit(&kernel, grid, block, false)
    }

    /// Launches a kernel whose blocks wait for each other.
    fn launch_cooperative<K: Kernel>(&self, kernel: K, grid: [u32; 3]) -> Result<(), BackendError> {
        self.submit(&kernel, grid, [THREADS, 1, 1], true)
    }

    fn submit<K: Kernel>(
        &self,
        kernel: &K,
        grid: [u32; 3],
        block: [u32; 3],
        cooperative: bool,
    ) -> Result<(), BackendError> {
        let arguments = kernel.arguments();
        arguments.owners().for_each(|owner| self.retain(owner));
        let launch = Launch {
            kernel: K::NAME,
            grid,
            block,
            arguments: arguments.values(),
            cooperative,
        };
        // SAFETY: the struct of the kernel gives every argument its type, and `arguments` has
        // compared the lengths of the slices. The slices borrow their buffers, whose memory is
        // freed after the work submitted before; a capture retains it. Index buffers hold values
        // below their bound, which the callers compare with their shapes.
        unsafe { self.device.launch(&launch) }
    }

    /// Launches a kernel over `numel` elements.
    fn each<K: Kernel>(&self, kernel: K, numel: usize) -> Result<(), BackendError> {
        let blocks = (numel as u64).div_ceil(THREADS.into()).clamp(1, MAX_BLOCKS);
        self.launch(kernel, [blocks as u32, 1, 1], [THREADS, 1, 1])
    }

    /// Launches a kernel that reduces the columns of a matrix whose rows are in `chunks`.
    fn columns<K: Kernel>(
        &self,
        kernel: K,
        columns: usize,
        chunks: usize,
    ) -> Result<(), BackendError> {
        let grid = [columns.div_ceil(COLUMN_LANES) as u32, chunks as u32, 1];
        self.launch(kernel, grid, [COLUMN_LANES as u32, COLUMN_ROWS as u32, 1])
    }

    /// C ← A B, or C + A B if `add`, with A m × k and B k × n.
    fn multiply(
        &self,
        [m, n, k]: [usize; 3],
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: SliceMut<'_, f32>,
        add: bool,
    ) -> Result<(), BackendError> {
        assert!(a.0.len() >= m * k && b.0.len() >= k * n && c.len() >= m * n);
        let c = c.read();
        for slice in [a.0, b.0, c] {
            self.retain(slice.owner());
        }
        let operand = |Matrix(slice, transposed): Matrix<'_>| Operand {
            address: slice.address().0,
            transposed,
        };
        let product = Product {
            m,
            n,
            k,
            a: operand(a),
            b: operand(b),
            c: c.address().0,
            add,
        };
        // SAFETY: the operands have the sizes of the product, as asserted; they live as in
        // `submit`.
        unsafe { self.device.multiply(&product) }
    }

    fn buffer<E>(&self, len: usize) -> Result<Buffer<D, E>, BackendError> {
        Buffer::zeros(&self.device, &[len], 0)
    }

    /// A buffer of these elements.
    fn buffer_of<E: DeviceElement>(&self, elements: &[E]) -> Result<Buffer<D, E>, BackendError> {
        let buffer = self.buffer(elements.len())?;
        self.upload(elements, 0, &buffer)?;
        Ok(buffer)
    }

    /// Copies elements to a buffer from element `offset` on. Takes no `&mut`, as the memory is the
    /// device's.
    fn upload<E: bytemuck::Pod>(
        &self,
        elements: &[E],
        offset: usize,
        buffer: &Buffer<D, E>,
    ) -> Result<(), BackendError> {
        assert!(offset + elements.len() <= buffer.len());
        let bytes = bytemuck::cast_slice(elements);
        self.device
            .upload(bytes, offset * size_of::<E>(), buffer.memory())
    }

    /// Waits for all submitted work and copies a buffer to the host.
    fn download<E: bytemuck::Pod>(&self, buffer: &Buffer<D, E>) -> Result<Vec<E>, BackendError> {
        let mut elements = vec![E::zeroed(); buffer.len()];
        let bytes = bytemuck::cast_slice_mut(&mut elements);
        self.device.download(buffer.memory(), bytes)?;
        Ok(elements)
    }

    /// Scratch of at least `len` elements, of unspecified contents; the next operation reuses it.
    fn scratch(&self, len: usize) -> Result<Buffer<D, f64>, BackendError> {
        let mut scratch = lock(&self.scratch);
        match &*scratch {
            Some(buffer) if buffer.len() >= len => Ok(buffer.share()),
            _ => Ok(scratch.insert(self.buffer(len)?).share()),
        }
    }
}

/// A factor of a product: dense, row-major, and whether it is the transpose of what is stored.
#[derive(Clone, Copy)]
struct Matrix<'a>(Slice<'a, f32>, bool);

fn plain(matrix: Slice<'_, f32>) -> Matrix<'_> {
    Matrix(matrix, false)
}

fn transposed(matrix: Slice<'_, f32>) -> Matrix<'_> {
    Matrix(matrix, true)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows of a chunk, and the number of chunks; a grid along y can have that many.
fn chunks_of(rows: usize) -> (usize, usize) {
    let chunk = rows.div_ceil(MAX_CHUNKS).max(CHUNK_ROWS);
    (chunk, rows.div_ceil(chunk).max(1))
}

/// Panics where an index of the buffer may reach `limit`.
fn check_bound<D: Device, E>(buffer: &Buffer<D, E>, limit: usize) {
    let bound = buffer.bound();
    assert!(bound <= limit, "indices below {bound} into {limit} entries");
}
