//! How the backend works where it has a choice, by environment variables.

use std::env;

use laq_tensor::BackendError;

/// The choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `LAQ_GRAPHS`, `on` (the default) or `off`: whether steps are recorded once and then repeated.
    pub graphs: bool,
    /// `LAQ_LSTM`, `steps` (the default, until both have been measured on a GPU) or `sequence`: whether the recurrence of an
    /// LSTM is in one kernel, where there is one for it.
    pub sequences: bool,
    /// `LAQ_CUDNN`, `on` (the default) or `off`: whether convolutions are done by cuDNN where it is there.
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
    /// The choices of the environment.
    ///
    /// # Errors
    /// [`BackendError::Device`] for a value that a variable does not have.
    pub fn from_environment() -> Result<Self, BackendError> {
        Ok(Settings {
            graphs: second("LAQ_GRAPHS", ["off", "on"])?.unwrap_or(true),
            sequences: second("LAQ_LSTM", ["steps", "sequence"])?.unwrap_or(false),
            cudnn: second("LAQ_CUDNN", ["off", "on"])?.unwrap_or(true),
        })
    }
}

/// Whether a variable has the second of two values; none where it is not set.
fn second(variable: &str, values: [&str; 2]) -> Result<Option<bool>, BackendError> {
    let Some(found) = env::var_os(variable).filter(|found| !found.is_empty()) else {
        return Ok(None);
    };
    match values.iter().position(|value| found == *value) {
        Some(place) => Ok(Some(place == 1)),
        None => Err(BackendError::Device {
            device: format!("the environment variable {variable}"),
            what: format!("it is {found:?}, expected {} or {}", values[0], values[1]),
        }),
    }
}
