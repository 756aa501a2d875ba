//! What there is to reproduce: the rows, columns and presets of a table, read from `configs/`, and the paper's figures.
//!
//! Nothing is listed in code. A column is a folder of `configs/<table>/` with one file a row; a preset is a file of
//! `configs/<table>/presets/`, and what it changes in one column more is a file in its folder beside it. A row is a line of the paper's table, or a file of the columns that is no such line: those
//! follow the paper's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::Selection;
use crate::measure::Measure;

/// A table of the paper with everything that can be asked of it.
pub(crate) struct Table {
    /// `table2`
    pub(crate) id: &'static str,
    /// What its figures are.
    pub(crate) measure: &'static Measure,
    /// The paper's caption: what is measured, in which unit.
    pub(crate) caption: String,
    /// How far the figures of the paper can be trusted, literally as their file says it.
    pub(crate) status: String,
    /// Method ids: the paper's in its order, then those that only this project has, by bits and name.
    pub(crate) rows: Vec<String>,
    /// The paper's columns in its order, then those that only this project has, by name.
    pub(crate) columns: Vec<String>,
    presets: Vec<String>,
    paper_columns: Vec<String>,
    /// `[paper row][paper column]`
    figures: Vec<Vec<f64>>,
    folder: PathBuf,
}

/// The folder of the presets, beside those of the columns.
const PRESETS: &str = "presets";

#[derive(Deserialize)]
struct PaperTables {
    status: String,
    #[serde(flatten)]
    tables: BTreeMap<String, PaperTable>,
}

#[derive(Deserialize)]
struct PaperTable {
    caption: String,
    columns: Vec<String>,
    rows: toml::Table,
}

impl Table {
    /// Reads the table that `selection` names.
    pub(crate) fn load(root: &Path, selection: &Selection) -> Result<Table> {
        let id = selection.table.id();
        let path = root.join("configs/paper_tables.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let PaperTables { status, mut tables } =
            toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let paper = tables
            .remove(id)
            .with_context(|| format!("{} has no [{id}]", path.display()))?;
        let folder = root.join("configs").join(id);

        let mut columns = paper.columns.clone();
        columns.extend(
            names(&folder, |path| path.is_dir())?
                .into_iter()
                .filter(|name| name != PRESETS && !paper.columns.contains(name)),
        );
        let presets: Vec<String> = names(&folder.join(PRESETS), is_toml)?.into_iter().collect();
        for preset in names(&folder.join(PRESETS), |path| path.is_dir())? {
            let parts = folder.join(PRESETS).join(&preset);
            anyhow::ensure!(
                presets.contains(&preset),
                "{} needs {preset}.toml beside it, even if that changes nothing",
                parts.display()
            );
            for column in names(&parts, |_| true)? {
                anyhow::ensure!(
                    columns.contains(&column),
                    "{} has a file for \"{column}\", which is no column; there are: {}",
                    parts.display(),
                    columns.join(", ")
                );
            }
        }
        let mut rows = Vec::new();
        let mut figures = Vec::new();
        for (row, values) in paper.rows {
            let values: Vec<f64> = values.try_into().with_context(|| {
                format!("{}: row {row} is not a list of numbers", path.display())
            })?;
            anyhow::ensure!(
                values.len() == paper.columns.len(),
                "{}: row {row} has {} figures for {} columns",
                path.display(),
                values.len(),
                paper.columns.len()
            );
            rows.push(row);
            figures.push(values);
        }
        let mut others = BTreeSet::new();
        for column in &columns {
            let files = names(&folder.join(column), is_toml)?;
            others.extend(files.into_iter().filter(|row| !rows.contains(row)));
        }
        let mut others: Vec<String> = others.into_iter().collect();
        others.sort_by_key(|row| bits(row));
        rows.extend(others);
        Ok(Table {
            id,
            measure: selection.table.measure(),
            caption: paper.caption,
            status,
            rows,
            columns,
            presets,
            paper_columns: paper.columns,
            figures,
            folder,
        })
    }

    /// The paper's figure of a cell; none for a method or data that the paper does not have.
    pub(crate) fn paper(&self, row: &str, column: &str) -> Option<f64> {
        let row = self.rows.iter().position(|r| r == row)?;
        let column = self.paper_columns.iter().position(|c| c == column)?;
        Some(self.figures.get(row)?[column])
    }

    /// Whether the paper's table has this row.
    pub(crate) fn has_row(&self, row: &str) -> bool {
        self.rows[..self.figures.len()].iter().any(|r| r == row)
    }

    /// The row with the exact solver of the same problem, for a row whose solver alternates: lat-e for lat-a, and
    /// laq-log-3-e for laq-log-3.
    pub(crate) fn exact(&self, row: &str) -> Option<&str> {
        let twin = format!("{}-e", row.strip_suffix("-a").unwrap_or(row));
        let found = self.rows.iter().find(|row| **row == twin)?;
        Some(found)
    }

    /// Whether the paper's table has this column.
    pub(crate) fn has_column(&self, column: &str) -> bool {
        self.paper_columns.iter().any(|c| c == column)
    }

    /// The configuration file of a cell.
    pub(crate) fn config(&self, row: &str, column: &str) -> PathBuf {
        self.folder.join(column).join(format!("{row}.toml"))
    }

    /// The overlays of a preset in a column, the lower one first.
    pub(crate) fn preset(&self, preset: &str, column: &str) -> Vec<PathBuf> {
        let presets = self.folder.join(PRESETS);
        let mut overlays = vec![presets.join(format!("{preset}.toml"))];
        overlays.extend(
            Some(presets.join(preset).join(format!("{column}.toml"))).filter(|path| path.exists()),
        );
        overlays
    }

    /// Rows, columns and preset of the selection, in the table's order and each once.
    ///
    /// # Errors
    ///
    /// [`Unknown`] for the first name that does not exist.
    pub(crate) fn choose(
        &self,
        selection: &Selection,
    ) -> Result<(Vec<String>, Vec<String>, String), Unknown> {
        let preset = known("preset", &self.presets, &selection.preset)?;
        let rows = pick("row", &self.rows, &selection.rows)?.unwrap_or_else(|| self.rows.clone());
        let columns = pick("column", &self.columns, &selection.columns)?.unwrap_or_else(|| {
            if preset == "demo" {
                vec!["demo".into()]
            } else {
                self.paper_columns.clone()
            }
        });
        Ok((rows, columns, preset))
    }
}

/// A name that is not in its list.
#[derive(Debug)]
pub(crate) struct Unknown {
    kind: &'static str,
    name: String,
    known: Vec<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {} \"{}\"", self.kind, self.name)?;
        let similarity = |known: &&String| strsim::jaro_winkler(&self.name.to_lowercase(), known);
        let nearest = self
            .known
            .iter()
            .max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        if let Some(nearest) = nearest.filter(|nearest| similarity(nearest) > 0.6) {
            write!(f, "; did you mean \"{nearest}\"?")?;
        } else {
            write!(f, ".")?;
        }
        write!(f, " There are: {}.", self.known.join(", "))
    }
}

impl std::error::Error for Unknown {}

fn known(kind: &'static str, known: &[String], name: &str) -> Result<String, Unknown> {
    if known.iter().any(|k| k == name) {
        return Ok(name.into());
    }
    Err(Unknown {
        kind,
        name: name.into(),
        known: known.to_vec(),
    })
}

/// The wanted names in the order of the list; none when nothing was asked for.
fn pick(
    kind: &'static str,
    all: &[String],
    wanted: &[String],
) -> Result<Option<Vec<String>>, Unknown> {
    let wanted = wanted
        .iter()
        .map(|name| known(kind, all, name.trim()))
        .collect::<Result<BTreeSet<_>, _>>()?;
    Ok((!wanted.is_empty()).then(|| {
        all.iter()
            .filter(|name| wanted.contains(*name))
            .cloned()
            .collect()
    }))
}

/// Bits of a weight, as the paper counts them: ternary weights have 2.
pub(crate) fn bits(row: &str) -> u32 {
    match row {
        "full" => 32,
        "binary-connect" | "bwn" | "lab" => 1,
        // Three and more stand in the name: laq-log-3, laq-log-3-e.
        _ => row
            .rsplit('-')
            .find_map(|part| part.parse().ok())
            .unwrap_or(2),
    }
}

fn is_toml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "toml")
}

/// File stems in a folder, sorted.
fn names(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?
    {
        let path = entry?.path();
        // A folder's name may hold a dot (linux-6.1-kernel), which is no extension.
        let name = if path.is_dir() {
            path.file_name()
        } else {
            path.file_stem()
        };
        if let (true, Some(name)) = (wanted(&path), name.and_then(|name| name.to_str())) {
            names.insert(name.to_string());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableName;

    #[test]
    fn a_part_of_a_preset_is_of_a_preset_and_of_a_column() {
        let root = tempfile::TempDir::new().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join("configs").join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("written");
        };
        write(
            "paper_tables.toml",
            "status = \"s\"\n[table1]\ncaption = \"c\"\ncolumns = [\"a\"]\nrows = { full = [1.0] }",
        );
        write("table1/a/full.toml", "");
        write("table1/presets/short.toml", "");
        write("table1/presets/short/a.toml", "");
        let load = |table| {
            let (rows, columns) = (Vec::new(), Vec::new());
            let (preset, seeds, out) = ("short".into(), 1, None);
            let selection = Selection {
                table,
                preset,
                rows,
                columns,
                seeds,
                out,
            };
            Table::load(root.path(), &selection).map_err(|error| format!("{error:#}"))
        };
        let table = load(TableName::Table1).expect("a table");
        let overlays = |column| {
            let overlays = table.preset("short", column);
            let folder = root.path().join("configs/table1/presets");
            let below = |path: PathBuf| Some(path.strip_prefix(&folder).ok()?.to_path_buf());
            overlays.into_iter().filter_map(below).collect::<Vec<_>>()
        };
        assert_eq!(
            overlays("a"),
            ["short.toml", "short/a.toml"].map(PathBuf::from)
        );
        assert_eq!(overlays("b"), ["short.toml"].map(PathBuf::from));
        let message = |table| load(table).err().expect("an error");
        assert!(message(TableName::Table2).ends_with("paper_tables.toml has no [table2]"));
        write("table1/presets/short/b.toml", "");
        let found = message(TableName::Table1);
        assert!(
            found.ends_with("has a file for \"b\", which is no column; there are: a"),
            "{found}"
        );
        write("table1/b/full.toml", "");
        load(TableName::Table1).expect("b is a column now");
        write("table1/presets/long/a.toml", "");
        let found = message(TableName::Table1);
        assert!(
            found.ends_with("needs long.toml beside it, even if that changes nothing"),
            "{found}"
        );
    }

    #[test]
    fn bits_are_counted_as_in_the_paper() {
        let rows = [
            "full",
            "lab",
            "twn",
            "lat-a",
            "lat2-e",
            "laq-log-3",
            "laq-log-3-e",
            "dorefa-4",
        ];
        assert_eq!(rows.map(bits), [32, 1, 2, 2, 2, 3, 3, 4]);
    }
}
