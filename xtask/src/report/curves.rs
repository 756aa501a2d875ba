//! Learning curves as inline SVG: one small chart a number of bits, with full precision in each as the yardstick.
//!
//! Colours are classes (`c0` … `c4`) that the page's style sheet sets for light and dark. The exact and the approximate
//! solver of a method share a colour; the approximate one is dashed.

use std::fmt::Write;

use super::html::escape;
use super::{Report, Run, figure};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// Up to so many epochs each is a dot.
const DOTS: u64 = 12;

/// One line of a chart.
struct Line<'a> {
    run: &'a Run,
    points: Vec<(f64, f64)>,
}

/// The charts of one column, or nothing if it has no epoch yet.
pub(super) fn charts(report: &Report, column: &str) -> String {
    let lines: Vec<Line<'_>> = report
        .cells
        .iter()
        .filter(|run| run.column == column)
        .filter_map(line)
        .collect();
    let mut bits: Vec<u32> = report.rows.iter().map(|row| row.bits).collect();
    bits.sort_unstable();
    bits.dedup();
    // Full precision is in every chart; one of its own is for a report that has nothing else.
    if bits.len() > 1 {
        bits.retain(|&bits| bits != 32);
    }
    let mut html = String::new();
    for bits in bits {
        let lines: Vec<&Line<'_>> = lines
            .iter()
            .filter(|line| {
                matches!(super::bits(&line.run.row), 32) || super::bits(&line.run.row) == bits
            })
            .collect();
        if lines.iter().any(|line| super::bits(&line.run.row) == bits) {
            html += &chart(column, bits, &lines);
        }
    }
    html
}

fn line(run: &Run) -> Option<Line<'_>> {
    let points: Vec<(f64, f64)> = run
        .curve
        .iter()
        .filter_map(|epoch| {
            Some((
                epoch.epoch as f64,
                epoch.validation_loss.filter(|loss| loss.is_finite())?,
            ))
        })
        .collect();
    (!points.is_empty()).then_some(Line { run, points })
}

fn chart(column: &str, bits: u32, lines: &[&Line<'_>]) -> String {
    let title = match bits {
        1 => "1 bit".to_string(),
        2 => "2 bits (ternary)".to_string(),
        32 => "full precision".to_string(),
        bits => format!("{bits} bits"),
    };
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = lines
        .iter()
        .map(|line| line.run.epochs as f64)
        .chain(points().map(|point| point.0))
        .fold(1.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let (ticks, low, high) = loss_ticks(low, high);
    // A single epoch stands in the middle.
    let x = |epoch: f64| {
        let share = if last > 1.0 {
            (epoch - 1.0) / (last - 1.0)
        } else {
            0.5
        };
        LEFT + 6.0 + share * (WIDTH - LEFT - RIGHT - 12.0)
    };
    let y = |loss: f64| TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM);

    let label = escape(&format!(
        "Validation cross-entropy by epoch on {column}, {title}"
    ));
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n");
    for (loss, text) in ticks {
        let y = y(loss);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>",
            WIDTH - RIGHT
        );
        let _ = writeln!(
            svg,
            "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{text}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for epoch in epoch_ticks(last as u64) {
        let x = x(epoch as f64);
        let _ = writeln!(
            svg,
            "<text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{epoch}</text>",
            HEIGHT - BOTTOM + 16.0
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"end\" x=\"{}\" y=\"{}\">epoch</text>",
        WIDTH - RIGHT,
        HEIGHT - 3.0
    );
    // Full precision first, so that it lies below the others.
    let mut order = lines.to_vec();
    order.sort_by_key(|line| super::bits(&line.run.row) != 32);
    for line in &order {
        let (class, dashed) = style(&line.run.row);
        let path: Vec<String> = line
            .points
            .iter()
            .map(|&(epoch, loss)| format!("{:.1} {:.1}", x(epoch), y(loss)))
            .collect();
        let name = escape(&format!("{}, seed {}", line.run.row, line.run.seed));
        let _ = write!(svg, "<g class=\"{class}\"><title>{name}</title>");
        let _ = write!(
            svg,
            "<path class=\"line{}\" d=\"M{}\"/>",
            if dashed { " dashed" } else { "" },
            path.join("L")
        );
        if last as u64 <= DOTS {
            for &(epoch, loss) in &line.points {
                let _ = write!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                    x(epoch),
                    y(loss)
                );
            }
        }
        svg += "</g>\n";
    }
    svg += "</svg>\n";

    let mut legend = String::new();
    let mut named: Vec<&str> = Vec::new();
    for line in lines {
        let row = line.run.row.as_str();
        if named.contains(&row) {
            continue;
        }
        named.push(row);
        let (class, dashed) = style(row);
        let best = lines
            .iter()
            .filter(|other| other.run.row == row)
            .flat_map(|other| &other.points);
        let best = figure(best.map(|point| point.1).fold(f64::INFINITY, f64::min));
        let interrupted = if line.run.is_finished() {
            ""
        } else {
            " (not finished)"
        };
        let _ = writeln!(
            legend,
            "<li><svg class=\"swatch\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><g class=\"{class}\"><path class=\"line{}\" \
             d=\"M1 4H23\"/></g></svg>{} <span>{best}{interrupted}</span></li>",
            if dashed { " dashed" } else { "" },
            escape(row)
        );
    }
    format!(
        "<figure>\n<figcaption>{title}</figcaption>\n{svg}<ul class=\"legend\">\n{legend}</ul>\n</figure>\n"
    )
}

/// Colour class of a row, and whether its line is dashed.
fn style(row: &str) -> (&'static str, bool) {
    let class = match row {
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
    let approximate = row.ends_with("-a") || row.starts_with("laq-") && !row.ends_with("-e");
    (class, row == "full" || approximate)
}

/// About five round values that hold `low..=high` between the first and the last, with their labels.
fn loss_ticks(low: f64, high: f64) -> (Vec<(f64, String)>, f64, f64) {
    let span = (high - low).max(0.004);
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

/// The first epoch, then round ones.
fn epoch_ticks(last: u64) -> Vec<u64> {
    let step = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000]
        .into_iter()
        .find(|step| last / step <= 8)
        .unwrap_or(last);
    std::iter::once(1)
        .chain(
            (1..=last / step)
                .map(|k| k * step)
                .filter(|&epoch| epoch > 1),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_ticks_are_round_and_hold_the_data() {
        for (low, high) in [
            (1.23, 3.1),
            (1.2, 1.2),
            (0.0, 0.0001),
            (1.25, 1.2535),
            (2.0, 40.0),
        ] {
            let (ticks, first, last) = loss_ticks(low, high);
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

    #[test]
    fn epoch_ticks_begin_at_one_and_are_few() {
        assert_eq!(epoch_ticks(1), [1]);
        assert_eq!(epoch_ticks(2), [1, 2]);
        assert_eq!(epoch_ticks(200), [1, 25, 50, 75, 100, 125, 150, 175, 200]);
        assert!((1..3000).all(|last| epoch_ticks(last).len() <= 9));
    }
}
