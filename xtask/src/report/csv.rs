//! The report as CSV: one line a cell, whether it is finished or not.

use super::{NOT_IN_PAPER, Report, Run, bits};

/// Heading and value of every field.
type Field = (&'static str, fn(&Run, &Report) -> String);

const FIELDS: &[Field] = &[
    ("column", |run, _| run.column.clone()),
    ("row", |run, _| run.row.clone()),
    ("bits", |run, _| bits(&run.row).to_string()),
    ("seed", |run, _| run.seed.to_string()),
    ("status", |run, _| run.status.into()),
    ("reason", |run, _| text(&run.summary.reason)),
    ("test_loss", |run, _| text(&run.summary.test_loss)),
    ("test_error", |run, _| text(&run.summary.test_error)),
    // Of which of the two the paper's figure and the difference are.
    ("measure", |_, report| report.measure.field.into()),
    ("paper", |run, _| text(&run.paper)),
    ("difference", |run, _| {
        text(
            &run.test
                .zip(run.paper)
                .map(|(ours, paper)| format!("{:.6}", ours - paper)),
        )
    }),
    ("paper_status", |run, report| {
        if run.is_papers {
            text(&run.paper.map(|_| &report.status))
        } else {
            NOT_IN_PAPER.into()
        }
    }),
    ("cut_short", |run, _| run.cut_short.clone()),
    ("validation_loss", |run, _| {
        text(&run.summary.validation_loss)
    }),
    ("validation_error", |run, _| {
        text(&run.summary.validation_error)
    }),
    ("train_loss", |run, _| text(&run.summary.train_loss)),
    ("best_epoch", |run, _| text(&run.summary.best_epoch)),
    ("epochs_done", |run, _| text(&run.summary.epochs_done)),
    ("epochs", |run, _| run.epochs.to_string()),
    ("max_batches", |run, _| text(&run.summary.max_batches)),
    ("steps", |run, _| text(&run.summary.steps)),
    ("seconds", |run, _| text(&run.summary.seconds)),
    ("seconds_per_step", |run, _| {
        text(&run.summary.seconds_per_step)
    }),
    ("quantize_share", |run, _| text(&run.summary.quantize_share)),
    ("peak_memory_bytes", |run, _| {
        text(&run.summary.peak_memory_bytes)
    }),
    ("data", |run, _| text(&run.summary.data)),
    ("stand_in", |run, _| text(&run.summary.stand_in)),
    ("title", |run, _| text(&run.summary.title)),
    ("command", |_, report| report.command()),
    ("preset", |_, report| report.preset.clone()),
    ("run", |run, _| run.folder.clone()),
    ("key", |run, _| run.key.clone()),
    ("training_version", |run, _| {
        text(&run.summary.training_version)
    }),
    ("commit", |run, _| text(&run.summary.commit)),
    ("cpu", |run, _| text(&run.summary.cpu)),
    ("threads", |run, _| text(&run.summary.threads)),
    ("kernel", |run, _| text(&run.summary.kernel)),
];

/// A heading and a line a cell, in the order of the plan; those of the rows that the paper does not have come last.
pub(super) fn render(report: &Report) -> String {
    let mut csv = line(FIELDS.iter().map(|(name, _)| (*name).to_string()));
    let (papers, others): (Vec<&Run>, Vec<&Run>) =
        report.cells.iter().partition(|run| run.is_papers);
    for run in papers.into_iter().chain(others) {
        csv += &line(FIELDS.iter().map(|(_, value)| value(run, report)));
    }
    csv
}

fn line(fields: impl Iterator<Item = String>) -> String {
    fields
        .map(|field| quote(&field))
        .collect::<Vec<_>>()
        .join(",")
        + "\n"
}

/// RFC 4180: quotes around a field that needs them, doubled inside.
fn quote(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.into()
    }
}

fn text(value: &Option<impl ToString>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(super::quote("plain text"), "plain text");
        assert_eq!(super::quote("a, \"b\""), "\"a, \"\"b\"\"\"");
    }
}
