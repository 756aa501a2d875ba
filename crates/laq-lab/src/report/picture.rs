//! The figures of a table as one SVG file: for each column the methods as rows, with our figure and
//! the paper's.
//!
//! The file is complete in itself, so that a README can show it; its colours follow the light or
//! dark mode of the viewer.

use maud::{Markup, PreEscaped, html};

use super::Report;
use super::curves::ticks_between;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 70.0;
const ROW: f64 = 20.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 30.0;

const STYLE: &str = "
  text { font: 12px system-ui, sans-serif; fill: #1c2024; }
  .soft { fill: #687078; } .end { text-anchor: end; } .middle { text-anchor: middle; } .title { font-weight: 600; }
  .grid { stroke: #e2e5e9; } .ours { fill: #d1491b; } .paper { fill: none; stroke: #687078; stroke-width: 1.5; }
  .gap { stroke: #9aa2ab; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7ea; } .soft { fill: #98a1aa; } .grid { stroke: #2b3036; } .ours { fill: #ff8a5c; }
    .paper { stroke: #98a1aa; } .gap { stroke: #59626b; }
  }
";

/// The panels of all columns with a finished run, one below the other.
pub(super) fn render(report: &Report) -> String {
    let panels: Vec<Panel<'_>> = (0..report.columns.len())
        .filter_map(|column| Panel::of(report, column))
        .collect();
    let height: f64 = panels.iter().map(Panel::height).sum::<f64>() + 8.0;
    let mut top = 0.0;
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) height=(height)
            role="img" aria-label=(format!("{}: {}", report.title, report.caption)) {
            style { (PreEscaped(STYLE)) }
            @for panel in &panels {
                (panel.draw(report, top))
                ({ top += panel.height(); "" })
            }
        }
    };
    picture.into_string() + "\n"
}

struct Panel<'a> {
    column: &'a str,
    /// Method, our figure, the paper's.
    rows: Vec<(&'a str, f64, Option<f64>)>,
}

impl<'a> Panel<'a> {
    /// The rows of a column with a finished run.
    fn of(report: &'a Report, column: usize) -> Option<Self> {
        let name = report.columns[column].name.as_str();
        let is_finished = |row: &str| {
            let mut runs = report.cells.iter();
            runs.any(|run| run.is_finished() && run.row == row && run.column == name)
        };
        let rows: Vec<_> = report
            .rows
            .iter()
            .filter(|row| is_finished(&row.name))
            .filter_map(|row| {
                let entry = &row.entries[column];
                Some((row.name.as_str(), entry.ours?.mean, entry.paper))
            })
            .filter(|(_, ours, _)| ours.is_finite())
            .collect();
        (!rows.is_empty()).then_some(Self { column: name, rows })
    }

    fn height(&self) -> f64 {
        TOP + ROW * self.rows.len() as f64 + BOTTOM
    }

    fn draw(&self, report: &Report, top: f64) -> Markup {
        let figures = || {
            self.rows
                .iter()
                .flat_map(|(_, ours, paper)| [Some(*ours), *paper])
                .flatten()
        };
        let (ticks, low, high) = ticks_between(
            figures().fold(f64::INFINITY, f64::min),
            figures().fold(f64::NEG_INFINITY, f64::max),
        );
        let x = |value: f64| LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT);
        let short = |value: f64| format!("{value:.1}");
        let bottom = top + TOP + ROW * self.rows.len() as f64;
        let has_paper = self.rows.iter().any(|row| row.2.is_some());
        html! {
            text.title x="8" y=(top + 18.0) { (report.title) ", " (self.column) }
            text.soft x="8" y=(top + 34.0) {
                (report.caption) ", preset " (report.preset) ": ● ours" @if has_paper { ", ○ paper" }
            }
            @for (value, label) in &ticks {
                path.grid d=(format!("M{:.1} {}V{}", x(*value), top + TOP - 4.0, bottom)) {}
                text.soft.middle x=(short(x(*value))) y=(bottom + 16.0) { (label) }
            }
            @for (index, (method, ours, paper)) in self.rows.iter().enumerate() {
                @let y = top + TOP + ROW * (index as f64 + 0.5);
                text.end x=(LEFT - 12.0) y=(y + 4.0) { (method) }
                @if let Some(paper) = paper {
                    path.gap d=(format!("M{:.1} {y}H{:.1}", x(*ours), x(*paper))) {}
                    circle.paper cx=(short(x(*paper))) cy=(y) r="4" {}
                }
                circle.ours cx=(short(x(*ours))) cy=(y) r="4.5" {}
                text x=(WIDTH - RIGHT + 14.0) y=(y + 4.0) { (report.measure.figure(*ours)) }
            }
        }
    }
}
