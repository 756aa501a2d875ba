//! Solves one problem for each line on standard input, so that another program can be timed in turn with
//! this one: `benches/pytorch/exact_ternary.py` does so with PyTorch.
//!
//! Arguments: method, threads. Standard input: a line with the number n of weights; n weights, then n
//! curvatures, as f32 of the machine's byte order; then a line for each solution. Each is answered with
//! the seconds that it took and its weighted error.

use std::io::{BufRead, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

use laq_benches::{Failure, end};
use laq_solvers::{Method, Problem, Workspace};

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [method, threads] = arguments.as_slice() else {
        return Err("expected two arguments: method and threads".into());
    };
    let method = Method::try_from(method.as_str())?;
    let quantizer = method.quantizer().ok_or("`full` solves nothing")?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    let mut input = std::io::stdin().lock();
    let mut count = String::new();
    input.read_line(&mut count)?;
    let count: usize = count.trim().parse()?;
    let [weights, curvature] = [numbers(&mut input, count)?, numbers(&mut input, count)?];
    let mut levels = vec![0_i8; count];
    let mut workspace = Workspace::default();
    for line in input.lines() {
        line?;
        let begin = Instant::now();
        let solution = pool.install(|| {
            let problem = Problem::new(&weights, Some(&curvature))?;
            quantizer.solve(problem, None, &mut levels, &mut workspace)
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{seconds} {}", solution.weighted_error)?;
        out.flush()?;
    }
    Ok(())
}

fn numbers(input: &mut impl Read, count: usize) -> Result<Vec<f32>, Failure> {
    let mut bytes = Vec::new();
    let expected = count.checked_mul(4).ok_or("too many weights")?;
    let found = input.take(expected as u64).read_to_end(&mut bytes)?;
    if found < expected {
        return Err(format!("{found} bytes of numbers, expected {expected}").into());
    }
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers.iter().copied().map(f32::from_ne_bytes).collect())
}
