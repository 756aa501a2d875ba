//! The figures of a run: everything in its folder that must be the same, however it was disturbed.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{ensure, finding, read};

/// Fields of the files of a run that depend on the machine, or on how often the run was interrupted.
const CIRCUMSTANCES: [&str; 6] = [
    "seconds", "share", "memory", "threads", "checksum", "commit",
];

/// Names that only a file which is being written has.
const TEMPORARY: [&str; 3] = [".tmp", ".part", ".new"];

/// A text for each figure, by its file and its name there.
pub(crate) type Figures = BTreeMap<String, String>;

/// The figures of the run in `folder`.
pub(crate) fn of_run(folder: &Path) -> Result<Figures> {
    let mut figures = Figures::new();
    for entry in fs::read_dir(folder).context("no run folder")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let bytes = || read(&folder.join(&name));
        let is_text = name == "summary.json" || name == "config.toml" || name.ends_with(".jsonl");
        let text =
            String::from_utf8_lossy(&if is_text { bytes()? } else { Vec::new() }).into_owned();
        match name.as_str() {
            "summary.json" => figures.append(&mut of_json(&name, &text)?),
            "config.toml" => drop(figures.insert(name, text)),
            _ if name.ends_with(".jsonl") => {
                for (number, line) in text.lines().enumerate() {
                    let name = format!("{name} {}", number + 1);
                    // A line that cannot be read is no line of an undisturbed run.
                    let parts = of_json(&name, line);
                    figures.append(&mut parts.unwrap_or_else(|_| [(name, line.into())].into()));
                }
            }
            _ if name.ends_with(".safetensors") => of_safetensors(&name, &bytes()?, &mut figures)?,
            _ => {}
        }
    }
    Ok(figures)
}

/// A finding where two runs differ.
pub(crate) fn compare(expected: &Figures, found: &Figures) -> Result<()> {
    let mut names = expected.keys().chain(found.keys());
    match names.find(|name| expected.get(*name) != found.get(*name)) {
        None => Ok(()),
        Some(name) => finding(
            format!("{name} of the undisturbed run: {:?}", expected.get(name)),
            format!("{:?}", found.get(name)),
        ),
    }
}

/// The metadata, and a digest of each tensor.
fn of_safetensors(name: &str, bytes: &[u8], figures: &mut Figures) -> Result<()> {
    let parts = bytes.split_first_chunk().and_then(|(length, rest)| {
        rest.split_at_checked(u64::from_le_bytes(*length).try_into().ok()?)
    });
    let Some((header, data)) = parts else {
        return finding(format!("safetensors in {name}"), "a shorter file");
    };
    let header: BTreeMap<String, Value> = serde_json::from_slice(header)?;
    for (tensor, entry) in header {
        if let Some(offsets) = entry["data_offsets"].as_array() {
            let [from, to] = [0, 1].map(|end| offsets[end].as_u64().unwrap_or(0) as usize);
            let digest = digest(data.get(from..to).unwrap_or_default());
            let figure = format!("{} {} {digest}", entry["dtype"], entry["shape"]);
            figures.insert(format!("{name} {tensor}"), figure);
        } else {
            flatten(&format!("{name} {tensor}"), &entry, figures);
        }
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// All bytes of a file.
pub(crate) fn of_file(path: &Path) -> Result<Figures> {
    let bytes = read(path)?;
    let figure = format!("{} bytes {}", bytes.len(), digest(&bytes));
    let name = path.file_name().unwrap_or_default();
    Ok([(name.display().to_string(), figure)].into())
}

/// The values of JSON, but for circumstances.
pub(crate) fn of_json(name: &str, text: &str) -> Result<Figures> {
    let mut figures = Figures::new();
    match serde_json::from_str(text) {
        Ok(value) => flatten(name, &value, &mut figures),
        Err(error) => return finding(format!("JSON in {name}"), format!("{error}: {text}")),
    }
    Ok(figures)
}

fn flatten(name: &str, value: &Value, figures: &mut Figures) {
    let text = value.as_str().map(serde_json::from_str);
    match (value, text) {
        (Value::Object(fields), _) => {
            for (field, value) in fields {
                if !CIRCUMSTANCES.iter().any(|part| field.contains(part)) {
                    flatten(&format!("{name}.{field}"), value, figures);
                }
            }
        }
        (Value::Array(values), _) => {
            for (index, value) in values.iter().enumerate() {
                flatten(&format!("{name}.{index}"), value, figures);
            }
        }
        // Metadata of safetensors are JSON within texts.
        (_, Some(Ok(inner @ Value::Object(_)))) => flatten(name, &inner, figures),
        _ => drop(figures.insert(name.into(), value.to_string())),
    }
}

/// A finding where a file in `folder` or below has a name that only unfinished files have.
pub(crate) fn no_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure(
            !TEMPORARY.iter().any(|part| name.contains(part)),
            "no temporary files",
            || entry.path().display().to_string(),
        )?;
        if entry.file_type()?.is_dir() {
            no_leftovers(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_circumstances_may_differ() {
        let figures = |loss: f64, seconds: f64| {
            let inner = format!("{{\\\"loss\\\": {loss}, \\\"seconds\\\": {seconds}}}");
            of_json("x", &format!("{{\"run\": \"{inner}\", \"b\": [1]}}")).expect("JSON")
        };
        let first = figures(1.5, 2.0);
        assert_eq!(first["x.run.loss"], "1.5");
        assert!(compare(&first, &figures(1.5, 3.0)).is_ok());
        assert!(compare(&first, &figures(1.25, 2.0)).is_err());
        assert!(compare(&first, &Figures::new()).is_err());
        assert!(compare(&Figures::new(), &first).is_err());
    }
}
