//! The table of solvers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{QUICK, SIZES, SolverOptions, align, build, cargo_run, commit, cpu};

/// A timing of `solver_table`, which prints an array for each size and number of threads.
#[derive(Clone, Deserialize, Serialize)]
struct Timed {
    weights: usize,
    threads: usize,
    method: String,
    solver: String,
    repetitions: usize,
    median_seconds: f64,
    min_seconds: f64,
    iterations: Option<u32>,
    weighted_error: Option<f64>,
}

/// A line of the table.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    timed: Timed,
    /// Median over that of the exact solver of the method.
    over_exact: Option<f64>,
    /// Median over that of one read of the data.
    over_read: Option<f64>,
    /// Weighted error above that of the exact solver, in percent of it.
    excess_percent: Option<f64>,
}

/// The rows of one size and number of threads, with their ratios.
fn compared(section: &[Timed]) -> Vec<Row> {
    let find = |method: &str, solver: &str| {
        let mut section = section.iter();
        section.find(|timed| (timed.method.as_str(), timed.solver.as_str()) == (method, solver))
    };
    let row = |timed: &Timed| {
        let exact = find(&timed.method, "exact");
        let over = |other: &Timed| timed.median_seconds / other.median_seconds;
        let errors = timed
            .weighted_error
            .zip(exact.and_then(|exact| exact.weighted_error));
        Row {
            timed: timed.clone(),
            over_exact: exact.map(over),
            over_read: find("", "read").map(over),
            excess_percent: errors
                .filter(|&(_, exact)| exact > 0.0)
                .map(|(error, exact)| 100.0 * (error / exact - 1.0)),
        }
    };
    section.iter().map(row).collect()
}

pub(super) fn solvers(options: &SolverOptions) -> Result<()> {
    let (sizes, repetitions) = if options.quick {
        QUICK
    } else {
        (&SIZES[..], 7)
    };
    let sizes = if options.sizes.is_empty() {
        sizes
    } else {
        &options.sizes
    };
    let repetitions = options.repetitions.unwrap_or(repetitions);
    let plan = json!({
        "sizes": sizes,
        "methods": options.methods,
        "threads": options.threads,
        "repetitions": repetitions,
    });
    // A folder that cannot be created fails here, before minutes of timing.
    let out = options.out.as_deref().map(crate::from_here).transpose()?;
    if let Some(out) = &out {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    }

    let program = ["--package", "laq-benches", "--bin", "solver_table"];
    build(&program)?;
    let mut child = cargo_run(&program)
        .arg(plan.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let printed = child.stdout.take().context("solver_table has no output")?;
    let mut rows = Vec::new();
    for line in BufReader::new(printed).lines() {
        let section: Vec<Timed> =
            serde_json::from_str(&line?).context("solver_table printed no figures")?;
        let section = compared(&section);
        if options.json {
            for row in &section {
                println!("{}", serde_json::to_string(row)?);
            }
        } else {
            println!("{}", section_text(&section));
        }
        rows.extend(section);
        // What has been timed is kept if the rest is interrupted.
        save(out.as_deref(), &rows, "")?;
    }
    ensure!(
        child.wait()?.success(),
        "solver_table failed; its message is above"
    );
    if let Some(python) = &options.pytorch {
        let pytorch = with_pytorch(python, options, repetitions)?;
        save(out.as_deref(), &rows, &pytorch)?;
    }
    if !options.json {
        println!("{TABLE_EXPLAINED}");
    }
    Ok(())
}

/// Runs the script for each number of threads and returns what it printed.
fn with_pytorch(python: &Path, options: &SolverOptions, repetitions: u32) -> Result<String> {
    // A name without a folder is looked up in the search path.
    let python = if python.components().count() > 1 {
        crate::from_here(python)?
    } else {
        python.into()
    };
    build(&["--package", "laq-benches", "--bin", "solver_server"])?;
    let mut all = String::new();
    for threads in &options.threads {
        let mut command = Command::new(&python);
        command
            .current_dir(crate::root())
            .arg("benches/pytorch/exact_ternary.py")
            .args(["--threads", &threads.to_string()])
            .args(["--repetitions", &repetitions.to_string()])
            .stderr(Stdio::inherit());
        if options.quick {
            command.args(["--sizes", "65536"]);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        ensure!(
            output.status.success(),
            "benches/pytorch/exact_ternary.py failed; its message is above"
        );
        all += &text;
    }
    Ok(all)
}

/// Headings of the table, after those of sizes and threads where these are columns.
const HEADINGS: [&str; 10] = [
    "method",
    "solver",
    "median",
    "min",
    "repetitions",
    "ns/weight",
    "/exact",
    "/read",
    "iterations",
    "excess %",
];

const TABLE_EXPLAINED: &str = "\
Seconds of one call: median and minimum over the repetitions, each of which ran every solver; one repetition
where a call takes over a second. `/exact` and `/read`: the median by that of the exact solver of the method,
and by that of one read of weights and curvature. `iterations`: of an alternating solver, at most 10.
`excess %`: how far its weighted error is above the exact one.";

/// The fields under [`HEADINGS`].
fn fields(row: &Row) -> Vec<String> {
    let Row {
        timed,
        over_exact,
        over_read,
        excess_percent,
    } = row;
    let solver = match timed.solver.as_str() {
        "read" => "read w and d",
        "check" => "check of the input",
        "sorting" => "by sorting",
        "cold" => "alternating, cold",
        "warm" => "alternating, warm",
        other => other,
    };
    let ratio = |ratio: &Option<f64>| ratio.map(three_digits).unwrap_or_default();
    vec![
        timed.method.clone(),
        solver.into(),
        duration(timed.median_seconds),
        duration(timed.min_seconds),
        timed.repetitions.to_string(),
        three_digits(1e9 * timed.median_seconds / timed.weights as f64),
        ratio(over_exact),
        ratio(over_read),
        timed
            .iterations
            .map(|iterations| iterations.to_string())
            .unwrap_or_default(),
        timed
            .iterations
            .and(*excess_percent)
            // Zero has no sign, whatever the last bits of the errors are.
            .map(|percent| format!("{:.4}", (1e4 * percent).round() / 1e4 + 0.0))
            .unwrap_or_default(),
    ]
}

/// Such as `12.7 µs`.
fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (1e6 * s, "µs"),
        s if s < 1.0 => (1e3 * s, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A positive number with three significant digits, without an exponent.
fn three_digits(value: f64) -> String {
    let before = value.log10().floor().clamp(-6.0, 2.0);
    format!("{value:.0$}", (2.0 - before) as usize)
}

/// One size and number of threads on the terminal.
fn section_text(rows: &[Row]) -> String {
    let Some(Row { timed, .. }) = rows.first() else {
        return String::new();
    };
    let mut lines = vec![HEADINGS.map(String::from).to_vec()];
    lines.extend(rows.iter().map(fields));
    format!(
        "{} weights, threads: {}\n\n{}",
        timed.weights,
        timed.threads,
        align(&lines, 2..HEADINGS.len())
    )
}

/// Writes the files to the folder, if there is one.
fn save(out: Option<&Path>, rows: &[Row], pytorch: &str) -> Result<()> {
    let Some(out) = out else {
        return Ok(());
    };
    for (name, text) in [
        ("solvers.csv", csv(rows)),
        ("solvers.md", markdown(rows, pytorch)),
    ] {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A line for each row, in full precision. No field needs quotes.
fn csv(rows: &[Row]) -> String {
    let mut text = "weights,threads,method,solver,repetitions,median_seconds,min_seconds,over_exact,over_read,iterations,\
                    weighted_error,excess_percent\n"
        .to_string();
    let or_empty = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for row in rows {
        let timed = &row.timed;
        let fields = [
            timed.weights.to_string(),
            timed.threads.to_string(),
            timed.method.clone(),
            timed.solver.clone(),
            timed.repetitions.to_string(),
            timed.median_seconds.to_string(),
            timed.min_seconds.to_string(),
            or_empty(row.over_exact),
            or_empty(row.over_read),
            timed
                .iterations
                .map(|iterations| iterations.to_string())
                .unwrap_or_default(),
            or_empty(timed.weighted_error),
            or_empty(row.excess_percent),
        ];
        text += &(fields.join(",") + "\n");
    }
    text
}

/// Provenance, and all rows in one table.
fn markdown(rows: &[Row], pytorch: &str) -> String {
    let mut text = format!(
        "# Solvers of the quantization problem\n\n{}\n\nMachine: {}. Commit `{}`.\n\n```\n{}\n```\n\n",
        TABLE_EXPLAINED,
        cpu(),
        commit(),
        crate::command_line()
    );
    let line = |fields: Vec<String>| format!("| {} |\n", fields.join(" | "));
    let headings = ["weights", "threads"].iter().chain(&HEADINGS);
    text += &line(headings.map(|heading| (*heading).to_string()).collect());
    text += &format!(
        "|---:|---:|---|---|{}\n",
        "---:|".repeat(HEADINGS.len() - 2)
    );
    for row in rows {
        let mut all = vec![row.timed.weights.to_string(), row.timed.threads.to_string()];
        all.extend(fields(row));
        text += &line(all);
    }
    if !pytorch.is_empty() {
        text += &format!("\nExact ternary and PyTorch:\n\n```\n{pytorch}```\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(method: &str, solver: &str, seconds: f64, error: Option<f64>) -> Timed {
        Timed {
            weights: 1000,
            threads: 1,
            method: method.into(),
            solver: solver.into(),
            repetitions: 3,
            median_seconds: seconds,
            min_seconds: 0.5 * seconds,
            iterations: (solver == "warm").then_some(4),
            weighted_error: error,
        }
    }

    #[test]
    fn ratios_are_of_the_same_method() {
        let rows = compared(&[
            timed("", "read", 1e-6, None),
            timed("lat-e", "exact", 4e-6, Some(2.0)),
            timed("lat-e", "sorting", 2e-5, Some(2.0)),
            timed("lat2-e", "exact", 1e-3, Some(1.0)),
            timed("lat2-e", "warm", 5e-4, Some(1.5)),
        ]);
        let shown: Vec<String> = rows.iter().map(|row| fields(row).join("|")).collect();
        assert_eq!(
            shown,
            [
                "|read w and d|1.00 µs|0.500 µs|3|1.00||1.00||",
                "lat-e|exact|4.00 µs|2.00 µs|3|4.00|1.00|4.00||",
                "lat-e|by sorting|20.0 µs|10.0 µs|3|20.0|5.00|20.0||",
                "lat2-e|exact|1.00 ms|500 µs|3|1000|1.00|1000||",
                "lat2-e|alternating, warm|500 µs|250 µs|3|500|0.500|500|4|50.0000",
            ]
        );
        let csv = csv(&rows);
        assert!(
            csv.contains("\n1000,1,lat2-e,warm,3,0.0005,0.00025,0.5,")
                && csv.ends_with(",4,1.5,50\n"),
            "{csv}"
        );
        let fields = |line: &str| line.split(',').count();
        assert!(csv.lines().all(|line| fields(line) == 12), "{csv}");
    }

    #[test]
    fn figures_keep_three_digits() {
        for (value, expected) in [
            (0.000_123_4, "0.000123"),
            (0.27, "0.270"),
            (9.876, "9.88"),
            (99.99, "100.0"),
            (1234.5, "1234"),
        ] {
            assert_eq!(three_digits(value), expected);
        }
        assert_eq!(duration(16.689), "16.7 s");
    }
}
