//! Where the time of an experiment's training steps goes, part by part, beside what the processor can
//! do at most.

use laq_models::Work;
use laq_packed::thread_pool;
use laq_tensor::CpuBackend;
use serde::Serialize;

use crate::RunError;
use crate::config::Experiment;
use crate::device::OpenDevice;
use crate::environment::{commit, cpu};
use crate::examples::sizes;
use crate::random_batch::RandomBatch;
use crate::session::network;

/// Untimed steps: the alternating solvers start near their last solution once Adam's moments change
/// slowly.
const WARM_UP: u64 = 20;

/// The times of training steps on random input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The processor.
    pub cpu: String,
    /// The instruction set.
    pub kernel: String,
    /// Threads used.
    pub threads: usize,
    /// The commit of the build.
    pub commit: String,
    /// Timed steps.
    pub steps: u64,
    /// Mean wall-clock seconds of a step.
    pub seconds_per_step: f64,
    /// The speed of the product's innermost loop.
    pub operations_per_second: f64,
    /// The speed of memory that is in no cache.
    pub bytes_per_second: f64,
    /// The parts, in the order of a step.
    pub parts: Vec<ProfilePart>,
    /// The algorithms of the layers.
    pub notes: Vec<String>,
}

/// A part of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfilePart {
    /// Prefix of the layer's parameters, or `all`.
    pub layer: String,
    /// What is computed.
    pub kind: String,
    /// Mean seconds in a step.
    pub seconds: f64,
    /// Additions and multiplications in a step, as the formulas have them; of products.
    pub operations: Option<f64>,
    /// Bytes that a step moves at least; of everything else.
    pub bytes: Option<f64>,
    /// The speed over the limit of its kind. Winograd's convolutions have a quarter of the
    /// multiplications of the formula, and numbers in a cache are not moved: both can exceed 1.
    pub share_of_limit: f64,
}

/// Times `steps` training steps of `experiment` on the CPU, after some others, on random input.
/// Data are needed only for a text file.
///
/// # Errors
///
/// As [`estimate`](crate::estimate::estimate).
pub fn profile(
    experiment: &Experiment,
    threads: Option<usize>,
    steps: u64,
) -> Result<Profile, RunError> {
    let (_, input) = sizes(&experiment.data)?;
    let backend = CpuBackend::new()?;
    let pool = thread_pool(threads)?;
    pool.install(|| {
        let limits = backend.limits();
        let device = OpenDevice::Cpu(backend);
        let mut network = network(device, experiment, input, experiment.data.batch)?;
        let random = RandomBatch::new(experiment, input);
        let rate = experiment.train.learning_rate;
        let failed = |source| RunError::Estimate {
            learning_rate: rate,
            source,
        };
        for _ in 0..WARM_UP {
            network.step(random.batch(), rate).map_err(failed)?;
        }
        let found = network
            .profile(random.batch(), rate, steps)
            .map_err(failed)?;
        let parts = found.parts.into_iter().map(|part| {
            let seconds = part.seconds / steps as f64;
            let (operations, bytes, limit) = match part.work {
                Work::Operations(count) => (Some(count), None, limits.operations_per_second),
                Work::Bytes(count) => (None, Some(count), limits.bytes_per_second),
            };
            let work = operations.or(bytes).unwrap_or_default();
            ProfilePart {
                layer: part.layer,
                kind: part.kind.to_owned(),
                seconds,
                operations,
                bytes,
                share_of_limit: work / seconds / limit,
            }
        });
        Ok(Profile {
            cpu: cpu(),
            kernel: backend.isa().name().into(),
            threads: rayon::current_num_threads(),
            commit: commit().into(),
            steps,
            seconds_per_step: found.seconds / steps as f64,
            operations_per_second: limits.operations_per_second,
            bytes_per_second: limits.bytes_per_second,
            parts: parts.collect(),
            notes: network.diagnostics(),
        })
    })
}
