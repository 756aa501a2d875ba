//! Adam.

use crate::AdamSettings;

/// One parameter of [`Optimizer::update`](crate::Optimizer::update).
pub fn adam(
    adam: AdamSettings,
    step_size: f64,
    clip: Option<f32>,
    gradient: &[f64],
    weight: &mut [f64],
    m: &mut [f64],
    v: &mut [f64],
) {
    for j in 0..weight.len() {
        let g = gradient[j];
        m[j] = adam.beta1 * m[j] + (1.0 - adam.beta1) * g;
        v[j] = adam.beta2 * v[j] + (1.0 - adam.beta2) * g * g;
        weight[j] -= step_size * m[j] / (v[j].sqrt() + adam.epsilon);
        if let Some(limit) = clip {
            weight[j] = weight[j].clamp(-f64::from(limit), f64::from(limit));
        }
    }
}
