//! The cells of a report one by one, as CSV and as JSON: every planned cell, finished or not.

use laq_runner::record::Summary;
use serde_json::{Map, Value, json};

use super::{NOT_IN_PAPER, Report, Run};

/// Name and value of every field.
type Field = (&'static str, fn(&Run, &Report) -> Value);

const FIELDS: &[Field] = &[
    ("column", |run, _| json!(run.column)),
    ("row", |run, _| json!(run.row)),
    ("bits", |run, _| json!(run.bits)),
    ("seed", |run, _| json!(run.seed)),
    ("status", |run, _| json!(run.status)),
    ("reason", |run, _| of(run, |s| json!(s.reason))),
    ("test_loss", |run, _| of(run, |s| json!(s.test_loss))),
    ("test_error", |run, _| of(run, |s| json!(s.test_error))),
    // Which of these two the paper's figure and the difference refer to.
    ("measure", |_, report| json!(report.measure.field)),
    ("paper", |run, _| json!(run.paper)),
    ("difference", |run, _| {
        let difference = run.test.zip(run.paper).map(|(ours, paper)| ours - paper);
        json!(difference.map(|value| (value * 1e6).round() / 1e6))
    }),
    ("paper_status", |run, report| {
        match (run.is_papers, run.paper) {
            (false, _) => json!(NOT_IN_PAPER),
            (true, None) => Value::Null,
            (true, Some(_)) => json!(report.status),
        }
    }),
    ("cut_short", |run, _| json!(run.cut_short)),
    ("validation_loss", |run, _| {
        of(run, |s| json!(s.validation_loss))
    }),
    ("validation_error", |run, _| {
        of(run, |s| json!(s.validation_error))
    }),
    ("train_loss", |run, _| of(run, |s| json!(s.train_loss))),
    ("best_epoch", |run, _| of(run, |s| json!(s.best_epoch))),
    ("epochs_done", |run, _| of(run, |s| json!(s.epochs_done))),
    ("epochs", |run, _| json!(run.epochs)),
    ("max_batches", |run, _| of(run, |s| json!(s.max_batches))),
    ("steps", |run, _| of(run, |s| json!(s.steps))),
    ("seconds", |run, _| of(run, |s| json!(s.seconds))),
    ("seconds_per_step", |run, _| {
        of(run, |s| json!(s.seconds_per_step))
    }),
    ("quantize_share", |run, _| {
        of(run, |s| json!(s.quantize_share))
    }),
    ("peak_memory_bytes", |run, _| {
        of(run, |s| json!(s.peak_memory_bytes))
    }),
    ("data", |run, _| of(run, |s| json!(s.data))),
    ("stand_in", |run, _| of(run, |s| json!(s.stand_in))),
    ("title", |run, _| of(run, |s| json!(s.title))),
    ("command", |_, report| json!(report.command())),
    ("preset", |_, report| json!(report.preset)),
    ("run", |run, _| json!(run.folder)),
    ("key", |run, _| json!(run.key)),
    ("training_version", |run, _| {
        of(run, |s| json!(s.training_version))
    }),
    ("commit", |run, _| of(run, |s| json!(s.commit))),
    ("cpu", |run, _| of(run, |s| json!(s.cpu))),
    ("threads", |run, _| of(run, |s| json!(s.threads))),
    ("kernel", |run, _| of(run, |s| json!(s.kernel))),
];

fn of(run: &Run, field: impl Fn(&Summary) -> Value) -> Value {
    run.summary.as_ref().map_or(Value::Null, field)
}

/// In the order of the plan; the rows that the paper does not have come last.
fn ordered(report: &Report) -> impl Iterator<Item = &Run> {
    let (papers, others): (Vec<_>, Vec<_>) = report.cells.iter().partition(|run| run.is_papers);
    papers.into_iter().chain(others)
}

/// A heading and a line for each cell.
pub(super) fn csv(report: &Report) -> String {
    let mut lines = csv::Writer::from_writer(Vec::new());
    let in_memory = "writing to memory does not fail";
    let heading = FIELDS.iter().map(|(name, _)| name);
    lines.write_record(heading).expect(in_memory);
    for run in ordered(report) {
        let fields = FIELDS.iter().map(|(_, value)| match value(run, report) {
            Value::Null => String::new(),
            Value::String(text) => text,
            number => number.to_string(),
        });
        lines.write_record(fields).expect(in_memory);
    }
    String::from_utf8(lines.into_inner().expect(in_memory)).expect("UTF-8 fields")
}

/// An object for each cell.
pub(super) fn json(report: &Report) -> Value {
    let object = |run: &Run| -> Map<String, Value> {
        let fields = FIELDS
            .iter()
            .map(|(name, value)| ((*name).to_string(), value(run, report)));
        fields.collect()
    };
    json!(ordered(report).map(object).collect::<Vec<_>>())
}
