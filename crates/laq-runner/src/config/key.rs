//! The key of an experiment: a digest of everything that determines its numbers.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::schema::Experiment;
use crate::TRAINING_VERSION;

/// The first 12 hexadecimal digits of the SHA-256 of the canonical JSON (sorted keys, no spaces) of
/// `model`, `data` (without `dir`; of `path`, whether it is set), `quantize`, `train` (of `start`, whether it is set) and
/// [`TRAINING_VERSION`].
#[must_use]
pub fn key(experiment: &Experiment) -> String {
    let mut keyed = keyed(experiment);
    keyed["training_version"] = json!(TRAINING_VERSION);
    hex::encode(&Sha256::digest(canonical(&keyed))[..6])
}

/// The values of the key in which two experiments differ, as "name: a here, b there".
#[must_use]
pub fn differences(here: &Experiment, there: &Experiment) -> Vec<String> {
    let (here, there) = (leaves(&keyed(here)), leaves(&keyed(there)));
    let value = |leaves: &[(String, String)], name: &str| {
        leaves
            .iter()
            .find(|(key, _)| key == name)
            .map_or("not set".into(), |(_, value)| value.clone())
    };
    let mut names: Vec<_> = here
        .iter()
        .chain(&there)
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
        .iter()
        .map(|name| (name, value(&here, name), value(&there, name)))
        .filter(|(_, here, there)| here != there)
        .map(|(name, here, there)| format!("{name}: {here} here, {there} there"))
        .collect()
}

/// Whether the first `epochs` epochs of both experiments have the same numbers: they differ at most in the number of epochs
/// and in the learning rates after these.
pub(crate) fn agree(here: &Experiment, there: &Experiment, epochs: u32) -> bool {
    let others = |experiment: &Experiment| {
        let mut keyed = keyed(experiment);
        for name in ["epochs", "schedule"] {
            keyed["train"][name].take();
        }
        keyed
    };
    let [here_rates, there_rates] = [here, there].map(|experiment| &experiment.train.schedule);
    others(here) == others(there)
        && (1..=epochs).all(|epoch| here_rates.factor(epoch) == there_rates.factor(epoch))
}

fn keyed(experiment: &Experiment) -> Value {
    let mut all = serde_json::to_value(experiment).expect("an experiment is representable as JSON");
    let mut keyed = json!({});
    for section in ["model", "data", "quantize", "train"] {
        keyed[section] = all[section].take();
    }
    if let Some(data) = keyed["data"].as_object_mut() {
        data.remove("dir");
    }
    // Their content is compared, wherever it lies.
    for (section, name) in [("data", "path"), ("train", "start")] {
        if let Some(path) = keyed[section].get_mut(name) {
            *path = json!(true);
        }
    }
    keyed
}

fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut names: Vec<_> = map.keys().collect();
            names.sort();
            let parts: Vec<_> = names
                .iter()
                .map(|name| format!("{}:{}", Value::from(name.as_str()), canonical(&map[*name])))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            let parts: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", parts.join(","))
        }
        plain => plain.to_string(),
    }
}

fn leaves(value: &Value) -> Vec<(String, String)> {
    let Value::Object(map) = value else {
        return vec![(String::new(), value.to_string())];
    };
    map.iter()
        .flat_map(|(name, inner)| {
            leaves(inner).into_iter().map(move |(rest, value)| {
                let key = if rest.is_empty() {
                    name.clone()
                } else {
                    format!("{name}.{rest}")
                };
                (key, value)
            })
        })
        .collect()
}
