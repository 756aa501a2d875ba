//! The alternating solvers against the exact ones: the accuracy of their networks, and the distance
//! of the alternating solver from the optimum during training.

use laq_runner::record::ComparisonRecord;
use maud::Markup;

use super::svg::{Chart, Key, Line, Style};
use super::{Report, Run, curves};
use crate::measure::Measure;

/// Two tables; both may be empty.
#[derive(Debug)]
pub(super) struct Solvers {
    /// The test figures of a row and of its exact counterpart: a line for each column, pair and
    /// seed.
    figures: Vec<Vec<String>>,
    /// The weighted error of a run's solver over the optimum: a line for each run; empty where no
    /// run was compared.
    errors: Vec<Vec<String>>,
}

const FIGURES: [&str; 6] = [
    "column",
    "alternating",
    "seed",
    "alternating: test",
    "exact: test",
    "alternating − exact",
];

const ERRORS: [&str; 8] = [
    "column",
    "alternating",
    "seed",
    "compared",
    "median",
    "largest",
    "last",
    "worst matrix",
];

fn figures_text(measure: &Measure) -> String {
    format!(
        "Test {} of runs that differ in the solver alone, where both are finished. The same seed gives the same initial \
         weights and the same order of batches.",
        measure.name
    )
}

const ERRORS_TEXT: &str = "Weighted error ½ Σ d (w − ŵ)² of the alternating solver, warm-started as in training, over that of the exact one on \
     the same weights: the median, the largest and the last of the compared steps, summed over all matrices, and the worst single \
     matrix. 1 is the optimum.";

/// The caption of the charts.
pub(super) const CHARTS_TEXT: &str = "The same by training step, in percent above the optimum. Each chart has its own scale; lower values are drawn at \
     0.0001.";

/// Excesses below this, in percent, are rounding of the scales.
const LEAST: f64 = 1e-4;

/// A table for a format to render.
pub(super) struct Part<'a> {
    pub(super) caption: String,
    pub(super) heading: &'static [&'static str],
    pub(super) lines: &'a [Vec<String>],
}

impl Solvers {
    pub(super) fn is_empty(&self) -> bool {
        self.figures.is_empty() && self.errors.is_empty()
    }

    /// The tables that have lines.
    pub(super) fn tables(&self, measure: &Measure) -> impl Iterator<Item = Part<'_>> {
        let part = |caption, heading, lines| Part {
            caption,
            heading,
            lines,
        };
        let parts = [
            part(figures_text(measure), &FIGURES[..], &self.figures[..]),
            part(ERRORS_TEXT.into(), &ERRORS[..], &self.errors[..]),
        ];
        parts.into_iter().filter(|part| !part.lines.is_empty())
    }
}

/// Both tables.
pub(super) fn collect(
    measure: &Measure,
    columns: &[String],
    rows: &[String],
    cells: &[Run],
) -> Solvers {
    // By column and row, so that the seeds of a pair follow each other.
    let mut runs: Vec<&Run> = cells.iter().filter(|run| run.exact.is_some()).collect();
    runs.sort_by_key(|run| {
        let place = |names: &[String], name: &str| names.iter().position(|other| other == name);
        (place(columns, &run.column), place(rows, &run.row), run.seed)
    });
    let figures = runs.iter().filter_map(|run| {
        let counterpart = cells.iter().find(|counterpart| {
            run.exact.as_ref() == Some(&counterpart.row)
                && (&counterpart.column, counterpart.seed) == (&run.column, run.seed)
        })?;
        let test = |run: &Run| run.test.filter(|_| run.is_finished());
        let (alternating, exact) = (test(run)?, test(counterpart)?);
        Some(vec![
            run.column.clone(),
            run.row.clone(),
            run.seed.to_string(),
            measure.figure(alternating),
            measure.figure(exact),
            measure.signed(alternating - exact),
        ])
    });
    let any = runs.iter().any(|run| !run.comparisons.is_empty());
    let begun = runs.iter().filter(|run| any && run.status != "to do");
    Solvers {
        figures: figures.collect(),
        errors: begun.map(|run| errors(run)).collect(),
    }
}

/// The line of a run in the table of errors.
fn errors(run: &Run) -> Vec<String> {
    let mut line = vec![
        run.column.clone(),
        run.row.clone(),
        run.seed.to_string(),
        run.comparisons.len().to_string(),
    ];
    let ratios: Vec<(f64, u64)> = run
        .comparisons
        .iter()
        .filter_map(|comparison| Some((comparison.ratio?, comparison.step)))
        .collect();
    let matrices = run.comparisons.iter().flat_map(|comparison| {
        let layers = comparison.layers.iter();
        layers.filter_map(|layer| Some((layer.ratio?, &layer.name, comparison.step)))
    });
    let worst = matrices.max_by(|a, b| a.0.total_cmp(&b.0));
    let largest = ratios.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(&(largest, at)), Some(&(last, _)), Some((matrix, name, matrix_at))) =
        (largest, ratios.last(), worst)
    else {
        let none = if run.comparisons.is_empty() {
            "no comparison recorded"
        } else {
            "–"
        };
        line.push(none.into());
        line.resize(ERRORS.len(), String::new());
        return line;
    };
    line.extend([
        ratio(median(ratios.iter().map(|&(ratio, _)| ratio).collect())),
        format!("{} at step {at}", ratio(largest)),
        ratio(last),
        format!("{}: {name} at step {matrix_at}", ratio(matrix)),
    ]);
    line
}

/// Six digits: near the optimum the first ones are always the same.
fn ratio(value: f64) -> String {
    format!("{value:.6}")
}

/// The charts of one column, one for each number of bits.
pub(super) fn charts(report: &Report, column: &str) -> Vec<Markup> {
    let runs = report.cells.iter().filter(|run| run.column == column);
    let lines: Vec<(&Run, Vec<(f64, f64)>)> = runs
        .map(|run| (run, run.comparisons.iter().filter_map(excess).collect()))
        .filter(|(_, points): &(_, Vec<_>)| !points.is_empty())
        .collect();
    let mut numbers: Vec<u32> = lines.iter().map(|(run, _)| run.bits).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let charts = numbers.into_iter().map(|number| {
        let lines: Vec<_> = lines.iter().filter(|(run, _)| run.bits == number).collect();
        chart(column, number, &lines)
    });
    charts.collect()
}

/// The step, and the decimal logarithm of the excess in percent.
fn excess(comparison: &ComparisonRecord) -> Option<(f64, f64)> {
    let power = (100.0 * (comparison.ratio? - 1.0)).max(LEAST).log10();
    power.is_finite().then_some((comparison.step as f64, power))
}

fn chart(column: &str, bits: u32, runs: &[&(&Run, Vec<(f64, f64)>)]) -> Markup {
    let title = curves::bits_text(bits);
    let points = || runs.iter().flat_map(|(_, points)| points);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let first = low.floor() as i32;
    let last = (high.ceil() as i32).max(first + 1);
    let ticks = (first..=last).map(|power| (f64::from(power), percent(power)));
    let style = |run: &Run| Style {
        dashed: false,
        ..curves::style(run)
    };
    let lines = runs.iter().map(|(run, points)| Line {
        style: style(run),
        name: format!("{}, seed {}", run.row, run.seed),
        points: points.clone(),
    });
    let mut legend: Vec<Key> = Vec::new();
    for (run, _) in runs {
        if !legend.iter().any(|key| key.name == run.row) {
            legend.push(Key {
                style: style(run),
                name: run.row.clone(),
                note: String::new(),
            });
        }
    }
    Chart {
        label: format!(
            "Weighted error of the alternating solver above the optimum in percent, by training step, on {column}, {title}"
        ),
        title,
        counted: "step",
        last: points().map(|point| point.0 as u64).max().unwrap_or(1),
        range: (f64::from(first), f64::from(last)),
        ticks: ticks.collect(),
        lines: lines.collect(),
        dots: false,
        legend,
    }
    .render()
}

/// Such as `0.01`, `1` or `100`.
fn percent(power: i32) -> String {
    let digits = usize::try_from(-power).unwrap_or_default();
    format!("{:.digits$}", 10f64.powi(power))
}

/// The median of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        0.5 * (values[middle - 1] + values[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
    }

    #[test]
    fn excesses_have_a_floor() {
        let of = |ratio| {
            let comparison = ComparisonRecord {
                step: 20,
                ratio,
                ..Default::default()
            };
            excess(&comparison)
        };
        let (step, power) = of(Some(1.1)).expect("a point");
        assert!(step == 20.0 && (power - 1.0).abs() < 1e-9);
        // By rounding the exact solver may be slightly worse.
        assert_eq!(of(Some(1.0 - 1e-9)), Some((20.0, -4.0)));
        for none in [None, Some(1.7e308), Some(f64::INFINITY)] {
            assert_eq!(of(none), None);
        }
    }

    #[test]
    fn powers_of_ten_are_written_out() {
        assert_eq!([-4, -1, 0, 2].map(percent), ["0.0001", "0.1", "1", "100"]);
    }
}
