//! A GPU through NVIDIA's driver and cuBLAS, which are loaded when they are first asked for.
//!
//! Everything runs on one stream, so in the order in which it was asked for; that makes the numbers those of the same seed on
//! the same device. Every `Cuda` has a stream of its own, so several runs on one GPU may be threads or processes.

mod compile;
mod convolution;
mod probe;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use laq_tensor::{BackendError, ConvolutionShape};

pub use compile::{Compiled, compile};
pub use convolution::Convolution;
use convolution::Cudnn;
pub use probe::probe;

use crate::device::{Device, Launch, Operand, Pass, Product};
use crate::{MemoryFound, Precision, Settings, program};

/// What cuBLAS works in; it is given once, so that recordings find it where it was.
const WORKSPACE: usize = 32 << 20;

/// A GPU. What is in its context goes first, in this order, and the context last.
pub struct Cuda {
    name: String,
    precision: Precision,
    /// None where convolutions are done by products.
    cudnn: Option<Mutex<Cudnn>>,
    notes: Mutex<Vec<String>>,
    settings: Settings,
    blas: Blas,
    /// What cuBLAS works in.
    _workspace: Memory,
    functions: HashMap<String, CudaFunction>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// cuBLAS on one stream.
struct Blas(blas_sys::cublasHandle_t);

// SAFETY: cuBLAS lets a handle go from thread to thread.
unsafe impl Send for Blas {}
// SAFETY: cuBLAS lets several threads use a handle as long as none changes its settings, which nobody does once it is open.
unsafe impl Sync for Blas {}

impl Blas {
    fn new(stream: &CudaStream) -> Result<Self, blas::CublasError> {
        let blas = Blas(blas::create_handle()?);
        // SAFETY: handle and stream are those of this device.
        unsafe { blas::set_stream(blas.0, stream.cu_stream().cast())? };
        Ok(blas)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: the handle was made by `new`, and is not used any more. A device that has gone gives an error, which
        // changes nothing.
        let _ = unsafe { blas::destroy_handle(self.0) };
    }
}

/// A piece of the GPU's memory.
pub struct Memory {
    address: sys::CUdeviceptr,
    bytes: usize,
    stream: Arc<CudaStream>,
}

/// A recording.
pub struct Graph(CudaGraph);

// SAFETY: CUDA's graphs may go from thread to thread as long as no two use one at once, which takes `&mut Graph` here.
unsafe impl Send for Graph {}

impl fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cuda({})", self.name)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Memory({} bytes)", self.bytes)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Graph")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let context = self.stream.context();
        if context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: the address is that of an allocation of this stream's device, and nobody has it any more. What was asked for
        // before is done before it is given back: in the stream's order, or because it is waited for. A device that has gone
        // has no memory to give back.
        let _ = unsafe {
            if context.has_async_alloc() {
                result::free_async(self.address, self.stream.cu_stream())
            } else {
                (self.stream.synchronize()).and_then(|()| result::free_sync(self.address))
            }
        };
    }
}

impl Cuda {
    /// GPU number `index`, with the kernels of this crate compiled for it; compiled ones are kept in `cache`, if one is given.
    /// Its settings are those of the environment.
    ///
    /// # Errors
    /// [`BackendError::Device`] when a variable has a value that it does not have, when a library is missing or there is no such GPU, and when the compiler refuses the kernels;
    /// it says which, and what to do.
    pub fn open(
        index: usize,
        precision: Precision,
        cache: Option<&Path>,
    ) -> Result<Self, BackendError> {
        let settings = Settings::from_environment()?;
        let found = probe();
        let refused = |what: String| BackendError::Device {
            device: format!("cuda:{index}"),
            what,
        };
        found.usable().map_err(refused)?;
        if index >= found.devices.len() {
            let last = found.devices.len() - 1;
            return Err(refused(format!(
                "there is no such GPU, expected cuda:0 to cuda:{last}; `laq doctor` lists them"
            )));
        }
        let failed = |what: &str, error: DriverError| refused(format!("{what}: {}", told(error)));
        let context =
            CudaContext::new(index).map_err(|error| failed("it cannot be opened", error))?;
        // SAFETY: memory is shared between operations of one stream alone, so nothing has to be waited for.
        unsafe { context.disable_event_tracking() };
        let stream = context
            .new_stream()
            .map_err(|error| failed("it gives no stream", error))?;
        let name = context
            .name()
            .map_err(|error| failed("it has no name", error))?;
        let capability = context
            .compute_capability()
            .map_err(|error| failed("it does not say what it can do", error))?;
        let source = program();
        let compiled = compile::compiled_or_cached(&source, capability, cache)?;
        let image = Ptx::from_binary(compiled);
        let module = context.load_module(image).map_err(|error| {
            failed(
                "the driver does not take the kernels (one that is older than the compiler, libnvrtc, does not)",
                error,
            )
        })?;
        let mut functions = HashMap::new();
        for kernel in crate::kernels_in(&source) {
            let function = module
                .load_function(kernel)
                .map_err(|error| failed(kernel, error))?;
            functions.insert(kernel.to_owned(), function);
        }
        let blas = Blas::new(&stream)
            .map_err(|error| refused(format!("cuBLAS does not start: {error:?}")))?;
        let workspace = allocate(&name, &stream, WORKSPACE)?;
        // SAFETY: the memory lives as long as the handle, and has this size.
        let set = unsafe {
            blas_sys::cublasSetWorkspace_v2(blas.0, workspace.address as *mut c_void, WORKSPACE)
        };
        set.result()
            .map_err(|error| refused(format!("cuBLAS takes no workspace: {error:?}")))?;
        let mut notes = Vec::new();
        let cudnn = if settings.cudnn {
            let opened = Cudnn::open(&stream);
            opened.map_err(|why| notes.push(why)).ok().map(Mutex::new)
        } else {
            None
        };
        Ok(Cuda {
            name,
            precision,
            cudnn,
            notes: Mutex::new(notes),
            settings,
            blas,
            _workspace: workspace,
            functions,
            stream,
            context,
        })
    }

    /// Whether convolutions are done by cuDNN, and so need no room for the neighbours of every pixel.
    pub fn has_cudnn(&self) -> bool {
        self.cudnn.is_some()
    }

    /// The GPU's memory, as it is now.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    pub fn memory(&self) -> Result<MemoryFound, BackendError> {
        self.bind()?;
        // What was given back in the stream's order is there only when its turn has come.
        self.checked("it does not answer", self.stream.synchronize())?;
        let (free, total) =
            self.checked("it does not tell its memory", self.context.mem_get_info())?;
        Ok(MemoryFound {
            free: free as u64,
            total: total as u64,
        })
    }

    fn checked<T>(&self, what: &str, result: Result<T, DriverError>) -> Result<T, BackendError> {
        result.map_err(|error| failure(&self.name, what, error))
    }

    fn bind(&self) -> Result<(), BackendError> {
        self.checked("it is not to be had", self.context.bind_to_thread())
    }
}

fn told(error: DriverError) -> String {
    let words = error
        .error_string()
        .ok()
        .and_then(|text| text.to_str().ok());
    words.map_or_else(|| format!("{error:?}"), str::to_owned)
}

fn failure(device: &str, what: &str, error: DriverError) -> BackendError {
    BackendError::Device {
        device: device.to_owned(),
        what: format!(
            "{what}: {}; if it goes on, look at `nvidia-smi` and the system's log",
            told(error)
        ),
    }
}

fn allocate(device: &str, stream: &Arc<CudaStream>, bytes: usize) -> Result<Memory, BackendError> {
    let context = stream.context();
    let asked = bytes.max(1);
    let refused = |error: DriverError| {
        let room = result::mem_get_info();
        match (error.0, room) {
            (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, Ok((free, total))) => {
                BackendError::DeviceMemory {
                    device: device.to_owned(),
                    asked: asked as u64,
                    free: free as u64,
                    total: total as u64,
                }
            }
            _ => failure(device, "it gives no memory", error),
        }
    };
    context.bind_to_thread().map_err(refused)?;
    // SAFETY: the context is that of this thread now.
    let address = unsafe {
        if context.has_async_alloc() {
            result::malloc_async(stream.cu_stream(), asked)
        } else {
            result::malloc_sync(asked)
        }
    };
    let memory = Memory {
        address: address.map_err(refused)?,
        bytes,
        stream: stream.clone(),
    };
    // SAFETY: the memory has so many bytes.
    let cleared = unsafe { result::memset_d8_async(memory.address, 0, asked, stream.cu_stream()) };
    cleared.map_err(refused)?;
    Ok(memory)
}

impl Device for Cuda {
    type Memory = Memory;
    type Convolution = Convolution;
    type Graph = Graph;

    fn describe(&self) -> String {
        let precision = match self.precision {
            Precision::Tf32 => "TF32",
            Precision::Float32 => "float32",
        };
        let cudnn = if self.cudnn.is_some() { ", cuDNN" } else { "" };
        format!("cuda ({}, {precision}{cudnn})", self.name)
    }

    fn settings(&self) -> Settings {
        self.settings
    }

    fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.clone()
    }

    fn blocks_together(&self) -> usize {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH as COOPERATIVE,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        let attribute = |which| self.context.attribute(which).unwrap_or(0);
        match (self.precision, attribute(COOPERATIVE)) {
            (Precision::Tf32, 1..) => usize::try_from(attribute(MULTIPROCESSORS)).unwrap_or(0),
            _ => 0,
        }
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, BackendError> {
        allocate(&self.name, &self.stream, bytes)
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.address
    }

    fn upload(&self, bytes: &[u8], offset: usize, memory: &mut Memory) -> Result<(), BackendError> {
        assert!(offset + bytes.len() <= memory.bytes);
        let address = memory.address + offset as u64;
        self.bind()?;
        // SAFETY: the memory is large enough. The driver copies memory that is not pinned before it returns.
        let copied = unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) };
        self.checked("a copy to it fails", copied)
    }

    fn download(&self, memory: &Memory, bytes: &mut [u8]) -> Result<(), BackendError> {
        assert!(bytes.len() <= memory.bytes);
        self.bind()?;
        // SAFETY: the memory is large enough, and the copy is waited for below.
        let copied =
            unsafe { result::memcpy_dtoh_async(bytes, memory.address, self.stream.cu_stream()) };
        let waited = self.stream.synchronize();
        self.checked("a copy from it fails", copied.and(waited))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError> {
        let Launch {
            kernel,
            grid,
            block,
            arguments,
            together,
        } = *launch;
        self.bind()?;
        let Some(function) = self.functions.get(kernel) else {
            return Err(BackendError::Device {
                device: self.name.clone(),
                what: format!("there is no kernel {kernel}"),
            });
        };
        // No kernel has more.
        let mut pointers = [std::ptr::null_mut::<c_void>(); 16];
        assert!(arguments.len() <= pointers.len());
        for (pointer, argument) in pointers.iter_mut().zip(arguments) {
            *pointer = argument.0.as_ptr().cast_mut().cast();
        }
        let launch = match together {
            true => result::launch_cooperative_kernel,
            false => result::launch_kernel,
        };
        // SAFETY: that the arguments are those of the kernel is the caller's promise; the driver copies them before it
        // returns.
        let launched = unsafe {
            launch(
                function.cu_function(),
                grid.into(),
                block.into(),
                0,
                self.stream.cu_stream(),
                &mut pointers[..arguments.len()],
            )
        };
        self.checked(kernel, launched)
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), BackendError> {
        let Product {
            m,
            n,
            k,
            a,
            b,
            c,
            add,
        } = *product;
        self.bind()?;
        // cuBLAS stores by columns, so what it sees are the transposed matrices: Cᵀ ← Bᵀ Aᵀ.
        let side = |operand: Operand, stored: [usize; 2]| {
            let [plain, transposed] = stored;
            match operand.transposed {
                false => (blas_sys::cublasOperation_t::CUBLAS_OP_N, plain as i32),
                true => (blas_sys::cublasOperation_t::CUBLAS_OP_T, transposed as i32),
            }
        };
        let (of_b, b_leading) = side(b, [n, k]);
        let (of_a, a_leading) = side(a, [k, m]);
        let (one, beta) = (1.0f32, if add { 1.0f32 } else { 0.0 });
        let float = blas_sys::cudaDataType_t::CUDA_R_32F;
        let compute = match self.precision {
            Precision::Tf32 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            Precision::Float32 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        // SAFETY: that the matrices are there in these sizes is the caller's promise; α and β are read before the call
        // returns.
        let multiplied = unsafe {
            blas::gemm_ex(
                self.blas.0,
                of_b,
                of_a,
                n as i32,
                m as i32,
                k as i32,
                (&raw const one).cast(),
                b.address as *const c_void,
                float,
                b_leading,
                a.address as *const c_void,
                float,
                a_leading,
                (&raw const beta).cast(),
                c as *mut c_void,
                float,
                n as i32,
                compute,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        multiplied.map_err(|error| BackendError::Device {
            device: self.name.clone(),
            what: format!("cuBLAS refuses a product of {m} × {k} and {k} × {n}: {error:?}"),
        })
    }

    fn convolution(&self, shape: ConvolutionShape) -> Result<Option<Convolution>, BackendError> {
        let Some(cudnn) = &self.cudnn else {
            return Ok(None);
        };
        self.bind()?;
        let mut cudnn = cudnn.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cudnn.convolution(&self.name, &self.stream, self.precision, shape)?;
        let ConvolutionShape {
            batch,
            height,
            width,
            in_channels: inputs,
            out_channels: outputs,
        } = shape;
        let note = match &found {
            Ok(way) => format!("by cuDNN, {way:?}"),
            Err(why) => format!("by products, as cuDNN does not: {why}"),
        };
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(format!(
            "convolution of {batch} images of {height} x {width}, {inputs} to {outputs} channels: {note}"
        ));
        Ok(found.ok())
    }

    unsafe fn convolve(&self, convolution: &Convolution, pass: &Pass) -> Result<(), BackendError> {
        self.bind()?;
        let cudnn = self.cudnn.as_ref().expect("it has made the convolution");
        let cudnn = cudnn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise.
        unsafe { cudnn.convolve(convolution, pass) }.map_err(|error| BackendError::Device {
            device: self.name.clone(),
            what: format!("cuDNN refuses a convolution: {error:?}; LAQ_CUDNN=off does without it"),
        })
    }

    fn begin_graph(&self) -> Result<(), BackendError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.checked("it records nothing", self.stream.begin_capture(mode))
    }

    fn end_graph(&self) -> Result<Graph, BackendError> {
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        match self.checked("a recording fails", ended)? {
            Some(graph) => {
                self.checked("a recording is not taken", graph.upload())?;
                Ok(Graph(graph))
            }
            None => Err(BackendError::Device {
                device: self.name.clone(),
                what: "a recording is empty".to_owned(),
            }),
        }
    }

    unsafe fn replay(&self, graph: &mut Graph) -> Result<(), BackendError> {
        self.checked("a recording does not run", graph.0.launch())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Libraries may still work in what is given back now, and their handles are given back in the thread's context. An
        // error that was kept from before is told first, and keeps the thread from its context.
        let waited = self.stream.synchronize();
        let _ = waited.or_else(|_| self.stream.synchronize());
    }
}
