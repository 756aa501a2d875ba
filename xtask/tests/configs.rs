//! Every cell of every column has its file, and the paper's figures in them are those of `configs/paper_tables.toml`. A row
//! that the paper does not have has no figure.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

const COLUMNS: [&str; 5] = [
    "war-and-peace",
    "linux-kernel",
    "penn-treebank",
    "linux-6.1-kernel",
    "demo",
];

/// The rows that the paper does not have.
const OTHERS: [&str; 4] = [
    "laq-linear-3-e",
    "laq-linear-4-e",
    "laq-log-3-e",
    "laq-log-4-e",
];

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn read(path: &Path) -> Table {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect()
}

/// The paper's sixteen rows and what it has for each.
fn paper() -> (Table, Vec<String>, String) {
    let tables = read(&configs().join("paper_tables.toml"));
    let columns = tables["table2"]["columns"].as_array().expect("columns");
    let columns = columns
        .iter()
        .map(|column| column.as_str().expect("a name").to_string())
        .collect();
    let rows = tables["table2"]["rows"].as_table().expect("rows").clone();
    assert_eq!(rows.len(), 16);
    (
        rows,
        columns,
        tables["status"].as_str().expect("a status").to_string(),
    )
}

#[test]
fn every_cell_has_a_file_with_its_method_and_figure() {
    let (rows, paper_columns, status) = paper();
    for column in COLUMNS {
        let folder = configs().join("table2").join(column);
        let cells: Vec<(&str, Option<&Value>)> = rows
            .iter()
            .map(|(row, figures)| (row.as_str(), Some(figures)))
            .chain(OTHERS.map(|row| (row, None)))
            .collect();
        let expected: BTreeSet<String> =
            cells.iter().map(|(row, _)| format!("{row}.toml")).collect();
        assert_eq!(names(&folder), expected, "{column}");
        for (row, figures) in cells {
            let cell = read(&folder.join(format!("{row}.toml")));
            assert_eq!(
                cell["extends"].as_str(),
                Some(format!("../{column}.toml").as_str()),
                "{column}/{row}"
            );
            assert_eq!(
                cell["quantize"]["method"].as_str(),
                Some(row),
                "{column}/{row}"
            );
            assert!(
                cell["title"]
                    .as_str()
                    .is_some_and(|title| !title.is_empty()),
                "{column}/{row}"
            );
            let expected = paper_columns
                .iter()
                .position(|name| name == column)
                .zip(figures)
                .map(|(index, figures)| {
                    let mut paper = Table::new();
                    paper.insert("value".into(), figures[index].clone());
                    paper.insert("status".into(), Value::String(status.clone()));
                    paper.insert("epochs".into(), Value::Integer(200));
                    paper
                });
            assert_eq!(
                cell.get("paper").and_then(Value::as_table),
                expected.as_ref(),
                "{column}/{row}"
            );
            assert_eq!(
                cell.len(),
                3 + usize::from(expected.is_some()),
                "{column}/{row}: a cell changes nothing else"
            );
        }
    }
}

#[test]
fn columns_choose_a_text_and_nothing_else() {
    for column in COLUMNS {
        let found = read(&configs().join("table2").join(format!("{column}.toml")));
        let expected = format!("extends = \"base.toml\"\n[data]\nname = \"{column}\"");
        assert_eq!(
            found,
            toml::from_str::<Table>(&expected).expect("TOML"),
            "{column}"
        );
    }
}

#[test]
fn the_base_is_the_papers_setting() {
    let base = read(&configs().join("table2/base.toml"));
    let expected = r#"
        model = { kind = "char-lstm", hidden = 512, forget_bias = 1.0, init_range = 0.08, output_std = 0.01, gate_clip = 5.0 }
        data = { length = 100, batch = 100 }
        [train]
        epochs = 200
        learning_rate = 0.002
        seed = 1
        beta1 = 0.9
        beta2 = 0.999
        epsilon = 1e-8
        schedule = { kind = "exponential", factor = 0.98, after = 10 }
    "#;
    assert_eq!(base, toml::from_str::<Table>(expected).expect("TOML"));
}

#[test]
fn presets_change_what_they_say() {
    let folder = configs().join("table2/presets");
    assert_eq!(
        names(&folder),
        ["demo.toml", "paper.toml", "short.toml"]
            .map(String::from)
            .into()
    );
    for (preset, epochs) in [("short", 2), ("paper", 200)] {
        let expected = toml::from_str::<Table>(&format!("train.epochs = {epochs}")).expect("TOML");
        assert_eq!(
            read(&folder.join(format!("{preset}.toml"))),
            expected,
            "{preset}"
        );
    }
    let demo = read(&folder.join("demo.toml"));
    assert!(
        demo["model"]["hidden"]
            .as_integer()
            .is_some_and(|hidden| hidden <= 128)
    );
}
