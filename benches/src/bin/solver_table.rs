//! Times the solvers for `cargo xtask bench solvers`.
//!
//! Takes one argument, the JSON of [`Plan`]. Prints a line per size and number of threads, a JSON
//! array of [`Row`]s. Every repetition runs all solvers in turn, so that a slow phase of the machine
//! affects all of them. Within a repetition, a small problem is solved for about a millisecond; it
//! fits in the cache, as a layer after its update does. The timing excludes the copy of the levels
//! of a warm start.

use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use laq_benches::{Data, Failure, alternating_of, end};
use laq_solvers::{Method, Problem, Scale, Solution, Workspace, exact_by_sorting};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Time of the calls within a repetition, for small problems.
const REPETITION_SECONDS: f64 = 1e-3;

/// Slower calls are timed once.
const ONCE_SECONDS: f64 = 1.0;

/// Busy time of all threads before a timed call.
const AWAKE: Duration = Duration::from_millis(20);

/// Largest relative difference of the weighted errors of two exact solvers.
const AGREEMENT: f64 = 1e-6;

#[derive(Deserialize)]
struct Plan {
    sizes: Vec<usize>,
    /// Exact methods; the other solvers of their problems are included.
    methods: Vec<String>,
    threads: Vec<usize>,
    repetitions: usize,
}

/// One result.
#[derive(Serialize)]
struct Row<'a> {
    weights: usize,
    threads: usize,
    /// Empty for `read` and `check`.
    method: &'a str,
    /// `exact`, `sorting`, `cold` or `warm` (alternating), `read` (the lower bound) or `check`
    /// (`Problem::new`).
    solver: &'a str,
    /// Timed repetitions.
    repetitions: usize,
    /// Per call, over the repetitions.
    median_seconds: f64,
    min_seconds: f64,
    /// Iterations of an alternating solver.
    iterations: Option<u32>,
    /// `½ Σ d (w − ŵ)²`
    weighted_error: Option<f64>,
}

type Call<'a> = Box<dyn Fn(&mut [i8], &mut Workspace) -> Result<Option<Solution>, Failure> + 'a>;

/// One solver and its measurements.
struct Candidate<'a> {
    method: &'a str,
    solver: &'static str,
    /// The levels of a warm start.
    start: Option<Vec<i8>>,
    call: Call<'a>,
    calls_per_repetition: usize,
    /// Seconds per call, one entry per repetition.
    seconds: Vec<f64>,
    solution: Option<Solution>,
}

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Failure> {
    let plan = std::env::args()
        .nth(1)
        .ok_or("expected one argument, a plan in JSON; `cargo xtask bench solvers` gives it")?;
    let plan: Plan = serde_json::from_str(&plan)?;
    for &size in &plan.sizes {
        let data = Data::new(size);
        for &threads in &plan.threads {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
            pool.install(|| section(&plan, &data, threads))?;
        }
    }
    Ok(())
}

/// All solvers at one size and number of threads.
fn section(plan: &Plan, data: &Data, threads: usize) -> Result<(), Failure> {
    let size = data.weights.len();
    let mut levels = vec![0_i8; size];
    let mut workspace = Workspace::default();
    let mut candidates = vec![
        Candidate::new("", "read", None, |_, _| {
            black_box(read(&data.weights, &data.curvature));
            Ok(None)
        }),
        Candidate::new("", "check", None, |_, _| {
            black_box(Problem::new(&data.weights, Some(&data.curvature))?);
            Ok(None)
        }),
    ];
    for method in &plan.methods {
        candidates.extend(solvers(method, data)?);
    }

    // A first call of each allocates its memory and measures its time.
    for candidate in &mut candidates {
        let seconds = candidate.time(&mut levels, &mut workspace)?;
        candidate.calls_per_repetition = (REPETITION_SECONDS / seconds).clamp(1.0, 1000.0) as usize;
        if seconds > ONCE_SECONDS {
            candidate.calls_per_repetition = 0;
            candidate.seconds.push(seconds);
        }
    }
    for _ in 0..plan.repetitions {
        for candidate in &mut candidates {
            let calls = candidate.calls_per_repetition;
            if calls == 0 {
                continue;
            }
            awaken();
            let mut seconds = 0.0;
            for _ in 0..calls {
                seconds += candidate.time(&mut levels, &mut workspace)?;
            }
            candidate.seconds.push(seconds / calls as f64);
        }
    }

    check_errors(&candidates, size)?;
    let rows: Vec<Row<'_>> = candidates
        .iter_mut()
        .map(|candidate| candidate.row(size, threads))
        .collect();
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &rows)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Keeps all threads of the pool busy, so that each has a core of its own when the clock starts. A
/// system is slow to migrate a thread that has just woken up, and solvers on one thread let the
/// others sleep.
fn awaken() {
    rayon::broadcast(|_| {
        let begin = Instant::now();
        while begin.elapsed() < AWAKE {
            std::hint::spin_loop();
        }
    });
}

/// The solvers of one exact method's problem.
fn solvers<'a>(method: &'a str, data: &'a Data) -> Result<Vec<Candidate<'a>>, Failure> {
    let problem = Problem::new(&data.weights, Some(&data.curvature))?;
    let before = Problem::new(&data.before, Some(&data.curvature))?;
    let (exact, alternating) = (Method::try_from(method)?, alternating_of(method)?);
    let mut start = vec![0_i8; data.weights.len()];
    let previous = solve(
        &alternating,
        before,
        None,
        &mut start,
        &mut Workspace::default(),
    )?;
    let codebook = exact
        .quantizer()
        .ok_or("nothing to solve")?
        .codebook()
        .clone();

    let mut solvers = vec![Candidate::new(
        method,
        "exact",
        None,
        move |levels, workspace| Ok(Some(solve(&exact, problem, None, levels, workspace)?)),
    )];
    // `exact_by_sorting` has one scale.
    if matches!(previous.scale, Scale::One(_)) {
        solvers.push(Candidate::new(
            method,
            "sorting",
            None,
            move |levels, workspace| {
                Ok(Some(exact_by_sorting(
                    problem, &codebook, levels, workspace,
                )?))
            },
        ));
    }
    for (solver, start, previous) in [
        ("cold", None, None),
        ("warm", Some(start), Some(previous.scale)),
    ] {
        let alternating = alternating.clone();
        solvers.push(Candidate::new(
            method,
            solver,
            start,
            move |levels, workspace| {
                Ok(Some(solve(
                    &alternating,
                    problem,
                    previous,
                    levels,
                    workspace,
                )?))
            },
        ));
    }
    Ok(solvers)
}

fn solve(
    method: &Method,
    problem: Problem<'_>,
    previous: Option<Scale>,
    levels: &mut [i8],
    workspace: &mut Workspace,
) -> Result<Solution, Failure> {
    let quantizer = method.quantizer().ok_or("nothing to solve")?;
    Ok(quantizer.solve(problem, previous, levels, workspace)?)
}

impl<'a> Candidate<'a> {
    fn new(
        method: &'a str,
        solver: &'static str,
        start: Option<Vec<i8>>,
        call: impl Fn(&mut [i8], &mut Workspace) -> Result<Option<Solution>, Failure> + 'a,
    ) -> Self {
        Self {
            method,
            solver,
            start,
            call: Box::new(call),
            calls_per_repetition: 1,
            seconds: Vec::new(),
            solution: None,
        }
    }

    /// One call, in seconds.
    fn time(&mut self, levels: &mut [i8], workspace: &mut Workspace) -> Result<f64, Failure> {
        if let Some(start) = &self.start {
            levels.copy_from_slice(start);
        }
        let begin = Instant::now();
        self.solution = (self.call)(levels, workspace)?;
        Ok(begin.elapsed().as_secs_f64())
    }

    fn row(&mut self, weights: usize, threads: usize) -> Row<'a> {
        self.seconds.sort_by(f64::total_cmp);
        let alternates = ["cold", "warm"].contains(&self.solver);
        Row {
            weights,
            threads,
            method: self.method,
            solver: self.solver,
            repetitions: self.seconds.len(),
            median_seconds: median(&self.seconds),
            min_seconds: self.seconds[0],
            iterations: self
                .solution
                .filter(|_| alternates)
                .map(|solution| solution.iterations),
            weighted_error: self.solution.map(|solution| solution.weighted_error),
        }
    }
}

/// Checks that no solver has a lower error than the exact one.
fn check_errors(candidates: &[Candidate<'_>], size: usize) -> Result<(), Failure> {
    let error = |method: &str, solver: &str| {
        let mut found = candidates.iter();
        let found = found.find(|other| (other.method, other.solver) == (method, solver));
        found.and_then(|found| Some(found.solution?.weighted_error))
    };
    for candidate in candidates {
        let (method, solver) = (candidate.method, candidate.solver);
        let Some((exact, other)) = error(method, "exact").zip(error(method, solver)) else {
            continue;
        };
        let excess = other - exact;
        if excess < -AGREEMENT * exact || (solver == "sorting" && excess > AGREEMENT * exact) {
            return Err(format!(
                "{method} on {size} weights: the exact solver has the weighted error {exact}, \
                 `{solver}` has {other}: one of them is wrong"
            )
            .into());
        }
    }
    Ok(())
}

/// The median of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        0.5 * (sorted[middle - 1] + sorted[middle])
    }
}

/// `Σ w + Σ d`: reads both once on the threads of the pool, a lower bound of the time of a solver
/// if the data come from memory. (Compiled for the baseline of the target: in the cache, wider
/// instructions of a solver may read faster.)
fn read(weights: &[f32], curvature: &[f32]) -> f32 {
    const LANES: usize = 32;
    const CHUNK: usize = 1 << 16;
    let sum = |values: &[f32]| {
        let (chunks, rest) = values.as_chunks::<LANES>();
        let mut lanes = [0.0_f32; LANES];
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += value;
            }
        }
        lanes.iter().chain(rest).sum::<f32>()
    };
    if weights.len() <= CHUNK {
        return sum(weights) + sum(curvature);
    }
    weights
        .par_chunks(CHUNK)
        .zip(curvature.par_chunks(CHUNK))
        .map(|(weights, curvature)| sum(weights) + sum(curvature))
        .sum()
}
