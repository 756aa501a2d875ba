//! What a step leaves behind, and how it is noted once and then repeated.

use laq_tensor::{BackendError, StepStatus};

use super::CudaBackend;
use crate::device::Device;
use crate::record::RawRecord;

/// What steps leave behind.
#[derive(Debug)]
pub struct Record<D: Device> {
    pub(super) memory: D::Memory,
    bytes: Vec<u8>,
}

/// A step that is noted once and then repeated.
#[derive(Debug, Default)]
pub enum Recording<G> {
    /// Never done: the first time it is done as it is, so that libraries have made what they need.
    #[default]
    Fresh,
    /// Done once: the next time it is noted.
    Done,
    /// It could not be noted, and is done as it is.
    Plain,
    /// Noted.
    Noted(G),
}

pub(super) fn record<D: Device>(backend: &CudaBackend<D>) -> Result<Record<D>, BackendError> {
    let mut memory = backend.device.allocate(RawRecord::SIZE)?;
    let bytes = RawRecord::default().to_bytes();
    backend.device.upload(&bytes, 0, &mut memory)?;
    Ok(Record { memory, bytes })
}

pub(super) fn begin_step<D: Device>(
    backend: &CudaBackend<D>,
    step_size: f64,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let arguments = [backend.record_at(record).into(), (step_size as f32).into()];
    backend.launch("begin_step", [1, 1, 1], [1, 1, 1], &arguments)
}

pub(super) fn read_record<D: Device>(
    backend: &CudaBackend<D>,
    record: &mut Record<D>,
    losses: &mut Vec<f64>,
) -> Result<StepStatus, BackendError> {
    backend.device.download(&record.memory, &mut record.bytes)?;
    let raw = RawRecord::from_bytes(&record.bytes);
    let (recorded, found) = raw.recorded();
    losses.extend(found);
    let empty = RawRecord {
        step_size: raw.step_size,
        ..RawRecord::default()
    };
    backend
        .device
        .upload(&empty.to_bytes()[..RawRecord::HEAD], 0, &mut record.memory)?;
    Ok(recorded)
}

pub(super) fn start_clock<D: Device>(
    backend: &CudaBackend<D>,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let arguments = [backend.record_at(record).into()];
    backend.launch("start_clock", [1, 1, 1], [1, 1, 1], &arguments)
}

pub(super) fn stop_clock<D: Device>(
    backend: &CudaBackend<D>,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let arguments = [backend.record_at(record).into()];
    backend.launch("stop_clock", [1, 1, 1], [1, 1, 1], &arguments)
}

pub(super) fn run<D: Device>(
    backend: &CudaBackend<D>,
    recording: &mut Recording<D::Graph>,
    body: &mut dyn FnMut() -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    match recording {
        _ if !backend.settings.graphs => body(),
        Recording::Fresh => {
            body()?;
            *recording = Recording::Done;
            Ok(())
        }
        Recording::Done => {
            let noted = backend.device.begin_graph().and_then(|()| {
                let noted = body();
                let ended = backend.device.end_graph();
                noted.and(ended)
            });
            match noted {
                Ok(mut graph) => {
                    // SAFETY: what was noted was asked for by `launch`, `multiply` and `convolve`, whose promises hold; that
                    // its operands live is the caller's promise to `run`.
                    unsafe { backend.device.replay(&mut graph)? };
                    *recording = Recording::Noted(graph);
                }
                // What a library does not let be noted can still be done. A device that has gone fails here again.
                Err(refused) => {
                    body()?;
                    *recording = Recording::Plain;
                    backend.note(format!(
                        "steps are not recorded, and so are slower: {refused}"
                    ));
                }
            }
            Ok(())
        }
        Recording::Plain => body(),
        // SAFETY: as above.
        Recording::Noted(graph) => unsafe { backend.device.replay(graph) },
    }
}
