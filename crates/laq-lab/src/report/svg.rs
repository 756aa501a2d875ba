//! A line chart as inline SVG, in a figure with title and legend.
//!
//! Written by hand: the charts take their colours (classes `c0` … `c4`) from the style sheet of the
//! page, for light and dark, which plotting crates cannot express, and those would bring font
//! libraries along.

use maud::{Markup, html};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// A chart. Its horizontal axis counts from 1.
pub(super) struct Chart {
    pub(super) title: String,
    /// The description for screen readers.
    pub(super) label: String,
    /// The unit of the horizontal axis, such as `epoch`.
    pub(super) counted: &'static str,
    pub(super) last: u64,
    /// Lowest and highest value, and the labelled values in between.
    pub(super) range: (f64, f64),
    pub(super) ticks: Vec<(f64, String)>,
    /// Drawn in this order.
    pub(super) lines: Vec<Line>,
    /// Whether every point is a dot.
    pub(super) dots: bool,
    pub(super) legend: Vec<Key>,
}

/// One line, with the name of its tooltip.
pub(super) struct Line {
    pub(super) style: Style,
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// One entry of the legend, with a note after the name.
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
    pub(super) fn render(&self) -> Markup {
        html! {
            figure {
                figcaption { (self.title) }
                (self.drawing())
                ul.legend {
                    @for key in &self.legend {
                        li {
                            svg.swatch viewBox="0 0 24 8" aria-hidden="true" {
                                g class=(key.style.class) { path class=(key.style.line()) d="M1 4H23" {} }
                            }
                            (key.name) " " span { (key.note) }
                        }
                    }
                }
            }
        }
    }

    fn drawing(&self) -> Markup {
        let (low, high) = self.range;
        let x = |count: f64| {
            // A single count is drawn in the middle.
            let share = if self.last > 1 {
                (count - 1.0) / (self.last - 1) as f64
            } else {
                0.5
            };
            LEFT + 6.0 + share * (WIDTH - LEFT - RIGHT - 12.0)
        };
        let y = |value: f64| TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let short = |value: f64| format!("{value:.1}");
        let path = |points: &[(f64, f64)]| {
            let points = points
                .iter()
                .map(|&(count, value)| format!("{:.1} {:.1}", x(count), y(value)));
            format!("M{}", points.collect::<Vec<_>>().join("L"))
        };
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.label) {
                @for (value, text) in &self.ticks {
                    path.grid d=(format!("M{LEFT} {:.1}H{}", y(*value), WIDTH - RIGHT)) {}
                    text.end x=(LEFT - 6.0) y=(short(y(*value) + 4.0)) { (text) }
                }
                @for count in count_ticks(self.last) {
                    text.middle x=(short(x(count as f64))) y=(HEIGHT - BOTTOM + 16.0) { (count) }
                }
                text.end x=(WIDTH - RIGHT) y=(HEIGHT - 3.0) { (self.counted) }
                @for line in &self.lines {
                    g class=(line.style.class) {
                        title { (line.name) }
                        path class=(line.style.line()) d=(path(&line.points)) {}
                        // A line of one point would be invisible.
                        @if self.dots || line.points.len() == 1 {
                            @for &(count, value) in &line.points {
                                circle cx=(short(x(count))) cy=(short(y(value))) r="2.5" {}
                            }
                        }
                    }
                }
            }
        }
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
    let round = (1..=last / step).map(|k| k * step);
    std::iter::once(1)
        .chain(round.filter(|&count| count > 1))
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
