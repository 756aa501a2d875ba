//! Times the products of packed matrices for `cargo xtask bench packed`.
//!
//! Takes the number of repetitions and the numbers of rows and columns of square matrices. Prints a
//! JSON array of [`Row`]s. Every repetition runs all products in turn, so that a slow phase of the
//! machine affects all of them; within a repetition a product runs for about a millisecond, on one
//! thread.

use std::hint::black_box;
use std::process::ExitCode;

use laq_benches::{Candidate, Failure, end};
use laq_packed::{CodeTable, DENSE_DEPTH, PackError, PackedMatrix, Packing};
use laq_simd::{Isa, multiversion};
use laq_solvers::Codebook;
use rayon::ThreadPoolBuilder;
use serde::Serialize;

/// Time of the calls within a repetition.
const REPETITION_SECONDS: f64 = 1e-3;

/// Bytes of the buffer whose reading gives the bandwidth of memory.
const READ_BYTES: usize = 1 << 28;

/// One result.
#[derive(Serialize)]
struct Row {
    /// Rows and columns of the matrix; 0 for `read`.
    size: usize,
    /// `dense` (f32), `f32` or `int8` of packed codes, `load` (a matrix from the codes of a file),
    /// `read` (GB/s of memory).
    product: &'static str,
    codebook: &'static str,
    isa: &'static str,
    /// Bytes of the codes in memory, or for `load` in the file.
    bytes: usize,
    /// Per call, over the repetitions.
    median_seconds: f64,
    min_seconds: f64,
}

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || -> Result<Option<usize>, Failure> {
        Ok(arguments
            .next()
            .map(|argument| argument.parse())
            .transpose()?)
    };
    let repetitions = number()?.ok_or("expected the number of repetitions")?;
    let mut sizes = Vec::new();
    while let Some(size) = number()? {
        sizes.push(size);
    }
    let pool = ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut rows = Vec::new();
    for size in sizes {
        rows.extend(pool.install(|| of_size(size, repetitions))?);
    }
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}

/// All products of a square matrix.
fn of_size(size: usize, repetitions: usize) -> Result<Vec<Row>, Failure> {
    let codebooks = [
        ("binary", Codebook::Binary),
        ("ternary", Codebook::Ternary),
        ("linear-3", Codebook::linear(3)?),
        ("linear-4", Codebook::linear(4)?),
        ("log-4", Codebook::logarithmic(4)?),
    ];
    let draws = uniform(size * size);
    let packed = codebooks
        .iter()
        .map(|(name, codebook)| Ok((*name, Packed::new(codebook, size, &draws)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let matrices = (packed.iter())
        .map(|(name, packed)| Ok((*name, packed.load()?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let x: Vec<f32> = draws[..size].to_vec();
    let buffer = vec![1u64; READ_BYTES / 8];
    let mut candidates: Vec<(Row, Candidate<'_>)> = Vec::new();
    let row = |product, codebook, isa: Isa, bytes| Row {
        size,
        product,
        codebook,
        isa: isa.name(),
        bytes,
        median_seconds: 0.0,
        min_seconds: 0.0,
    };
    let weights = &draws;
    let x = &x;
    for isa in Isa::available().filter(|isa| *isa != Isa::PORTABLE) {
        let mut y = vec![0.0; size];
        candidates.push((
            row("dense", "f32", isa, 4 * size * size),
            Candidate::new(REPETITION_SECONDS, move || {
                dense(isa, weights, x, black_box(&mut y))
            }),
        ));
        for (name, matrix) in &matrices {
            let mut y = vec![0.0; size];
            candidates.push((
                row("f32", name, isa, matrix.bytes()),
                Candidate::new(REPETITION_SECONDS, move || {
                    matrix.product(isa, x, 1, DENSE_DEPTH, false, black_box(&mut y))
                }),
            ));
            let mut y = vec![0.0; size];
            candidates.push((
                row("int8", name, isa, matrix.bytes()),
                Candidate::new(REPETITION_SECONDS, move || {
                    matrix
                        .product_int8(isa, x, black_box(&mut y))
                        .expect("integers");
                }),
            ));
        }
    }
    for (name, packed) in &packed {
        candidates.push((
            row("load", name, Isa::selected(), packed.codes.len()),
            Candidate::new(REPETITION_SECONDS, move || {
                black_box(packed.load().expect("valid codes"));
            }),
        ));
    }
    let buffer = &buffer;
    candidates.push((
        row("read", "", Isa::fastest(), READ_BYTES),
        Candidate::new(REPETITION_SECONDS, move || {
            black_box(read(Isa::fastest(), buffer));
        }),
    ));
    for _ in 0..repetitions {
        (candidates.iter_mut()).for_each(|(_, candidate)| candidate.time());
    }
    let finish = |(row, candidate): (Row, Candidate<'_>)| {
        let (median_seconds, min_seconds) = candidate.median_and_minimum();
        Row {
            median_seconds,
            min_seconds,
            ..row
        }
    };
    Ok(candidates.into_iter().map(finish).collect())
}

/// Reproducible draws from [0, 1).
fn uniform(count: usize) -> Vec<f32> {
    let mut state = 12_345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}

/// A square matrix of random codes, as in a file.
struct Packed {
    size: usize,
    packing: Packing,
    codes: Vec<u8>,
    table: CodeTable,
}

impl Packed {
    fn new(codebook: &Codebook, size: usize, draws: &[f32]) -> Result<Self, Failure> {
        let all: Vec<i8> = codebook.levels().collect();
        let level = |draw: &f32| all[(draw * all.len() as f32) as usize % all.len()];
        let levels: Vec<i8> = draws.iter().map(level).collect();
        let packing = Packing::of(codebook)?;
        Ok(Self {
            size,
            packing,
            codes: packing.pack(&levels, size, size, codebook)?,
            table: CodeTable::of(codebook)?,
        })
    }

    fn load(&self) -> Result<PackedMatrix, PackError> {
        let (size, table) = (self.size, self.table.clone());
        PackedMatrix::new(size, size, self.packing, &self.codes, table, &[0.01], false)
    }
}

multiversion! {
    /// y = W·x in f32, with eight independent sums of 16 lanes per row.
    fn dense(weights: &[f32], x: &[f32], y: &mut [f32]) {
        const LANES: usize = 64;
        for (y, row) in y.iter_mut().zip(weights.chunks_exact(x.len())) {
            let mut sums = [0.0f32; LANES];
            let (rows, row_tail) = row.as_chunks::<LANES>();
            let (xs, x_tail) = x.as_chunks::<LANES>();
            for (row, x) in rows.iter().zip(xs) {
                for lane in 0..LANES {
                    sums[lane] += row[lane] * x[lane];
                }
            }
            let tail: f32 = row_tail.iter().zip(x_tail).map(|(w, x)| w * x).sum();
            *y = sums.iter().sum::<f32>() + tail;
        }
    }
}

multiversion! {
    /// The sum of a buffer in memory.
    fn read(buffer: &[u64]) -> u64 {
        let (chunks, _) = buffer.as_chunks::<32>();
        let mut sums = [0u64; 32];
        for chunk in chunks {
            for lane in 0..32 {
                sums[lane] = sums[lane].wrapping_add(chunk[lane]);
            }
        }
        sums.iter().fold(0, |a, b| a.wrapping_add(*b))
    }
}
