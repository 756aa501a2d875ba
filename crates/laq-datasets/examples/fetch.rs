//! Downloads a data set and prints the sizes of a text:
//! `cargo run -p laq-datasets --features fetch --example fetch -- NAME DATA_DIR [MIRROR]`

use std::error::Error;
use std::path::Path;

use laq_datasets::{DownloadOptions, Phase, Sequences, Split, Text, download, find};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, data_dir, mirror @ ..] = arguments.as_slice() else {
        return Err("usage: fetch NAME DATA_DIR [MIRROR]".into());
    };
    let data_dir = Path::new(data_dir);
    let options = DownloadOptions {
        mirror: mirror.first().cloned(),
        ..Default::default()
    };
    let outcome = download(find(name)?, data_dir, &options, &mut |progress| {
        if let Phase::Fetch(address) = progress.phase
            && progress.done == progress.total
        {
            println!("{}: {} bytes from {address}", progress.file, progress.total);
        }
    })?;
    println!("{outcome}");

    if find(name)?.symbols().is_none() {
        println!("to show images: cargo run --release -p laq-datasets --example images -- {name}");
        return Ok(());
    }
    let text = Text::load(name, data_dir)?;
    println!("{} symbols", text.alphabet.len());
    for split in [Split::Train, Split::Validation, Split::Test] {
        let symbols = text.split(split);
        let batches = Sequences::new(symbols, 100, 100)?.batches();
        println!(
            "{split}: {} bytes, {batches} batches of 100 sequences of 100",
            symbols.len()
        );
    }
    Ok(())
}
