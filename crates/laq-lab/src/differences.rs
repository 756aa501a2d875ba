//! The settings in which a cell differs from the paper's.

use serde_json::Value;

/// The settings in which a run differs from the paper's, such as `train.epochs 2 (paper: 200), …`.
pub(crate) fn differences(ours: &Value, papers: &Value) -> String {
    let mut found = Vec::new();
    for section in ["model", "data", "train"] {
        differ(section, ours.get(section), papers.get(section), &mut found);
    }
    found.join(", ")
}

/// Compares one setting, or a table of settings one by one. Tables of different `kind` are compared
/// as a whole.
fn differ(name: &str, ours: Option<&Value>, papers: Option<&Value>, found: &mut Vec<String>) {
    if let (Some(Value::Object(ours)), Some(Value::Object(papers))) = (ours, papers)
        && ours.get("kind") == papers.get("kind")
    {
        let others = papers.keys().filter(|key| !ours.contains_key(*key));
        for key in ours.keys().chain(others) {
            differ(
                &format!("{name}.{key}"),
                ours.get(key),
                papers.get(key),
                found,
            );
        }
        return;
    }
    let (ours, papers) = (value_text(ours), value_text(papers));
    if ours != papers {
        found.push(format!("{name} {ours} (paper: {papers})"));
    }
}

/// A setting without quotes and null.
fn value_text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "not set".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(fields)) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", value_text(Some(value))))
            .collect::<Vec<_>>()
            .join(" "),
        Some(Value::Array(values)) => {
            let values: Vec<String> = values.iter().map(|v| value_text(Some(v))).collect();
            format!("[{}]", values.join(", "))
        }
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_settings_differ_in_nothing() {
        let config = json!({"model": {"hidden": 512}, "data": {"name": "x"}, "train": {"max_batches": null}});
        assert_eq!(
            differences(
                &config,
                &json!({"model": {"hidden": 512}, "data": {"name": "x"}, "train": {}})
            ),
            ""
        );
    }

    #[test]
    fn every_other_setting_is_named_with_both_values() {
        let ours = json!({"model": {"hidden": 96}, "train": {"epochs": 2, "max_batches": 20, "schedule": {"kind": "constant"}}});
        let papers = json!({"model": {"hidden": 512}, "train": {"epochs": 200, "schedule": {"kind": "exponential", "factor": 0.98}}});
        assert_eq!(
            differences(&ours, &papers),
            "model.hidden 96 (paper: 512), train.epochs 2 (paper: 200), train.max_batches 20 (paper: not set), \
             train.schedule kind constant (paper: kind exponential factor 0.98)"
        );
        let schedule = |epochs: &[u32]| json!({"train": {"schedule": {"kind": "milestones", "epochs": epochs, "factor": 0.1}}});
        assert_eq!(
            differences(&schedule(&[4, 7]), &schedule(&[15, 25])),
            "train.schedule.epochs [4, 7] (paper: [15, 25])"
        );
    }
}
