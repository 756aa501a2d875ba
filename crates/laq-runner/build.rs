//! Sets `LAQ_COMMIT`, the commit of the build: `git describe`, with `-dirty` for uncommitted changes;
//! `unknown` outside of a checkout of this project.

use std::path::Path;
use std::process::Command;

fn main() {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&package).join("../..");
    println!("cargo::rerun-if-changed=build.rs");
    // A published package may lie within a checkout of something else.
    let ours = root.join(".git").exists() && root.join("crates/laq-runner").exists();
    let commit = ours.then(|| {
        for watched in ["crates", "Cargo.lock", ".git/logs/HEAD"] {
            println!("cargo::rerun-if-changed={}", root.join(watched).display());
        }
        let describe = ["describe", "--always", "--dirty", "--abbrev=12"];
        let output = Command::new("git")
            .args(describe)
            .current_dir(&root)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    });
    let commit = commit.flatten().unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=LAQ_COMMIT={commit}");
}
