//! Convolutions by cuDNN, where it is there.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::cudnn::{CudnnError, result as cudnn, sys};
use cudarc::driver::CudaStream;
use laq_tensor::{BackendError, ConvolutionShape};

use super::probe::{CUDNN, first_missing, incomplete};
use super::{Memory, allocate};
use crate::Precision;
use crate::device::Pass;

/// The oldest version whose functions and results are those that are used here: 9.0.
const OLDEST_VERSION: usize = 90_000;
/// Algorithms that ask for more room are left out.
const MOST_WORKSPACE: usize = 512 << 20;
/// Algorithms that cuDNN is asked to rank.
const MOST_ALGORITHMS: usize = 10;

/// cuDNN on one stream.
#[derive(Debug)]
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    /// What convolutions work in, one after the other: the last, which is the largest. What has become too small stays, for it
    /// may be in a recording.
    rooms: Vec<Memory>,
}

// SAFETY: cuDNN lets a handle go from thread to thread; that no two use it at once is seen to by the mutex around it.
unsafe impl Send for Cudnn {}

impl Cudnn {
    /// cuDNN, if there is one that can be used; why not, otherwise.
    pub(super) fn open(stream: &Arc<CudaStream>) -> Result<Self, String> {
        version()?;
        let handle =
            cudnn::create_handle().map_err(|error| format!("cuDNN does not start: {error:?}"))?;
        let cudnn = Cudnn {
            handle,
            rooms: Vec::new(),
        };
        // SAFETY: handle and stream are those of this device.
        unsafe { cudnn::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(|error| format!("cuDNN does not take the stream: {error:?}"))?;
        Ok(cudnn)
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: the handle was made by `open`, and is not used any more.
        let _ = unsafe { cudnn::destroy_handle(self.handle) };
    }
}

/// The version of cuDNN, or why it cannot be used.
pub(super) fn version() -> Result<String, String> {
    // SAFETY: loading the library does nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "libcudnn is not there, so convolutions are done by cuBLAS; it comes from NVIDIA's site and with `pip install \
             nvidia-cudnn-cu13` (put its folder on LD_LIBRARY_PATH)"
                .to_owned(),
        );
    }
    if let Some(missing) = first_missing!(sys::culib, CUDNN) {
        return Err(incomplete("libcudnn", missing));
    }
    let version = cudnn::get_version();
    if version < OLDEST_VERSION {
        return Err(format!(
            "cuDNN of version {version} is too old, expected {OLDEST_VERSION} (9.0) or later, so convolutions are done by \
             cuBLAS"
        ));
    }
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    Ok(format!("{major}.{minor}.{patch}"))
}

/// A convolution of one shape: what cuDNN calls it, and how it is done.
pub struct Convolution {
    input: Tensor,
    output: Tensor,
    filter: Filter,
    forward: Way<sys::cudnnConvolutionFwdAlgo_t>,
    backward_data: Way<sys::cudnnConvolutionBwdDataAlgo_t>,
    backward_filter: Way<sys::cudnnConvolutionBwdFilterAlgo_t>,
}

/// How a pass is done: an algorithm, with the mathematics that it was ranked with.
struct Way<A> {
    algorithm: A,
    math: sys::cudnnMathType_t,
    description: Description,
    /// Bytes that it works in.
    room: usize,
}

// SAFETY: descriptors are plain memory of cuDNN's, which may go from thread to thread; as the type is not `Sync`, one thread
// at a time uses them.
unsafe impl Send for Convolution {}

impl fmt::Debug for Convolution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "forward {:?} {:?}, by the input {:?} {:?}, by the weights {:?} {:?}",
            self.forward.algorithm,
            self.forward.math,
            self.backward_data.algorithm,
            self.backward_data.math,
            self.backward_filter.algorithm,
            self.backward_filter.math
        )
    }
}

/// Descriptors, given back when they are dropped.
struct Tensor(sys::cudnnTensorDescriptor_t);
struct Filter(sys::cudnnFilterDescriptor_t);
struct Description(sys::cudnnConvolutionDescriptor_t);

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: it was made by `Tensor::new`, and nobody else has it.
        let _ = unsafe { cudnn::destroy_tensor_descriptor(self.0) };
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: it was made by `Filter::new`, and nobody else has it.
        let _ = unsafe { cudnn::destroy_filter_descriptor(self.0) };
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it was made by `Description::new`, and nobody else has it.
        let _ = unsafe { cudnn::destroy_convolution_descriptor(self.0) };
    }
}

const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
/// Channels innermost, as this project stores images; filters then lie as F × 3 × 3 × C, as here too.
const LAYOUT: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

impl Tensor {
    fn new(sizes: [i32; 4]) -> Result<Self, CudnnError> {
        let tensor = Tensor(cudnn::create_tensor_descriptor()?);
        // SAFETY: the descriptor was made above.
        unsafe { cudnn::set_tensor4d_descriptor(tensor.0, LAYOUT, FLOAT, sizes)? };
        Ok(tensor)
    }
}

impl Filter {
    fn new(sizes: [i32; 4]) -> Result<Self, CudnnError> {
        let filter = Filter(cudnn::create_filter_descriptor()?);
        // SAFETY: the descriptor was made above.
        unsafe { cudnn::set_filter4d_descriptor(filter.0, FLOAT, LAYOUT, sizes)? };
        Ok(filter)
    }
}

impl Description {
    fn new(math: sys::cudnnMathType_t) -> Result<Self, CudnnError> {
        let description = Description(cudnn::create_convolution_descriptor()?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the descriptor was made above.
        unsafe {
            cudnn::set_convolution2d_descriptor(description.0, 1, 1, 1, 1, 1, 1, mode, FLOAT)?;
            cudnn::set_convolution_math_type(description.0, math)?;
        }
        Ok(description)
    }
}

/// The way of the first answer that works, gives the same bits every time, and is content with the room; none where there is no
/// such answer. In TF32 those that use tensor cores come before the others.
macro_rules! first_way {
    ($ask:path, $ask_room:path, $performance:ty, $precision:expr, $handle:expr, $a:expr, $b:expr, $c:expr) => {{
        use sys::cudnnMathType_t::{
            CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
        };
        let asked = Description::new(match $precision {
            // Which lets factors be rounded to TF32.
            Precision::Tf32 => CUDNN_DEFAULT_MATH,
            Precision::Float32 => CUDNN_FMA_MATH,
        })?;
        // SAFETY: zero is a value of every field; where fewer answers are given than are asked for, the others are not read.
        let mut found: [$performance; MOST_ALGORITHMS] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: the descriptors live, and there is room for as many answers as are asked for.
        unsafe {
            $ask(
                $handle,
                $a,
                $b,
                asked.0,
                $c,
                MOST_ALGORITHMS as i32,
                &raw mut count,
                found.as_mut_ptr(),
            )?;
        }
        let count = usize::try_from(count).unwrap_or(0).min(MOST_ALGORITHMS);
        let good = found[..count].iter().filter(|answer| {
            answer.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && answer.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                // Which would round factors to half precision.
                && answer.mathType != CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION
                && ($precision == Precision::Tf32 || answer.mathType == CUDNN_FMA_MATH)
        });
        let mut good: Vec<_> = good.collect();
        good.sort_by_key(|answer| answer.mathType == CUDNN_FMA_MATH);
        let mut way = None;
        for answer in good {
            let description = Description::new(answer.mathType)?;
            // SAFETY: the descriptors live.
            let room = unsafe { $ask_room($handle, $a, $b, description.0, $c, answer.algo) };
            if let Ok(room) = room
                && room <= MOST_WORKSPACE
            {
                way = Some(Way {
                    algorithm: answer.algo,
                    math: answer.mathType,
                    description,
                    room,
                });
                break;
            }
        }
        way
    }};
}

impl Cudnn {
    /// How cuDNN does a convolution of this shape; or why it does not: it has no way that gives the same bits every time, or
    /// refuses to go it.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when there is no room.
    pub(super) fn convolution(
        &mut self,
        device: &str,
        stream: &Arc<CudaStream>,
        precision: Precision,
        shape: ConvolutionShape,
    ) -> Result<Result<Convolution, String>, BackendError> {
        let convolution = match self.ways(precision, shape) {
            Ok(Some(convolution)) => convolution,
            Ok(None) => {
                let why = "it has no algorithm that gives the same bits every time";
                return Ok(Err(why.to_owned()));
            }
            Err(error) => return Ok(Err(format!("{error:?}"))),
        };
        let room = (convolution.forward.room)
            .max(convolution.backward_data.room)
            .max(convolution.backward_filter.room);
        if self.rooms.last().is_none_or(|last| last.bytes < room) {
            self.rooms.push(allocate(device, stream, room)?);
        }
        let tried = self.try_out(device, stream, shape, &convolution)?;
        Ok(tried
            .map(|()| convolution)
            .map_err(|error| format!("{error:?}")))
    }

    /// Every pass once, on zeros: what is refused is refused now, and what is loaded at the first use is there before a step
    /// is recorded.
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
        // SAFETY: the operands are as large as the shape says, and are given back behind these passes.
        let mut done = (passes.iter()).map(|pass| unsafe { self.convolve(convolution, pass) });
        Ok(done.try_for_each(|done| done))
    }

    /// The best way of every pass; none where one has none.
    fn ways(
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
        let forward = first_way!(
            cudnn::get_convolution_forward_algorithm,
            cudnn::get_convolution_forward_workspace_size,
            sys::cudnnConvolutionFwdAlgoPerf_t,
            precision,
            self.handle,
            x,
            w,
            y
        );
        let backward_data = first_way!(
            cudnn::get_convolution_backward_data_algorithm,
            cudnn::get_convolution_backward_data_workspace_size,
            sys::cudnnConvolutionBwdDataAlgoPerf_t,
            precision,
            self.handle,
            w,
            y,
            x
        );
        let backward_filter = first_way!(
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
    /// The operands are as large as the convolution's shape says.
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
        let room = self.rooms.last().expect("it was made with the convolution");
        let (room, size) = (room.address as *mut c_void, room.bytes);
        // SAFETY: descriptors and room are those of this convolution, the factors are read before the calls return, and
        // the operands are the caller's promise.
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
                    room,
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
                    room,
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
                    room,
                    size,
                    zero,
                    filter.0,
                    weight_gradient as *mut c_void,
                ),
            }
        }
    }
}
