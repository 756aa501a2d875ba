//! The state of a training, saved and restored.

use std::collections::BTreeMap;

use laq_tensor::Backend;

use super::Training;
use crate::ModelError;
use crate::parameter::{Parameter, StateData, StateTensor};

/// Name of the state tensor of [`counters`].
const COUNTERS: &str = "training.counters";
/// Beyond it Adam's power of the number of steps would not count any more.
const MOST_STEPS: u64 = 1 << 53;

impl<B: Backend + 'static> Training<B> {
    /// The complete state for bit-exact resumption: weights, moments, levels, scales and counters.
    ///
    /// # Errors
    /// When the device fails, and as [`Training::report`].
    pub fn save(&mut self) -> Result<Vec<StateTensor>, ModelError> {
        self.read_log()?;
        let mut counters = vec![self.steps, u64::from(self.quantized_is_current)];
        if self.steps_before > 0 {
            counters.push(self.steps_before);
        }
        let mut state = vec![StateTensor {
            name: COUNTERS.to_owned(),
            shape: vec![counters.len()],
            data: StateData::U64(counters),
        }];
        for parameter in self.network.parameters() {
            state.extend(parameter.save(&self.backend)?);
        }
        state.extend(self.network.save(&self.backend)?);
        Ok(state)
    }

    /// Waits for the submitted steps, and drops their losses and errors.
    fn forget_steps(&mut self) -> Result<(), ModelError> {
        self.backend.read_log(&mut self.log, &mut self.losses)?;
        self.losses.clear();
        (self.reported, self.unread) = (0, 0);
        Ok(())
    }

    /// Restores a saved state. Steps that were submitted before, and what [`Training::report`] would have said of
    /// them, are forgotten.
    ///
    /// # Errors
    /// [`ModelError::State`] or [`ModelError::Backend`] when the state is of another network, or of
    /// a method with other levels. The training is then in an unspecified state until a `load`
    /// succeeds.
    pub fn load(&mut self, state: &[StateTensor]) -> Result<(), ModelError> {
        let by_name = by_name(state);
        let [steps, current, before] = counters(&by_name)?;
        self.forget_steps()?;
        for parameter in self.network.parameters_mut() {
            parameter.load(&self.backend, &by_name)?;
        }
        self.network.load(&self.backend, &by_name)?;
        self.steps = steps;
        self.steps_before = before;
        self.quantized_is_current = current != 0;
        self.seconds = 0.0;
        self.quantize_seconds = 0.0;
        Ok(())
    }

    /// Starts from the saved state of a network with the same parameters, quantized or not: its latent weights, running
    /// averages, and Adam's moments with the number of their steps, so that the first step is loss-aware. Levels and
    /// scales are found anew. With trained scales, which have no moments yet, all of Adam starts anew.
    ///
    /// # Errors
    /// As [`Training::load`]; [`ModelError::State`] after the first step.
    pub fn start_from(&mut self, state: &[StateTensor]) -> Result<(), ModelError> {
        if self.steps > 0 || self.unread > 0 {
            let steps = self.steps + self.unread;
            let error = format!("a training starts before its first step, and {steps} were taken");
            return Err(ModelError::State(error));
        }
        let by_name = by_name(state);
        let [steps, _, before] = counters(&by_name)?;
        let parameters = self.network.parameters_mut();
        let keeps_moments = !parameters.iter().any(Parameter::has_trained_scales);
        for parameter in parameters {
            parameter.load_latent(&self.backend, &by_name)?;
            if !keeps_moments {
                parameter.clear_moments(&self.backend)?;
            }
        }
        self.network.load(&self.backend, &by_name)?;
        self.steps_before = match keeps_moments {
            true => before + steps,
            false => 0,
        };
        self.quantized_is_current = false;
        Ok(())
    }
}

fn by_name(state: &[StateTensor]) -> BTreeMap<&str, &StateTensor> {
    let named = state.iter().map(|tensor| (tensor.name.as_str(), tensor));
    named.collect()
}

/// Steps, whether ŵ is current, and steps before the first one, which are absent from older states.
fn counters(state: &BTreeMap<&str, &StateTensor>) -> Result<[u64; 3], ModelError> {
    let tensor = state.get(COUNTERS).map(|tensor| &tensor.data);
    let Some(StateData::U64(counters)) = tensor else {
        return Err(ModelError::State(format!("tensor {COUNTERS} is missing")));
    };
    let [steps, current, before] = match counters[..] {
        [steps, current] => [steps, current, 0],
        [steps, current, before] => [steps, current, before],
        _ => {
            return Err(ModelError::State(format!(
                "tensor {COUNTERS} has {} numbers, expected 3",
                counters.len()
            )));
        }
    };
    if steps.saturating_add(before) > MOST_STEPS {
        return Err(ModelError::State(format!(
            "tensor {COUNTERS} has {steps} steps after {before}, expected at most {MOST_STEPS}"
        )));
    }
    Ok([steps, current, before])
}
