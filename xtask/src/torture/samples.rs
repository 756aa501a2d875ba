//! Files of weights, images and texts, made up.

use super::random::Random;

const COLUMNS: usize = 256;

fn normal(random: &Random) -> f32 {
    (0..6).map(|_| random.uniform() - 0.5).sum::<f64>() as f32
}

/// Lines of words.
pub(crate) fn text() -> String {
    let words = [
        "tide", "wind", "rope", "sail", "fog", "bell", "stone", "gull",
    ];
    let random = Random::of(1, "text", 1);
    let mut text = String::new();
    while text.len() < 3000 {
        text.push_str(random.pick(&words));
        text.push(random.pick(&[' ', ' ', ' ', '\n']));
    }
    text
}

/// Safetensors with two matrices and a bias; `map` makes a weight from a normal number.
pub(crate) fn safetensors(seed: u64, rows: usize, map: impl Fn(f32) -> f32) -> Vec<u8> {
    let random = Random::of(seed, "weights", 1);
    let shapes: [(&str, &[usize]); 3] = [
        ("a.weight", &[rows, COLUMNS]),
        ("b.weight", &[64, 320]),
        ("bias", &[64]),
    ];
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in shapes {
        let from = data.len();
        for _ in 0..shape.iter().product() {
            data.extend(map(normal(&random)).to_le_bytes());
        }
        let to = data.len();
        entries.push(format!(
            "\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{from},{to}]}}"
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &data,
    ]
    .concat()
}

/// The index of a model whose only shard is `shard`, a file of [`safetensors`].
pub(crate) fn index(shard: &str) -> String {
    let names = ["a.weight", "b.weight", "bias"].map(|name| format!("\"{name}\":\"{shard}\""));
    format!(
        "{{\"metadata\":{{\"total_size\":278784}},\"weight_map\":{{{}}}}}",
        names.join(",")
    )
}

/// GGUF with the matrix `a.weight` in F32.
pub(crate) fn gguf() -> Vec<u8> {
    const STRING: u32 = 8;
    const F32: u32 = 0;
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let rows = 32;
    let mut bytes = [
        &b"GGUF"[..],
        &3_u32.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &text("general.type"),
        &STRING.to_le_bytes(),
        &text("model"),
        &text("a.weight"),
        &2_u32.to_le_bytes(),
        &(COLUMNS as u64).to_le_bytes(),
        &(rows as u64).to_le_bytes(),
        &F32.to_le_bytes(),
        &0_u64.to_le_bytes(),
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let random = Random::of(1, "gguf", 1);
    bytes.extend((0..rows * COLUMNS).flat_map(|_| normal(&random).to_le_bytes()));
    bytes
}

/// An importance matrix of llama.cpp, in its older format, for [`gguf`].
pub(crate) fn importance_matrix() -> Vec<u8> {
    let name = b"a.weight";
    let number = |number: usize| (number as i32).to_le_bytes();
    let mut bytes = [
        &number(1)[..],
        &number(name.len()),
        name,
        &number(1),
        &number(COLUMNS),
    ]
    .concat();
    let random = Random::of(1, "importance", 1);
    bytes.extend((0..COLUMNS).flat_map(|_| normal(&random).powi(2).to_le_bytes()));
    bytes
}

/// The side of the demo images, in pixels.
const SIDE: usize = 28;

/// An image as PGM.
pub(crate) fn pgm() -> Vec<u8> {
    [format!("P5 {SIDE} {SIDE} 255\n").as_bytes(), &pixels(1)].concat()
}

/// Images as idx.
pub(crate) fn idx() -> Vec<u8> {
    let number = |number: usize| (number as u32).to_be_bytes();
    let count = 3;
    [
        &number(0x0803)[..],
        &number(count),
        &number(SIDE),
        &number(SIDE),
        &pixels(count),
    ]
    .concat()
}

fn pixels(images: usize) -> Vec<u8> {
    let random = Random::of(1, "pixels", 1);
    (0..images * SIDE * SIDE)
        .map(|_| random.next() as u8)
        .collect()
}
