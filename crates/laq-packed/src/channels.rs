//! What quantizing leaves of each channel of a tensor.

use laq_solvers::{Codebook, Groups, Scale};
use rayon::prelude::*;
use serde::Serialize;

/// A channel with a larger error relative to its weights is lost.
const LOST: f64 = 0.5;

/// Channels and weights that are decoded at a time.
const CHANNELS: usize = 256;
const PART: usize = 4096;

/// Channels of which little is left: those whose `Σ d (w − ŵ)²` is more than half of `Σ d w²`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostChannels {
    /// How many there are.
    pub count: usize,
    /// All channels of the tensor.
    pub channels: usize,
    /// The one with the largest relative error.
    pub worst: usize,
    /// Its relative error.
    pub relative_error: f64,
}

/// A quantized tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) curvature: Option<&'a [f32]>,
    pub(crate) codebook: &'a Codebook,
    pub(crate) levels: &'a [i8],
    pub(crate) groups: Groups,
    pub(crate) scales: &'a [Scale],
}

/// `½ Σ d w²` of a tensor, and its channels that are lost; the rows of its matrix are its channels.
pub(crate) fn compare(decoded: Decoded<'_>, rows: usize) -> (f64, Option<LostChannels>) {
    let columns = decoded.weights.len().checked_div(rows).unwrap_or(0);
    let firsts: Vec<usize> = (0..rows).step_by(CHANNELS).collect();
    let of_parts: Vec<_> = firsts
        .into_par_iter()
        .map(|first| {
            let mut buffer = Vec::new();
            let channel = |row| Part::of(row, decoded.sums(row * columns, columns, &mut buffer));
            let channels = (first..rows.min(first + CHANNELS)).map(channel);
            channels.fold(Part::default(), Part::then)
        })
        .collect();
    let all = of_parts.into_iter().fold(Part::default(), Part::then);
    let lost = all.worst.filter(|_| rows > 1);
    let lost = lost.map(|(worst, relative_error)| LostChannels {
        count: all.count,
        channels: rows,
        worst,
        relative_error,
    });
    (0.5 * all.energy, lost)
}

impl Decoded<'_> {
    /// `[Σ d (w − ŵ)², Σ d w²]` of successive weights.
    fn sums(&self, start: usize, length: usize, buffer: &mut Vec<f32>) -> [f64; 2] {
        let (mut sums, end) = ([0.0; 2], start + length);
        let mut next = start;
        while next < end {
            let group = self.groups.group_of(next);
            let last = end.min(self.groups.range(group).end).min(next + PART);
            buffer.resize(last - next, 0.0);
            self.codebook
                .decode(&self.levels[next..last], self.scales[group], buffer);
            for (index, quantized) in (next..last).zip(&*buffer) {
                let w = f64::from(self.weights[index]);
                let d = self.curvature.map_or(1.0, |d| f64::from(d[index]));
                let rest = w - f64::from(*quantized);
                sums[0] += d * rest * rest;
                sums[1] += d * w * w;
            }
            next = last;
        }
        sums
    }
}

/// Some of the channels.
#[derive(Default)]
struct Part {
    energy: f64,
    /// Channels that are lost, and the worst of them.
    count: usize,
    worst: Option<(usize, f64)>,
}

impl Part {
    fn of(channel: usize, [error, energy]: [f64; 2]) -> Self {
        let is_lost = energy > 0.0 && error > LOST * energy;
        Self {
            energy,
            count: usize::from(is_lost),
            worst: is_lost.then(|| (channel, error / energy)),
        }
    }

    /// This part and the next.
    fn then(self, next: Self) -> Self {
        let is_worse = |(_, first): &(usize, f64), (_, second): &(usize, f64)| second > first;
        let worst = match (self.worst, next.worst) {
            (Some(first), Some(second)) if is_worse(&first, &second) => Some(second),
            (first, second) => first.or(second),
        };
        Self {
            energy: self.energy + next.energy,
            count: self.count + next.count,
            worst,
        }
    }
}
