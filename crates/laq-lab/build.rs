//! Rebuilds the crate when a configuration is added or removed: the compiler tracks the content of
//! the embedded files only.

fn main() {
    println!("cargo::rerun-if-changed=../../configs");
    println!("cargo::rerun-if-changed=build.rs");
}
