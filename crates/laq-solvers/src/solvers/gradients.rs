//! The gradients of the methods that are not straight-through: TTQ and DoReFa.

use laq_simd::math::tanh_f64;
use laq_simd::{Isa, multiversion};

use crate::codebook::{Scale, to_f32};
use crate::passes::check::span;
use crate::passes::lanes::{LANES, padded, sum};
use crate::passes::parallel::{self, Parts};

/// TTQ: `∂loss/∂w` is `W_p·g` for level 1, `W_n·g` for −1, and `g` for 0.
pub(crate) fn trained_latent_gradient(scale: Scale, levels: &[i8], gradient: &mut [f32]) {
    let (isa, [positive, negative]) = (Isa::selected(), scale.pair());
    let scale = |(gradient, levels): (&mut [f32], &[i8])| {
        scale_by_level(isa, positive, negative, levels, gradient);
    };
    parallel::for_each((gradient, levels), Parts::of(levels.len()), &scale);
}

multiversion! {
    fn scale_by_level(positive: f32, negative: f32, levels: &[i8], gradient: &mut [f32]) {
        for (gradient, &level) in gradient.iter_mut().zip(levels) {
            let of_side = if level > 0 { positive } else { negative };
            *gradient *= if level == 0 { 1.0 } else { of_side };
        }
    }
}

/// TTQ: `∂W_p = Σ g` over the levels 1 and `∂W_n = −Σ g` over the levels −1, because `ŵ = −W_n`
/// there.
pub(crate) fn trained_scale_gradient(levels: &[i8], gradient: &[f32]) -> [f64; 2] {
    let length = levels.len().min(gradient.len());
    let (levels, gradient) = (&levels[..length], &gradient[..length]);
    let isa = Isa::selected();
    let sums = |(gradient, levels): (&[f32], &[i8])| sums_by_level(isa, levels, gradient);
    let add = |a: [f64; 2], b: [f64; 2]| [a[0] + b[0], a[1] + b[1]];
    let parts = Parts::of(length);
    let [positive, negative] = parallel::reduce((gradient, levels), parts, &sums, &add);
    [positive, -negative]
}

multiversion! {
    /// `Σ g` over the levels 1, and over the levels −1. The slices have one length.
    fn sums_by_level(levels: &[i8], gradient: &[f32]) -> [f64; 2] {
        let mut sums = [[0.0; LANES]; 2];
        let (levels, last_levels) = levels.as_chunks();
        let (gradient, last_gradient) = gradient.as_chunks();
        for (levels, gradient) in levels.iter().zip(gradient) {
            add_by_level(&mut sums, levels, gradient);
        }
        add_by_level(&mut sums, &padded(last_levels), &padded(last_gradient));
        sums.map(sum)
    }
}

#[inline(always)]
fn add_by_level(sums: &mut [[f64; LANES]; 2], levels: &[i8; LANES], gradient: &[f32; LANES]) {
    for lane in 0..LANES {
        // Without branches, which random levels would mispredict.
        let (level, gradient) = (levels[lane], f64::from(gradient[lane]));
        sums[0][lane] += if level > 0 { gradient } else { 0.0 };
        sums[1][lane] += if level < 0 { gradient } else { 0.0 };
    }
}

/// DoReFa with straight-through rounding: `ŵ_i = t_i / M`, `t = tanh w`, and `M = |t_m|` for the
/// first index m with the largest magnitude, so
/// `∂loss/∂w_i = (1 − t_i²) / M · (g_i − [i = m] · Σ_j g_j t_j / t_m)`.
pub(crate) fn tanh_latent_gradient(weights: &[f32], gradient: &mut [f32]) {
    let length = weights.len().min(gradient.len());
    let (weights, gradient) = (&weights[..length], &mut gradient[..length]);
    let (isa, parts) = (Isa::selected(), Parts::of(length));
    let largest = span(isa, weights).largest;
    let of_largest = weights.iter().position(|w| w.abs().to_bits() == largest);
    let (Some(index), true) = (of_largest, largest > 0) else {
        // All weights are zero, where the derivative is unbounded. The gradient stays unchanged.
        return;
    };
    let (t, at_largest) = (tanh_f64(f64::from(weights[index])), gradient[index]);
    let magnitude = t.abs();
    let pass = |(gradient, w): (&mut [f32], &[f32])| through_tanh(isa, magnitude, w, gradient);
    let product = parallel::reduce((&mut *gradient, weights), parts, &pass, &|a, b| a + b);
    // The weight of largest magnitude is at ±1 for every value; it only changes the others.
    let others = product - f64::from(at_largest) * t;
    gradient[index] = to_f32(-(1.0 - t * t) / magnitude * others / t);
}

multiversion! {
    /// Turns g into `(1 − t²) / M · g`, and returns `Σ g t`. The slices have one length.
    fn through_tanh(magnitude: f64, weights: &[f32], gradient: &mut [f32]) -> f64 {
        let mut sums = [0.0; LANES];
        let (weights, last_weights) = weights.as_chunks();
        let (gradient, last_gradient) = gradient.as_chunks_mut();
        for (weights, gradient) in weights.iter().zip(gradient) {
            pass_tanh(magnitude, &mut sums, weights, gradient);
        }
        let mut last = padded(last_gradient);
        pass_tanh(magnitude, &mut sums, &padded(last_weights), &mut last);
        last_gradient.copy_from_slice(&last[..last_gradient.len()]);
        sum(sums)
    }
}

#[inline(always)]
fn pass_tanh(
    magnitude: f64,
    sums: &mut [f64; LANES],
    weights: &[f32; LANES],
    gradient: &mut [f32; LANES],
) {
    for lane in 0..LANES {
        let (t, g) = (
            tanh_f64(f64::from(weights[lane])),
            f64::from(gradient[lane]),
        );
        sums[lane] += g * t;
        gradient[lane] = to_f32(g * (1.0 - t * t) / magnitude);
    }
}
