//! The report as one HTML page without script and network; light and dark.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::claims::{Outcome, Verdict, explanation, judged_text, papers_text};
use super::{NOT_IN_PAPER, Report, Row, curves, exact, letter};
use crate::measure::Measure;
use crate::text::duration;

const STYLE: &str = include_str!("style.css");

/// The report of a table.
pub(super) fn render(report: &Report) -> String {
    let title = format!("{}, preset {}", report.title, report.preset);
    let body = html! {
        header {
            p.over { "Loss-aware weight quantization of deep networks" }
            h1 { (title) }
            p { (report.caption) "." }
            p { (report.provenance) }
            pre { (report.command()) }
            @if let Some(source) = report.source() { p { (source) } }
        }
        (table(report))
        (claims(report))
        (solvers(report))
        (learning(report))
        (cells(report))
    };
    page(&title, &body)
}

/// A page with the style sheet of all reports.
pub(super) fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

fn table(report: &Report) -> Markup {
    let (papers, others) = report.blocks();
    let fields: usize = report
        .columns
        .iter()
        .map(|column| if column.is_papers { 3 } else { 1 })
        .sum();
    html! {
        section {
            div.wide {
                table.results {
                    thead {
                        tr {
                            th {}
                            @for column in &report.columns {
                                @if column.is_papers {
                                    th.group colspan="3" { (column.name) }
                                } @else {
                                    th.group.single { (column.name) }
                                }
                            }
                        }
                        tr {
                            th scope="col" { "method" }
                            @for column in &report.columns {
                                th.first scope="col" { "ours" }
                                @if column.is_papers {
                                    th scope="col" { "paper" }
                                    th scope="col" { "difference" }
                                }
                            }
                        }
                    }
                    tbody { (rows(report, papers)) }
                    @if !others.is_empty() {
                        tbody {
                            tr.block { th scope="rowgroup" colspan=(1 + fields) { (NOT_IN_PAPER) } }
                            (rows(report, others))
                        }
                    }
                }
            }
            ul.notes {
                @for remark in report.remarks() { li { (remark) } }
                @for (index, note) in report.notes.iter().enumerate() {
                    li { sup { (letter(index)) } " " (note) }
                }
            }
        }
    }
}

/// Rows, with a rule between numbers of bits.
fn rows(report: &Report, rows: &[Row]) -> Markup {
    let mut bits = rows.first().map(|row| row.bits);
    html! {
        @for row in rows {
            tr class=[(bits.replace(row.bits) != Some(row.bits)).then_some("rule")] {
                th scope="row" { (row.name) }
                @for (column, entry) in report.columns.iter().zip(&row.entries) {
                    td.first.ours[entry.ours.is_some()] {
                        (entry.ours_text(report.measure))
                        @if !entry.notes.is_empty() { sup { (entry.marks()) } }
                    }
                    @if column.is_papers {
                        @for text in entry.paper_texts(report.measure) { td { (text) } }
                    }
                }
            }
        }
    }
}

fn claims(report: &Report) -> Markup {
    html! {
        section {
            h2 { "The paper’s claims" }
            p { (explanation(report.measure)) }
            div.wide {
                table.claims {
                    thead {
                        tr { th { "claim" } th { "column" } th { "our figures" } th {} th { "the paper’s" } }
                    }
                    tbody {
                        @for claim in &report.claims {
                            @for (index, (column, ours, papers)) in claim.columns.iter().enumerate() {
                                tr class=[(index == 0).then_some("rule")] {
                                    @if index == 0 {
                                        th scope="row" rowspan=(claim.columns.len()) { (claim.title) }
                                    }
                                    td { (column) }
                                    td { (outcome(ours.outcome)) }
                                    td { (comparisons(ours, report.measure)) }
                                    // Whether the paper's own figures support its claim is no verdict on ours: no colour.
                                    td.open { (papers_text(papers, report.measure)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn outcome(outcome: Outcome) -> Markup {
    let (class, mark) = match outcome {
        Outcome::Holds => ("holds", "✓ "),
        Outcome::Fails => ("fails", "✗ "),
        Outcome::Open => ("open", ""),
    };
    html! { span class=(class) { (mark) (outcome.text()) } }
}

fn comparisons(verdict: &Verdict, measure: &Measure) -> Markup {
    html! {
        ul.comparisons {
            @for judged in &verdict.judged {
                li class=[(!judged.holds).then_some("fails")] { (judged_text(judged, measure)) }
            }
        }
    }
}

fn solvers(report: &Report) -> Markup {
    if report.solvers.is_empty() {
        return html! {};
    }
    let charts = by_column(report, exact::charts);
    html! {
        section {
            h2 { "Alternating against exact" }
            @for part in report.solvers.tables(report.measure) {
                p { (part.caption) }
                div.wide {
                    table.solvers {
                        thead { tr { @for name in part.heading { th scope="col" { (name) } } } }
                        tbody {
                            @for line in part.lines {
                                tr { @for field in line { td { (field) } } }
                            }
                        }
                    }
                }
            }
            @if let Some(charts) = charts {
                p { (exact::CHARTS_TEXT) }
                (charts)
            }
        }
    }
}

/// The charts of every column that has some, under its name.
fn by_column(report: &Report, charts: fn(&Report, &str) -> Vec<Markup>) -> Option<Markup> {
    let columns = report
        .columns
        .iter()
        .map(|column| (&column.name, charts(report, &column.name)));
    let columns: Vec<_> = columns.filter(|(_, charts)| !charts.is_empty()).collect();
    (!columns.is_empty()).then(|| {
        html! {
            @for (name, charts) in columns {
                h3 { (name) }
                div.charts { @for chart in charts { (chart) } }
            }
        }
    })
}

fn learning(report: &Report) -> Markup {
    html! {
        @if let Some(charts) = by_column(report, curves::charts) {
            section {
                h2 { "Learning curves" }
                p {
                    "Validation " (report.measure.with_unit()) " after each epoch. The legend shows the lowest of each \
                     method. Each chart has its own scale; full precision is grey."
                }
                (charts)
            }
        }
    }
}

fn cells(report: &Report) -> Markup {
    let headings = [
        "column",
        "method",
        "seed",
        "state",
        "test",
        "validation",
        "train loss",
        "best epoch",
        "epochs",
        "s/step",
        "quantizing",
        "time",
        "memory",
        "key",
    ];
    let dash = || "–".to_string();
    let figure = |value: Option<f64>| value.map_or_else(dash, |value| report.measure.figure(value));
    html! {
        section {
            details {
                summary { "All cells" }
                div.wide {
                    table.cells {
                        thead { tr { @for heading in headings { th { (heading) } } } }
                        tbody {
                            @for run in &report.cells {
                                @let summary = run.summary.as_ref();
                                tr title=(summary.map_or("", |summary| summary.title.as_str())) {
                                    td { (run.column) }
                                    td { (run.row) }
                                    td { (run.seed) }
                                    td { (run.status) }
                                    td { (figure(run.test)) }
                                    td { (figure(run.validation)) }
                                    @if let Some(summary) = summary {
                                        td { (summary.train_loss.map_or_else(dash, |loss| format!("{loss:.3}"))) }
                                        td { (summary.best_epoch.map_or_else(dash, |epoch| epoch.to_string())) }
                                        td { (summary.epochs_done) " of " (run.epochs) }
                                        td { (format!("{:.3}", summary.seconds_per_step)) }
                                        td { (format!("{:.1} %", 100.0 * summary.quantize_share)) }
                                        td { (duration(summary.seconds)) }
                                        td { (summary.peak_memory_bytes.map_or_else(dash, mebibytes)) }
                                    } @else {
                                        td { "–" } td { "–" } td { "0 of " (run.epochs) }
                                        td { "–" } td { "–" } td { "–" } td { "–" }
                                    }
                                    td { (run.key) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
}
