//! Convolutions by cuDNN, where it is available.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::cudnn::{CudnnError, result as cudnn, sys};
use cudarc::driver::CudaStream;
use laq_tensor::{BackendError, ConvolutionShape};

use super::probe::cudnn_version;
use super::{Memory, allocate};
use crate::Precision;
use crate::device::Pass;

/// The largest accepted workspace of an algorithm.
const MAX_WORKSPACE: usize = 512 << 20;
/// The number of algorithms that cuDNN ranks.
const MAX_ALGORITHMS: usize = 10;

/// cuDNN on one stream.
#[derive(Debug)]
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    /// Workspaces; convolutions share the last, which is the largest. Captured graphs may refer to
    /// the earlier ones.
    workspaces: Vec<Memory>,
}

// SAFETY: a cuDNN handle may move between threads; a mutex around it keeps two from using it at
// once.
unsafe impl Send for Cudnn {}

impl Cudnn {
    /// Opens cuDNN, or returns why it cannot be used.
    pub(super) fn open(stream: &Arc<CudaStream>) -> Result<Self, String> {
        cudnn_version()?;
        let handle = cudnn::create_handle()
            .map_err(|error| format!("cannot initialize cuDNN: {error:?}"))?;
        let cudnn = Cudnn {
            handle,
            workspaces: Vec::new(),
        };
        // SAFETY: handle and stream belong to the same device.
        unsafe { cudnn::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(|error| format!("cannot set the stream of cuDNN: {error:?}"))?;
        Ok(cudnn)
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: the handle was created by `open` and is not used again.
        let _ = unsafe { cudnn::destroy_handle(self.handle) };
    }
}

/// A convolution of one shape: descriptors and algorithms.
pub struct Convolution {
    input: Tensor,
    output: Tensor,
    filter: Filter,
    forward: AlgorithmChoice<sys::cudnnConvolutionFwdAlgo_t>,
    backward_data: AlgorithmChoice<sys::cudnnConvolutionBwdDataAlgo_t>,
    backward_filter: AlgorithmChoice<sys::cudnnConvolutionBwdFilterAlgo_t>,
}

/// The algorithm of a pass, with the math type that it was ranked with.
struct AlgorithmChoice<A> {
    algorithm: A,
    math: sys::cudnnMathType_t,
    description: Description,
    /// Bytes of its workspace.
    workspace: usize,
}

// SAFETY: descriptors are plain memory of cuDNN that may move between threads.
unsafe impl Send for Convolution {}
// SAFETY: shared references only read the descriptors, in calls under the mutex of the handle.
unsafe impl Sync for Convolution {}

impl fmt::Debug for Convolution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "forward {:?} {:?}, backward data {:?} {:?}, backward filter {:?} {:?}",
            self.forward.algorithm,
            self.forward.math,
            self.backward_data.algorithm,
            self.backward_data.math,
            self.backward_filter.algorithm,
            self.backward_filter.math
        )
    }
}

/// Descriptors, destroyed when they are dropped.
struct Tensor(sys::cudnnTensorDescriptor_t);
struct Filter(sys::cudnnFilterDescriptor_t);
struct Description(sys::cudnnConvolutionDescriptor_t);

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: it was created by `Tensor::new` and has no other owner.
        let _ = unsafe { cudnn::destroy_tensor_descriptor(self.0) };
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: it was created by `Filter::new` and has no other owner.
        let _ = unsafe { cudnn::destroy_filter_descriptor(self.0) };
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it was created by `Description::new` and has no other owner.
        let _ = unsafe { cudnn::destroy_convolution_descriptor(self.0) };
    }
}

const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
/// NHWC, with filters F × 3 × 3 × C.
const LAYOUT: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

impl Tensor {
    fn new(sizes: [i32; 4]) -> Result<Self, CudnnError> {
        let tensor = Tensor(cudnn::create_tensor_descriptor()?);
        // SAFETY: the descriptor was created above.
        unsafe { cudnn::set_tensor4d_descriptor(tensor.0, LAYOUT, FLOAT, sizes)? };
        Ok(tensor)
    }
}

impl Filter {
    fn new(sizes: [i32; 4]) -> Result<Self, CudnnError> {
        let filter = Filter(cudnn::create_filter_descriptor()?);
        // SAFETY: the descriptor was created above.
        unsafe { cudnn::set_filter4d_descriptor(filter.0, FLOAT, LAYOUT, sizes)? };
        Ok(filter)
    }
}

impl Description {
    fn new(math: sys::cudnnMathType_t) -> Result<Self, CudnnError> {
        let description = Description(cudnn::create_convolution_descriptor()?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the descriptor was created above.
        unsafe {
            cudnn::set_convolution2d_descriptor(description.0, 1, 1, 1, 1, 1, 1, mode, FLOAT)?;
            cudnn::set_convolution_math_type(description.0, math)?;
        }
        Ok(description)
    }
}

/// The first ranked algorithm that is deterministic and whose workspace is not too large, if any.
/// With TF32, algorithms on tensor cores come first.
macro_rules! pick_algorithm {
    ($ask:path, $ask_workspace:path, $performance:ty, $precision:expr, $handle:expr, $a:expr, $b:expr, $c:expr) => {{
        use sys::cudnnMathType_t::{
            CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
        };
        let asked = Description::new(match $precision {
            // It permits rounding factors to TF32.
            Precision::Tf32 => CUDNN_DEFAULT_MATH,
            Precision::Float32 => CUDNN_FMA_MATH,
        })?;
        // SAFETY: zero is valid for every field; entries beyond `count` are not read.
        let mut found: [$performance; MAX_ALGORITHMS] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: the descriptors exist, and `found` holds `MAX_ALGORITHMS` entries.
        unsafe {
            $ask(
                $handle,
                $a,
                $b,
                asked.0,
                $c,
                MAX_ALGORITHMS as i32,
                &raw mut count,
                found.as_mut_ptr(),
            )?;
        }
        let count = usize::try_from(count).unwrap_or(0).min(MAX_ALGORITHMS);
        let good = found[..count].iter().filter(|answer| {
            answer.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && answer.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                // It would round factors to half precision.
                && answer.mathType != CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION
                && ($precision == Precision::Tf32 || answer.mathType == CUDNN_FMA_MATH)
        });
        let mut good: Vec<_> = good.collect();
        good.sort_by_key(|answer| answer.mathType == CUDNN_FMA_MATH);
        let mut choice = None;
        for answer in good {
            let description = Description::new(answer.mathType)?;
            // SAFETY: the descriptors exist.
            let workspace = unsafe { $ask_workspace($handle, $a, $b, description.0, $c, answer.algo) };
            if let Ok(workspace) = workspace
                && workspace <= MAX_WORKSPACE
            {
                choice = Some(AlgorithmChoice {
                    algorithm: answer.algo,
                    math: answer.mathType,
                    description,
                    workspace,
                });
                break;
            }
        }
        choice
    }};
}

impl Cudnn {
    /// Prepares a convolution of this shape; the inner error is the reason of cuDNN.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    pub(super) fn convolution(
        &mut self,
        device: &str,
        stream: &Arc<CudaStream>,
        precision: Precision,
        shape: ConvolutionShape,
    ) -> Result<Result<Convolution, String>, BackendError> {
        let convolution = match self.algorithms(precision, shape) {
            Ok(Some(convolution)) => convolution,
            Ok(None) => {
                return Ok(Err("no deterministic algorithm".to_owned()));
            }
            Err(error) => return Ok(Err(format!("{error:?}"))),
        };
        let workspace = (convolution.forward.workspace)
            .max(convolution.backward_data.workspace)
            .max(convolution.backward_filter.workspace);
        if self
            .workspaces
            .last()
            .is_none_or(|last| last.bytes < workspace)
        {
            self.workspaces.push(allocate(device, stream, workspace)?);
        }
        let tried = self.try_out(device, stream, shape, &convolution)?;
        Ok(tried
            .map(|()| convolution)
            .map_err(|error| format!("{error:?}")))
    }

    /// Runs every pass once on zeros, so that errors show and kernels are loaded before a capture.
    fn try_out(
        &self,
        device: &str,
        stream: &Arc<CudaStream>,
        shape: ConvolutionShape,
        convolution: &Convolution,
    ) -> Result<Result<(), CudnnError>, BackendError> {
        let floats = |count: usize| allocate(device, stream, 4 * count);
        let x = floats(shape.pixels() * shape.in_channels)?;
        let y = floats(shape.pixels() * shape.out_channels)?;
        let w = floats(shape.out_channels * shape.filter())?;
        let (x, y, w) = (&x.address, &y.address, &w.address);
        let output = |add| Pass::Output {
            input: *x,
            weight: *w,
            output: *y,
            add,
        };
        let passes = [
            output(false),
            output(true),
            Pass::Input {
                output_gradient: *y,
                weight: *w,
                input_gradient: *x,
            },
            Pass::Weight {
                input: *x,
                output_gradient: *y,
                weight_gradient: *w,
            },
        ];
        // SAFETY: the operands have the sizes of the shape and are freed after these passes.
        let mut done = (passes.iter()).map(|pass| unsafe { self.convolve(convolution, pass) });
        Ok(done.try_for_each(|done| done))
    }

    /// The algorithm of every pass; `None` if a pass has none.
    fn algorithms(
        &self,
        precision: Precision,
        shape: ConvolutionShape,
    ) -> Result<Option<Convolution>, CudnnError> {
        let ConvolutionShape {
            batch,
            height,
            width,
            in_channels: inputs,
            out_channels: outputs,
        } = shape;
        let image = |channels: usize| [batch as i32, channels as i32, height as i32, width as i32];
        let input = Tensor::new(image(inputs))?;
        let output = Tensor::new(image(outputs))?;
        let filter = Filter::new([outputs as i32, inputs as i32, 3, 3])?;
        let (x, y, w) = (input.0, output.0, filter.0);
        let forward = pick_algorithm!(
            cudnn::get_convolution_forward_algorithm,
            cudnn::get_convolution_forward_workspace_size,
            sys::cudnnConvolutionFwdAlgoPerf_t,
            precision,
            self.handle,
            x,
            w,
            y
        );
        let backward_data = pick_algorithm!(
            cudnn::get_convolution_backward_data_algorithm,
            cudnn::get_convolution_backward_data_workspace_size,
            sys::cudnnConvolutionBwdDataAlgoPerf_t,
            precision,
            self.handle,
            w,
            y,
            x
        );
        let backward_filter = pick_algorithm!(
            cudnn::get_convolution_backward_filter_algorithm,
            cudnn::get_convolution_backward_filter_workspace_size,
            sys::cudnnConvolutionBwdFilterAlgoPerf_t,
            precision,
            self.handle,
            x,
            y,
            w
        );
        let (Some(forward), Some(backward_data), Some(backward_filter)) =
            (forward, backward_data, backward_filter)
        else {
            return Ok(None);
        };
        Ok(Some(Convolution {
            input,
            output,
            filter,
            forward,
            backward_data,
            backward_filter,
        }))
    }

    /// One pass of a convolution.
    ///
    /// # Safety
    /// The operands have the sizes of the convolution's shape.
    pub(super) unsafe fn convolve(
        &self,
        convolution: &Convolution,
        pass: &Pass,
    ) -> Result<(), CudnnError> {
        let Convolution {
            input,
            output,
            filter,
            ..
        } = convolution;
        let (one, zero) = (1.0f32, 0.0f32);
        let (one, zero): (*const c_void, *const c_void) =
            ((&raw const one).cast(), (&raw const zero).cast());
        let workspace = self
            .workspaces
            .last()
            .expect("allocated with the convolution");
        let (workspace, size) = (workspace.address as *mut c_void, workspace.bytes);
        // SAFETY: descriptors and workspace belong to this convolution, the factors are read before
        // the calls return, and the caller guarantees the operands.
        unsafe {
            match *pass {
                Pass::Output {
                    input: x,
                    weight,
                    output: y,
                    add,
                } => cudnn::convolution_forward(
                    self.handle,
                    one,
                    input.0,
                    x as *const c_void,
                    filter.0,
                    weight as *const c_void,
                    convolution.forward.description.0,
                    convolution.forward.algorithm,
                    workspace,
                    size,
                    if add { one } else { zero },
                    output.0,
                    y as *mut c_void,
                ),
                Pass::Input {
                    output_gradient,
                    weight,
                    input_gradient,
                } => cudnn::convolution_backward_data(
                    self.handle,
                    one,
                    filter.0,
                    weight as *const c_void,
                    output.0,
                    output_gradient as *const c_void,
                    convolution.backward_data.description.0,
                    convolution.backward_data.algorithm,
                    workspace,
                    size,
                    zero,
                    input.0,
                    input_gradient as *mut c_void,
                ),
                Pass::Weight {
                    input: x,
                    output_gradient,
                    weight_gradient,
                } => cudnn::convolution_backward_filter(
                    self.handle,
                    one,
                    input.0,
                    x as *const c_void,
                    output.0,
                    output_gradient as *const c_void,
                    convolution.backward_filter.description.0,
                    convolution.backward_filter.algorithm,
                    workspace,
                    size,
                    zero,
                    filter.0,
                    weight_gradient as *mut c_void,
                ),
            }
        }
    }
}
