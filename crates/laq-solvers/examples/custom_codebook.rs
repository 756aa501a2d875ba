//! Quantizes a matrix to a custom codebook, the levels of the four-bit float E2M1, with a scale per
//! channel, and compares it with the sized codebooks of four bits:
//! `cargo run -p laq-solvers --example custom_codebook`.

use laq_solvers::{Codebook, Problem, Scale, SolveError, Workspace, exact};

/// The magnitudes of E2M1, divided by the largest.
const E2M1: [f32; 8] = [
    0.0,
    0.5 / 6.0,
    1.0 / 6.0,
    1.5 / 6.0,
    2.0 / 6.0,
    3.0 / 6.0,
    4.0 / 6.0,
    1.0,
];

const CHANNELS: usize = 6;
const WEIGHTS: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weights = weights();
    let e2m1 = Codebook::custom(E2M1)?;
    let (linear, logarithmic) = (Codebook::linear(4)?, Codebook::logarithmic(4)?);
    println!(
        "Weighted error in per cent of that of all zeros, with the best scale of each channel.\n"
    );
    println!("channel  scale of E2M1    E2M1  linear  powers of two");
    let mut workspace = Workspace::default();
    for (number, channel) in weights.chunks(WEIGHTS).enumerate() {
        let (scale, custom) = quantize(channel, &e2m1, &mut workspace)?;
        let (_, uniform) = quantize(channel, &linear, &mut workspace)?;
        let (_, powers_of_two) = quantize(channel, &logarithmic, &mut workspace)?;
        // A level is an E2M1 number divided by 6, so the factor of the E2M1 numbers is a sixth of
        // the scale.
        let stored = scale / 6.0;
        println!("{number:7}  {stored:13.5}  {custom:6.3}  {uniform:6.3}  {powers_of_two:13.3}");
    }
    Ok(())
}

/// The best scale of a channel, and its error in per cent of that of all zeros.
fn quantize(
    channel: &[f32],
    codebook: &Codebook,
    workspace: &mut Workspace,
) -> Result<(f32, f64), SolveError> {
    let problem = Problem::new(channel, None)?;
    let mut levels = vec![0; channel.len()];
    let solution = exact(problem, codebook, &mut levels, workspace)?;
    let [scale, _] = solution.scale.pair();
    let zeros = problem.weighted_error(codebook, Scale::One(0.0), &levels)?;
    Ok((scale, 100.0 * solution.weighted_error / zeros))
}

/// Channels of different scale and shape: the first are flat, the last have long tails.
fn weights() -> Vec<f32> {
    (0..CHANNELS * WEIGHTS)
        .map(|index| {
            let (channel, place) = (index / WEIGHTS, index % WEIGHTS);
            let wave = (place as f32 * 0.37).sin();
            0.02 * (channel + 1) as f32 * wave.powi(2 * channel as i32 + 1)
        })
        .collect()
}
