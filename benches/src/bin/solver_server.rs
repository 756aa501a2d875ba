//! Solves one problem per line on standard input, for timing in alternation with another program:
//! `benches/pytorch/exact_ternary.py` does so with PyTorch.
//!
//! Arguments: method, threads. Standard input: a line with the number n of weights; n weights, then
//! n curvatures, as f32 in native byte order; then one line per solve. Each is answered with the
//! seconds and the weighted error.

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
    let quantizer = method.quantizer().ok_or("`full` does not quantize")?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    let mut input = std::io::stdin().lock();
    let mut count = String::new();
    input.read_line(&mut count)?;
    let count: usize = count.trim().parse()?;
    let [weights, curvature] = [
        read_floats(&mut input, count)?,
        read_floats(&mut input, count)?,
    ];
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

fn read_floats(input: &mut impl Read, count: usize) -> Result<Vec<f32>, Failure> {
    let mut bytes = Vec::new();
    let expected = count.checked_mul(4).ok_or("too many weights")?;
    let found = input.take(expected as u64).read_to_end(&mut bytes)?;
    if found < expected {
        return Err(format!("{found} bytes of values, expected {expected}").into());
    }
    let (values, _) = bytes.as_chunks::<4>();
    Ok(values.iter().copied().map(f32::from_ne_bytes).collect())
}
