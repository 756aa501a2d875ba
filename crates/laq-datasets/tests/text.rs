//! Texts, alphabets, splits and batches, compared with the sizes of the paper's data and with brute
//! force.

use std::fs;
use std::path::Path;

use laq_datasets::{
    Alphabet, Check, DataFile, Dataset, FileState, Fractions, Kind, Sequences, SequencesError,
    Split, SplitRule, SymbolError, Text, TextError, catalogue, count_batches, epoch_order, find,
    identity_order,
};
use proptest::prelude::*;

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

/// `bytes` bytes in which `symbols` distinct ones occur, each of them early and late.
fn synthetic(bytes: usize, symbols: usize) -> Vec<u8> {
    (0..bytes)
        .map(|index| ((index * 7 + index / 1000) % symbols) as u8)
        .collect()
}

fn put(data_dir: &Path, dataset: &str, file: &str, content: &[u8]) {
    fs::create_dir_all(data_dir.join(dataset)).unwrap();
    fs::write(data_dir.join(dataset).join(file), content).unwrap();
}

/// The file, its state and the advice of a data set that cannot be loaded.
fn invalid_file(name: &str, data_dir: &Path) -> (String, FileState, String) {
    match Text::load(name, data_dir) {
        Err(TextError::Data {
            path,
            state,
            advice,
            ..
        }) => (
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            state,
            advice,
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn splits_and_batches_have_the_sizes_of_the_paper() {
    let check = |name: &str, symbols: [usize; 3], batches: [usize; 3]| {
        let dataset = find(name).unwrap();
        assert_eq!(
            SPLITS.map(|split| dataset.expected_symbols(split)),
            symbols,
            "{name}"
        );
        assert_eq!(
            SPLITS.map(|split| dataset.expected_batches(split, 100, 100)),
            batches,
            "{name}"
        );
    };
    check(
        "war-and-peace",
        [2_606_596, 325_824, 325_826],
        [260, 32, 32],
    );
    check("linux-kernel", [5_586_296, 310_349, 310_351], [558, 31, 31]);
    check(
        "linux-6.1-kernel",
        [5_586_296, 310_349, 310_351],
        [558, 31, 31],
    );
    check(
        "penn-treebank",
        [5_101_618, 399_782, 449_945],
        [510, 39, 44],
    );
    check("demo", [163_840, 20_480, 20_480], [16, 2, 2]);
}

/// The sizes that the catalogue expects are those of a text of that size.
#[test]
fn a_text_of_the_size_of_war_and_peace_is_cut_as_expected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    let content = synthetic(3_258_246, 87);
    fs::write(&path, &content).unwrap();
    let text = Text::from_file(
        &path,
        Fractions {
            train: 0.8,
            validation: 0.1,
        },
    )
    .unwrap();
    assert_eq!(text.alphabet.len(), 87);
    let dataset = find("war-and-peace").unwrap();
    let mut whole = Vec::new();
    for split in SPLITS {
        assert_eq!(text.split(split).len(), dataset.expected_symbols(split));
        let batches = Sequences::new(text.split(split), 100, 100)
            .unwrap()
            .batches();
        assert_eq!(batches, dataset.expected_batches(split, 100, 100));
        whole.extend(text.alphabet.decode(text.split(split)).unwrap());
    }
    assert!(whole == content, "the splits in order are the text");
}

#[test]
fn the_catalogue_is_consistent() {
    for dataset in catalogue() {
        assert_eq!(find(dataset.name).unwrap().title, dataset.title);
        assert!(
            dataset
                .symbols()
                .is_none_or(|symbols| (1..=256).contains(&symbols))
        );
        for file in dataset.files {
            assert!(file.mirror_path.ends_with(file.name));
            for url in file.urls {
                // One publisher has no encrypted address; what comes from there is checked as
                // everything else.
                let known = url.starts_with("https://") || url.contains("ufldl.stanford.edu");
                let name = url.rsplit('/').next().unwrap();
                assert!(
                    known && (name == file.name || name == format!("{}.gz", file.name)),
                    "{url}"
                );
            }
            let (sum, digits) = match file.check {
                Check::Sha256(sum) => (sum, 64),
                Check::Md5(sum) => (sum, 32),
                Check::Symbols(symbols) => {
                    assert_eq!(Some(symbols), dataset.symbols());
                    continue;
                }
            };
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            assert!(sum.len() == digits && sum.bytes().all(lower), "{sum}");
        }
    }
    let error = find("war-and-piece").unwrap_err();
    assert!(error.to_string().contains("linux-6.1-kernel"), "{error}");
}

#[test]
fn the_demo_text_needs_no_files() {
    let text = Text::load("demo", Path::new("/nowhere")).unwrap();
    assert_eq!(text, Text::demo());
    let dataset = find("demo").unwrap();
    assert_eq!(Some(text.alphabet.len()), dataset.symbols());
    assert_eq!(
        SPLITS.map(|split| text.split(split).len()),
        SPLITS.map(|split| dataset.expected_symbols(split))
    );
}

/// A file for each split, in their order, with one alphabet over all of them.
#[test]
fn a_data_set_of_three_files_has_them_as_splits() {
    let file = |name, bytes| DataFile {
        name,
        mirror_path: name,
        urls: &[],
        bytes,
        check: Check::Symbols(2),
    };
    let files = vec![file("a", 4), file("b", 2), file("c", 3)];
    let three = Dataset {
        name: "three",
        title: "Three",
        files: files.leak(),
        kind: Kind::Text {
            split: SplitRule::Files,
            symbols: 4,
        },
        stand_in: None,
    };
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "three", "a", b"abba");
    put(dir.path(), "three", "b", b"cb");
    let error = Text::load_dataset(&three, dir.path()).unwrap_err();
    assert!(
        matches!(
            error,
            TextError::Data {
                dataset: "three",
                state: FileState::Missing,
                ..
            }
        ),
        "{error}"
    );
    put(dir.path(), "three", "c", b"dad");
    let text = Text::load_dataset(&three, dir.path()).unwrap();
    assert_eq!(text.alphabet.bytes(), b"abcd");
    assert_eq!(text.train, [0, 1, 1, 0]);
    assert_eq!(text.validation, [2, 1]);
    assert_eq!(text.test, [3, 0, 3]);
    assert_eq!(SPLITS.map(|split| three.expected_symbols(split)), [4, 2, 3]);

    let two = Dataset {
        files: &three.files[..2],
        ..three
    };
    let error = Text::load_dataset(&two, dir.path()).unwrap_err();
    let empty = TextError::Empty {
        name: "three".into(),
        bytes: 6,
        split: Split::Test,
    };
    assert_eq!(error.to_string(), empty.to_string());
}

#[test]
fn errors_of_invalid_files_contain_the_download_command() {
    let dir = tempfile::tempdir().unwrap();
    let check = |content: Option<&[u8]>| {
        if let Some(content) = content {
            put(dir.path(), "war-and-peace", "warpeace_input.txt", content);
        }
        let (file, state, advice) = invalid_file("war-and-peace", dir.path());
        assert_eq!(file, "warpeace_input.txt");
        assert!(
            advice.contains("`laq download war-and-peace --data-dir"),
            "{advice}"
        );
        state
    };
    let wrong_size = |found| FileState::WrongSize {
        found,
        expected: 3_258_246,
    };
    assert_eq!(check(None), FileState::Missing);
    assert_eq!(check(Some(b"")), wrong_size(0));
    assert_eq!(check(Some(&synthetic(1000, 87))), wrong_size(1000));
    let long = synthetic(3_258_247, 87);
    assert_eq!(check(Some(&long)), wrong_size(3_258_247));
    // A file of the wrong size is not read: no memory holds this one.
    let file = dir.path().join("war-and-peace/warpeace_input.txt");
    fs::File::create(file).unwrap().set_len(1 << 42).unwrap();
    assert_eq!(check(None), wrong_size(1 << 42));
    let altered = check(Some(&synthetic(3_258_246, 87)));
    assert!(matches!(altered, FileState::Altered { .. }), "{altered}");
    let (_, _, advice) = invalid_file("linux-6.1-kernel", dir.path());
    assert!(advice.contains("--mirror DIR"), "{advice}");
    let (_, _, advice) = invalid_file("war-and-peace", Path::new("data"));
    assert!(!advice.contains("--data-dir"), "{advice}");
    assert!(matches!(
        Text::load("tolstoy", dir.path()),
        Err(TextError::Unknown(_))
    ));

    let folder = dir.path().join("linux-kernel/linux_input.txt");
    fs::create_dir_all(&folder).unwrap();
    let error = Text::load("linux-kernel", dir.path()).unwrap_err();
    assert!(
        matches!(&error, TextError::Io { path, .. } if *path == folder),
        "{error}"
    );
}

#[test]
fn the_states_of_a_file_have_sizes() {
    let state = |found| FileState::WrongSize { found, expected: 9 }.to_string();
    assert_eq!(state(0), "empty (expected 9 bytes)");
    assert_eq!(state(8), "truncated (8 bytes, expected 9)");
    assert_eq!(state(10), "too long (10 bytes, expected 9)");
}

/// Without a checksum, the number of symbols distinguishes the paper's text from the stand-in of
/// the same size.
#[test]
fn a_text_without_a_checksum_is_checked_by_size_and_symbols() {
    let dir = tempfile::tempdir().unwrap();
    put(
        dir.path(),
        "linux-kernel",
        "linux_input.txt",
        &synthetic(6_206_996, 97),
    );
    let (_, state, _) = invalid_file("linux-kernel", dir.path());
    let FileState::Altered { what } = state else {
        panic!("{state}");
    };
    assert_eq!(what, "97 distinct bytes, expected 101");
    put(
        dir.path(),
        "linux-kernel",
        "linux_input.txt",
        &synthetic(6_206_996, 101),
    );
    let text = Text::load("linux-kernel", dir.path()).unwrap();
    assert_eq!((text.alphabet.len(), text.train.len()), (101, 5_586_296));

    let dataset = find("linux-kernel").unwrap();
    let file = &dataset.files[0];
    assert_eq!(
        file.inspect(&dataset.path(file, dir.path())).unwrap(),
        FileState::Valid
    );
    assert_eq!(
        file.check.to_string(),
        "size and number of symbols only; no checksum is known"
    );
}

#[test]
fn a_file_of_the_users_is_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.bin");
    let halves = Fractions {
        train: 0.5,
        validation: 0.25,
    };
    let all: Vec<u8> = (0..=255).collect();
    fs::write(&path, &all).unwrap();
    let text = Text::from_file(&path, halves).unwrap();
    assert_eq!(
        (text.alphabet.len(), text.train.len(), text.validation.len()),
        (256, 128, 64)
    );
    assert_eq!(text.test, all[192..]);

    fs::write(&path, b"").unwrap();
    let error = Text::from_file(&path, halves).unwrap_err();
    let TextError::Empty { bytes, split, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((bytes, split), (0, Split::Train));
    fs::write(&path, b"abc").unwrap();
    let error = Text::from_file(&path, halves).unwrap_err();
    let TextError::Empty { bytes, split, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((bytes, split), (3, Split::Validation));
    let none = dir.path().join("none");
    let error = Text::from_file(&none, halves).unwrap_err();
    assert!(
        matches!(&error, TextError::Io { path, .. } if *path == none),
        "{error}"
    );

    for (train, validation) in [
        (0.0, 0.1),
        (0.9, 0.0),
        (0.9, 0.1),
        (1.5, 0.1),
        (f64::NAN, 0.1),
        (0.8, f64::INFINITY),
    ] {
        let error = Text::from_file(&path, Fractions { train, validation }).unwrap_err();
        assert!(matches!(error, TextError::Fractions { .. }), "{error}");
    }
}

#[test]
fn the_error_of_an_unknown_byte_has_its_offset() {
    let alphabet = Alphabet::of(&[b"hello", b" world"]);
    assert_eq!(alphabet.bytes(), b" dehlorw");
    assert_eq!(alphabet.encode(b"low").unwrap(), [4, 5, 7]);
    let error = alphabet.encode(b"hex").unwrap_err();
    assert_eq!(
        error,
        SymbolError::UnknownByte {
            byte: b'x',
            offset: 2,
            symbols: 8
        }
    );
    assert!(
        error.to_string().starts_with("byte 0x78 ('x') at offset 2"),
        "{error}"
    );
    let error = alphabet.decode(&[0, 8]).unwrap_err();
    assert_eq!(
        error,
        SymbolError::UnknownSymbol {
            symbol: 8,
            position: 1,
            symbols: 8
        }
    );
    assert_eq!(
        Alphabet::from_bytes(b" dehlorw".to_vec()).unwrap(),
        alphabet
    );
    for bad in [&b""[..], b"ba", b"aa"] {
        assert!(matches!(
            Alphabet::from_bytes(bad.to_vec()),
            Err(SymbolError::NotAnAlphabet { .. })
        ));
    }
}

#[test]
fn a_batch_that_does_not_fit_is_an_error() {
    let symbols = vec![0; 10_000];
    let error = Sequences::new(&symbols, 100, 100).unwrap_err();
    let SequencesError::TooShort { needed, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(needed, 10_001);
    assert_eq!(Sequences::new(&[0; 10_001], 100, 100).unwrap().batches(), 1);
    for (length, batch) in [(0, 1), (1, 0), (0, 0)] {
        assert_eq!(
            Sequences::new(&symbols, length, batch).unwrap_err(),
            SequencesError::Zero { length, batch }
        );
        assert_eq!(count_batches(10_000, length, batch), 0);
    }
    for (length, batch) in [(usize::MAX, usize::MAX), (1, usize::MAX), (usize::MAX, 1)] {
        let error = Sequences::new(&symbols, length, batch).unwrap_err();
        assert!(matches!(error, SequencesError::TooShort { .. }), "{error}");
    }
    assert!(Sequences::new(&[], 1, 1).is_err());
}

/// The order must stay what it is, or a resumed run would go on with other batches. The figures
/// come from a second implementation, in another language, of ChaCha8 with 64-bit words, SHA-256
/// keys and the shuffle.
#[test]
fn the_order_of_an_epoch_is_pinned() {
    assert_eq!(epoch_order(8, 1, 0), [6, 0, 4, 1, 5, 2, 3, 7]);
    assert_eq!(epoch_order(8, 1, 1), [4, 2, 1, 0, 7, 6, 5, 3]);
    assert_eq!(epoch_order(8, 2, 0), [5, 7, 1, 6, 2, 3, 0, 4]);
    assert_eq!(epoch_order(100, 3, 7)[..8], [2, 91, 82, 11, 17, 83, 0, 1]);
    assert!(epoch_order(0, 1, 0).is_empty());
}

/// Each of the 24 orders of four sequences comes up about as often as any other.
#[test]
fn orders_are_drawn_uniformly() {
    let mut counts = std::collections::BTreeMap::new();
    for epoch in 0..24_000 {
        *counts.entry(epoch_order(4, 5, epoch)).or_insert(0i32) += 1;
    }
    assert_eq!(counts.len(), 24);
    // The standard deviation of each count is 31.
    assert!(
        counts.values().all(|count| (count - 1000).abs() < 155),
        "{counts:?}"
    );
}

proptest! {
    #[test]
    fn an_epoch_uses_every_symbol_of_the_whole_batches_once(
        length in 1usize..12,
        batch in 1usize..8,
        extra in 1usize..400,
        seed: u64,
        epoch: u32,
    ) {
        // Distinct neighbours, so that a shift by anything but one shows.
        let symbols: Vec<u8> = (0..length * batch + extra).map(|index| (index % 251) as u8).collect();
        let sequences = Sequences::new(&symbols, length, batch).unwrap();
        prop_assert_eq!(sequences.batches(), count_batches(symbols.len(), length, batch));
        prop_assert_eq!(sequences.batches(), (symbols.len() - 1) / (length * batch));
        prop_assert_eq!(sequences.count(), sequences.batches() * batch);

        let order = epoch_order(sequences.count(), seed, epoch);
        let mut used = vec![0; symbols.len()];
        let (mut inputs, mut targets) = (vec![0; length * batch], vec![0; length * batch]);
        for index in 0..sequences.batches() {
            sequences.fill(&order, index, &mut inputs, &mut targets);
            let arrays = sequences.batch(&order, index);
            for t in 0..length {
                for b in 0..batch {
                    let position = order[index * batch + b] as usize * length + t;
                    used[position] += 1;
                    prop_assert_eq!(inputs[t * batch + b], symbols[position]);
                    prop_assert_eq!(targets[t * batch + b], symbols[position + 1]);
                    prop_assert_eq!(arrays.0[[t, b]], symbols[position]);
                    prop_assert_eq!(arrays.1[[t, b]], symbols[position + 1]);
                }
            }
        }
        let (whole, rest) = used.split_at(sequences.count() * length);
        prop_assert!(whole.iter().all(|&times| times == 1));
        prop_assert!(rest.iter().all(|&times| times == 0));
        prop_assert!((1..=length * batch).contains(&rest.len()));
    }

    #[test]
    fn an_order_is_a_permutation_and_a_function_of_seed_and_epoch(n in 0usize..500, seed: u64, epoch: u32) {
        let order = epoch_order(n, seed, epoch);
        prop_assert_eq!(&order, &epoch_order(n, seed, epoch));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, identity_order(n));
        if n > 50 {
            prop_assert_ne!(&order, &epoch_order(n, seed, epoch.wrapping_add(1)));
            prop_assert_ne!(&order, &epoch_order(n, seed.wrapping_add(1), epoch));
        }
    }

    #[test]
    fn decoding_undoes_encoding(text: Vec<u8>) {
        let alphabet = Alphabet::of(&[&text]);
        let symbols = alphabet.encode(&text).unwrap();
        prop_assert!(symbols.iter().all(|&symbol| usize::from(symbol) < alphabet.len()));
        prop_assert_eq!(alphabet.decode(&symbols).unwrap(), text);
    }

    #[test]
    fn splits_in_order_are_the_text(bytes in 20usize..3000, train in 0.1f64..0.8, share in 0.1f64..0.9) {
        let validation = (1.0 - train) * share;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        let content = synthetic(bytes, 41);
        fs::write(&path, &content).unwrap();
        let fractions = Fractions { train, validation };
        let text = match Text::from_file(&path, fractions) {
            Ok(text) => text,
            // Only a share of less than one byte may be refused.
            Err(TextError::Empty { .. }) => {
                prop_assert!(bytes as f64 * train.min(validation).min(1.0 - train - validation) < 1.0 + 1e-9);
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        prop_assert_eq!(text.train.len(), (bytes as f64 * train).floor() as usize);
        prop_assert_eq!(text.validation.len(), (bytes as f64 * validation).floor() as usize);
        let symbols = [text.train, text.validation, text.test].concat();
        prop_assert_eq!(text.alphabet.decode(&symbols).unwrap(), content);
    }
}

#[cfg(unix)]
#[test]
fn a_device_is_no_text() {
    let fractions = Fractions {
        train: 0.8,
        validation: 0.1,
    };
    let error = Text::from_file("/dev/zero".as_ref(), fractions).expect_err("it has no end");
    let expected = "/dev/zero cannot be read: it is no plain file";
    assert_eq!(error.to_string(), expected);
}
