//! Structs and constants that the host shares with the kernels.
//!
//! [`header`] declares the constants for the kernels and [`assertions`] checks the layout of the
//! structs there; both are generated from this file.

use std::fmt::Write as _;

use bytemuck::{Pod, Zeroable};
use laq_tensor::{STEP_LOG_CAPACITY, StepStatus, Stop};

use crate::buffer::{Address, DeviceElement};

macro_rules! constants {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[doc = $doc])* pub(crate) const $name: $type = $value;)*

        /// The shared constants, as the kernels see them.
        pub(crate) fn header() -> String {
            let mut text = String::new();
            $(
                let (c_type, suffix) = (<$type as Constant>::C_TYPE, <$type as Constant>::SUFFIX);
                writeln!(text, "constexpr {c_type} {} = {:?}{suffix};", stringify!($name), $name)
                    .expect("a String accepts all text");
            )*
            text
        }
    };
}

/// The type of a shared constant: in C++, and the suffix of its literals.
trait Constant {
    const C_TYPE: &'static str;
    const SUFFIX: &'static str;
}

macro_rules! constant_types {
    ($($rust:ty: $c:literal $suffix:literal),*) => {
        $(impl Constant for $rust {
            const C_TYPE: &'static str = $c;
            const SUFFIX: &'static str = $suffix;
        })*
    };
}

constant_types!(usize: "unsigned" "u", u64: "unsigned long long" "ull", f32: "float" "f", f64: "double" "");

constants! {
    /// Threads of a block of a kernel over elements.
    BLOCK_THREADS: usize = 256;
    /// Threads of the block that appends a loss.
    LOSS_THREADS: usize = 1024;
    /// Threads of the block that sorts in the exact solvers.
    COMPARE_THREADS: usize = 512;
    /// Columns of a block that sums columns, one per lane of a warp.
    COLUMN_LANES: usize = 32;
    /// Rows that such a block reads at once.
    COLUMN_ROWS: usize = 8;
    /// Losses in a log.
    LOG_CAPACITY: usize = STEP_LOG_CAPACITY;
    /// [`StepLog::stop`] of a log that is not stopped.
    NOT_STOPPED: u64 = !0;
    /// Bits of an index in the code of a stop.
    STOP_INDEX_BITS: usize = 30;
    /// The kinds of stops, in the order in which a step reaches them.
    STOP_SOLVE: usize = 0;
    STOP_LOSS: usize = 1;
    STOP_GRADIENT: usize = 2;
    /// The magnitude from which a gradient stops the log.
    LARGEST_GRADIENT: f32 = laq_tensor::LARGEST_GRADIENT;
    /// Elements of a block of Adam.
    UPDATE_BLOCK: usize = 4096;
    /// Hidden units of a block of the recurrence in one kernel.
    UNITS: usize = 16;
    /// Sequences of such a block.
    SEQUENCES: usize = 32;
    /// The most weights of a group that is solved as the block of a format, and the most values.
    BLOCK_WEIGHTS: usize = 256;
    BLOCK_VALUES: usize = 16;
    /// Magnitudes of a codebook.
    MAX_MAGNITUDES: usize = 128;
    /// Added to the square root of Adam's second moment.
    CURVATURE_FLOOR: f32 = laq_solvers::CURVATURE_FLOOR;
    /// Change of the scale below which the alternating solvers stop.
    SCALE_TOLERANCE: f64 = laq_solvers::SCALE_TOLERANCE;
    /// How a scale is found.
    SIGNS: usize = 0;
    MEAN_MAGNITUDE: usize = 1;
    WEIGHTED_SIGNS: usize = 2;
    TWN: usize = 3;
    TTQ: usize = 4;
    ALTERNATING: usize = 5;
    EXACT: usize = 6;
    TANH: usize = 7;
    LARGEST_MAGNITUDE: usize = 8;
    /// Buckets of a side of the exact solvers, gaps between ranges included.
    BUCKETS: usize = 2048;
    /// Weights of a block of the gradient kernels.
    GRADIENT_BLOCK: usize = 8192;
}

/// The layout of a struct, as the host has it.
struct Layout {
    name: &'static str,
    size: usize,
    fields: &'static [(&'static str, usize)],
}

macro_rules! structs {
    ($($(#[doc = $doc:literal])* $name:ident ($size:literal bytes) {
        $($(#[doc = $field_doc:literal])* $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
            #[repr(C)]
            #[allow(missing_docs)] // The fields are described where the kernels declare them.
            pub struct $name {
                $($(#[doc = $field_doc])* pub(crate) $field: $type,)*
            }

            const _: () = assert!(size_of::<$name>() == $size);

            impl DeviceElement for $name {
                const C_TYPE: &'static str = stringify!($name);
            }
        )*

        const LAYOUTS: &[Layout] = &[$(
            Layout {
                name: stringify!($name),
                size: size_of::<$name>(),
                fields: &[$((stringify!($field), std::mem::offset_of!($name, $field))),*],
            },
        )*];
    };
}

structs! {
    /// What steps leave for the host, in the device's memory.
    StepLog (2088 bytes) {
        /// The code of the first stop, or [`NOT_STOPPED`].
        stop: u64,
        /// The time when the clock was started, in nanoseconds.
        clock: u64,
        /// The time between starts and stops of the clock.
        nanoseconds: u64,
        step_size: f32,
        /// The number of losses.
        losses: u32,
        /// Misclassified examples of evaluations.
        errors: u32,
        /// Whether the current step was submitted after one that stopped.
        skipped: u32,
        loss: [f64; STEP_LOG_CAPACITY],
    }
    /// The operands of Adam for one parameter.
    Update (48 bytes) {
        gradient: Address<f32>,
        weight: Address<f32>,
        first_moment: Address<f32>,
        second_moment: Address<f32>,
        numel: u64,
        clip: f32,
        first_block: u32,
    }
    /// A codebook by magnitude, and its solver.
    Codebook (2592 bytes) {
        midpoint: [f64; MAX_MAGNITUDES],
        multiplier: [f32; 256],
        magnitude: [f32; MAX_MAGNITUDES],
        divisor: f32,
        magnitudes: u32,
        first_positive: i32,
        first_negative: i32,
        has_zero: u32,
        solver: u32,
        sides: u32,
        /// Explicit padding.
        reserved: u32,
    }
    /// The values of a format, and its scales.
    BlockCodebook (248 bytes) {
        middle: [f64; BLOCK_VALUES],
        value: [f32; BLOCK_VALUES],
        limit: f64,
        largest: f64,
        smallest: f64,
        count: u32,
        is_symmetric: u32,
        is_signed: u32,
        lowest: i32,
        stride: i32,
        mantissa: i32,
        smallest_normal: i32,
        /// Explicit padding.
        reserved: u32,
    }
    /// The state of a group of rows between steps.
    GroupState (72 bytes) {
        scale: [f32; 2],
        solved: u32,
        trained: u32,
        iterations: u32,
        /// Whether iterations, error and zeros are those of the last solve; 0 in a restored state.
        reported: u32,
        error: f64,
        zeros: u64,
        scale_gradient: [f64; 2],
        first_moment: [f32; 2],
        second_moment: [f32; 2],
    }
    /// The operands of a group of rows, and its blocks.
    Group (72 bytes) {
        weights: Address<f32>,
        second_moment: Address<f32>,
        levels: Address<i8>,
        quantized: Address<f32>,
        state: Address<GroupState>,
        size: u64,
        parameter: u32,
        group: u32,
        first_block: u32,
        blocks: u32,
        chunk: u64,
    }
    /// Scratch of a group of rows.
    GroupWorkspace (1112 bytes) {
        product: [f64; 2],
        square: [f64; 2],
        scale: [f64; 2],
        largest_curvature: f64,
        threshold: [[f32; MAX_MAGNITUDES]; 2],
        unweighted: [u32; 2],
        done: [u32; 2],
        iterations: [u32; 2],
        largest: f32,
        arrived: u32,
    }
    /// An interval of magnitudes that is cut into buckets.
    Range (12 bytes) {
        low: u32,
        high: u32,
        base: u32,
    }
    /// The search of the exact solvers for one side of a group.
    Search (76400 bytes) {
        low: f64,
        high: f64,
        best: f64,
        unit: [f64; 2],
        slack: [f64; 2],
        buckets: u32,
        ranges: u32,
        shift: u32,
        survivors: u32,
        range: [Range; MAX_MAGNITUDES],
        edge: [u32; BUCKETS + 1],
        /// Explicit padding.
        reserved: u32,
        sum: [[u64; 2]; BUCKETS],
        above: [[u64; 2]; BUCKETS + 1],
        from: [u32; MAX_MAGNITUDES],
        to: [u32; MAX_MAGNITUDES],
        product: f64,
        square: f64,
    }
    /// Scratch of DoReFa's gradient for one group.
    TanhWork (24 bytes) {
        product: f64,
        magnitude: f64,
        largest_at: u64,
    }
}

/// `offsetof`, which needs a header; NVRTC has no headers, but the intrinsic of its front end.
const OFFSET_OF: &str = "\
#ifdef __CUDACC_RTC__
#define OFFSET_OF(type, field) __INTADDR__(&((type*)0)->field)
#else
#define OFFSET_OF(type, field) __builtin_offsetof(type, field)
#endif
";

/// C++ assertions that the kernels have the same layout, to follow their source.
pub(crate) fn assertions() -> String {
    let mut text = OFFSET_OF.to_owned();
    for Layout { name, size, fields } in LAYOUTS {
        let mut line = |condition: String| {
            writeln!(
                text,
                "static_assert({condition}, \"the layout of the host\");"
            )
            .expect("a String accepts all text");
        };
        line(format!("sizeof({name}) == {size}"));
        for (field, offset) in *fields {
            line(format!("OFFSET_OF({name}, {field}) == {offset}"));
        }
    }
    text
}

impl StepLog {
    /// The bytes before the losses.
    pub(crate) const HEAD: usize = std::mem::offset_of!(StepLog, loss);

    /// A log without losses.
    pub(crate) fn empty(step_size: f32) -> Self {
        StepLog {
            stop: NOT_STOPPED,
            step_size,
            ..Self::zeroed()
        }
    }

    /// The status, and the losses.
    pub(crate) fn status(&self) -> (StepStatus, &[f64]) {
        let index = |shift: usize| (self.stop >> shift & ((1 << STOP_INDEX_BITS) - 1)) as usize;
        let parameter = index(STOP_INDEX_BITS);
        let stop = match self.stop {
            NOT_STOPPED => None,
            code => Some(match (code >> (2 * STOP_INDEX_BITS)) as usize {
                STOP_SOLVE => Stop::Solve {
                    parameter,
                    group: index(0),
                },
                STOP_LOSS => Stop::Loss,
                _ => Stop::Gradient { parameter },
            }),
        };
        let status = StepStatus {
            stop,
            seconds: self.nanoseconds as f64 * 1e-9,
            errors: self.errors.into(),
        };
        let losses = (self.losses as usize).min(LOG_CAPACITY);
        (status, &self.loss[..losses])
    }
}
