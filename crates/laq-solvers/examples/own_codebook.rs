//! Quantizes a matrix to a codebook of one's own, the levels of the four-bit float E2M1, with a scale for each
//! channel, and compares it with the named codebooks of four bits:
//! `cargo run -p laq-solvers --example own_codebook`.

use laq_solvers::{Codebook, Problem, Scale, SolveError, Workspace, exact};

/// What E2M1 can hold, over its largest.
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
    let of_ones_own = Codebook::given(&E2M1)?;
    println!(
        "Weighted error in per cent of that of all zeros; every channel has its best scale.\n"
    );
    println!("channel  scale of E2M1    E2M1  linear  powers of two");
    let mut workspace = Workspace::default();
    for (number, channel) in weights.chunks(WEIGHTS).enumerate() {
        let (scale, e2m1) = quantize(channel, of_ones_own, &mut workspace)?;
        let (_, linear) = quantize(channel, Codebook::Linear { bits: 4 }, &mut workspace)?;
        let (_, powers_of_two) =
            quantize(channel, Codebook::Logarithmic { bits: 4 }, &mut workspace)?;
        // A level is an E2M1 number over 6, so what is stored beside the numbers is a sixth of the scale.
        let stored = scale / 6.0;
        println!("{number:7}  {stored:13.5}  {e2m1:6.3}  {linear:6.3}  {powers_of_two:13.3}");
    }
    Ok(())
}

/// The best scale of a channel, and its error in per cent of that of all zeros.
fn quantize(
    channel: &[f32],
    codebook: Codebook,
    workspace: &mut Workspace,
) -> Result<(f32, f64), SolveError> {
    let problem = Problem::new(channel, None)?;
    let mut levels = vec![0; channel.len()];
    let solution = exact(problem, codebook, &mut levels, workspace)?;
    let [scale, _] = solution.scale.pair();
    let zeros = problem.weighted_error(codebook, Scale::One(0.0), &levels)?;
    Ok((scale, 100.0 * solution.weighted_error / zeros))
}

/// Channels of different size and shape: the first ones are flat, the last ones have long tails.
fn weights() -> Vec<f32> {
    (0..CHANNELS * WEIGHTS)
        .map(|index| {
            let (channel, place) = (index / WEIGHTS, index % WEIGHTS);
            let wave = (place as f32 * 0.37).sin();
            0.02 * (channel + 1) as f32 * wave.powi(2 * channel as i32 + 1)
        })
        .collect()
}
