//! The record of steps as it lies in the device's memory.

use laq_tensor::{STEP_LOG_CAPACITY, StepStatus, Stop};

/// `Record` of `kernels/common.cuh`, in the same layout.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RawRecord {
    /// The code of the first stop; [`NOT_STOPPED`] before.
    pub(crate) stop: u64,
    /// When the clock was started.
    pub(crate) clock: u64,
    /// What it has taken in all.
    pub(crate) nanoseconds: u64,
    /// Of the step under way.
    pub(crate) step_size: f32,
    /// How many there are.
    pub(crate) losses: u32,
    /// Wrong answers of evaluations.
    pub(crate) errors: u32,
    /// Whether the step under way was begun behind one that stopped.
    pub(crate) skipped: u32,
    /// The losses.
    pub(crate) loss: [f64; STEP_LOG_CAPACITY],
}

/// `stop` of a record that is not stopped.
const NOT_STOPPED: u64 = !0;

impl Default for RawRecord {
    fn default() -> Self {
        RawRecord {
            stop: NOT_STOPPED,
            clock: 0,
            nanoseconds: 0,
            step_size: 0.0,
            losses: 0,
            errors: 0,
            skipped: 0,
            loss: [0.0; STEP_LOG_CAPACITY],
        }
    }
}

impl RawRecord {
    /// Its bytes in memory.
    pub(crate) const SIZE: usize = size_of::<RawRecord>();
    /// Those before the losses.
    pub(crate) const HEAD: usize = size_of::<RawRecord>() - 8 * STEP_LOG_CAPACITY;

    /// The bytes of the record, as the device has them.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::SIZE);
        for number in [self.stop, self.clock, self.nanoseconds] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(self.step_size.to_ne_bytes());
        for number in [self.losses, self.errors, self.skipped] {
            bytes.extend(number.to_ne_bytes());
        }
        for loss in self.loss {
            bytes.extend(loss.to_ne_bytes());
        }
        bytes
    }

    /// The record of such bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let eight = |at: usize| bytes[at..at + 8].try_into().expect("eight bytes");
        let four = |at: usize| bytes[at..at + 4].try_into().expect("four bytes");
        let mut loss = [0.0; STEP_LOG_CAPACITY];
        for (index, loss) in loss.iter_mut().enumerate() {
            *loss = f64::from_ne_bytes(eight(Self::HEAD + 8 * index));
        }
        RawRecord {
            stop: u64::from_ne_bytes(eight(0)),
            clock: u64::from_ne_bytes(eight(8)),
            nanoseconds: u64::from_ne_bytes(eight(16)),
            step_size: f32::from_ne_bytes(four(24)),
            losses: u32::from_ne_bytes(four(28)),
            errors: u32::from_ne_bytes(four(32)),
            skipped: u32::from_ne_bytes(four(36)),
            loss,
        }
    }

    /// What the host is told, and the losses.
    pub(crate) fn recorded(&self) -> (StepStatus, &[f64]) {
        let part = |shift: u32| (self.stop >> shift & 0x3fff_ffff) as usize;
        let stop = match self.stop {
            NOT_STOPPED => None,
            code => Some(match code >> 60 {
                0 => Stop::Solve {
                    parameter: part(30),
                    group: part(0),
                },
                1 => Stop::Loss,
                _ => Stop::Gradient {
                    parameter: part(30),
                },
            }),
        };
        let losses = (self.losses as usize).min(STEP_LOG_CAPACITY);
        let seconds = self.nanoseconds as f64 * 1e-9;
        let errors = self.errors.into();
        let recorded = StepStatus {
            stop,
            seconds,
            errors,
        };
        (recorded, &self.loss[..losses])
    }
}
