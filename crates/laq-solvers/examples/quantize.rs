//! Quantizes a slice of weights with every method and prints scale, sparsity and error:
//! `cargo run -p laq-solvers --example quantize`.

use laq_solvers::{Method, Problem, Scale, Workspace};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weights: Vec<f32> = (0..4096)
        .map(|i| 0.08 * (i as f32 * 0.37).sin().powi(3))
        .collect();
    let curvature: Vec<f32> = (0..4096)
        .map(|i| 1e-3 * (1.1 + (i as f32 * 0.11).cos()))
        .collect();
    let problem = Problem::new(&weights, Some(&curvature))?;
    let error_of_zeros: f64 = weights
        .iter()
        .zip(&curvature)
        .map(|(&w, &d)| 0.5 * f64::from(d) * f64::from(w).powi(2))
        .sum();

    let mut levels = vec![0; weights.len()];
    let mut workspace = Workspace::default();
    println!(
        "method          bits  scale             share of zeros  error, all zeros = 1  iterations"
    );
    for method in Method::all().filter(|method| method.bits().is_none_or(|bits| bits <= 4)) {
        let Some(quantizer) = method.quantizer() else {
            continue;
        };
        let solution = quantizer.solve(problem, None, &mut levels, &mut workspace)?;
        let scale = match solution.scale {
            Scale::One(scale) => format!("{scale:.5}"),
            Scale::Two { positive, negative } => format!("{positive:.5} {negative:.5}"),
        };
        let codebook = quantizer.codebook();
        let zeros = levels
            .iter()
            .filter(|&&level| codebook.value(level) == 0.0)
            .count();
        println!(
            "{method:15} {:4}  {scale:16}  {:14.3}  {:20.5}  {:10}",
            codebook.storage_bits(),
            zeros as f64 / levels.len() as f64,
            solution.weighted_error / error_of_zeros,
            solution.iterations,
        );
    }
    Ok(())
}
