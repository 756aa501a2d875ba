//! Learning curves: one chart for each number of bits, each with full precision for comparison.
//!
//! The exact and the approximate solver of a method share a colour; the approximate one is dashed.

use maud::Markup;

use super::svg::{Chart, Key, Line, Style};
use super::{Report, Run};
use crate::measure::Measure;

/// Up to this number of epochs, each is drawn as a dot.
pub(super) const DOTS: u64 = 12;

/// The epochs of one run.
struct Curve<'a> {
    run: &'a Run,
    points: Vec<(f64, f64)>,
}

/// The charts of one column.
pub(super) fn charts(report: &Report, column: &str) -> Vec<Markup> {
    let curves: Vec<Curve<'_>> = report
        .cells
        .iter()
        .filter(|run| run.column == column)
        .filter_map(curve)
        .collect();
    let mut bits: Vec<u32> = report.rows.iter().map(|row| row.bits).collect();
    bits.sort_unstable();
    bits.dedup();
    // Full precision is in every chart; it has one of its own only where there is nothing else.
    if bits.len() > 1 {
        bits.retain(|&bits| bits != 32);
    }
    let charts = bits.into_iter().filter_map(|bits| {
        let curves = curves
            .iter()
            .filter(|curve| [32, bits].contains(&curve.run.bits));
        let curves: Vec<&Curve<'_>> = curves.collect();
        let any = curves.iter().any(|curve| curve.run.bits == bits);
        any.then(|| chart(report.measure, column, bits, &curves))
    });
    charts.collect()
}

fn curve(run: &Run) -> Option<Curve<'_>> {
    let points: Vec<(f64, f64)> = run
        .curve
        .iter()
        .filter(|(_, figure)| figure.is_finite())
        .map(|&(epoch, figure)| (f64::from(epoch), figure))
        .collect();
    (!points.is_empty()).then_some(Curve { run, points })
}

fn chart(measure: &Measure, column: &str, bits: u32, curves: &[&Curve<'_>]) -> Markup {
    let title = bits_text(bits);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = curves
        .iter()
        .map(|curve| f64::from(curve.run.epochs))
        .chain(points().map(|point| point.0))
        .fold(1.0, f64::max) as u64;
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let (ticks, low, high) = ticks_between(low, high);
    // Full precision first: later lines cover it.
    let mut order = curves.to_vec();
    order.sort_by_key(|curve| curve.run.bits != 32);
    let lines = order.iter().map(|curve| Line {
        style: style(curve.run),
        name: format!("{}, seed {}", curve.run.row, curve.run.seed),
        points: curve.points.clone(),
    });

    let mut legend: Vec<Key> = Vec::new();
    for curve in curves {
        let row = curve.run.row.as_str();
        if legend.iter().any(|key| key.name == row) {
            continue;
        }
        let best = curves
            .iter()
            .filter(|other| other.run.row == row)
            .flat_map(|other| &other.points);
        let best = measure.figure(best.map(|point| point.1).fold(f64::INFINITY, f64::min));
        let interrupted = if curve.run.is_finished() {
            ""
        } else {
            " (not finished)"
        };
        legend.push(Key {
            style: style(curve.run),
            name: row.into(),
            note: format!("{best}{interrupted}"),
        });
    }
    Chart {
        label: format!(
            "Validation {} by epoch on {column}, {title}",
            measure.with_unit()
        ),
        title,
        counted: "epoch",
        last,
        range: (low, high),
        ticks,
        lines: lines.collect(),
        dots: last <= DOTS,
        legend,
    }
    .render()
}

/// Such as `2 bits (ternary)`.
pub(super) fn bits_text(bits: u32) -> String {
    match bits {
        1 => "1 bit".into(),
        2 => "2 bits (ternary)".into(),
        32 => "full precision".into(),
        bits => format!("{bits} bits"),
    }
}

/// Colour of a row's line, and whether it is dashed.
pub(super) fn style(run: &Run) -> Style {
    let class = match run.row.as_str() {
        "full" => "full",
        "binary-connect" | "twn" => "c0",
        "bwn" | "ttq" => "c1",
        "lab" | "lat-e" | "lat-a" => "c2",
        "lat2-e" | "lat2-a" => "c3",
        row if row.starts_with("dorefa") => "c0",
        row if row.starts_with("laq-linear") => "c2",
        row if row.starts_with("laq-log") => "c3",
        _ => "c4",
    };
    Style {
        class,
        dashed: run.bits == 32 || run.exact.is_some(),
    }
}

/// About five round values that enclose `low..=high`, with their labels, and the first and the last
/// of them.
pub(super) fn ticks_between(low: f64, high: f64) -> (Vec<(f64, String)>, f64, f64) {
    // Steps that do not vanish beside the values, so that their numbers are small.
    let least = 1e-12 * low.abs().max(high.abs());
    let span = (high - low).max(0.004).max(least).min(f64::MAX);
    let power = 10f64.powf((span / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|step| span / step <= 5.0)
        .unwrap_or(power * 10.0);
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let first = (low / step).floor() as i64;
    let last = ((high / step).ceil() as i64).max(first + 1);
    let ticks = (first..=last)
        .map(|k| (k as f64 * step, format!("{:.digits$}", k as f64 * step)))
        .collect();
    (ticks, first as f64 * step, last as f64 * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damaged file may have such values.
    #[test]
    fn ticks_of_huge_values_are_few() {
        for (low, high) in [
            (1e300, 1e300),
            (-1e20, -1e20),
            (f64::MIN, f64::MAX),
            (f64::MAX, f64::MAX),
            (0.0, f64::MAX),
            (f64::MIN, f64::MIN),
        ] {
            let (ticks, first, last) = ticks_between(low, high);
            assert!(first < last, "{low} {high}: {first} {last}");
            assert!((2..=9).contains(&ticks.len()), "{low} {high}: {ticks:?}");
        }
    }

    #[test]
    fn ticks_are_round_and_enclose_the_data() {
        for (low, high) in [
            (1.23, 3.1),
            (1.2, 1.2),
            (0.0, 0.0001),
            (1.25, 1.2535),
            (2.0, 40.0),
        ] {
            let (ticks, first, last) = ticks_between(low, high);
            assert!(
                first <= low && last >= high && first < last,
                "{low} {high}: {first} {last}"
            );
            assert!((2..=7).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            for (value, text) in ticks {
                assert!(
                    (text.parse::<f64>().unwrap() - value).abs() < 1e-9,
                    "{value} is shown as {text}"
                );
            }
        }
    }
}
