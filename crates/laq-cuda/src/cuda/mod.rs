//! A GPU through NVIDIA's driver and cuBLAS, which are loaded on first use.
//!
//! All work runs on one stream in the order of submission, so that the same seed gives the same
//! bits on the same device. Every `Cuda` has its own stream: several runs can share a GPU as
//! threads or as processes.

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
use crate::{MemoryInfo, Precision, Settings, program};

/// The size of cuBLAS's workspace, which is allocated once because captured graphs refer to it.
const WORKSPACE: usize = 32 << 20;

/// A GPU. Fields are dropped in this order, the context last.
pub struct Cuda {
    name: String,
    precision: Precision,
    /// `None` if convolutions are computed as products.
    cudnn: Option<Mutex<Cudnn>>,
    diagnostics: Mutex<Vec<String>>,
    settings: Settings,
    blas: Blas,
    /// cuBLAS's workspace.
    _workspace: Memory,
    functions: HashMap<String, CudaFunction>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// cuBLAS on one stream.
struct Blas(blas_sys::cublasHandle_t);

// SAFETY: a cuBLAS handle may move between threads.
unsafe impl Send for Blas {}
// SAFETY: several threads may use a cuBLAS handle as long as none changes its settings, which
// happens only while it is opened.
unsafe impl Sync for Blas {}

impl Blas {
    fn new(stream: &CudaStream) -> Result<Self, blas::CublasError> {
        let blas = Blas(blas::create_handle()?);
        // SAFETY: handle and stream belong to the same device.
        unsafe { blas::set_stream(blas.0, stream.cu_stream().cast())? };
        Ok(blas)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: the handle was created by `new` and is not used again. The error of a lost device
        // is of no consequence.
        let _ = unsafe { blas::destroy_handle(self.0) };
    }
}

/// An allocation in the GPU's memory.
pub struct Memory {
    address: sys::CUdeviceptr,
    bytes: usize,
    stream: Arc<CudaStream>,
}

/// An instantiated graph.
pub struct Graph(CudaGraph);

// SAFETY: a CUDA graph may move between threads as long as no two use it at once; a launch takes
// `&mut Graph`.
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
        // SAFETY: the allocation belongs to this stream's device and has no other owner. Work
        // submitted before completes first: by the order of the stream, or by the
        // synchronization. The error of a lost device is of no consequence.
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
    /// Opens GPU `index` with the settings of the environment, and compiles the kernels for it;
    /// compiled kernels are kept in the folder `cache`.
    ///
    /// # Errors
    /// [`BackendError::Device`] for an invalid environment variable, a missing library or GPU, and
    /// kernels that do not compile.
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
                "no such GPU, expected cuda:0 to cuda:{last}; `laq doctor` lists them"
            )));
        }
        let failed =
            |what: &str, error: DriverError| refused(format!("{what}: {}", message(error)));
        let context =
            CudaContext::new(index).map_err(|error| failed("cannot open the device", error))?;
        // SAFETY: memory is used on one stream only, so no events are needed.
        unsafe { context.disable_event_tracking() };
        let stream = context
            .new_stream()
            .map_err(|error| failed("cannot create a stream", error))?;
        let name = context
            .name()
            .map_err(|error| failed("cannot query the name", error))?;
        let capability = context
            .compute_capability()
            .map_err(|error| failed("cannot query the compute capability", error))?;
        let source = program();
        let compiled = compile::compiled_or_cached(&source, capability, cache)?;
        let image = Ptx::from_binary(compiled);
        let module = context.load_module(image).map_err(|error| {
            failed(
                "cannot load the kernels (a driver older than libnvrtc cannot)",
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
            .map_err(|error| refused(format!("cannot initialize cuBLAS: {error:?}")))?;
        let workspace = allocate(&name, &stream, WORKSPACE)?;
        // SAFETY: the workspace has this size and outlives the handle.
        let set = unsafe {
            blas_sys::cublasSetWorkspace_v2(blas.0, workspace.address as *mut c_void, WORKSPACE)
        };
        set.result()
            .map_err(|error| refused(format!("cannot set the workspace of cuBLAS: {error:?}")))?;
        let mut diagnostics = Vec::new();
        let cudnn = if settings.cudnn {
            let opened = Cudnn::open(&stream);
            opened
                .map_err(|reason| diagnostics.push(reason))
                .ok()
                .map(Mutex::new)
        } else {
            None
        };
        Ok(Cuda {
            name,
            precision,
            cudnn,
            diagnostics: Mutex::new(diagnostics),
            settings,
            blas,
            _workspace: workspace,
            functions,
            stream,
            context,
        })
    }

    /// Whether cuDNN computes convolutions, which then need no im2col matrix.
    pub fn has_cudnn(&self) -> bool {
        self.cudnn.is_some()
    }

    /// The GPU's memory at present.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    pub fn memory(&self) -> Result<MemoryInfo, BackendError> {
        self.bind()?;
        // Frees submitted to the stream count only once executed.
        self.checked("cannot synchronize", self.stream.synchronize())?;
        let (free, total) = self.checked("cannot query the memory", self.context.mem_get_info())?;
        Ok(MemoryInfo {
            free: free as u64,
            total: total as u64,
        })
    }

    fn checked<T>(&self, what: &str, result: Result<T, DriverError>) -> Result<T, BackendError> {
        result.map_err(|error| failure(&self.name, what, error))
    }

    fn bind(&self) -> Result<(), BackendError> {
        self.checked("is not available", self.context.bind_to_thread())
    }
}

fn message(error: DriverError) -> String {
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
            "{what}: {}; if this persists, see `nvidia-smi` and the system log",
            message(error)
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
                    requested: asked as u64,
                    free: free as u64,
                    total: total as u64,
                }
            }
            _ => failure(device, "cannot allocate memory", error),
        }
    };
    context.bind_to_thread().map_err(refused)?;
    // SAFETY: the context is current in this thread.
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
    // SAFETY: the allocation has `asked` bytes.
    let cleared = unsafe { result::memset_d8_async(memory.address, 0, asked, stream.cu_stream()) };
    cleared.map_err(refused)?;
    Ok(memory)
}

impl Device for Cuda {
    type Memory = Memory;
    type Convolution = Convolution;
    type Graph = Graph;

    fn name(&self) -> String {
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

    fn diagnostics(&self) -> Vec<String> {
        let lines = self.diagnostics.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn max_cooperative_blocks(&self) -> usize {
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

    fn upload(&self, bytes: &[u8], offset: usize, memory: &Memory) -> Result<(), BackendError> {
        assert!(offset + bytes.len() <= memory.bytes);
        let address = memory.address + offset as u64;
        self.bind()?;
        // SAFETY: the allocation is large enough. The driver reads pageable memory before it
        // returns.
        let copied = unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) };
        self.checked("cannot copy to the device", copied)
    }

    fn download(&self, memory: &Memory, bytes: &mut [u8]) -> Result<(), BackendError> {
        assert!(bytes.len() <= memory.bytes);
        self.bind()?;
        // SAFETY: the allocation is large enough, and the copy completes before the call returns.
        let copied =
            unsafe { result::memcpy_dtoh_async(bytes, memory.address, self.stream.cu_stream()) };
        let waited = self.stream.synchronize();
        self.checked("cannot copy from the device", copied.and(waited))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError> {
        let Launch {
            kernel,
            grid,
            block,
            arguments,
            cooperative,
        } = *launch;
        self.bind()?;
        let Some(function) = self.functions.get(kernel) else {
            return Err(BackendError::Device {
                device: self.name.clone(),
                what: format!("unknown kernel {kernel}"),
            });
        };
        let mut pointers = [std::ptr::null_mut::<c_void>(); 16];
        assert!(arguments.len() <= pointers.len());
        for (pointer, argument) in pointers.iter_mut().zip(arguments) {
            *pointer = argument.0.as_ptr().cast_mut().cast();
        }
        let launch = match cooperative {
            true => result::launch_cooperative_kernel,
            false => result::launch_kernel,
        };
        // SAFETY: the caller guarantees the arguments; the driver copies them before it returns.
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
        // cuBLAS is column-major and so sees the transposes: Cᵀ ← Bᵀ Aᵀ.
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
        // SAFETY: the caller guarantees the sizes of the matrices; α and β are read before the call
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
            what: format!("cuBLAS failed on a product of {m} × {k} and {k} × {n}: {error:?}"),
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
        let algorithm = match &found {
            Ok(convolution) => format!("cuDNN, {convolution:?}"),
            Err(reason) => format!("im2col, because of cuDNN: {reason}"),
        };
        let mut lines = self
            .diagnostics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lines.push(format!(
            "convolution of {batch} images of {height} x {width}, {inputs} to {outputs} channels: {algorithm}"
        ));
        Ok(found.ok())
    }

    unsafe fn convolve(&self, convolution: &Convolution, pass: &Pass) -> Result<(), BackendError> {
        self.bind()?;
        let cudnn = self.cudnn.as_ref().expect("cuDNN created the convolution");
        let cudnn = cudnn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller guarantees the operands.
        unsafe { cudnn.convolve(convolution, pass) }.map_err(|error| BackendError::Device {
            device: self.name.clone(),
            what: format!("cuDNN failed on a convolution: {error:?}; LAQ_CUDNN=off disables it"),
        })
    }

    fn begin_capture(&self) -> Result<(), BackendError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.checked("cannot capture", self.stream.begin_capture(mode))
    }

    fn end_capture(&self) -> Result<Graph, BackendError> {
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        match self.checked("cannot capture", ended)? {
            Some(graph) => {
                self.checked("cannot upload a graph", graph.upload())?;
                Ok(Graph(graph))
            }
            None => Err(BackendError::Device {
                device: self.name.clone(),
                what: "an empty capture".to_owned(),
            }),
        }
    }

    unsafe fn replay(&self, graph: &mut Graph) -> Result<(), BackendError> {
        self.checked("cannot launch a graph", graph.0.launch())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Libraries may still use the workspaces that are freed next. The first synchronization may
        // return an earlier error, so a second one follows.
        let waited = self.stream.synchronize();
        let _ = waited.or_else(|_| self.stream.synchronize());
    }
}
