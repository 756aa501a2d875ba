//! The report as Markdown, for a folder of results.

use super::claims::{explanation, judged_text, papers_text};
use super::{NOT_IN_PAPER, Report, letter};

/// Provenance, table, footnotes and claims.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "# {}, preset {}\n\n{}.\n\n{}\n\n```\n{}\n```\n\n",
        report.title,
        report.preset,
        escape(&report.caption),
        escape(&report.provenance),
        report.command()
    );
    if let Some(source) = report.source() {
        text += &format!("{}\n\n", escape(&source));
    }

    let mut heading = vec![String::new()];
    for column in &report.columns {
        heading.push(format!("{}: ours", column.name));
        if column.is_papers {
            heading.extend(["paper".into(), "difference".into()]);
        }
    }
    text += &line(&heading);
    text += &format!("|---|{}\n", "---:|".repeat(heading.len() - 1));
    let (papers, others) = report.blocks();
    for (index, row) in papers.iter().chain(others).enumerate() {
        if index == papers.len() {
            let mut fields = vec![String::new(); heading.len()];
            fields[0] = format!("*{NOT_IN_PAPER}*");
            text += &line(&fields);
        }
        let mut fields = vec![format!("`{}`", row.name)];
        for (column, entry) in report.columns.iter().zip(&row.entries) {
            let marks = entry.marks();
            fields.push(if marks.is_empty() {
                entry.ours_text(report.measure)
            } else {
                format!("{} <sup>{marks}</sup>", entry.ours_text(report.measure))
            });
            if column.is_papers {
                fields.extend(entry.paper_texts(report.measure));
            }
        }
        text += &line(&fields);
    }
    text += "\n";

    let notes = report
        .notes
        .iter()
        .enumerate()
        .map(|(index, note)| format!("<sup>{}</sup> {}", letter(index), escape(note)));
    for remark in report.remarks().map(|remark| escape(&remark)).chain(notes) {
        text += &format!("- {remark}\n");
    }

    text += "\n## The paper's claims\n\n| claim | column | our figures | | the paper's |\n|---|---|---|---|---|\n";
    for claim in &report.claims {
        for (column, ours, papers) in &claim.columns {
            let judged = ours.judged.iter().map(|judged| {
                let mark = if judged.holds { '✓' } else { '✗' };
                format!("{} {mark}", judged_text(judged, report.measure))
            });
            text += &line(&[
                claim.title.into(),
                column.clone(),
                ours.outcome.text().into(),
                judged.collect::<Vec<_>>().join("; "),
                papers_text(papers, report.measure),
            ]);
        }
    }
    text += &format!("\n{}\n", explanation(report.measure));

    if !report.solvers.is_empty() {
        text += "\n## Alternating against exact\n";
    }
    for part in report.solvers.tables(report.measure) {
        text += &format!("\n{}\n\n", escape(&part.caption));
        text += &line(
            &part
                .heading
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        );
        text += &format!("|---|---|{}\n", "---:|".repeat(part.heading.len() - 2));
        for fields in part.lines {
            text += &line(&fields.iter().map(|field| escape(field)).collect::<Vec<_>>());
        }
    }
    text
}

fn line(fields: &[String]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|field| field.replace('|', "\\|").replace('\n', " "))
        .collect();
    format!("| {} |\n", fields.join(" | "))
}

/// Escapes Markdown and HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '&' => escaped += "&amp;",
            '*' | '_' | '`' | '|' | '[' | '\\' => escaped.extend(['\\', c]),
            '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
