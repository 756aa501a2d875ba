//! The demo images: digits rendered from strokes.
//!
//! They make the feedforward networks run without files. Each digit is one of a few glyphs under a
//! random affine map with a bend, drawn with a random pen width and darkness, a stray stroke and
//! noise. All values come from one seeded stream and from sums, products, quotients and square
//! roots of `f32`, which IEEE 754 defines exactly, so the images are the same on every machine (a
//! test pins their checksum). They are easier than MNIST: errors on them show whether a network
//! learns and how methods differ, and are not comparable with the figures of the paper.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

use super::{ImageSize, RawImages};
use crate::random::{below, stream};

/// The data set's name.
pub(crate) const NAME: &str = "demo-digits";
/// One grey value a pixel.
pub(crate) const SHAPE: ImageSize = ImageSize {
    height: 28,
    width: 28,
    channels: 1,
};
/// Images for training, validation and testing.
pub(crate) const COUNTS: [usize; 3] = [4_000, 1_000, 1_000];
/// The ten digits.
pub(crate) const CLASSES: usize = 10;

/// The three splits.
pub(crate) fn draw() -> [RawImages; 3] {
    let mut rng = stream("demo digits", &[]);
    COUNTS.map(|count| {
        let mut canvas = Canvas::new();
        let mut pixels = Vec::with_capacity(count * SHAPE.elements());
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            let digit = below(&mut rng, CLASSES);
            canvas.draw(digit, &mut rng);
            canvas.develop(&mut rng, &mut pixels);
            labels.push(digit as u8);
        }
        RawImages {
            shape: SHAPE,
            pixels: pixels.into(),
            labels,
        }
    })
}

type Point = [f32; 2];

/// A uniform value in `low..high`, one of 2²⁴ equidistant values up to rounding.
fn between(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * ((rng.next_u32() >> 8) as f32 / 16_777_216.0)
}

/// Ink a pixel, from 0 to 1.
struct Canvas {
    ink: [f32; 784],
}

impl Canvas {
    fn new() -> Self {
        Self { ink: [0.0; 784] }
    }

    /// Draws one digit, and with probability 1/2 a stray stroke, on an empty canvas.
    fn draw(&mut self, digit: usize, rng: &mut ChaCha8Rng) {
        self.ink.fill(0.0);
        let glyphs = DIGITS[digit];
        let glyph = glyphs[below(rng, glyphs.len())];
        let map = Distortion::random(rng);
        let half_width = between(rng, 0.8, 1.6);
        let ink = between(rng, 0.55, 1.0);
        for stroke in glyph {
            let points: Vec<Point> = stroke
                .points
                .iter()
                .map(|&[x, y]| {
                    let jitter = [between(rng, -0.9, 0.9), between(rng, -0.9, 0.9)];
                    [f32::from(x) + jitter[0], f32::from(y) + jitter[1]]
                })
                .collect();
            let path = stroke.path(points);
            for pair in path.windows(2) {
                self.line(map.apply(pair[0]), map.apply(pair[1]), half_width, ink);
            }
        }
        if below(rng, 2) == 0 {
            let start = [between(rng, 0.0, 28.0), between(rng, 0.0, 28.0)];
            let end = [
                start[0] + between(rng, -9.0, 9.0),
                start[1] + between(rng, -9.0, 9.0),
            ];
            let ink = between(rng, 0.2, 0.8);
            self.line(start, end, 0.6, ink);
        }
    }

    /// Draws a line from `a` to `b` in pixels, antialiased over one pixel; a pixel keeps the larger
    /// value.
    fn line(&mut self, a: Point, b: Point, half_width: f32, ink: f32) {
        let reach = half_width + 0.5;
        let span = |axis: usize| {
            let low = a[axis].min(b[axis]) - reach;
            let high = a[axis].max(b[axis]) + reach;
            // A cast of f32 to usize saturates at 0.
            (low.ceil() as usize)..(high.floor() + 1.0).clamp(0.0, 28.0) as usize
        };
        let along = [b[0] - a[0], b[1] - a[1]];
        let length2 = along[0] * along[0] + along[1] * along[1];
        for y in span(1) {
            for x in span(0) {
                let from = [x as f32 - a[0], y as f32 - a[1]];
                let t = match length2 > 0.0 {
                    true => ((from[0] * along[0] + from[1] * along[1]) / length2).clamp(0.0, 1.0),
                    false => 0.0,
                };
                let off = [from[0] - t * along[0], from[1] - t * along[1]];
                let distance = (off[0] * off[0] + off[1] * off[1]).sqrt();
                let cover = (reach - distance).clamp(0.0, 1.0) * ink;
                let pixel = &mut self.ink[y * 28 + x];
                *pixel = pixel.max(cover);
            }
        }
    }

    /// Appends the image as bytes, with uniform noise of random amplitude.
    fn develop(&self, rng: &mut ChaCha8Rng, pixels: &mut Vec<u8>) {
        let strength = between(rng, 0.05, 0.3);
        let paper = between(rng, 0.0, 0.15);
        let mut noise = [0; 784];
        rng.fill_bytes(&mut noise);
        pixels.extend(self.ink.iter().zip(noise).map(|(&ink, noise)| {
            let noise = (f32::from(noise) - 127.5) / 127.5;
            let value = paper + (1.0 - paper) * ink + strength * noise;
            // The cast saturates at 0 and 255.
            (value * 255.0 + 0.5) as u8
        }));
    }
}

/// The map from the grid to pixels: bend, scale, shear, rotation and translation, in this order.
struct Distortion {
    bend: f32,
    scale: Point,
    shear: f32,
    rotation: Point,
    shift: Point,
}

impl Distortion {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let size = between(rng, 1.05, 1.5);
        // With t the tangent of half the angle, (1 − t²) / (1 + t²) is its cosine and 2t / (1 + t²)
        // its sine.
        let t = between(rng, -0.15, 0.15);
        Self {
            bend: between(rng, -0.04, 0.04),
            scale: [size * between(rng, 0.75, 1.25), size],
            shear: between(rng, -0.3, 0.3),
            rotation: [(1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)],
            shift: [between(rng, -2.5, 2.5), between(rng, -2.5, 2.5)],
        }
    }

    /// From the grid of [`DIGITS`] to pixels.
    fn apply(&self, [x, y]: Point) -> Point {
        let (x, y) = (x - 5.0, y - 7.0);
        let x = x + self.bend * y * y;
        let (x, y) = (x * self.scale[0], y * self.scale[1]);
        let x = x + self.shear * y;
        let [cos, sin] = self.rotation;
        [
            13.5 + cos * x - sin * y + self.shift[0],
            13.5 + sin * x + cos * y + self.shift[1],
        ]
    }
}

/// A polyline or curve over a grid that is 10 wide and 14 high.
struct Stroke {
    kind: StrokeKind,
    points: &'static [[u8; 2]],
}

/// How the points of a stroke are connected.
#[derive(PartialEq)]
enum StrokeKind {
    /// By straight lines.
    Straight,
    /// By an open curve with the points as control points.
    Curve,
    /// By a closed curve.
    Ring,
}

impl Stroke {
    /// The vertices of the polyline; curves are refined twice by Chaikin's corner cutting.
    fn path(&self, mut points: Vec<Point>) -> Vec<Point> {
        if self.kind == StrokeKind::Straight {
            return points;
        }
        let closed = self.kind == StrokeKind::Ring;
        for _ in 0..2 {
            let mut cut = Vec::with_capacity(2 * points.len() + 2);
            let (first, last) = (points[0], points[points.len() - 1]);
            if closed {
                points.push(first);
            } else {
                cut.push(first);
            }
            for pair in points.windows(2) {
                for share in [0.25, 0.75] {
                    cut.push(
                        [0, 1].map(|axis| pair[0][axis] * (1.0 - share) + pair[1][axis] * share),
                    );
                }
            }
            if !closed {
                cut.push(last);
            }
            points = cut;
        }
        if closed {
            points.push(points[0]);
        }
        points
    }
}

const fn straight(points: &'static [[u8; 2]]) -> Stroke {
    Stroke {
        kind: StrokeKind::Straight,
        points,
    }
}

const fn curve(points: &'static [[u8; 2]]) -> Stroke {
    Stroke {
        kind: StrokeKind::Curve,
        points,
    }
}

const fn ring(points: &'static [[u8; 2]]) -> Stroke {
    Stroke {
        kind: StrokeKind::Ring,
        points,
    }
}

/// The glyphs of each digit: strokes over a grid with (0, 0) at the upper left and (10, 14) at the lower
/// right.
#[rustfmt::skip]
const DIGITS: [&[&[Stroke]]; CLASSES] = [
    &[
        &[ring(&[[5, 0], [10, 1], [10, 13], [5, 14], [0, 13], [0, 1]])],
        &[ring(&[[5, 0], [9, 3], [9, 11], [5, 14], [1, 11], [1, 3]])],
        &[curve(&[[6, 0], [0, 0], [0, 14], [5, 14], [10, 14], [10, 0], [4, 0]])],
    ],
    &[
        &[straight(&[[5, 0], [5, 14]])],
        &[straight(&[[2, 4], [5, 0], [5, 14]])],
        &[straight(&[[2, 3], [5, 0], [5, 14]]), straight(&[[2, 14], [8, 14]])],
    ],
    &[
        &[curve(&[[1, 3], [3, 0], [9, 0], [10, 6], [4, 10], [1, 14]]), straight(&[[1, 14], [9, 14]])],
        &[curve(&[[1, 2], [8, 0], [9, 7], [3, 14], [0, 13], [2, 10], [6, 13], [10, 14]])],
    ],
    &[
        &[curve(&[[1, 1], [9, 0], [10, 6], [4, 7]]), curve(&[[4, 7], [11, 7], [10, 14], [4, 14], [1, 12]])],
        &[straight(&[[1, 0], [9, 0], [4, 6]]), curve(&[[4, 6], [10, 6], [10, 14], [4, 14], [1, 12]])],
    ],
    &[
        &[straight(&[[5, 0], [1, 8], [9, 8]]), straight(&[[7, 4], [7, 14]])],
        &[straight(&[[7, 14], [7, 0], [1, 9], [9, 9]])],
        &[curve(&[[1, 0], [1, 7], [3, 8], [8, 7]]), straight(&[[8, 0], [8, 14]])],
    ],
    &[
        &[straight(&[[9, 0], [2, 0], [2, 6]]), curve(&[[2, 6], [8, 4], [10, 10], [7, 14], [1, 13]])],
        &[curve(&[[9, 0], [3, 0], [2, 5], [8, 5], [10, 10], [7, 15], [1, 13]])],
    ],
    &[
        &[curve(&[[8, 0], [1, 4], [0, 13], [5, 15], [10, 12], [8, 6], [3, 7], [1, 10]])],
        &[straight(&[[6, 0], [2, 8]]), ring(&[[5, 7], [9, 8], [9, 13], [5, 14], [1, 13], [1, 9]])],
    ],
    &[
        &[straight(&[[1, 0], [9, 0], [4, 14]])],
        &[straight(&[[1, 0], [9, 0], [4, 14]]), straight(&[[3, 7], [8, 7]])],
        &[curve(&[[1, 2], [1, 0], [10, 0], [7, 5], [5, 14]])],
    ],
    &[
        &[ring(&[[5, 0], [9, 1], [8, 6], [5, 7], [2, 6], [1, 1]]), ring(&[[5, 7], [9, 8], [10, 13], [5, 14], [0, 13], [1, 8]])],
        &[ring(&[[8, 1], [2, 0], [1, 4], [9, 10], [9, 14], [1, 14], [1, 10], [9, 4]])],
    ],
    &[
        &[ring(&[[5, 0], [9, 1], [9, 6], [5, 7], [1, 6], [1, 1]]), straight(&[[9, 3], [8, 14]])],
        &[curve(&[[9, 3], [6, 0], [1, 0], [0, 7], [6, 8], [9, 3]]), curve(&[[9, 3], [10, 9], [8, 13], [2, 14]])],
    ],
];

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_images_have_their_checksum() {
        let mut digest = Sha256::new();
        for split in draw() {
            digest.update(&split.labels);
            digest.update(&split.pixels[..]);
        }
        assert_eq!(
            hex::encode(digest.finalize()),
            "ab818b0e7288f37c44781f2c4e3589c62dd6cd52f076cf96bf5a4eae54ef291e"
        );
    }
}
