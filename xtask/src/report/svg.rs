//! A line chart as inline SVG, in a figure with title and legend.
//!
//! Colours are classes (`c0` … `c4`) that the page's style sheet sets for light and dark.

use std::fmt::Write;

use super::html::escape;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// What a chart shows. Its horizontal axis counts from 1.
pub(super) struct Chart {
    pub(super) title: String,
    /// What can be seen, for those who cannot see it.
    pub(super) label: String,
    /// What is counted: "epoch".
    pub(super) counted: &'static str,
    pub(super) last: u64,
    /// Lowest and highest value, and the values in between that have a name.
    pub(super) range: (f64, f64),
    pub(super) ticks: Vec<(f64, String)>,
    /// The lower ones first.
    pub(super) lines: Vec<Line>,
    /// Whether every point is a dot.
    pub(super) dots: bool,
    pub(super) legend: Vec<Key>,
}

/// One line, with the name that it shows under the pointer.
pub(super) struct Line {
    pub(super) style: Style,
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// One entry of the legend, with what is said beside the name.
pub(super) struct Key {
    pub(super) style: Style,
    pub(super) name: String,
    pub(super) note: String,
}

#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) class: &'static str,
    pub(super) dashed: bool,
}

impl Style {
    fn line(self) -> &'static str {
        if self.dashed { "line dashed" } else { "line" }
    }
}

impl Chart {
    /// The figure.
    pub(super) fn render(&self) -> String {
        let (low, high) = self.range;
        // A single count stands in the middle.
        let x = |count: f64| {
            let share = if self.last > 1 {
                (count - 1.0) / (self.last - 1) as f64
            } else {
                0.5
            };
            LEFT + 6.0 + share * (WIDTH - LEFT - RIGHT - 12.0)
        };
        let y = |value: f64| TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);

        let label = escape(&self.label);
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n");
        for (value, text) in &self.ticks {
            let y = y(*value);
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
        for count in count_ticks(self.last) {
            let x = x(count as f64);
            let _ = writeln!(
                svg,
                "<text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{count}</text>",
                HEIGHT - BOTTOM + 16.0
            );
        }
        let _ = writeln!(
            svg,
            "<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 3.0,
            self.counted
        );
        for line in &self.lines {
            let path: Vec<String> = line
                .points
                .iter()
                .map(|&(count, value)| format!("{:.1} {:.1}", x(count), y(value)))
                .collect();
            let _ = write!(
                svg,
                "<g class=\"{}\"><title>{}</title><path class=\"{}\" d=\"M{}\"/>",
                line.style.class,
                escape(&line.name),
                line.style.line(),
                path.join("L")
            );
            // A line of one point would not be seen.
            if self.dots || line.points.len() == 1 {
                for &(count, value) in &line.points {
                    let _ = write!(
                        svg,
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                        x(count),
                        y(value)
                    );
                }
            }
            svg += "</g>\n";
        }
        svg += "</svg>\n";

        let mut legend = String::new();
        for key in &self.legend {
            let _ = writeln!(
                legend,
                "<li><svg class=\"swatch\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><g class=\"{}\"><path class=\"{}\" \
                 d=\"M1 4H23\"/></g></svg>{} <span>{}</span></li>",
                key.style.class,
                key.style.line(),
                escape(&key.name),
                escape(&key.note)
            );
        }
        format!(
            "<figure>\n<figcaption>{}</figcaption>\n{svg}<ul class=\"legend\">\n{legend}</ul>\n</figure>\n",
            escape(&self.title)
        )
    }
}

/// 1, then round numbers.
fn count_ticks(last: u64) -> Vec<u64> {
    let steps = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000];
    let step = steps
        .into_iter()
        .chain((4..19).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power))))
        .find(|step| last / step <= 8)
        .unwrap_or(last);
    std::iter::once(1)
        .chain(
            (1..=last / step)
                .map(|k| k * step)
                .filter(|&count| count > 1),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_begin_at_one_and_are_few() {
        assert_eq!(count_ticks(1), [1]);
        assert_eq!(count_ticks(2), [1, 2]);
        assert_eq!(count_ticks(200), [1, 25, 50, 75, 100, 125, 150, 175, 200]);
        assert_eq!(count_ticks(49_000), [1, 10_000, 20_000, 30_000, 40_000]);
        assert!((1..3000).all(|last| count_ticks(last).len() <= 9));
        assert!(count_ticks(u64::MAX).len() <= 9);
    }
}
