//! The tables: rows, columns and presets, read from the folder of configurations, and the paper's
//! figures.
//!
//! Nothing is listed in code. A column is a subfolder of `<table>/` with one file a row. A preset
//! is a file of `<table>/presets/`; its changes to a single column are a file of the subfolder of
//! its name. The rows are those of the paper's table, followed by the other files of the columns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use laq_runner::config::nearest;
use laq_solvers::Method;
use serde::Deserialize;

use crate::LabError;
use crate::configs::Configs;
use crate::measure::{self, Measure};

/// Which cells of which table, at which size, and where their runs are.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The table.
    pub table: TableId,
    /// The preset: how much of the paper's training is done.
    pub preset: String,
    /// Rows; all where it is empty.
    pub rows: Vec<String>,
    /// Columns; where it is empty the paper's, or the embedded data for the preset `demo`.
    pub columns: Vec<String>,
    /// Each cell is trained with the seeds 1 to this.
    pub seeds: u32,
    /// Folder of the runs and of the report; `runs/TABLE/PRESET` where it is not given.
    pub out: Option<PathBuf>,
}

/// A table of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableId {
    /// Test error of the networks on images.
    Table1,
    /// Test cross-entropy of the character LSTM.
    Table2,
}

impl TableId {
    /// `table1` or `table2`: the name on the command line, in `configs/` and in `runs/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Table1 => "table1",
            Self::Table2 => "table2",
        }
    }

    fn measure(self) -> &'static Measure {
        match self {
            Self::Table1 => &measure::ERROR,
            Self::Table2 => &measure::CROSS_ENTROPY,
        }
    }
}

/// A table with everything that can be selected of it.
#[derive(Debug)]
pub struct Table {
    /// Which table.
    pub id: TableId,
    /// Where it was read from; embedded files exist while this does.
    pub configs: Configs,
    /// What its figures are.
    pub measure: &'static Measure,
    /// The paper's caption: what is measured, in which unit.
    pub caption: String,
    /// How far the paper's figures have been checked, as stated in their file.
    pub status: String,
    /// The paper's rows in its order, then the others by bits and name.
    pub rows: Vec<String>,
    /// The paper's columns in its order, then the others by name.
    pub columns: Vec<String>,
    presets: Vec<String>,
    paper_columns: Vec<String>,
    /// `[paper row][paper column]`
    figures: Vec<Vec<f64>>,
}

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
    /// Reads the table `id`.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, and presets of columns that do not exist.
    pub fn load(configs: Configs, id: TableId) -> Result<Self, LabError> {
        let path = configs.folder().join("paper_tables.toml");
        let text = fs::read_to_string(&path).map_err(|error| LabError::configs(&path, error))?;
        let PaperTables { status, mut tables } =
            toml::from_str(&text).map_err(|error| LabError::configs(&path, error))?;
        let name = id.name();
        let paper = tables
            .remove(name)
            .ok_or_else(|| LabError::configs(&path, format!("has no [{name}]")))?;
        let folder = configs.folder().join(name);

        let mut columns = paper.columns.clone();
        columns.extend(
            names(&folder, Path::is_dir)?
                .into_iter()
                .filter(|name| name != PRESETS && !paper.columns.contains(name)),
        );
        let presets: Vec<String> = names(&folder.join(PRESETS), is_toml)?.into_iter().collect();
        for preset in names(&folder.join(PRESETS), Path::is_dir)? {
            let parts = folder.join(PRESETS).join(&preset);
            if !presets.contains(&preset) {
                let message = format!("there is no {preset}.toml next to this folder");
                return Err(LabError::configs(parts, message));
            }
            for column in names(&parts, |_| true)? {
                if !columns.contains(&column) {
                    let known = columns.join(", ");
                    let message = format!("there is no column {column:?}; known columns: {known}");
                    return Err(LabError::configs(parts, message));
                }
            }
        }
        let mut rows = Vec::new();
        let mut figures = Vec::new();
        for (row, values) in paper.rows {
            let values: Vec<f64> = values
                .try_into()
                .map_err(|error| LabError::configs(&path, format!("row {row}: {error}")))?;
            if values.len() != paper.columns.len() {
                let (found, expected) = (values.len(), paper.columns.len());
                let message = format!("row {row} has {found} figures for {expected} columns");
                return Err(LabError::configs(path, message));
            }
            rows.push(row);
            figures.push(values);
        }
        let mut others = BTreeSet::new();
        for column in &columns {
            let files = names(&folder.join(column), is_toml)?;
            others.extend(files.into_iter().filter(|row| !rows.contains(row)));
        }
        let mut others: Vec<String> = others.into_iter().collect();
        // Rows that are not named after a method come last.
        others.sort_by_key(|row| {
            row.parse::<Method>()
                .map_or(u32::MAX, |method| method.storage_bits())
        });
        rows.extend(others);
        Ok(Self {
            id,
            measure: id.measure(),
            caption: paper.caption,
            status,
            rows,
            columns,
            presets,
            paper_columns: paper.columns,
            figures,
            configs,
        })
    }

    /// The paper's figure of a cell; none for a method or data that the paper does not have.
    #[must_use]
    pub fn paper(&self, row: &str, column: &str) -> Option<f64> {
        let row = self.rows.iter().position(|r| r == row)?;
        let column = self.paper_columns.iter().position(|c| c == column)?;
        Some(self.figures.get(row)?[column])
    }

    /// Whether the paper's table has this row.
    #[must_use]
    pub fn has_row(&self, row: &str) -> bool {
        self.rows[..self.figures.len()].iter().any(|r| r == row)
    }

    /// Whether the paper's table has this column.
    #[must_use]
    pub fn has_column(&self, column: &str) -> bool {
        self.paper_columns.iter().any(|c| c == column)
    }

    fn folder(&self) -> PathBuf {
        self.configs.folder().join(self.id.name())
    }

    /// The configuration file of a cell.
    pub(crate) fn config(&self, row: &str, column: &str) -> PathBuf {
        self.folder().join(column).join(format!("{row}.toml"))
    }

    /// The overlays of a preset in a column, the lowest first.
    pub(crate) fn preset(&self, preset: &str, column: &str) -> Vec<PathBuf> {
        let presets = self.folder().join(PRESETS);
        let own = presets.join(preset).join(format!("{column}.toml"));
        let mut overlays = vec![presets.join(format!("{preset}.toml"))];
        overlays.extend(Some(own).filter(|path| path.exists()));
        overlays
    }

    /// Rows, columns and preset of the selection, in the table's order and each once.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// `row`, `column` or `preset`.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// The names that there are.
    pub known: Vec<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {} {:?}", self.kind, self.name)?;
        let known = self.known.iter().map(String::as_str);
        if let Some(nearest) = nearest(&self.name, known) {
            write!(f, "; did you mean {nearest:?}?")?;
        } else {
            write!(f, ".")?;
        }
        write!(f, " Known {}s: {}.", self.kind, self.known.join(", "))
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

/// The selected names in the order of the list; none where the selection is empty.
fn pick(
    kind: &'static str,
    all: &[String],
    selected: &[String],
) -> Result<Option<Vec<String>>, Unknown> {
    let selected = selected
        .iter()
        .map(|name| known(kind, all, name.trim()))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let chosen = all.iter().filter(|name| selected.contains(*name));
    Ok((!selected.is_empty()).then(|| chosen.cloned().collect()))
}

fn is_toml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "toml")
}

/// The names of the wanted entries of a folder, without extension, sorted.
fn names(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<BTreeSet<String>, LabError> {
    let mut names = BTreeSet::new();
    let error = |error| LabError::configs(folder, error);
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        // The name of a folder may contain a dot (linux-6.1-kernel), which starts no extension.
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

    #[test]
    fn presets_of_columns_need_their_preset_and_column() {
        let root = tempfile::TempDir::new().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
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
        let load = |id| Table::load(Configs::at(root.path()), id);
        let table = load(TableId::Table1).expect("a table");
        let presets = root.path().join("table1/presets");
        let paths = |names: &[&str]| {
            names
                .iter()
                .map(|name| presets.join(name))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            table.preset("short", "a"),
            paths(&["short.toml", "short/a.toml"])
        );
        assert_eq!(table.preset("short", "b"), paths(&["short.toml"]));
        let rejected = |id| match load(id) {
            Err(LabError::Configs { path, .. }) => path,
            other => panic!("{other:?}"),
        };
        assert!(rejected(TableId::Table2).ends_with("paper_tables.toml"));
        write("table1/presets/short/b.toml", "");
        assert!(rejected(TableId::Table1).ends_with("presets/short"));
        write("table1/b/full.toml", "");
        load(TableId::Table1).expect("b is a column now");
        write("table1/presets/long/a.toml", "");
        assert!(rejected(TableId::Table1).ends_with("presets/long"));
    }

    #[test]
    fn near_names_are_suggested() {
        let unknown = |name: &str| {
            let known = ["lat-a", "lat-e", "full"].map(String::from);
            let name = name.into();
            let kind = "row";
            Unknown {
                kind,
                name,
                known: known.to_vec(),
            }
            .to_string()
        };
        assert_eq!(
            unknown("lat_a"),
            "there is no row \"lat_a\"; did you mean \"lat-a\"? Known rows: lat-a, lat-e, full."
        );
        assert_eq!(
            unknown("zzzzzz"),
            "there is no row \"zzzzzz\". Known rows: lat-a, lat-e, full."
        );
    }
}
