//! Loads a set of images, prints its size and renders four images as text:
//! `cargo run --release -p laq-datasets --example images -- [NAME] [DATA_DIR]`

use std::error::Error;

use laq_datasets::{ImageSet, Preprocessing, Split, epoch_order};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("demo-digits".into());
    let data_dir = arguments.next().unwrap_or("data".into());
    let mut report = |message: &str| println!("{message} ...");
    let set = ImageSet::load(
        &name,
        data_dir.as_ref(),
        Some(Preprocessing::None),
        &mut report,
    )?;
    println!(
        "{name}: {} images of {} classes",
        set.shape(),
        set.classes()
    );
    for split in Split::ALL {
        let mut counts = vec![0; set.classes()];
        for &label in set.split(split).labels() {
            counts[usize::from(label)] += 1;
        }
        let (fewest, most) = (counts.iter().min(), counts.iter().max());
        let (fewest, most) = (fewest.unwrap_or(&0), most.unwrap_or(&0));
        println!(
            "{split}: {} images, {fewest} to {most} per class",
            set.split(split).len()
        );
    }

    // The first four images of epoch 1 with seed 1, at half the height, as characters by
    // brightness.
    let shape = set.shape();
    let order = epoch_order(set.split(Split::Train).len(), 1, 1);
    let (mut inputs, mut labels) = (vec![0.0; 4 * shape.elements()], [0; 4]);
    set.split(Split::Train)
        .fill(&order[..4], &mut inputs, &mut labels);
    println!("labels {labels:?}");
    for row in (0..shape.height).step_by(2) {
        let mut line = String::new();
        for image in inputs.chunks(shape.elements()) {
            for pixel in image
                .chunks(shape.channels)
                .skip(row * shape.width)
                .take(shape.width)
            {
                let grey = pixel.iter().sum::<f32>() / pixel.len() as f32;
                line.push(char::from(b" .:-=+*#%@"[(grey * 9.99) as usize]));
            }
            line.push_str("  ");
        }
        println!("{line}");
    }
    Ok(())
}
