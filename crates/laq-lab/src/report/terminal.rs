//! The report on the terminal: one wide table where it fits, and one table a column where it does
//! not.

use comfy_table::Cell;

use super::claims::{Claim, Outcome, Verdict, explanation, judged_text};
use super::{Column, NOT_IN_PAPER, Report, Row, letter};
use crate::measure::Measure;
use crate::text;

/// Wider tables are shown column by column.
const WIDTH: usize = 120;

/// Table, footnotes and claims.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "{} · {} · preset {}\n\n",
        report.title, report.caption, report.preset
    );
    let columns: Vec<_> = report.columns.iter().enumerate().collect();
    let wide = table(report, &columns);
    text += &if wide.lines().all(|line| line.chars().count() <= WIDTH) {
        wide
    } else {
        let tables: Vec<String> = columns
            .iter()
            .map(|&column| table(report, &[column]))
            .collect();
        tables.join("\n")
    };
    text += "\n";
    for line in report.source().into_iter().chain(report.remarks()) {
        text += &text::wrap(&line, WIDTH, "  ");
    }
    for (index, note) in report.notes.iter().enumerate() {
        text += &text::wrap(&format!("{}  {note}", letter(index)), WIDTH, "     ");
    }
    text += "\nThe paper's claims, by our figures\n";
    text += &claims(&report.claims, report.measure);
    text += &text::wrap(&explanation(report.measure), WIDTH, "  ");
    text += &format!("\n{}\n", report.provenance);
    text
}

/// A table of some columns, with a heading of two lines: the column's name, and what its fields
/// are.
fn table(report: &Report, columns: &[(usize, &Column)]) -> String {
    let mut heading = vec![Cell::new("")];
    let mut right = vec![false];
    for (_, column) in columns {
        // Over the widest field, so that a long name widens the table least.
        let name = &column.name;
        right.extend([true, false]);
        if column.is_papers {
            let names = [
                "\nours".into(),
                String::new(),
                "\npaper".into(),
                format!("{name}\ndifference"),
            ];
            heading.extend(names.map(Cell::new));
            right.extend([true, true]);
        } else {
            heading.extend([format!("{name}\nours"), String::new()].map(Cell::new));
        }
    }
    let mut lines = vec![heading];
    let line = |row: &Row| {
        let mut line = vec![Cell::new(&row.name)];
        for &(index, column) in columns {
            let entry = &row.entries[index];
            line.extend([
                Cell::new(entry.ours_text(report.measure)),
                Cell::new(entry.marks()),
            ]);
            if column.is_papers {
                line.extend(entry.paper_texts(report.measure).map(Cell::new));
            }
        }
        line
    };
    let (papers, others) = report.blocks();
    lines.extend(papers.iter().map(line));
    if !others.is_empty() {
        lines.push(vec![Cell::new(NOT_IN_PAPER)]);
        lines.extend(others.iter().map(line));
    }
    text::table(lines, |index| right[index])
}

/// A line for each claim and column: the verdict, and the difference of each comparison, marked
/// where it fails. Claims without any comparison are listed at the end.
fn claims(claims: &[Claim], measure: &Measure) -> String {
    let columns = claims.iter().flat_map(|claim| &claim.columns);
    let names = columns
        .map(|(column, ..)| column.len())
        .max()
        .unwrap_or_default();
    let outcomes = Outcome::Open.text().len();
    let mut text = String::new();
    let mut open = Vec::new();
    for claim in claims {
        let judged = claim
            .columns
            .iter()
            .filter(|(_, ours, _)| !ours.judged.is_empty());
        let judged: Vec<_> = judged.collect();
        if judged.is_empty() {
            open.push(claim.title.split(':').next().unwrap_or_default());
            continue;
        }
        text += &format!("{}\n", claim.title);
        for (column, ours, papers) in judged {
            let start = format!("  {column:names$}  {:outcomes$}  ", ours.outcome.text());
            let indent = " ".repeat(start.len());
            let line = start + &margins(ours, measure) + &papers_fail(papers, measure);
            text += &text::wrap(&line, WIDTH, &indent);
        }
    }
    if !open.is_empty() {
        text += &text::wrap(
            &format!("Not enough cells for: {}", open.join("; ")),
            WIDTH,
            "  ",
        );
    }
    text.replace(NO_BREAK, " ")
}

/// A space at which lines do not break.
const NO_BREAK: &str = "\u{a0}";

/// Such as `lat-e −0.048, lat-a +0.002 (!)`.
fn margins(verdict: &Verdict, measure: &Measure) -> String {
    let judged = verdict.judged.iter().map(|judged| {
        let mark = if judged.holds { "" } else { " (!)" };
        let margin = measure.signed(judged.left - judged.right);
        format!("{} {margin}{mark}", judged.comparison.0).replace(' ', NO_BREAK)
    });
    let missing = verdict.comparisons - verdict.judged.len();
    let missing = (missing > 0).then(|| format!("{missing} of {} open", verdict.comparisons));
    judged.chain(missing).collect::<Vec<_>>().join(", ")
}

/// Such as `; not by the paper's: bwn 1.31 < binary-connect 1.28`, where the paper's own figures do
/// not support the claim.
fn papers_fail(verdict: &Verdict, measure: &Measure) -> String {
    let failing = verdict
        .failing()
        .map(|judged| judged_text(judged, measure).replace(' ', NO_BREAK));
    let failing: Vec<String> = failing.collect();
    if failing.is_empty() {
        return String::new();
    }
    format!("; not by the paper's: {}", failing.join(", "))
}
