//! Exponential functions that the compiler vectorises.
//!
//! They are inlined into the function that calls them, a [`multiversion!`](crate::multiversion). They
//! have products, quotients and sums only, no calls and no branches. The absolute error is below 2e-7 for
//! [`sigmoid`] and [`tanh`], the relative error below 2e-7 for [`exp`] and below 1e-15 for [`tanh_f64`].
//! NaN propagates.

/// eˣ, with x clamped to [−87, 88].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // eˣ = 2ⁿ·eʳ with n = round(x/ln 2), |r| ≤ ln 2 / 2. Adding 1.5·2²³ leaves n in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * core::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor series to r⁷; relative truncation error below 6e-9.
    let mut p = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + coefficient;
    }
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits());
    p * f32::from_bits(exponent.wrapping_add(127) << 23)
}

/// σ(x) = 1/(1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh(x) = (1 − e^{−2|x|})/(1 + e^{−2|x|}), with the sign of x.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let u = exp(-2.0 * x.abs());
    ((1.0 - u) / (1.0 + u)).copysign(x)
}

/// tanh(x) = e/(e + 2) with e = e^{2|x|} − 1 and the sign of x, to a few units in the last place of f64.
#[inline(always)]
pub fn tanh_f64(x: f64) -> f64 {
    // e^y = 2ⁿ·eʳ with n = round(y/ln 2), |r| ≤ ln 2 / 2. Adding 1.5·2⁵² leaves n in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    // The low 21 bits of the first are zero, so that its product with n is exact.
    const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
    // tanh 20 rounds to 1.
    let y = 2.0 * x.abs().clamp(0.0, 20.0);
    let shifted = y * core::f64::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (y - n * LN2_HIGH) - n * LN2_LOW;
    // eʳ − 1 = r + r²·(1/2 + r/6 + …), the Taylor series to r¹³; relative truncation error below 1e-17.
    let mut p = 1.0 / 6_227_020_800.0;
    for factorial in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
    ] {
        p = p * r + 1.0 / factorial;
    }
    let of_remainder = r + r * r * p;
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits());
    let power = f64::from_bits(exponent.wrapping_add(1023) << 52);
    let e = power * of_remainder + (power - 1.0);
    (e / (e + 2.0)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_within_bounds() {
        for step in -4000..=4000 {
            let x = step as f32 * 0.0217;
            let wide = f64::from(x);
            let relative = f64::from(exp(x)) / wide.exp() - 1.0;
            assert!(relative.abs() < 2e-7, "exp({x}): {relative:e}");
            let error = f64::from(sigmoid(x)) - 1.0 / (1.0 + (-wide).exp());
            assert!(error.abs() < 2e-7, "sigmoid({x}): {error:e}");
            let error = f64::from(tanh(x)) - wide.tanh();
            assert!(error.abs() < 2e-7, "tanh({x}): {error:e}");
        }
    }

    #[test]
    fn tanh_in_f64_is_within_its_bound() {
        let check = |x: f64| {
            let relative = tanh_f64(x) / x.tanh() - 1.0;
            assert!(relative.abs() < 1e-15, "tanh({x}): {relative:e}");
        };
        for step in 1..=400_000 {
            let x = f64::from(step) * 5.3e-5;
            check(x);
            check(-x * x * x * 1e-6);
        }
        for exponent in 1..=1000 {
            check(0.75_f64.powi(exponent));
        }
        assert_eq!(tanh_f64(0.0).to_bits(), 0.0_f64.to_bits());
        assert_eq!(tanh_f64(-0.0).to_bits(), (-0.0_f64).to_bits());
        assert_eq!(tanh_f64(f64::NEG_INFINITY), -1.0);
        assert!(tanh_f64(f64::NAN).is_nan());
    }

    #[test]
    fn saturation_and_nan() {
        assert_eq!(sigmoid(1e30), 1.0);
        assert!(sigmoid(-1e30) < 1e-37);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
