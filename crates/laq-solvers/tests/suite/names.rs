//! The table of methods and their names.

use std::collections::{HashMap, HashSet};

use laq_solvers::{Codebook, Granularity, Method, ParseMethodError, families, formats};
use proptest::prelude::*;

fn parse(name: &str) -> Result<String, ParseMethodError> {
    name.parse::<Method>().map(|method| method.id())
}

#[test]
fn ids_are_those_of_the_specification() {
    let expected = "full binary-connect bwn lab twn lat-e lat-a ttq lat2-e lat2-a dorefa-M laq-linear-M laq-log-M \
         laq-linear-M-e laq-log-M-e absmean absmax-M";
    let found: Vec<&str> = families().iter().map(|family| family.id).collect();
    assert_eq!(found.join(" "), expected);
    for family in families() {
        let sized = family.id.contains("-M");
        assert_eq!(family.bits, sized.then_some(2..=8), "{}", family.id);
    }
}

#[test]
fn formats_are_methods_with_blocks_of_their_own() {
    for format in formats() {
        let method: Method = format.id.to_uppercase().parse().expect(format.id);
        assert_eq!((method.id(), method.bits()), (format.id.to_owned(), None));
        let block = Granularity::Block(format.block.expect("a format"));
        assert_eq!(method.granularity(), block);
        assert!(method.is_exact() && method.exact_counterpart().is_none());
        assert!(method.clone().with_granularity(block).is_ok());
        let found = Granularity::Row;
        let error = method.with_granularity(found).expect_err("other blocks");
        assert_eq!((error.format.as_str(), error.found), (format.id, found));
        assert!(Method::all().all(|method| method.id() != format.id));
    }
    let lat: Method = "lat-e".parse().expect("a method");
    assert_eq!(lat.granularity(), Granularity::Gate);
    assert_eq!(lat.block_format(), None);
    let finer = lat
        .with_granularity(Granularity::Block(64))
        .expect("any blocks");
    assert_eq!(finer.granularity(), Granularity::Block(64));
}

#[test]
fn ids_and_aliases_are_parsed() {
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
        assert_eq!(parse(name), Ok(id.to_owned()), "{name}");
    }
}

#[test]
fn unknown_names() {
    for name in [
        "lat_a",
        "lat-b",
        "binaryconect",
        "laq-liner-4",
        "lat-a-3",
        "",
    ] {
        let found = name.to_owned();
        assert_eq!(
            name.parse::<Method>(),
            Err(ParseMethodError::Unknown { found })
        );
    }
}

#[test]
fn the_number_of_bits_is_checked() {
    for (name, prefix, suffix) in [
        ("laq-linear-1", "laq-linear", ""),
        ("laq-linear-9", "laq-linear", ""),
        ("laq-linear-03", "laq-linear", ""),
        ("laq-linear-+3", "laq-linear", ""),
        ("laq-linear", "laq-linear", ""),
        ("laq-linear-", "laq-linear", ""),
        ("laq-log-e", "laq-log", "-e"),
        ("laq-log-9-e", "laq-log", "-e"),
        ("laq-log--e", "laq-log", "-e"),
        ("dorefa", "dorefa", ""),
    ] {
        let error = ParseMethodError::Bits {
            found: name.to_owned(),
            lowest: format!("{prefix}-2{suffix}"),
            highest: format!("{prefix}-8{suffix}"),
        };
        assert_eq!(name.parse::<Method>(), Err(error));
    }
}

#[test]
fn the_number_of_bits_can_be_passed_separately() {
    for (name, bits, id) in [
        ("laq-linear-M", 4, "laq-linear-4"),
        ("laq-linear", 4, "laq-linear-4"),
        ("LAQ_log", 2, "laq-log-2"),
        ("laq-log-e", 5, "laq-log-5-e"),
        ("laq-log-5-e", 5, "laq-log-5-e"),
    ] {
        assert_eq!(Method::with_bits(name, bits).unwrap().id(), id);
    }
    let method = |id: &str| id.to_owned();
    for (name, bits, error) in [
        (
            "laq-log-3",
            4,
            ParseMethodError::OtherBits {
                method: method("laq-log-3"),
                own: 3,
                bits: 4,
            },
        ),
        (
            "LATa",
            2,
            ParseMethodError::FixedBits {
                method: method("lat-a"),
                bits: 2,
            },
        ),
    ] {
        assert_eq!(Method::with_bits(name, bits), Err(error));
    }
}

#[test]
fn alternating_methods_have_an_exact_counterpart() {
    for (id, exact) in [
        ("lat-a", Some("lat-e")),
        ("lat2-a", Some("lat2-e")),
        ("laq-linear-2", Some("laq-linear-2-e")),
        ("laq-log-4", Some("laq-log-4-e")),
        ("lat-e", None),
        ("lab", None),
        ("ttq", None),
        ("full", None),
    ] {
        let method: Method = id.parse().unwrap();
        let counterpart = method.exact_counterpart();
        assert_eq!(counterpart.map(|method| method.id()).as_deref(), exact);
    }
    for method in Method::all() {
        let counterpart = method.exact_counterpart();
        assert_eq!(method.is_alternating(), counterpart.is_some(), "{method}");
        assert!(counterpart.is_none_or(|exact| exact.is_exact()), "{method}");
    }
}

#[test]
fn exact_methods_and_latent_gradients() {
    let ids = |property: fn(&Method) -> bool| {
        let families = families().iter();
        let found = families.filter(|family| family.methods().all(|method| property(&method)));
        found.map(|family| family.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        ids(Method::is_exact),
        "lab lat-e lat2-e laq-linear-M-e laq-log-M-e"
    );
    assert_eq!(ids(Method::has_latent_gradient), "ttq dorefa-M");
}

#[test]
fn every_method_is_parsed_from_its_id() {
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
    assert_eq!(seen.len(), 11 + 6 * 7);
    let names: Vec<&str> = families()
        .iter()
        .flat_map(|family| family.aliases)
        .copied()
        .collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
}

#[test]
fn the_codebook_has_the_number_of_bits() {
    for bits in 2..=8 {
        for (family, codebook) in [
            ("laq-linear", Codebook::linear(bits).unwrap()),
            ("laq-log", Codebook::logarithmic(bits).unwrap()),
            ("dorefa", Codebook::uniform(bits).unwrap()),
        ] {
            let method: Method = format!("{family}-{bits}").parse().unwrap();
            assert_eq!(method.bits(), Some(bits));
            assert_eq!(method.quantizer().unwrap().codebook(), &codebook);
        }
    }
}

proptest! {
    /// Parsing does not panic, also for letters of several bytes.
    #[test]
    fn any_name_parses_or_is_an_error(name in "(laq-l[io]|lat|do)?[-_a-z0-9é→]{0,12}") {
        if let Ok(id) = parse(&name) {
            prop_assert!(Method::all().any(|method| method.id() == id));
        }
    }
}
