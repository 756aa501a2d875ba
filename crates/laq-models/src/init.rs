//! Initial weights, each parameter from a random stream of its own.

use ndarray::{ArrayD, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Normal, Uniform};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How a parameter starts.
#[derive(Clone, Debug)]
pub(crate) enum Init {
    /// Uniform in [−range, range].
    Uniform { range: f32 },
    /// Normal around zero.
    Normal { standard_deviation: f32 },
    /// One constant for each equal block of rows.
    Blocks(Vec<f32>),
}

/// The random stream of `name`: ChaCha8 keyed by the seed, on a stream number that is the FNV-1a
/// hash of the name. So a parameter's weights do not depend on which others exist.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }));
    random
}

/// The first values of parameter `name`. The settings are finite and not negative.
pub(crate) fn draw(init: &Init, shape: &[usize], seed: u64, name: &str) -> ArrayD<f32> {
    let shape = IxDyn(shape);
    let mut random = stream(seed, name);
    match init {
        Init::Uniform { range } => {
            let uniform = Uniform::new_inclusive(-range, *range).expect("a finite range");
            ArrayD::random_using(shape, uniform, &mut random)
        }
        Init::Normal { standard_deviation } => {
            let normal = Normal::new(0.0, *standard_deviation).expect("a finite deviation");
            ArrayD::random_using(shape, normal, &mut random)
        }
        Init::Blocks(values) => {
            let mut array = ArrayD::zeros(shape);
            let size = array.len() / values.len();
            for (index, element) in array.iter_mut().enumerate() {
                *element = values[(index / size.max(1)).min(values.len() - 1)];
            }
            array
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_apart() {
        let init = Init::Uniform { range: 0.08 };
        let first = draw(&init, &[1000], 1, "a");
        assert_eq!(first, draw(&init, &[1000], 1, "a"));
        assert_ne!(first, draw(&init, &[1000], 1, "b"));
        assert_ne!(first, draw(&init, &[1000], 2, "a"));
        assert!(first.iter().all(|w| w.abs() <= 0.08));
        assert!(first.iter().any(|w| *w > 0.07) && first.iter().any(|w| *w < -0.07));
    }

    #[test]
    fn blocks_are_constant() {
        let bias = draw(&Init::Blocks(vec![0.0, 1.0, 0.0, 0.0]), &[8], 1, "bias");
        assert_eq!(
            bias.as_slice().unwrap(),
            [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        );
    }
}
