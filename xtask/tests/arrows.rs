//! The dependencies between the crates, the places of network, GPU and command-line libraries, and
//! those of `unsafe`.
//!
//! Manifests are read by `cargo metadata`, and transitive dependencies from `Cargo.lock`; nothing
//! is downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Dependencies of tests alone: these train whole networks on the backend.
const IN_TESTS: &[(&str, &str)] = &[("laq-cuda", "laq-models")];

/// Every crate of the workspace, with those that it may depend on. `*` means all.
const ARROWS: &[(&str, &[&str])] = &[
    // Tests of every crate may use it.
    ("laq-test-support", &[]),
    ("laq-simd", &[]),
    ("laq-solvers", &["laq-simd"]),
    ("laq-tensor", &["laq-simd", "laq-solvers"]),
    ("laq-datasets", &[]),
    ("laq-models", &["laq-solvers", "laq-tensor"]),
    ("laq-cuda", &["laq-solvers", "laq-tensor"]),
    ("laq-packed", &["laq-simd", "laq-solvers"]),
    ("laq-python", &["laq-packed", "laq-solvers"]),
    (
        "laq-runner",
        &[
            "laq-cuda",
            "laq-datasets",
            "laq-models",
            "laq-packed",
            "laq-simd",
            "laq-solvers",
            "laq-tensor",
        ],
    ),
    (
        "laq-lab",
        &["laq-datasets", "laq-models", "laq-runner", "laq-solvers"],
    ),
    ("laq", &["*"]),
    ("laq-benches", &["*"]),
    ("xtask", &[]),
];

/// Libraries that only some crates may depend on.
const PLACES: &[(&[&str], &[&str])] = &[
    // A network client.
    (
        &[
            "ureq",
            "reqwest",
            "hyper",
            "curl",
            "attohttpc",
            "minreq",
            "isahc",
        ],
        &["laq-datasets"],
    ),
    // The GPU.
    (&["cudarc"], &["laq-cuda"]),
    // Eigenvalues, which are half of the packages that laq-datasets pulls in.
    (&["faer"], &["laq-datasets"]),
    // The command line.
    (
        &["clap", "clap_complete", "clap_mangen", "indicatif"],
        &["laq", "xtask"],
    ),
    // Python.
    (&["pyo3", "numpy"], &["laq-python"]),
];

/// Libraries that `laq-solvers` leaves to its users.
const NOT_IN_SOLVERS: &[&str] = &["ndarray", "ndarray-rand", "rand", "rand_chacha", "serde"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One entry of a manifest's dependencies.
struct Dependency {
    name: String,
    /// "normal", "build" or "dev"
    kind: String,
    optional: bool,
}

/// The packages of the workspace: dependencies and features.
fn packages() -> BTreeMap<String, (Vec<Dependency>, Value)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ];
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or("normal").to_string();
    let packages = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .map(|found| Dependency {
                    name: text(&found["name"]),
                    kind: text(&found["kind"]),
                    optional: found["optional"] == true,
                });
            (
                text(&package["name"]),
                (dependencies.collect(), package["features"].clone()),
            )
        });
    packages.collect()
}

/// The dependencies that break the rules.
fn broken(packages: &BTreeMap<String, (Vec<Dependency>, Value)>) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, (dependencies, _)) in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == name) else {
            broken.push(format!("{name} is not in ARROWS"));
            continue;
        };
        for Dependency { name: to, kind, .. } in dependencies {
            let ours = packages.contains_key(to);
            // The tests of a crate may enable its own features.
            let of_tests = kind == "dev"
                && (to == name
                    || to == "laq-test-support"
                    || IN_TESTS.contains(&(name.as_str(), to.as_str())));
            if ours && !of_tests && !allowed.contains(&"*") && !allowed.contains(&to.as_str()) {
                broken.push(format!("{name} → {to}"));
            }
            let place = PLACES
                .iter()
                .find(|(libraries, _)| libraries.contains(&to.as_str()));
            if place.is_some_and(|(_, places)| !places.contains(&name.as_str())) {
                broken.push(format!("{name} → {to}"));
            }
            if name == "laq-solvers" && kind != "dev" && NOT_IN_SOLVERS.contains(&to.as_str()) {
                broken.push(format!("{name} → {to}"));
            }
        }
    }
    broken
}

#[test]
fn crates_depend_on_allowed_crates() {
    let packages = packages();
    assert!(
        packages.contains_key("laq-solvers") && packages.contains_key("xtask"),
        "{:?}",
        packages.keys()
    );
    assert_eq!(broken(&packages), Vec::<String>::new());
}

/// A command without `-p` and `--workspace` needs no Python.
#[test]
fn all_crates_but_that_of_python_are_default_members() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = toml::from_str(&manifest).expect("TOML");
    let members = manifest["workspace"]["default-members"].as_array();
    let members = members
        .expect("a list")
        .iter()
        .filter_map(toml::Value::as_str);
    let mut members: BTreeSet<&str> = members
        .map(|path| path.rsplit('/').next().unwrap())
        .collect();
    // The package of this folder is `laq-benches`.
    assert!(members.remove("benches") && members.insert("laq-benches"));
    let packages = packages();
    let others = packages.keys().map(String::as_str);
    let others: BTreeSet<&str> = others.filter(|name| *name != "laq-python").collect();
    assert_eq!(members, others);
}

#[test]
fn a_wrong_arrow_is_found() {
    let dependency = |name: &str, kind: &str| Dependency {
        name: name.into(),
        kind: kind.into(),
        optional: false,
    };
    for (from, to, kind, wrong) in [
        ("laq-solvers", "laq-tensor", "dev", true),
        ("laq-solvers", "laq-test-support", "dev", false),
        ("laq-solvers", "laq-test-support", "normal", true),
        ("laq-tensor", "laq-solvers", "normal", false),
        ("laq-models", "laq-datasets", "normal", true),
        ("laq-solvers", "rand", "normal", true),
        ("laq-solvers", "rand", "dev", false),
        ("laq-models", "clap", "normal", true),
        ("laq-runner", "clap", "normal", true),
        ("laq-runner", "laq", "normal", true),
        ("laq", "clap", "normal", false),
        ("laq-runner", "ureq", "normal", true),
        ("laq-tensor", "cudarc", "normal", true),
        ("laq-packed", "pyo3", "normal", true),
        ("laq-python", "pyo3", "normal", false),
        ("laq-python", "laq-runner", "normal", true),
        ("xtask", "laq-runner", "normal", true),
        ("laq-other", "serde", "normal", true),
    ] {
        let mut packages: BTreeMap<_, _> = ARROWS
            .iter()
            .map(|(name, _)| (name.to_string(), (Vec::new(), Value::Null)))
            .collect();
        packages.insert(from.into(), (vec![dependency(to, kind)], Value::Null));
        assert_eq!(
            !broken(&packages).is_empty(),
            wrong,
            "{from} → {to} ({kind})"
        );
    }
}

/// Optional libraries of `laq-datasets`: a feature each, and nothing else enables them.
#[test]
fn heavy_libraries_of_the_data_sets_are_behind_features() {
    let packages = packages();
    let (dependencies, features) = &packages["laq-datasets"];
    for (feature, libraries) in [("fetch", PLACES[0].0), ("whitening", &["faer"])] {
        let found: Vec<_> = dependencies
            .iter()
            .filter(|dependency| libraries.contains(&dependency.name.as_str()))
            .collect();
        assert!(
            !found.is_empty() && found.iter().all(|of| of.optional && of.kind == "normal"),
            "{feature} enables no optional dependency of {libraries:?}"
        );
        for (name, parts) in features.as_object().expect("features") {
            let parts = parts.as_array().expect("a list");
            let mut parts = parts.iter().filter_map(Value::as_str);
            let enables = parts.any(|part| found.iter().any(|of| part.contains(&of.name)));
            assert_eq!(enables, name == feature, "feature {name}");
        }
    }
}

/// No dependency pulls in a network client, the GPU or the eigenvalue solver elsewhere.
#[test]
fn no_dependency_pulls_in_a_library_of_another_place() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = toml::from_str(&lock).expect("TOML");
    for &(libraries, places) in &PLACES[..3] {
        let mut users = BTreeSet::new();
        for package in lock["package"].as_array().expect("packages") {
            let depends = package
                .get("dependencies")
                .and_then(toml::Value::as_array)
                .into_iter()
                .flatten();
            // "name" or "name version"
            let mut names = depends.filter_map(|entry| entry.as_str()?.split(' ').next());
            if names.any(|name| libraries.contains(&name)) {
                users.insert(package["name"].as_str().expect("a name"));
            }
        }
        assert!(
            users.iter().all(|user| places.contains(user)),
            "{libraries:?} come with {users:?}"
        );
    }
}

/// Files and folders that may contain `unsafe`: kernels, the device, and mapped files.
const UNSAFE: &[&str] = &[
    "crates/laq-cuda/src",
    "crates/laq-datasets/src/images/cache.rs",
    "crates/laq-packed/src/kernels",
    "crates/laq-packed/src/tensor_file.rs",
    "crates/laq-simd/src",
    "crates/laq-solvers/src",
    "crates/laq-tensor/src/cpu",
];

/// Every Rust file below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn unsafe_code_is_in_its_places() {
    let crates = std::fs::read_dir(root().join("crates")).expect("the crates");
    let mut crates: Vec<PathBuf> = crates.map(|entry| entry.expect("a crate").path()).collect();
    crates.extend(["xtask", "benches"].map(|name| root().join(name)));
    let mut safe = 0;
    for package in crates {
        let src = package.join("src");
        let name = src
            .strip_prefix(root())
            .expect("below the root")
            .to_path_buf();
        let may = UNSAFE
            .iter()
            .any(|place| Path::new(place).starts_with(&name));
        let roots = ["lib.rs", "main.rs"].map(|file| src.join(file));
        for file in roots.iter().filter(|file| file.exists()) {
            let text = std::fs::read_to_string(file).expect("text");
            let forbids = text.contains("#![forbid(unsafe_code)]");
            assert_eq!(forbids, !may, "{}", file.display());
            safe += usize::from(forbids);
        }
        for file in sources(&src) {
            let text = std::fs::read_to_string(&file).expect("text");
            let path = file.strip_prefix(root()).expect("below the root");
            let any = [
                "unsafe {",
                "unsafe fn",
                "unsafe impl",
                "unsafe trait",
                "unsafe extern",
            ];
            let uses = any.iter().any(|form| text.contains(form));
            let may = UNSAFE.iter().any(|place| path.starts_with(place));
            assert!(may || !uses, "{} contains unsafe", path.display());
        }
    }
    assert!(safe >= 5, "{safe} crates without unsafe");
}
