//! Computes some products of a dense layer in a row for each line on standard input, and answers with the
//! mean of their seconds, so that another program can be timed in turn with this one:
//! `benches/pytorch/products.py` does so with PyTorch.
//!
//! Arguments: threads (0: all), products in a row, what is computed (`forward`, `weight` for the gradient
//! of the weights, or `both` for that and the gradient of the input), rows, inputs and outputs of the
//! layer.

use std::io::{BufRead, Write};
use std::time::Instant;

use laq_tensor::{CpuBackend, Dense, DenseShape, Memory};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str =
    "expected: threads, products in a row, one of forward, weight and both, rows, inputs, outputs";

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, in_a_row, what, sizes @ ..] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let sizes: Vec<usize> = (sizes.iter())
        .map(|size| size.parse())
        .collect::<Result<_, _>>()?;
    let [rows, inputs, outputs] = sizes[..] else {
        return Err(USAGE.into());
    };
    let shape = DenseShape {
        rows,
        inputs,
        outputs,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    let in_a_row = in_a_row.parse()?;
    pool.install(|| serve(what, in_a_row, shape))
}

fn serve(what: &str, in_a_row: u32, shape: DenseShape) -> Result<(), Failure> {
    let backend = CpuBackend::new()?;
    let mut state = 1u32;
    let mut random = |shape: &[usize]| -> Result<_, Failure> {
        let mut buffer = backend.zeros(shape)?;
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
        backend.write(&values.collect::<Vec<f32>>(), &mut buffer)?;
        Ok(buffer)
    };
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let (input, weight) = (random(&[rows, inputs])?, random(&[outputs, inputs])?);
    let (mut output, gradient) = (random(&[rows, outputs])?, random(&[rows, outputs])?);
    let (mut input_gradient, mut weight_gradient) =
        (random(&[rows, inputs])?, random(&[outputs, inputs])?);
    let mut product = || -> Result<(), Failure> {
        match what {
            "forward" => backend.dense_forward(shape, &input, &weight, None, &mut output)?,
            "weight" | "both" => {
                let input_gradient = (what == "both").then_some(&mut input_gradient);
                backend.dense_backward(
                    shape,
                    &input,
                    &weight,
                    &gradient,
                    input_gradient,
                    &mut weight_gradient,
                    None,
                )?;
            }
            _ => return Err(USAGE.into()),
        }
        Ok(())
    };
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        for _ in 0..in_a_row {
            product()?;
        }
        let seconds = start.elapsed().as_secs_f64() / f64::from(in_a_row);
        let mut out = std::io::stdout().lock();
        writeln!(out, "{seconds} 0")?;
        out.flush()?;
    }
    Ok(())
}
