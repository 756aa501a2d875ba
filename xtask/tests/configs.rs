//! Every cell of every column has its file, and the paper's figures in them are those of `configs/paper_tables.toml`. A row
//! that the paper does not have has no figure.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What `configs/` has to have of a table of the paper.
struct Expected {
    id: &'static str,
    /// Rows of the paper, and those that it does not have.
    papers: usize,
    others: &'static [&'static str],
    columns: &'static [Column],
    base: &'static str,
}

/// A column: its name, what its file says, and the paper's epochs; none if the paper does not have it.
type Column = (&'static str, &'static str, Option<i64>);

const TABLES: [Expected; 2] = [
    Expected {
        id: "table1",
        papers: 13,
        others: &["laq-linear-3-e", "laq-log-3-e"],
        columns: &[
            (
                "mnist",
                r#"
                    extends = "base.toml"
                    model = { filters = [], units = [2048, 2048, 2048], output_batch_norm = true, loss = "squared-hinge" }
                    data = { name = "mnist", preprocessing = "mean-image", batch = 100 }
                    [train]
                    epochs = 50
                    learning_rate = 0.01
                    schedule = { kind = "milestones", epochs = [15, 25], factor = 0.1 }
                "#,
                Some(50),
            ),
            (
                "cifar10",
                r#"
                    extends = "base.toml"
                    data = { name = "cifar10", preprocessing = "zca", batch = 50 }
                    [model]
                    filters = [128, 256, 512]
                    convolutions = 2
                    units = [1024, 1024]
                    output_batch_norm = true
                    loss = "squared-hinge"
                    [train]
                    epochs = 200
                    learning_rate = 0.002
                    schedule = { kind = "every", epochs = 15, factor = 0.5 }
                "#,
                Some(200),
            ),
            (
                "cifar100",
                r#"
                    extends = "base.toml"
                    data = { name = "cifar100", preprocessing = "zca", batch = 100 }
                    [model]
                    filters = [128, 256, 512]
                    convolutions = 2
                    units = [1024, 1024]
                    output_batch_norm = false
                    loss = "cross-entropy"
                    [train]
                    epochs = 200
                    learning_rate = 0.0005
                    schedule = { kind = "every", epochs = 15, factor = 0.5 }
                "#,
                Some(200),
            ),
            (
                "svhn",
                r#"
                    extends = "base.toml"
                    data = { name = "svhn", preprocessing = "lcn", batch = 50 }
                    [model]
                    filters = [64, 128, 256]
                    convolutions = 2
                    units = [1024, 1024]
                    output_batch_norm = true
                    loss = "squared-hinge"
                    [train]
                    epochs = 50
                    learning_rate = 0.0005
                    schedule = { kind = "milestones", epochs = [15, 25], factor = 0.1 }
                "#,
                Some(50),
            ),
            (
                "cifar10-jpeg",
                r#"
                    extends = "cifar10.toml"
                    data.name = "cifar10-jpeg"
                "#,
                None,
            ),
            (
                "demo",
                r#"
                    extends = "mnist.toml"
                    data.name = "demo-digits"
                "#,
                None,
            ),
        ],
        base: r#"
            model = { kind = "feedforward", batch_norm = true, norm_epsilon = 1e-4, norm_factor = 0.1 }
            train = { seed = 1, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 }
        "#,
    },
    Expected {
        id: "table2",
        papers: 16,
        others: &[
            "laq-linear-3-e",
            "laq-linear-4-e",
            "laq-log-3-e",
            "laq-log-4-e",
        ],
        columns: &[
            ("war-and-peace", TEXT, Some(200)),
            ("linux-kernel", TEXT, Some(200)),
            ("penn-treebank", TEXT, Some(200)),
            ("linux-6.1-kernel", TEXT, None),
            ("demo", TEXT, None),
        ],
        base: r#"
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
        "#,
    },
];

/// A column of Table 2 chooses a text and nothing else. `COLUMN` stands for its name.
const TEXT: &str = r#"
    extends = "base.toml"
    data.name = "COLUMN"
"#;

/// The presets: their overlays under `presets/`, with the epochs that they set. Those of `demo` are free.
const PRESETS: [(&str, &str, Option<i64>); 6] = [
    ("table1", "paper.toml", None),
    ("table1", "short.toml", Some(1)),
    ("table1", "short/mnist.toml", Some(10)),
    ("table2", "paper.toml", Some(200)),
    ("table2", "short.toml", Some(2)),
    ("table2", "demo.toml", Some(8)),
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

/// The paper's rows of a table with their figures, its columns, and how far they can be trusted.
fn paper(table: &Expected) -> (Table, Vec<String>, String) {
    let tables = read(&configs().join("paper_tables.toml"));
    let columns = tables[table.id]["columns"].as_array().expect("columns");
    let columns = columns
        .iter()
        .map(|column| column.as_str().expect("a name").to_string())
        .collect();
    let rows = tables[table.id]["rows"].as_table().expect("rows").clone();
    assert_eq!(rows.len(), table.papers);
    (
        rows,
        columns,
        tables["status"].as_str().expect("a status").to_string(),
    )
}

#[test]
fn every_cell_has_a_file_with_its_method_and_figure() {
    for table in &TABLES {
        let (rows, paper_columns, status) = paper(table);
        for &(column, _, epochs) in table.columns {
            assert_eq!(
                epochs.is_some(),
                paper_columns.iter().any(|name| name == column),
                "{column}"
            );
            let folder = configs().join(table.id).join(column);
            let cells: Vec<(&str, Option<&Value>)> = rows
                .iter()
                .map(|(row, figures)| (row.as_str(), Some(figures)))
                .chain(table.others.iter().map(|row| (*row, None)))
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
                let place = paper_columns.iter().position(|name| name == column);
                let expected = place.zip(figures).zip(epochs);
                let expected = expected.map(|((index, figures), epochs)| {
                    let mut paper = Table::new();
                    paper.insert("value".into(), figures[index].clone());
                    paper.insert("status".into(), Value::String(status.clone()));
                    paper.insert("epochs".into(), Value::Integer(epochs));
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
}

#[test]
fn bases_and_columns_are_the_papers_setting() {
    for table in &TABLES {
        let parse = |text: &str| toml::from_str::<Table>(text).expect("TOML");
        let folder = configs().join(table.id);
        assert_eq!(read(&folder.join("base.toml")), parse(table.base));
        let mut expected = BTreeSet::from(["base.toml".to_string(), "presets".to_string()]);
        for &(column, text, _) in table.columns {
            let found = read(&folder.join(format!("{column}.toml")));
            assert_eq!(found, parse(&text.replace("COLUMN", column)), "{column}");
            expected.extend([column.to_string(), format!("{column}.toml")]);
        }
        assert_eq!(names(&folder), expected, "{}", table.id);
    }
}

#[test]
fn presets_change_what_they_say() {
    for table in &TABLES {
        let folder = configs().join(table.id).join("presets");
        let mut expected = BTreeSet::from(["demo.toml".to_string()]);
        for (id, overlay, epochs) in PRESETS {
            if id != table.id {
                continue;
            }
            expected.extend(overlay.split('/').next().map(String::from));
            let mut found = read(&folder.join(overlay));
            let mut train = found.remove("train");
            let train = train.as_mut().and_then(Value::as_table_mut);
            let found_epochs = train
                .as_ref()
                .and_then(|train| train["epochs"].as_integer());
            assert_eq!(found_epochs, epochs, "{id}: {overlay}");
            // Data, network and everything else stay the paper's, except the schedule of ten epochs and the demo.
            if overlay != "demo.toml" {
                assert!(found.is_empty(), "{id}: {overlay} changes {found:?}");
                let others = train.map_or(0, |train| train.len() - 1);
                assert_eq!(others, usize::from(overlay.contains('/')), "{overlay}");
            }
        }
        assert_eq!(names(&folder), expected, "{}", table.id);
    }
    let schedule = read(&configs().join("table1/presets/short/mnist.toml"))["train"]["schedule"]
        .as_table()
        .expect("a schedule")
        .clone();
    let expected = r#"kind = "milestones"
                      epochs = [4, 7]
                      factor = 0.1"#;
    assert_eq!(schedule, toml::from_str(expected).expect("TOML"));
    let demo = |table| read(&configs().join(table).join("presets/demo.toml"));
    let small = |value: &Value| value.as_integer().is_some_and(|size| size <= 128);
    assert!(small(&demo("table2")["model"]["hidden"]));
    for sizes in ["filters", "units"] {
        let sizes = demo("table1")["model"][sizes].clone();
        assert!(sizes.as_array().expect("a list").iter().all(small));
    }
}
