//! The report as one HTML page that needs nothing else: no script, no font, no address; light and dark.

use std::fmt::Write;

use super::claims::{Outcome, Verdict, explanation, judged_text, papers_text};
use super::exact::{self, Solvers};
use super::{NOT_IN_PAPER, Report, curves, letter};
use crate::estimate::duration;
use crate::measure::Measure;

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    let title = escape(&format!("{}, preset {}", report.title, report.preset));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<header>\n<p class=\"over\">Loss-aware weight quantization of deep networks</p>\n<h1>{title}</h1>\n\
         <p>{}.</p>\n<p>{}</p>\n<pre>{}</pre>\n{}</header>\n{}{}{}{}{}</main>\n</body>\n</html>\n",
        escape(&report.caption),
        escape(&report.made),
        escape(&report.command()),
        report.source().map_or(String::new(), |source| format!(
            "<p>{}</p>\n",
            escape(&source)
        )),
        table(report),
        claims(report),
        solvers(report),
        learning(report),
        cells(report),
    )
}

fn table(report: &Report) -> String {
    let mut html = String::from(
        "<section>\n<div class=\"wide\"><table class=\"results\">\n<thead>\n<tr><th></th>",
    );
    for column in &report.columns {
        let (class, fields) = if column.is_papers {
            ("group", 3)
        } else {
            ("group single", 1)
        };
        let name = escape(&column.name);
        let _ = write!(
            html,
            "<th class=\"{class}\" colspan=\"{fields}\">{name}</th>"
        );
    }
    html += "</tr>\n<tr><th scope=\"col\">method</th>";
    for column in &report.columns {
        html += "<th scope=\"col\" class=\"first\">ours</th>";
        if column.is_papers {
            html += "<th scope=\"col\">paper</th><th scope=\"col\">difference</th>";
        }
    }
    html += "</tr>\n</thead>\n<tbody>\n";
    let (papers, others) = report.blocks();
    let fields: usize = report
        .columns
        .iter()
        .map(|column| if column.is_papers { 3 } else { 1 })
        .sum();
    let mut bits = None;
    for (index, row) in papers.iter().chain(others).enumerate() {
        if index == papers.len() {
            let _ = writeln!(
                html,
                "</tbody>\n<tbody>\n<tr class=\"block\"><th scope=\"rowgroup\" colspan=\"{}\">{NOT_IN_PAPER}</th></tr>",
                1 + fields
            );
            bits = None;
        }
        // A rule between numbers of bits.
        let class = if bits.replace(row.bits).is_some_and(|bits| bits != row.bits) {
            " class=\"rule\""
        } else {
            ""
        };
        let _ = write!(
            html,
            "<tr{class}><th scope=\"row\">{}</th>",
            escape(&row.name)
        );
        for (column, entry) in report.columns.iter().zip(&row.entries) {
            let marks = entry.marks();
            let marks = if marks.is_empty() {
                String::new()
            } else {
                format!("<sup>{marks}</sup>")
            };
            let class = if entry.ours.is_some() {
                "first ours"
            } else {
                "first none"
            };
            let _ = write!(
                html,
                "<td class=\"{class}\">{}{marks}</td>",
                entry.ours_text(report.measure)
            );
            if column.is_papers {
                let [paper, difference] = entry.paper_texts(report.measure);
                let _ = write!(html, "<td>{paper}</td><td>{difference}</td>");
            }
        }
        html += "</tr>\n";
    }
    html += "</tbody>\n</table></div>\n<ul class=\"notes\">\n";
    let remarks = report
        .spread()
        .into_iter()
        .chain(report.columns.iter().filter_map(|c| c.note.clone()));
    for remark in remarks {
        let _ = writeln!(html, "<li>{}</li>", escape(&remark));
    }
    for (index, note) in report.notes.iter().enumerate() {
        let _ = writeln!(
            html,
            "<li><sup>{}</sup> {}</li>",
            letter(index),
            escape(note)
        );
    }
    html + "</ul>\n</section>\n"
}

fn claims(report: &Report) -> String {
    let mut html = format!(
        "<section>\n<h2>The paper’s claims</h2>\n<p>{}</p>\n",
        escape(&explanation(report.measure))
    );
    html += "<div class=\"wide\"><table class=\"claims\">\n<thead><tr><th>claim</th><th>column</th><th>by our figures</th>\
             <th></th><th>by the paper’s</th></tr></thead>\n<tbody>\n";
    for claim in &report.claims {
        for (index, (column, ours, papers)) in claim.columns.iter().enumerate() {
            html += if index == 0 {
                "<tr class=\"rule\">"
            } else {
                "<tr>"
            };
            if index == 0 {
                let _ = write!(
                    html,
                    "<th scope=\"row\" rowspan=\"{}\">{}</th>",
                    claim.columns.len(),
                    escape(claim.title)
                );
            }
            // Whether the paper's own figures bear its claim is no verdict on us: no colour.
            let papers = escape(&papers_text(papers, report.measure));
            let _ = writeln!(
                html,
                "<td>{}</td><td>{}</td><td>{}</td><td class=\"open\">{papers}</td></tr>",
                escape(column),
                outcome(ours.outcome),
                comparisons(ours, report.measure)
            );
        }
    }
    html + "</tbody>\n</table></div>\n</section>\n"
}

fn outcome(outcome: Outcome) -> String {
    let (class, mark) = match outcome {
        Outcome::Holds => ("holds", "✓ "),
        Outcome::Fails => ("fails", "✗ "),
        Outcome::Open => ("open", ""),
    };
    format!("<span class=\"{class}\">{mark}{}</span>", outcome.text())
}

fn comparisons(verdict: &Verdict, measure: &Measure) -> String {
    let text = verdict.judged.iter().map(|judged| {
        let class = if judged.holds { "" } else { " class=\"fails\"" };
        format!("<li{class}>{}</li>", escape(&judged_text(judged, measure)))
    });
    format!(
        "<ul class=\"comparisons\">{}</ul>",
        text.collect::<String>()
    )
}

fn solvers(report: &Report) -> String {
    let Solvers { figures, errors } = &report.solvers;
    if figures.is_empty() && errors.is_empty() {
        return String::new();
    }
    let mut html = String::from("<section>\n<h2>Alternating against exact</h2>\n");
    for (remark, heading, lines) in [
        (
            exact::figures_text(report.measure),
            &exact::FIGURES[..],
            figures,
        ),
        (exact::ERRORS_TEXT.into(), &exact::ERRORS[..], errors),
    ] {
        if lines.is_empty() {
            continue;
        }
        let _ = write!(
            html,
            "<p>{}</p>\n<div class=\"wide\"><table class=\"solvers\">\n<thead><tr>",
            escape(&remark)
        );
        for name in heading {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(name));
        }
        html += "</tr></thead>\n<tbody>\n";
        for line in lines {
            html += "<tr>";
            for field in line {
                let _ = write!(html, "<td>{}</td>", escape(field));
            }
            html += "</tr>\n";
        }
        html += "</tbody>\n</table></div>\n";
    }
    let charts = by_column(report, exact::charts);
    if !charts.is_empty() {
        let _ = write!(html, "<p>{}</p>\n{charts}", escape(exact::CHARTS_TEXT));
    }
    html + "</section>\n"
}

/// The charts of every column that has some, under its name.
fn by_column(report: &Report, charts: fn(&Report, &str) -> String) -> String {
    let mut html = String::new();
    for column in &report.columns {
        let charts = charts(report, &column.name);
        if !charts.is_empty() {
            let _ = write!(
                html,
                "<h3>{}</h3>\n<div class=\"charts\">\n{charts}</div>\n",
                escape(&column.name)
            );
        }
    }
    html
}

fn learning(report: &Report) -> String {
    let html = by_column(report, curves::charts);
    if html.is_empty() {
        return html;
    }
    format!(
        "<section>\n<h2>Learning curves</h2>\n<p>Validation {} after each epoch; beside each method its lowest. Every \
         chart has a scale of its own and full precision in grey.</p>\n{html}</section>\n",
        report.measure.with_unit()
    )
}

fn cells(report: &Report) -> String {
    let mut html = String::from(
        "<section>\n<details>\n<summary>Every cell</summary>\n\
         <div class=\"wide\"><table class=\"cells\">\n<thead><tr><th>column</th><th>method</th><th>seed</th><th>state</th>\
         <th>test</th><th>validation</th><th>train loss</th><th>best epoch</th><th>epochs</th><th>s/step</th>\
         <th>quantizing</th><th>time</th><th>memory</th><th>key</th></tr></thead>\n<tbody>\n",
    );
    for run in &report.cells {
        let summary = &run.summary;
        let figure = |value: Option<f64>| value.map_or("–".into(), |v| report.measure.figure(v));
        let three = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.3}"));
        let number = |value: Option<u64>| value.map_or("–".into(), |value| value.to_string());
        let _ = write!(
            html,
            "<tr title=\"{}\"><td>{}</td><td>{}</td>",
            escape(summary.title.as_deref().unwrap_or_default()),
            escape(&run.column),
            escape(&run.row)
        );
        for field in [
            run.seed.to_string(),
            run.status.into(),
            figure(run.test),
            figure(run.validation),
            three(summary.train_loss),
            number(summary.best_epoch),
            format!(
                "{} of {}",
                summary.epochs_done.unwrap_or_default(),
                run.epochs
            ),
            three(summary.seconds_per_step),
            summary
                .quantize_share
                .map_or("–".into(), |share| format!("{:.1} %", 100.0 * share)),
            summary.seconds.map_or("–".into(), duration),
            summary.peak_memory_bytes.map_or("–".into(), |bytes| {
                format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
            }),
            run.key.clone(),
        ] {
            let _ = write!(html, "<td>{}</td>", escape(&field));
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n</details>\n</section>\n"
}

/// Text in an element or in an attribute with double quotes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            super::escape("<b title=\"x\">&</b>"),
            "&lt;b title=&quot;x&quot;&gt;&amp;&lt;/b&gt;"
        );
    }
}
