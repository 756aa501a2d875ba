//! The log of the steps, and graphs that replay them.

use std::fmt;
use std::sync::Arc;

use laq_tensor::{BackendError, StepStatus, Steps};

use super::{CudaBackend, Operands, lock};
use crate::buffer::{Buffer, Slice, SliceMut};
use crate::device::Device;
use crate::{kernels, layout};

/// Losses, times and the first error of steps, in the device's memory.
#[derive(Debug)]
pub struct StepLog<D: Device>(Buffer<D, layout::StepLog>);

impl<D: Device> StepLog<D> {
    pub(super) fn read(&self) -> Slice<'_, layout::StepLog> {
        self.0.slice()
    }

    pub(super) fn write(&mut self) -> SliceMut<'_, layout::StepLog> {
        self.0.slice_mut()
    }
}

/// A step that is captured at its second execution and then replayed.
#[derive(Debug)]
pub struct StepGraph<D: Device>(State<D>);

#[derive(Debug)]
enum State<D: Device> {
    /// Not executed yet. The first execution is eager, so that libraries allocate and load.
    Uncaptured,
    /// Executed once; the next execution captures.
    WarmedUp,
    /// It cannot be captured; all executions are eager.
    Eager,
    /// The next execution replays.
    Captured(Captured<D>),
}

/// A graph, and shared ownership of all that its launches use. Fields are dropped in this order.
struct Captured<D: Device> {
    graph: D::Graph,
    _operands: Operands,
    device: Arc<D>,
}

impl<D: Device> fmt::Debug for Captured<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.graph.fmt(formatter)
    }
}

impl<D: Device> Default for StepGraph<D> {
    fn default() -> Self {
        StepGraph(State::Uncaptured)
    }
}

impl<D: Device> Captured<D> {
    fn replay(&mut self, backend: &CudaBackend<D>) -> Result<(), BackendError> {
        assert!(
            Arc::ptr_eq(&self.device, &backend.device),
            "a graph is replayed on the device that captured it"
        );
        // SAFETY: the launches were safe when they were captured, and their operands exist: the
        // graph owns them.
        unsafe { backend.device.replay(&mut self.graph) }
    }
}

impl<D: Device> Steps for CudaBackend<D> {
    type StepLog = StepLog<D>;
    type StepGraph = StepGraph<D>;

    fn step_log(&self) -> Result<StepLog<D>, BackendError> {
        Ok(StepLog(self.buffer_of(&[layout::StepLog::empty(0.0)])?))
    }

    fn set_step_size(&self, step_size: f64, log: &mut StepLog<D>) -> Result<(), BackendError> {
        let (log, step_size) = (log.write(), step_size as f32);
        self.single(kernels::set_step_size { log, step_size })
    }

    fn read_log(
        &self,
        log: &mut StepLog<D>,
        losses: &mut Vec<f64>,
    ) -> Result<StepStatus, BackendError> {
        let found = self.download(&log.0)?[0];
        let (status, new_losses) = found.status();
        losses.extend(new_losses);
        let empty = layout::StepLog::empty(found.step_size);
        let head = &bytemuck::bytes_of(&empty)[..layout::StepLog::HEAD];
        self.device.upload(head, 0, log.0.memory())?;
        Ok(status)
    }

    fn start_clock(&self, log: &mut StepLog<D>) -> Result<(), BackendError> {
        self.single(kernels::start_clock { log: log.write() })
    }

    fn stop_clock(&self, log: &mut StepLog<D>) -> Result<(), BackendError> {
        self.single(kernels::stop_clock { log: log.write() })
    }

    fn capture_or_replay(
        &self,
        graph: &mut StepGraph<D>,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        match &mut graph.0 {
            _ if !self.settings.graphs => body(),
            State::Uncaptured => {
                body()?;
                graph.0 = State::WarmedUp;
                Ok(())
            }
            State::WarmedUp => match self.capture(body) {
                Ok(mut captured) => {
                    captured.replay(self)?;
                    graph.0 = State::Captured(captured);
                    Ok(())
                }
                // What a library refuses to capture may still execute. A lost device fails again.
                Err(error) => {
                    body()?;
                    graph.0 = State::Eager;
                    self.diagnose(format!(
                        "steps are not captured in a graph and so are slower: {error}"
                    ));
                    Ok(())
                }
            },
            State::Eager => body(),
            State::Captured(captured) => captured.replay(self),
        }
    }
}

impl<D: Device> CudaBackend<D> {
    /// Launches a kernel of one thread.
    fn single<K: kernels::Kernel>(&self, kernel: K) -> Result<(), BackendError> {
        self.launch(kernel, [1, 1, 1], [1, 1, 1])
    }

    /// Captures the calls of `body` with their operands.
    fn capture(
        &self,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<Captured<D>, BackendError> {
        self.device.begin_capture()?;
        *lock(&self.capture.0) = Some(Operands::new());
        let executed = body();
        let operands = lock(&self.capture.0).take().unwrap_or_default();
        let graph = executed.and(self.device.end_capture());
        Ok(Captured {
            graph: graph?,
            _operands: operands,
            device: self.device.clone(),
        })
    }
}
