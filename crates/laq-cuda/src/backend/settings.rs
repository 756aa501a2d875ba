//! Choices of the backend, from environment variables.

use std::env;

use laq_tensor::BackendError;

/// Choices of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `LAQ_GRAPHS`, `on` (the default) or `off`: whether steps are captured
    /// in graphs and replayed.
    pub graphs: bool,
    /// `LAQ_LSTM`, `steps` (the default until both have been measured on a GPU) or `sequence`:
    /// whether one kernel computes all time steps of an LSTM, where supported.
    pub sequences: bool,
    /// `LAQ_CUDNN`, `on` (the default) or `off`: whether cuDNN, if installed,
    /// computes convolutions.
    pub cudnn: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            graphs: true,
            sequences: false,
            cudnn: true,
        }
    }
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`BackendError::Device`] for an invalid value.
    pub fn from_environment() -> Result<Self, BackendError> {
        Ok(Settings {
            graphs: second("LAQ_GRAPHS", ["off", "on"])?.unwrap_or(true),
            sequences: second("LAQ_LSTM", ["steps", "sequence"])?.unwrap_or(false),
            cudnn: second("LAQ_CUDNN", ["off", "on"])?.unwrap_or(true),
        })
    }
}

/// Whether a variable has the second of two values; `None` if it is unset.
fn second(variable: &str, values: [&str; 2]) -> Result<Option<bool>, BackendError> {
    let Some(found) = env::var_os(variable).filter(|found| !found.is_empty()) else {
        return Ok(None);
    };
    match values.iter().position(|value| found == *value) {
        Some(index) => Ok(Some(index == 1)),
        None => Err(BackendError::Device {
            device: format!("environment variable {variable}"),
            what: format!("{found:?}, expected {} or {}", values[0], values[1]),
        }),
    }
}
