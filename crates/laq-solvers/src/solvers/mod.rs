//! The solvers of problem (1) and the methods with fixed thresholds.

pub(crate) mod alternating;
mod assign;
pub(crate) mod closed_form;
pub(crate) mod exact;
pub(crate) mod fast_alternating;
pub(crate) mod gradients;
pub(crate) mod sorting;
mod sweep;
pub(crate) mod threshold;

use self::exact::ExactWorkspace;
use self::fast_alternating::FastWorkspace;
use self::sweep::SweepQueue;
use crate::blocks::Search;

/// Buffers of the solvers. They grow with the first problem of a size and are reused, so a training
/// step allocates nothing. Use one per thread.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    sorted: Vec<u64>,
    queue: SweepQueue,
    exact: ExactWorkspace,
    pub(crate) fast: FastWorkspace,
    pub(crate) curvature: Vec<f32>,
    pub(crate) blocks: Option<Box<Search>>,
}
