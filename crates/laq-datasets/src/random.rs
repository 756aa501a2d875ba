//! Named random streams, and the order in which an epoch visits its sequences.
//!
//! A stream is a ChaCha8 generator whose key is the SHA-256 of the stream's name and numbers, so
//! that two streams never share their values and none depends on what was drawn before.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// The stream `name` with the parameters `numbers`.
pub(crate) fn stream(name: &str, numbers: &[u64]) -> ChaCha8Rng {
    let mut key = Sha256::new();
    key.update(name);
    for number in numbers {
        key.update(number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key.finalize().into())
}

/// A uniform integer in `0..bound`, `bound > 0`: the high half of a product.
///
/// Implemented here because the result must not change with the version of a dependency. The bias
/// is below `bound` / 2⁶⁴.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// The order of the sequences in epoch `epoch`: a uniform permutation of `0..sequences` that
/// depends on `sequences`, `seed` and `epoch` only, so that a resumed run needs no state of the
/// generator.
///
/// The stream is `shuffle`; the algorithm is Fisher–Yates from the last index to the second.
///
/// # Panics
///
/// If `sequences` exceeds `u32::MAX`; [`Sequences`](crate::Sequences) never has that many.
pub fn epoch_order(sequences: usize, seed: u64, epoch: u32) -> Vec<u32> {
    let mut rng = stream("shuffle", &[seed, u64::from(epoch)]);
    let mut order = identity_order(sequences);
    for last in (1..sequences).rev() {
        order.swap(last, below(&mut rng, last + 1));
    }
    order
}

/// The identity permutation, which evaluation uses.
///
/// # Panics
///
/// If `sequences` exceeds `u32::MAX`; [`Sequences`](crate::Sequences) never has that many.
pub fn identity_order(sequences: usize) -> Vec<u32> {
    let sequences = u32::try_from(sequences).expect("at most u32::MAX sequences");
    (0..sequences).collect()
}
