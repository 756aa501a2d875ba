//! Names of methods, and the registry.

use std::collections::{HashMap, HashSet};

use laq_solvers::{Codebook, Method, families};
use proptest::prelude::*;

fn parse(name: &str) -> Result<String, String> {
    name.parse::<Method>()
        .map(|method| method.id())
        .map_err(|error| error.to_string())
}

#[test]
fn ids_are_those_of_the_specification() {
    let expected = "full binary-connect bwn lab twn lat-e lat-a ttq lat2-e lat2-a dorefa-M laq-linear-M laq-log-M \
         laq-linear-M-e laq-log-M-e";
    let found: Vec<&str> = families().iter().map(|family| family.id).collect();
    assert_eq!(found.join(" "), expected);
    for family in families() {
        let sized = family.id.contains("-M");
        assert_eq!(family.bits, sized.then_some(2..=8), "{}", family.id);
    }
}

#[test]
fn ids_and_aliases_are_understood() {
    for (name, id) in [
        ("lat-a", "lat-a"),
        ("FPN", "full"),
        ("LAB", "lab"),
        ("LATa", "lat-a"),
        ("LATe", "lat-e"),
        ("LAT2a", "lat2-a"),
        ("LAT2e", "lat2-e"),
        ("LAQ_linear", "laq-linear-3"),
        ("LAQ_linear-4", "laq-linear-4"),
        ("LAQ_log", "laq-log-3"),
        ("LAQ_log-8", "laq-log-8"),
        ("laq-log-2", "laq-log-2"),
        ("laq-linear-3-e", "laq-linear-3-e"),
        ("LAQ-Log-8-E", "laq-log-8-e"),
        ("DOREFA-2", "dorefa-2"),
        ("BinaryConnect", "binary-connect"),
        ("TWN", "twn"),
    ] {
        assert_eq!(parse(name).as_deref(), Ok(id), "{name}");
    }
}

#[test]
fn unknown_names_come_with_a_suggestion() {
    for (name, suggestion) in [
        ("lat_a", "lat-a"),
        ("lat-b", "lat-e"),
        ("lat2-f", "lat2-e"),
        ("binaryconect", "binary-connect"),
        ("laq-liner-4", "laq-linear-4"),
        ("LAQlog-5", "laq-log-5"),
        ("tnw", "twn"),
        ("lat-a-3", "lat-a"),
    ] {
        let message = parse(name).unwrap_err();
        let expected = format!("there is no method `{name}`; did you mean `{suggestion}`? ");
        assert!(message.starts_with(&expected), "{message}");
        assert!(
            message.contains("lat2-a, dorefa-M, laq-linear-M"),
            "{message}"
        );
    }
    assert!(parse("").is_err());
}

#[test]
fn bits_are_checked() {
    for name in [
        "laq-linear-1",
        "laq-linear-9",
        "laq-linear-03",
        "laq-linear-+3",
        "laq-linear",
        "laq-linear-",
    ] {
        let message = parse(name).unwrap_err();
        let range = "expected `laq-linear-2` to `laq-linear-8`";
        assert!(
            message.contains(&format!("`{name}`")) && message.contains(range),
            "{message}"
        );
    }
    for name in ["laq-log-e", "laq-log-9-e", "laq-log--e"] {
        let message = parse(name).unwrap_err();
        let range = "expected `laq-log-2-e` to `laq-log-8-e`";
        assert!(message.contains(range), "{message}");
    }
    assert!(
        parse("dorefa")
            .unwrap_err()
            .contains("`dorefa-2` to `dorefa-8`")
    );
}

#[test]
fn every_method_comes_back_from_its_id() {
    let mut seen = HashMap::new();
    for method in Method::all() {
        let again: Method = method.id().parse().unwrap();
        assert_eq!(again, method);
        assert_eq!(format!("{method}"), method.id());
        assert_eq!(Method::try_from(method.id().as_str()), Ok(method.clone()));
        assert_eq!(method.bits().is_some(), method.family().bits.is_some());
        assert_eq!(method.quantizer().is_none(), method.id() == "full");
        assert!(
            seen.insert(method.clone(), method.id()).is_none(),
            "{method} twice"
        );
    }
    assert_eq!(seen.len(), 10 + 5 * 7);
    let names: Vec<&str> = families()
        .iter()
        .flat_map(|family| family.aliases)
        .copied()
        .collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
}

#[test]
fn bits_reach_the_codebook() {
    for bits in 2..=8 {
        for (family, codebook) in [
            ("laq-linear", Codebook::Linear { bits }),
            ("laq-log", Codebook::Logarithmic { bits }),
            ("dorefa", Codebook::Uniform { bits }),
        ] {
            let method: Method = format!("{family}-{bits}").parse().unwrap();
            assert_eq!(method.bits(), Some(bits));
            assert_eq!(method.quantizer().unwrap().codebook(), codebook);
        }
    }
}

proptest! {
    /// No name makes the parser panic, letters of several bytes included.
    #[test]
    fn any_name_parses_or_is_refused(name in "(laq-l[io]|lat|do)?[-_a-z0-9é→]{0,12}") {
        if let Ok(id) = parse(&name) {
            prop_assert!(Method::all().any(|method| method.id() == id));
        }
    }
}
