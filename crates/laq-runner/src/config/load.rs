//! Reads experiments: merges layers of TOML over the defaults and checks keys and values.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use laq_solvers::super_blocks::SuperBlockFormat;
use laq_solvers::{format_ids, format_named};
use thiserror::Error;
use toml::{Table, Value};

use super::schema::{Experiment, FILE, nearest};
use super::{KINDS, defaults};

/// Keys that have no default.
const WITHOUT_DEFAULT: [&str; 15] = [
    "data.name",
    "data.path",
    "data.preprocessing",
    "data.train_fraction",
    "data.validation_fraction",
    "quantize.method",
    "quantize.format",
    "quantize.granularity",
    "train.max_batches",
    "train.start",
    "quantize.scale_start",
    "quantize.clip",
    "paper.value",
    "paper.status",
    "paper.epochs",
];

/// Keys whose values are strings, which `--set` takes without quotes even if they look like a number.
const STRINGS: [&str; 11] = [
    "title",
    "model.kind",
    "data.name",
    "data.dir",
    "data.path",
    "data.preprocessing",
    "quantize.method",
    "quantize.format",
    "train.start",
    "train.schedule.kind",
    "paper.status",
];

/// The most bytes of a configuration.
const MAX_BYTES: u64 = 1 << 20;

/// The most files that extend each other.
const MAX_CHAIN: usize = 100;

/// The most parts of a key, above those of every known one.
const MAX_PARTS: usize = 8;

/// Keys of a [`super::Schedule`] of another kind than the default one.
const OTHER_KINDS: [&str; 1] = ["train.schedule.epochs"];

/// The errors of reading an experiment.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration {path}: {source}{}", named_by(.from))]
    Read {
        /// The file.
        path: PathBuf,
        /// The file whose `extends` names it.
        from: Option<PathBuf>,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("{origin} is not valid TOML: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// Line, column and the error.
        message: String,
    },
    /// Files extend each other in a cycle.
    #[error("{path} extends itself through {chain}: remove one `extends`")]
    Cycle {
        /// The file.
        path: PathBuf,
        /// The files in between.
        chain: String,
    },
    /// A key is not in the schema.
    #[error(
        "{origin} sets the unknown key {key:?}{}; `laq config` without a file prints all keys",
        suggested(.suggestion)
    )]
    UnknownKey {
        /// The file or option.
        origin: String,
        /// The key, dotted.
        key: String,
        /// The most similar key.
        suggestion: Option<String>,
    },
    /// The argument of `--set` is not `key=value`.
    #[error("found --set {text:?}, expected key=value, such as train.epochs=10")]
    Set {
        /// The argument.
        text: String,
    },
    /// A required key is missing.
    #[error("{key} is missing: {hint}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        hint: &'static str,
    },
    /// A value has the wrong type.
    #[error("{origin} does not match the schema: {message}")]
    Type {
        /// The file or option that set the value.
        origin: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A value is out of range.
    #[error("{key} = {value} (set by {origin}) is not allowed: {allowed}")]
    Range {
        /// The key, dotted.
        key: &'static str,
        /// The value found.
        value: String,
        /// The file or option that set it.
        origin: String,
        /// What is allowed.
        allowed: String,
    },
}

fn named_by(from: &Option<PathBuf>) -> String {
    from.as_ref()
        .map(|from| format!(" (named by `extends` in {})", from.display()))
        .unwrap_or_default()
}

fn suggested(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|key| format!(" (did you mean {key:?}?)"))
        .unwrap_or_default()
}

/// Reads the experiment `path` over the files that it extends, then applies `overlays` and `sets`
/// in order (`key=value`; a value that is not TOML is a string). Later layers take precedence.
///
/// Tables are merged key by key, except that a table of another `kind` replaces the lower one. All `sets` are one layer: their
/// order matters only where they set the same key.
///
/// # Errors
///
/// Files that cannot be read or parsed, unknown keys, and values of the wrong type or out of range;
/// the error contains the layer.
pub fn load(path: &Path, overlays: &[PathBuf], sets: &[String]) -> Result<Experiment, ConfigError> {
    let mut layers = Layers::of_files(path, overlays)?;
    let files = layers.layers.len();
    for set in sets {
        layers.add_set(set)?;
    }
    let mut set = Table::new();
    for table in layers.layers.split_off(files) {
        merge(&mut set, table);
    }
    layers.layers.push(set);
    layers.experiment()
}

/// The files that [`load`] reads: `path`, `overlays` and all that they extend.
///
/// # Errors
///
/// As [`load`].
pub fn inputs(path: &Path, overlays: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    Ok(Layers::of_files(path, overlays)?.files)
}

/// Parses the experiment `text` as [`load`], without `extends`; `origin` is its name in errors.
///
/// # Errors
///
/// As [`load`].
pub fn parse(text: &str, origin: &str) -> Result<Experiment, ConfigError> {
    let mut layers = Layers::new();
    layers.add(parse_table(text, origin)?, origin)?;
    layers.experiment()
}

/// The text of a file of at most [`MAX_BYTES`].
fn read(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        let message = format!(
            "it is a folder, expected an experiment in TOML{}",
            if path.join("config.toml").is_file() {
                ", such as its config.toml"
            } else {
                ""
            }
        );
        return Err(io::Error::other(message));
    }
    let mut text = String::new();
    let read = File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            io::Error::other("it is no text, expected an experiment in TOML")
        }
        _ => error,
    })?;
    if text.len() as u64 > MAX_BYTES {
        let message = format!("it has more than {MAX_BYTES} bytes, expected an experiment in TOML");
        return Err(io::Error::other(message));
    }
    Ok(text)
}

fn parse_table(text: &str, origin: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        let message = format!(
            "line {line}, column {column}: {}",
            one_line(error.message())
        );
        ConfigError::Syntax {
            origin: origin.into(),
            message,
        }
    })
}

struct Layers {
    /// Lowest first. The defaults are not included, since they depend on the kind of the merged
    /// layers.
    layers: Vec<Table>,
    /// The files among them.
    files: Vec<PathBuf>,
    /// For every dotted key, the last layer that sets it.
    origins: BTreeMap<String, String>,
    known: Vec<String>,
}

impl Layers {
    fn new() -> Self {
        let mut known: Vec<String> = Vec::new();
        for kind in KINDS {
            for_each_leaf(&default_table(kind), "", &mut |key, _| {
                if !known.iter().any(|known| known == key) {
                    known.push(key.to_string());
                }
            });
        }
        known.extend(
            WITHOUT_DEFAULT
                .iter()
                .chain(&OTHER_KINDS)
                .map(ToString::to_string),
        );
        Self {
            layers: Vec::new(),
            files: Vec::new(),
            origins: BTreeMap::new(),
            known,
        }
    }

    fn of_files(path: &Path, overlays: &[PathBuf]) -> Result<Self, ConfigError> {
        let mut layers = Self::new();
        for path in [path]
            .into_iter()
            .chain(overlays.iter().map(PathBuf::as_path))
        {
            layers.add_file(path, &mut Vec::new())?;
        }
        Ok(layers)
    }

    /// All layers over the defaults of the kind of network. The schema rejects an unknown kind.
    fn merged(&self) -> Table {
        let kind = self.layers.iter().rev().find_map(|layer| {
            let kind = layer.get("model")?.get("kind")?.as_str()?;
            Some(kind)
        });
        let kind = kind.filter(|kind| KINDS.contains(kind)).unwrap_or(KINDS[0]);
        let mut all = default_table(kind);
        let mut merged = all.clone();
        for layer in &self.layers {
            merge(&mut merged, layer.clone());
        }
        // Once more, for a table whose kind changed and changed back.
        merge(&mut all, merged);
        all
    }

    fn add_file(&mut self, path: &Path, above: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
        let error = |source| ConfigError::Read {
            path: path.into(),
            from: above.last().cloned(),
            source,
        };
        if above.len() == MAX_CHAIN {
            let message = format!("more than {MAX_CHAIN} files extend each other");
            return Err(error(io::Error::other(message)));
        }
        let text = read(path).map_err(error)?;
        let origin = path.display().to_string();
        let mut table = parse_table(&text, &origin)?;
        if let Some(base) = table.remove("extends") {
            let Value::String(base) = base else {
                let message = format!("`extends` must be the path of a file, not {base}");
                return Err(ConfigError::Type { origin, message });
            };
            above.push(fs::canonicalize(path).map_err(error)?);
            let base = path.parent().unwrap_or(Path::new("")).join(base);
            if fs::canonicalize(&base).is_ok_and(|base| above.contains(&base)) {
                let chain: Vec<_> = above
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                return Err(ConfigError::Cycle {
                    path: base,
                    chain: chain.join(", "),
                });
            }
            self.add_file(&base, above)?;
            above.pop();
        }
        self.files.push(path.into());
        self.add(table, &origin)
    }

    fn add_set(&mut self, set: &str) -> Result<(), ConfigError> {
        let error = || ConfigError::Set { text: set.into() };
        let (key, text) = set.split_once('=').ok_or_else(error)?;
        let key = key.trim();
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(error());
        }
        if key.split('.').count() > MAX_PARTS {
            let shown: String = key.chars().take(40).collect();
            return Err(ConfigError::UnknownKey {
                origin: "--set".into(),
                key: format!("{shown}…"),
                suggestion: None,
            });
        }
        if text
            .trim()
            .parse::<u128>()
            .is_ok_and(|number| number > i64::MAX as u128)
            && !STRINGS.contains(&key)
        {
            return Err(ConfigError::Type {
                origin: format!("--set {set}"),
                message: format!("found {}, expected at most {}", text.trim(), i64::MAX),
            });
        }
        // A value that is not TOML is a string, to avoid nested quotes in a shell.
        let parsed = match format!("value = {text}").parse::<Table>() {
            Ok(mut table) if table.len() == 1 => table.remove("value"),
            _ => None,
        };
        let is_string = |value: &Value| value.is_str() || value.is_table() || value.is_array();
        let parsed = parsed.filter(|value| is_string(value) || !STRINGS.contains(&key));
        let mut value = parsed.unwrap_or_else(|| Value::String(text.trim().into()));
        let mut table = Table::new();
        for (depth, part) in key.rsplit('.').enumerate() {
            if depth > 0 {
                value = Value::Table(std::mem::take(&mut table));
            }
            table.insert(part.into(), value.clone());
        }
        self.add(table, &format!("--set {set}"))
    }

    fn add(&mut self, mut table: Table, origin: &str) -> Result<(), ConfigError> {
        let mut unknown = None;
        let origins = &mut self.origins;
        let known = &self.known;
        for_each_leaf(&table, "", &mut |key, value| {
            // A section with a plain value is a known key, and rejected later as a wrong type.
            let section = format!("{key}.");
            let is_section = known.iter().any(|known| known.starts_with(&section));
            let empty_section = is_section && value.as_table().is_some_and(Table::is_empty);
            if !empty_section && !is_section && !known.iter().any(|known| known == key) {
                unknown.get_or_insert_with(|| key.to_string());
            }
            origins.insert(key.into(), origin.into());
        });
        if let Some(key) = unknown {
            let suggestion = suggest(&key, known);
            return Err(ConfigError::UnknownKey {
                origin: origin.into(),
                key,
                suggestion,
            });
        }
        self.replace_format(&mut table, origin)?;
        self.layers.push(table);
        Ok(())
    }

    /// `quantize.format` becomes `quantize.method`: a format is a method that only says more.
    fn replace_format(&mut self, table: &mut Table, origin: &str) -> Result<(), ConfigError> {
        let Some(Value::Table(quantize)) = table.get_mut("quantize") else {
            return Ok(());
        };
        let Some(format) = quantize.remove("format") else {
            return Ok(());
        };
        let range = |allowed| {
            Err(ConfigError::Range {
                key: "quantize.format",
                value: format.to_string(),
                origin: origin.into(),
                allowed,
            })
        };
        if quantize.contains_key("method") {
            return range("quantize.method is set there too; keep one of them".into());
        }
        if format.as_str().and_then(format_named).is_none() {
            let ids = format_ids().collect::<Vec<_>>().join(", ");
            if format.as_str().and_then(SuperBlockFormat::named).is_some() {
                return range(format!(
                    "it is for `laq quantize` alone, because its solution is not exact; to train it must be one of {ids}"
                ));
            }
            return range(format!(
                "it must be one of {ids}; others are values of quantize.method"
            ));
        }
        // The blocks are the format's, not those of another method.
        for below in &mut self.layers {
            if let Some(Value::Table(quantize)) = below.get_mut("quantize") {
                quantize.remove("granularity");
            }
        }
        (self.origins).insert("quantize.method".into(), origin.into());
        quantize.insert("method".into(), format);
        Ok(())
    }

    fn experiment(self) -> Result<Experiment, ConfigError> {
        let merged = self.merged();
        let needed = [
            (
                "data",
                "name",
                "data.name",
                "write name = \"demo\" or another data set that `laq doctor` lists, under [data]",
            ),
            (
                "quantize",
                "method",
                "quantize.method",
                "write method = \"lat-a\" or another id that `laq methods` lists, or format = \"q2_0\" or another format, \
                 under [quantize]",
            ),
        ];
        for (section, name, key, hint) in needed {
            match merged.get(section) {
                None => return Err(ConfigError::Missing { key, hint }),
                Some(Value::Table(table)) if !table.contains_key(name) => {
                    return Err(ConfigError::Missing { key, hint });
                }
                Some(_) => {}
            }
        }
        if let Some(Value::Table(data)) = merged.get("data")
            && data.get("name").and_then(Value::as_str) == Some(FILE)
            && !data.contains_key("path")
        {
            return Err(ConfigError::Missing {
                key: "data.path",
                hint: "it must be the path of a text file, because data.name = \"file\"",
            });
        }
        let origins = self.origins;
        let origin_of = |key: &str| {
            let section = format!("{key}.");
            let first = || origins.iter().find(|(name, _)| name.starts_with(&section));
            // What is missing in a table depends on its kind.
            [key, &format!("{key}.kind")]
                .into_iter()
                .find_map(|name| origins.get(name))
                .or_else(|| Some(first()?.1))
                .map_or_else(|| "the defaults".to_string(), Clone::clone)
        };
        let experiment: Experiment = merged.try_into().map_err(|error: toml::de::Error| {
            let message = one_line(&error.to_string());
            // The message ends with "in `the.key`".
            let key = message.rsplit('`').nth(1).unwrap_or_default();
            ConfigError::Type {
                origin: origin_of(key),
                message,
            }
        })?;
        experiment
            .resolve()
            .map_err(|(key, value, allowed)| ConfigError::Range {
                key,
                value,
                origin: origin_of(key),
                allowed,
            })
    }
}

fn default_table(kind: &str) -> Table {
    let text = defaults(kind).expect("a kind of KINDS");
    text.parse().expect("a test parses the defaults")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Calls `visit` with the dotted key and value of every leaf: values that are not tables, and empty
/// tables.
pub(super) fn for_each_leaf(table: &Table, prefix: &str, visit: &mut dyn FnMut(&str, &Value)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Table(inner) if !inner.is_empty() => for_each_leaf(inner, &key, visit),
            _ => visit(&key, value),
        }
    }
}

/// The most similar key. A key with the same last component takes precedence: the right name in the
/// wrong section.
fn suggest(key: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    if let Some(found) = known.iter().find(|known| last(known) == last(key)) {
        return Some(found.clone());
    }
    nearest(key, known.iter().map(String::as_str)).map(ToString::to_string)
}

fn merge(below: &mut Table, above: Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => {
                let kinds = below.get("kind").zip(above.get("kind"));
                if kinds.is_some_and(|(below, above)| below != above) {
                    *below = above;
                } else {
                    merge(below, above);
                }
            }
            (_, value) => {
                below.insert(name, value);
            }
        }
    }
}
