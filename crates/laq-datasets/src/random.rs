//! Named random streams, and the order in which an epoch visits its sequences.
//!
//! A stream is a ChaCha8 generator whose key is the SHA-256 of the stream's name and numbers, so that two
//! streams never share their values and none depends on what was drawn before.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// The stream called `name` for these numbers.
pub(crate) fn stream(name: &str, numbers: &[u64]) -> ChaCha8Rng {
    let mut key = Sha256::new();
    key.update(name);
    for number in numbers {
        key.update(number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key.finalize().into())
}

/// A number in `0..bound`, `bound > 0`, by the high half of a product.
///
/// Written out here because the result must stay the same with every version of every dependency.
/// The bias is below `bound` / 2⁶⁴, which no experiment can see.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// The order in which epoch `epoch` visits `sequences` sequences: a uniformly drawn permutation of
/// `0..sequences` that depends on `sequences`, `seed` and `epoch` alone.
///
/// So a resumed run shuffles as the run that was never stopped, and needs no state for it. The stream is
/// called `shuffle`; the permutation is drawn by Fisher and Yates from the last place to the second.
///
/// # Panics
///
/// If `sequences` exceeds `u32::MAX`, which [`Sequences`](crate::Sequences) rules out.
pub fn epoch_order(sequences: usize, seed: u64, epoch: u32) -> Vec<u32> {
    let mut rng = stream("shuffle", &[seed, u64::from(epoch)]);
    let mut order = identity_order(sequences);
    for last in (1..sequences).rev() {
        order.swap(last, below(&mut rng, last + 1));
    }
    order
}

/// The sequences in the order of the text, as evaluation visits them.
///
/// # Panics
///
/// If `sequences` exceeds `u32::MAX`, which [`Sequences`](crate::Sequences) rules out.
pub fn identity_order(sequences: usize) -> Vec<u32> {
    let sequences = u32::try_from(sequences).expect("at most u32::MAX sequences");
    (0..sequences).collect()
}
