//! The table of kernels: one struct each, whose fields are the kernel's parameters.
//!
//! A kernel is launched by a value of its struct, so that a launch with a missing, surplus or
//! mistyped argument does not compile. Pointer parameters are [`Slice`] (read) or [`SliceMut`]
//! (written) of an element type; the table states their minimum length where the other parameters
//! determine it, and a launch checks it. A test compares the table with the signatures in
//! `kernels/*.cu`.
//!
//! ```
//! use laq_cuda::{Slice, SliceMut, kernels};
//!
//! fn arguments<'a>(output: Slice<'a, f32>, gradient: SliceMut<'a, f32>) -> kernels::relu_backward<'a> {
//!     let numel = output.len();
//!     kernels::relu_backward { output, gradient, numel }
//! }
//! ```
//!
//! A read-only slice where the kernel writes:
//!
//! ```compile_fail,E0308
//! use laq_cuda::{Slice, SliceMut, kernels};
//!
//! fn arguments<'a>(output: Slice<'a, f32>, gradient: Slice<'a, f32>) -> kernels::relu_backward<'a> {
//!     let numel = output.len();
//!     kernels::relu_backward { output, gradient, numel }
//! }
//! ```
//!
//! Elements of another type:
//!
//! ```compile_fail,E0308
//! use laq_cuda::{Slice, SliceMut, kernels};
//!
//! fn arguments<'a>(output: Slice<'a, f64>, gradient: SliceMut<'a, f32>) -> kernels::relu_backward<'a> {
//!     let numel = output.len();
//!     kernels::relu_backward { output, gradient, numel }
//! }
//! ```
//!
//! A missing argument:
//!
//! ```compile_fail,E0063
//! use laq_cuda::{Slice, SliceMut, kernels};
//!
//! fn arguments<'a>(output: Slice<'a, f32>, gradient: SliceMut<'a, f32>) -> kernels::relu_backward<'a> {
//!     kernels::relu_backward { output, gradient }
//! }
//! ```

use crate::buffer::{Address, DeviceElement, Retain, Slice, SliceMut};
use crate::device::Argument;
pub use crate::layout::{
    BlockCodebook, Codebook, Group, GroupState, GroupWorkspace, Range, Search, StepLog, TanhWork,
    Update,
};

/// The signature of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// The file in `kernels/`.
    pub source: &'static str,
    /// Its name.
    pub kernel: &'static str,
    /// Names and types of its parameters, in order.
    pub parameters: &'static [(&'static str, Type)],
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A value of this C++ type.
    Value(&'static str),
    /// A pointer to constants of this C++ type.
    Read(&'static str),
    /// A pointer to variables of this C++ type.
    Write(&'static str),
}

/// A kernel with its arguments.
pub(crate) trait Kernel {
    const NAME: &'static str;

    /// Compares the lengths of the slices with the table, and lists the arguments.
    fn arguments(&self) -> Arguments<'_>;
}

/// The most parameters that a kernel has.
const MAX_PARAMETERS: usize = 13;

/// The arguments of a launch, and the owners of what they point to.
#[derive(Default)]
pub(crate) struct Arguments<'a> {
    values: [Argument; MAX_PARAMETERS],
    owners: [Option<&'a dyn Retain>; MAX_PARAMETERS],
    count: usize,
}

impl<'a> Arguments<'a> {
    pub(crate) fn values(&self) -> &[Argument] {
        &self.values[..self.count]
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = &'a dyn Retain> {
        self.owners.into_iter().flatten()
    }

    fn push(&mut self, value: Argument, owner: Option<&'a dyn Retain>) {
        self.values[self.count] = value;
        self.owners[self.count] = owner;
        self.count += 1;
    }
}

/// The size that a parameter stands for in the lengths of the table.
trait Size {
    fn size(&self) -> usize;
}

impl Size for usize {
    fn size(&self) -> usize {
        *self
    }
}

macro_rules! no_size {
    ($([$($element:ident)?] $type:ty),*) => {
        $(impl$(<$element>)? Size for $type {
            fn size(&self) -> usize {
                0
            }
        })*
    };
}

no_size!([] bool, [] f32, [] f64, [E] Slice<'_, E>, [E] SliceMut<'_, E>);
no_size!([E] Option<Slice<'_, E>>, [E] Option<SliceMut<'_, E>>);

fn check_length(kernel: &str, parameter: &str, found: usize, expected: usize) {
    assert!(
        found >= expected,
        "{kernel}: {parameter} has {found} elements, expected {expected} or more"
    );
}

macro_rules! field {
    ($lifetime:lifetime, read $element:ty) => { Slice<$lifetime, $element> };
    ($lifetime:lifetime, write $element:ty) => { SliceMut<$lifetime, $element> };
    ($lifetime:lifetime, read_or_null $element:ty) => { Option<Slice<$lifetime, $element>> };
    ($lifetime:lifetime, write_or_null $element:ty) => { Option<SliceMut<$lifetime, $element>> };
    ($lifetime:lifetime, unsigned) => { usize };
    ($lifetime:lifetime, Count) => { usize };
    ($lifetime:lifetime, flag) => { bool };
    ($lifetime:lifetime, float) => { f32 };
    ($lifetime:lifetime, double) => { f64 };
}

macro_rules! c_type {
    (read $element:ty) => { Type::Read(<$element as DeviceElement>::C_TYPE) };
    (write $element:ty) => { Type::Write(<$element as DeviceElement>::C_TYPE) };
    (read_or_null $element:ty) => { c_type!(read $element) };
    (write_or_null $element:ty) => { c_type!(write $element) };
    (flag) => { Type::Value("unsigned") };
    ($value:ident) => { Type::Value(stringify!($value)) };
}

macro_rules! push {
    ($list:ident, $value:expr, read) => {
        $list.push($value.address().0.into(), Some($value.owner()))
    };
    ($list:ident, $value:expr, write) => {
        push!($list, $value.read(), read)
    };
    ($list:ident, $value:expr, read_or_null) => {
        match $value {
            Some(slice) => push!($list, slice, read),
            None => $list.push(0u64.into(), None),
        }
    };
    ($list:ident, $value:expr, write_or_null) => {
        push!($list, $value.map(SliceMut::read), read_or_null)
    };
    ($list:ident, $value:expr, unsigned) => {
        $list.push(
            u32::try_from($value).expect("a size below 2^32").into(),
            None,
        )
    };
    ($list:ident, $value:expr, Count) => {
        $list.push(($value as u64).into(), None)
    };
    ($list:ident, $value:expr, $scalar:ident) => {
        $list.push($value.into(), None)
    };
}

/// Parameters are `name: access element [minimum length]` for pointers and `name: type` for values.
macro_rules! kernels {
    ($($source:literal {$(
        $(#[doc = $doc:literal])*
        $kernel:ident($($parameter:ident: $kind:ident $($element:ty)? $([$length:expr])?),* $(,)?);
    )*})*) => {
        $($(
            $(#[doc = $doc])*
            #[allow(non_camel_case_types, missing_docs)] // The names are those of the kernel.
            #[derive(Clone, Copy, Debug)]
            pub struct $kernel<'a> {
                $(pub $parameter: field!('a, $kind $($element)?),)*
            }

            impl Kernel for $kernel<'_> {
                const NAME: &'static str = stringify!($kernel);

                fn arguments(&self) -> Arguments<'_> {
                    $(
                        #[allow(unused_variables)] // Not every parameter determines a length.
                        let $parameter = self.$parameter.size();
                    )*
                    $($(
                        let found = self.$parameter.len();
                        check_length(Self::NAME, stringify!($parameter), found, $length);
                    )?)*
                    let mut list = Arguments::default();
                    $(push!(list, self.$parameter, $kind);)*
                    list
                }
            }
        )*)*

        /// The signatures of all kernels.
        pub const SIGNATURES: &[Signature] = &[$($(
            Signature {
                source: $source,
                kernel: stringify!($kernel),
                parameters: &[$((stringify!($parameter), c_type!($kind $($element)?))),*],
            },
        )*)*];
    };
}

kernels! {
    "gather.cu" {
        /// A batch of images.
        gather_images(
            images: read f32, labels: read u8, permutation: read u32 [numel / image_size],
            pixels: write f32 [numel], targets: write u8 [numel / image_size],
            numel: Count, image_size: unsigned,
        );
        /// A batch of sequences and of the tokens that follow.
        gather_text(
            text: read u8, permutation: read u32 [batch], inputs: write u8 [length * batch],
            targets: write u8 [length * batch], length: unsigned, batch: unsigned,
        );
    }
    "steps.cu" {
        /// Sets the step size of Adam.
        set_step_size(log: write StepLog [1], step_size: float);
        /// Starts the clock of the log.
        start_clock(log: write StepLog [1]);
        /// Stops the clock of the log.
        stop_clock(log: write StepLog [1]);
    }
    "elementwise.cu" {
        /// Fills with a value.
        fill(values: write f32 [numel], numel: Count, value: float);
        /// ReLU in place.
        relu(values: write f32 [numel], numel: Count);
        /// The gradient of ReLU in place.
        relu_backward(output: read f32 [numel], gradient: write f32 [numel], numel: Count);
        /// The index of the first NaN or infinity.
        first_not_finite(values: read f32 [numel], numel: Count, index: write u64 [1]);
    }
    "dense.cu" {
        /// Every row becomes the bias.
        broadcast_bias(bias: read f32 [columns], output: write f32 [numel], numel: Count, columns: unsigned);
        /// Column sums of every chunk of rows.
        column_sums(
            values: read f32 [rows * columns], partial: write f64 [rows.div_ceil(chunk) * columns],
            rows: unsigned, columns: unsigned, chunk: unsigned,
        );
        /// The sums of all chunks.
        sum_chunks(partial: read f64 [chunks * columns], chunks: unsigned, columns: unsigned, sums: write f32 [columns]);
    }
    "convolution.cu" {
        /// The 3 × 3 windows of all pixels as rows of a matrix.
        im2col(
            input: read f32 [numel / 9], columns: write f32 [numel], numel: Count,
            height: unsigned, width: unsigned, channels: unsigned,
        );
        /// The adjoint of `im2col`.
        col2im(
            columns: read f32 [9 * numel], input: write f32 [numel], numel: Count,
            height: unsigned, width: unsigned, channels: unsigned,
        );
    }
    "pool.cu" {
        /// 2 × 2 max pooling.
        max_pool(
            input: read f32 [4 * numel], argmax: write u8 [numel], output: write f32 [numel], numel: Count,
            height: unsigned, width: unsigned, channels: unsigned,
        );
        /// The gradient of 2 × 2 max pooling.
        max_pool_backward(
            argmax: read u8, output_gradient: read f32, input_gradient: write f32 [numel], numel: Count,
            height: unsigned, width: unsigned, channels: unsigned,
        );
    }
    "norm.cu" {
        /// Σ x and Σ x² of every chunk of rows.
        batch_norm_sums(
            input: read f32 [rows * channels], partial: write f64 [rows.div_ceil(chunk) * 2 * channels],
            rows: unsigned, channels: unsigned, chunk: unsigned,
        );
        /// Statistics and coefficients from the sums of all chunks.
        batch_norm_coefficients(
            partial: read f64 [chunks * 2 * channels], chunks: unsigned, scale: read f32 [channels],
            shift: read f32 [channels], mean: write f64 [channels], variance: write f64 [channels],
            factor: write f32 [channels], offset: write f32 [channels],
            rows: unsigned, channels: unsigned, epsilon: float,
        );
        /// The forward pass in one launch, for one chunk of rows.
        batch_norm_fused(
            input: read f32 [rows * channels], scale: read f32 [channels], shift: read f32 [channels],
            mean: write f64 [channels], variance: write f64 [channels], factor: write f32 [channels],
            offset: write f32 [channels], output: write f32 [rows * channels],
            rows: unsigned, channels: unsigned, epsilon: float, relu: flag,
        );
        /// Coefficients from the running statistics.
        batch_norm_running_coefficients(
            mean: read f32 [channels], variance: read f32 [channels], scale: read f32 [channels],
            shift: read f32 [channels], factor: write f32 [channels], offset: write f32 [channels],
            channels: unsigned, epsilon: float,
        );
        /// y = x · factor + offset, with ReLU.
        batch_norm_apply(
            input: read f32 [numel], factor: read f32 [channels], offset: read f32 [channels],
            output: write f32 [numel], numel: Count, channels: unsigned, relu: flag,
        );
        /// Σ ∂y and Σ ∂y x of every chunk of rows.
        batch_norm_backward_sums(
            input: read f32 [rows * channels], gradient: read f32 [rows * channels], factor: read f32 [channels],
            offset: read f32 [channels], partial: write f64 [rows.div_ceil(chunk) * 2 * channels],
            rows: unsigned, channels: unsigned, chunk: unsigned, relu: flag,
        );
        /// The gradients of scale and shift, and the coefficients of ∂x.
        batch_norm_backward_coefficients(
            partial: read f64 [chunks * 2 * channels], chunks: unsigned, scale: read f32 [channels],
            mean: read f64 [channels], variance: read f64 [channels], scale_gradient: write f32 [channels],
            shift_gradient: write f32 [channels], slope: write f32 [channels], base: write f32 [channels],
            rows: unsigned, channels: unsigned, epsilon: float,
        );
        /// ∂x = ∂y · factor + x · slope + base.
        batch_norm_backward_apply(
            input: read f32 [numel], factor: read f32 [channels], offset: read f32 [channels],
            slope: read f32 [channels], base: read f32 [channels], gradient: write f32 [numel],
            numel: Count, channels: unsigned, relu: flag,
        );
        /// The backward pass in one launch, for one chunk of rows.
        batch_norm_backward_fused(
            input: read f32 [rows * channels], factor: read f32 [channels], offset: read f32 [channels],
            scale: read f32 [channels], mean: read f64 [channels], variance: read f64 [channels],
            scale_gradient: write f32 [channels], shift_gradient: write f32 [channels],
            gradient: write f32 [rows * channels],
            rows: unsigned, channels: unsigned, epsilon: float, relu: flag,
        );
        /// Moves the running statistics towards those of the batch.
        update_running_stats(
            log: read StepLog [1], batch_mean: read f64 [channels], batch_variance: read f64 [channels],
            mean: write f32 [channels], variance: write f32 [channels],
            rows: unsigned, channels: unsigned, momentum: float,
        );
    }
    "lstm.cu" {
        /// W_x + b, one row per token.
        lstm_token_table(
            weight_ih: read f32 [vocabulary * gate_rows], bias: read f32 [gate_rows],
            table: write f32 [vocabulary * gate_rows], vocabulary: unsigned, gate_rows: unsigned,
        );
        /// One time step.
        lstm_cell(
            tokens: read u8 [batch], table: read f32, gates: write f32 [batch * 4 * hidden],
            previous: read f32 [batch * hidden], cell: write f32 [batch * hidden], state: write f32 [batch * hidden],
            batch: unsigned, hidden: unsigned, first: flag,
        );
        /// One time step of the backward pass.
        lstm_cell_backward(
            gates: write f32 [batch * 4 * hidden], previous: read f32 [batch * hidden],
            cell: read f32 [batch * hidden], state_gradient: read f32 [batch * hidden],
            dc_next: write f32 [batch * hidden], clip: float,
            batch: unsigned, hidden: unsigned, first: flag, last: flag,
        );
        /// One-hot rows of tokens.
        one_hot(tokens: read u8 [numel / vocabulary], output: write f32 [numel], numel: Count, vocabulary: unsigned);
    }
    "sequence.cu" {
        /// All time steps with 128 hidden units.
        lstm_sequence_128(
            tokens: read u8 [length * batch], table: read f32, weight_hh: read f32 [4 * 128 * 128],
            gates: write f32 [length * batch * 4 * 128], cells: write f32 [length * batch * 128],
            states: write f32 [length * batch * 128], counters: write u32, length: unsigned, batch: unsigned,
        );
        /// All time steps with 256 hidden units.
        lstm_sequence_256(
            tokens: read u8 [length * batch], table: read f32, weight_hh: read f32 [4 * 256 * 256],
            gates: write f32 [length * batch * 4 * 256], cells: write f32 [length * batch * 256],
            states: write f32 [length * batch * 256], counters: write u32, length: unsigned, batch: unsigned,
        );
        /// All time steps with 512 hidden units.
        lstm_sequence_512(
            tokens: read u8 [length * batch], table: read f32, weight_hh: read f32 [4 * 512 * 512],
            gates: write f32 [length * batch * 4 * 512], cells: write f32 [length * batch * 512],
            states: write f32 [length * batch * 512], counters: write u32, length: unsigned, batch: unsigned,
        );
        /// The backward pass over all time steps with 128 hidden units.
        lstm_sequence_backward_128(
            weight_hh: read f32 [4 * 128 * 128], gates: write f32 [length * batch * 4 * 128],
            cells: read f32 [length * batch * 128], state_gradient: read f32 [length * batch * 128],
            partial: write f32, counters: write u32, clip: float, length: unsigned, batch: unsigned,
        );
        /// The backward pass over all time steps with 256 hidden units.
        lstm_sequence_backward_256(
            weight_hh: read f32 [4 * 256 * 256], gates: write f32 [length * batch * 4 * 256],
            cells: read f32 [length * batch * 256], state_gradient: read f32 [length * batch * 256],
            partial: write f32, counters: write u32, clip: float, length: unsigned, batch: unsigned,
        );
        /// The backward pass over all time steps with 512 hidden units.
        lstm_sequence_backward_512(
            weight_hh: read f32 [4 * 512 * 512], gates: write f32 [length * batch * 4 * 512],
            cells: read f32 [length * batch * 512], state_gradient: read f32 [length * batch * 512],
            partial: write f32, counters: write u32, clip: float, length: unsigned, batch: unsigned,
        );
    }
    "losses.cu" {
        /// Cross entropy per row and its gradient.
        softmax_cross_entropy(
            targets: read u8 [rows], logits: write f32 [rows * classes], losses: write f64 [rows],
            rows: unsigned, classes: unsigned,
        );
        /// Squared hinge loss per row and its gradient.
        squared_hinge(
            targets: read u8 [rows], outputs: write f32 [rows * classes], losses: write f64 [rows],
            rows: unsigned, classes: unsigned,
        );
        /// Loss and error per row.
        evaluate_outputs(
            targets: read u8 [rows], outputs: read f32 [rows * classes], losses: write f64 [rows],
            wrong: write f64 [rows], rows: unsigned, classes: unsigned, hinge: flag,
        );
        /// Appends the mean loss of all rows to the log.
        append_loss(
            values: read f64 [numel], wrong: read_or_null f64, numel: Count, factor: double,
            log: write StepLog [1],
        );
    }
    "optimizer.cu" {
        /// Stops the log where a gradient is not finite.
        check_gradients(updates: read Update, update_of_block: read u32, log: write StepLog [1]);
        /// One step of Adam on all parameters.
        adam(
            updates: read Update, update_of_block: read u32, log: read StepLog [1],
            beta1: float, one_minus_beta1: float, beta2: float, one_minus_beta2: float, epsilon: float,
        );
    }
    "solve.cu" {
        /// Checks and sums the weights, and initializes the scales.
        solve_begin(
            groups: read Group, workspaces: write GroupWorkspace, group_of_block: read u32, codebook: read Codebook [1],
            partial: write f64, searches: write_or_null Search, log: write StepLog [1],
        );
        /// One iteration of the alternating solvers.
        solve_iterate(
            groups: read Group, workspaces: write GroupWorkspace, group_of_block: read u32, codebook: read Codebook [1],
            partial: write f64, log: read StepLog [1],
        );
        /// Levels, quantized weights and errors for the scales.
        solve_end(
            groups: read Group, workspaces: write GroupWorkspace, group_of_block: read u32, codebook: read Codebook [1],
            partial: write f64, log: read StepLog [1],
        );
    }
    "exact.cu" {
        /// Sums of the weights of every bucket, and the interval of scales that the bounds leave.
        solve_buckets(
            groups: read Group, workspaces: write GroupWorkspace, group_of_block: read u32, codebook: read Codebook [1],
            searches: write Search, last: flag, log: read StepLog [1],
        );
        /// Gathers the weights that the bounds leave.
        solve_gather(
            groups: read Group, workspaces: write GroupWorkspace, group_of_block: read u32, codebook: read Codebook [1],
            partial: write f64, searches: write Search, survivors: read Address<u64>, log: read StepLog [1],
        );
        /// Sorts the gathered weights and evaluates every breakpoint.
        solve_compare(
            groups: read Group, workspaces: write GroupWorkspace, codebook: read Codebook [1], searches: write Search,
            survivors: read Address<u64>, prefixes: read Address<f64>, log: read StepLog [1],
        );
    }
    "blocks.cu" {
        /// Checks the weights of every group.
        check_blocks(groups: read Group, log: write StepLog [1]);
        /// The optimum of every group in a format.
        solve_blocks(groups: read Group, codebook: read BlockCodebook [1], log: read StepLog [1]);
    }
    "gradient.cu" {
        /// TTQ: the gradients of the latent weights and of both scales.
        ttq_gradient(
            states: write GroupState, levels: read i8, gradient: write f32, partial: write f64,
            arrived: write u32, group_size: Count,
        );
        /// Adam on the scales of every group.
        update_scales(
            log: read StepLog [1], states: write GroupState [groups], groups: unsigned,
            beta1: float, one_minus_beta1: float, beta2: float, one_minus_beta2: float, epsilon: float,
        );
        /// DoReFa: Σ g tanh w and the largest magnitude of every group.
        tanh_sums(
            weights: read f32, gradient: read f32, partial: write f64, arrived: write u32,
            workspaces: write TanhWork, group_size: Count,
        );
        /// DoReFa: the gradient of the latent weights.
        tanh_gradient(
            weights: read f32 [numel], gradient: write f32 [numel], workspaces: read TanhWork [numel / group_size],
            group_size: unsigned, numel: Count,
        );
    }
}
