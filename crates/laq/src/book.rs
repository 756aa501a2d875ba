//! Tests that the commands and experiments shown in the documentation are accepted.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use laq_runner::config;

use crate::args::Args;

/// README, pages of the book and READMEs of the crates, with their paths.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths = vec![root.join("README.md"), root.join("configs/README.md")];
    let entries = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).expect("the folder exists");
        entries.map(|entry| entry.expect("an entry").path())
    };
    paths.extend(entries("docs/src"));
    paths.extend(entries("crates").map(|folder| folder.join("README.md")));
    let pages: Vec<_> = paths
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable page");
            (path, text)
        })
        .collect();
    assert!(pages.len() > 10, "{} pages found", pages.len());
    pages
}

/// The fenced blocks of a page in one of `languages`.
fn blocks(text: &str, languages: &[&str]) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .take_while(|line| line.trim_start() != "```")
            .collect();
        if languages.contains(&language) {
            blocks.push(block.join("\n"));
        }
    }
    blocks
}

#[test]
fn commands_in_the_documentation_parse() {
    let mut commands = 0;
    for (path, text) in pages() {
        for block in blocks(&text, &["sh", "console", ""]) {
            let block = block.replace("\\\n", " ");
            for line in block.lines().filter(|line| line.starts_with("laq ")) {
                let ends = |line: &str| line.find(" #").or(line.find(" > "));
                let command = line[..ends(line).unwrap_or(line.len())].trim();
                let words = shlex::split(command).expect("balanced quotes");
                if let Err(error) = Args::try_parse_from(&words) {
                    panic!("{}: `{command}`: {error}", path.display());
                }
                commands += 1;
            }
        }
    }
    assert!(commands > 20, "{commands} commands found");
}

#[test]
fn experiments_in_the_documentation_are_valid() {
    let mut experiments = 0;
    for (path, text) in pages() {
        for block in blocks(&text, &["toml"]) {
            // Manifests and fragments are no experiments; `extends` needs its base.
            if !block.contains("[quantize]") || block.contains("extends") {
                continue;
            }
            if let Err(error) = config::parse(&block, "the example") {
                panic!("{}: {error}\n{block}", path.display());
            }
            experiments += 1;
        }
    }
    assert!(experiments > 2, "{experiments} experiments found");
}
