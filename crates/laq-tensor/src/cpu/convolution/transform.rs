//! The transforms of F(4 × 4, 3 × 3), for sixteen channels at a time.
//!
//! A one-dimensional convolution of 3 taps with 4 outputs is a product of polynomials, evaluated at the
//! points 0, ±a, ±b and ∞ (Toom and Cook; Winograd). With
//!
//! ```text
//!       ⎡1 0  0 ⎤          ⎡1 0  0  0 ⎤            ⎡a²b²   0  −a²−b²    0    1  0⎤
//!       ⎢1 a  a²⎥          ⎢1 a  a² a³⎥            ⎢ 0   −ab²  −b²      a    1  0⎥
//! G = N ⎢1 −a a²⎥      A = ⎢1 −a a² −a³⎥      Bᵀ = ⎢ 0    ab²  −b²     −a    1  0⎥
//!       ⎢1 b  b²⎥          ⎢1 b  b² b³⎥            ⎢ 0   −a²b  −a²      b    1  0⎥
//!       ⎢1 −b b²⎥          ⎢1 −b b² −b³⎥           ⎢ 0    a²b  −a²     −b    1  0⎥
//!       ⎣0 0  1 ⎦          ⎣0 0  0  1 ⎦            ⎣ 0   a²b²   0   −a²−b²   0  1⎦
//!
//! N = diag(1/(a²b²), n_a, n_a, n_b, n_b, 1)      n_a = 1/(2a²(a² − b²))      n_b = 1/(2b²(b² − a²))
//! ```
//!
//! four outputs of the taps g on the six inputs d are Aᵀ(Gg ⊙ Bᵀd); in two dimensions a matrix is
//! transformed on both sides. Its gradients are the transposes: ∂g = Gᵀ(A∂y ⊙ Bᵀd).
//!
//! a = 3/4 and b = 3/2: every entry of A and B is exact, and the error is about half of that with the
//! usual 1 and 2 (Barabasz, Anderson, Soodhalter, Gregg: Error analysis and improving the accuracy of
//! Winograd convolution for deep neural networks, 2020, discuss the choice of points).

use laq_simd::{Isa, Set};

use super::vector::Vector;

/// Rows and columns of a tile of outputs.
pub(super) const TILE: usize = 4;
/// Rows and columns of the pixels under a tile, and of a transformed tile.
pub(super) const SIDE: usize = TILE + 2;
/// Rows and columns of a filter.
pub(super) const TAPS: usize = 3;
/// Channels are transformed in groups of this size.
pub(super) const LANES: usize = 16;
/// Stands for the place of a pixel outside of the image, which is zero and is not written.
pub(super) const OUTSIDE: usize = usize::MAX;

const A: f32 = 0.75;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;
/// The diagonal of N.
const N_0: f32 = (1.0 / (0.5625 * 2.25)) as f32;
const N_A: f32 = (1.0 / (2.0 * 0.5625 * (0.5625 - 2.25))) as f32;
const N_B: f32 = (1.0 / (2.0 * 2.25 * (2.25 - 0.5625))) as f32;

/// A linear map from M to N numbers; in two dimensions, from M × M to N × N.
pub(super) trait Transform<const M: usize, const N: usize> {
    /// # Safety
    /// The processor has the instruction set of `V`.
    unsafe fn apply<V: Vector>(x: [V; M]) -> [V; N];
}

/// The values at 0, ±a, ±b and ∞, from the even and the odd part at a and at b.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn at_points<V: Vector>(
    at_0: V,
    [even_a, odd_a]: [V; 2],
    [even_b, odd_b]: [V; 2],
    at_infinity: V,
) -> [V; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            at_0,
            even_a.plus(odd_a),
            even_a.minus(odd_a),
            even_b.plus(odd_b),
            even_b.minus(odd_b),
            at_infinity,
        ]
    }
}

/// Bᵀd.
pub(super) struct Input;

impl Transform<SIDE, SIDE> for Input {
    #[inline(always)]
    unsafe fn apply<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
        // SAFETY: the caller's promise.
        unsafe {
            let even_a = d[4].minus(d[2].times(BB));
            let odd_a = d[3].minus(d[1].times(BB)).times(A);
            let even_b = d[4].minus(d[2].times(AA));
            let odd_b = d[3].minus(d[1].times(AA)).times(B);
            let at_0 = d[4].minus(d[2].times(AA + BB)).plus(d[0].times(AA * BB));
            let at_infinity = d[5].minus(d[3].times(AA + BB)).plus(d[1].times(AA * BB));
            at_points(at_0, [even_a, odd_a], [even_b, odd_b], at_infinity)
        }
    }
}

/// Aᵀm.
pub(super) struct Output;

impl Transform<SIDE, TILE> for Output {
    #[inline(always)]
    unsafe fn apply<V: Vector>(m: [V; SIDE]) -> [V; TILE] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum_a, difference_a) = (m[1].plus(m[2]), m[1].minus(m[2]).times(A));
            let (sum_b, difference_b) = (m[3].plus(m[4]), m[3].minus(m[4]).times(B));
            let third = difference_a.times(AA).plus(difference_b.times(BB));
            [
                m[0].plus(sum_a).plus(sum_b),
                difference_a.plus(difference_b),
                sum_a.times(AA).plus(sum_b.times(BB)),
                third.plus(m[5]),
            ]
        }
    }
}

/// Ay.
pub(super) struct OutputGradient;

impl Transform<TILE, SIDE> for OutputGradient {
    #[inline(always)]
    unsafe fn apply<V: Vector>(y: [V; TILE]) -> [V; SIDE] {
        // SAFETY: the caller's promise.
        unsafe {
            let even_a = y[0].plus(y[2].times(AA));
            let odd_a = y[1].plus(y[3].times(AA)).times(A);
            let even_b = y[0].plus(y[2].times(BB));
            let odd_b = y[1].plus(y[3].times(BB)).times(B);
            let at_0 = y[0];
            let at_infinity = y[3];
            at_points(at_0, [even_a, odd_a], [even_b, odd_b], at_infinity)
        }
    }
}

/// Gg.
pub(super) struct Filter;

impl Transform<TAPS, SIDE> for Filter {
    #[inline(always)]
    unsafe fn apply<V: Vector>(g: [V; TAPS]) -> [V; SIDE] {
        // SAFETY: the caller's promise.
        unsafe {
            let even_a = g[0].plus(g[2].times(AA)).times(N_A);
            let odd_a = g[1].times(N_A * A);
            let even_b = g[0].plus(g[2].times(BB)).times(N_B);
            let odd_b = g[1].times(N_B * B);
            let at_0 = g[0].times(N_0);
            let at_infinity = g[2];
            at_points(at_0, [even_a, odd_a], [even_b, odd_b], at_infinity)
        }
    }
}

/// Gᵀu.
pub(super) struct FilterGradient;

impl Transform<SIDE, TAPS> for FilterGradient {
    #[inline(always)]
    unsafe fn apply<V: Vector>(u: [V; SIDE]) -> [V; TAPS] {
        // SAFETY: the caller's promise.
        unsafe {
            let sum_a = u[1].plus(u[2]).times(N_A);
            let difference_a = u[1].minus(u[2]).times(N_A * A);
            let sum_b = u[3].plus(u[4]).times(N_B);
            let difference_b = u[3].minus(u[4]).times(N_B * B);
            [
                u[0].times(N_0).plus(sum_a).plus(sum_b),
                difference_a.plus(difference_b),
                sum_a.times(AA).plus(sum_b.times(BB)).plus(u[5]),
            ]
        }
    }
}

/// Where the elements of a matrix are: their first channels.
pub(super) type Places<const N: usize> = [[usize; N]; N];

/// The places of elements that are `stride` apart.
pub(super) fn every<const N: usize>(stride: usize) -> Places<N> {
    std::array::from_fn(|i| std::array::from_fn(|j| (N * i + j) * stride))
}

/// T X Tᵀ of `channels` matrices, a multiple of [`LANES`], and the bias of each channel where there is
/// one.
///
/// # Panics
/// If a place is not in its slice.
pub(super) fn transform<T: Transform<M, N>, const M: usize, const N: usize>(
    isa: Isa,
    channels: usize,
    source: &[f32],
    from: &Places<M>,
    bias: &[f32],
    target: &mut [f32],
    to: &Places<N>,
) {
    let inside = |place: usize, length: usize| {
        place == OUTSIDE || length >= channels && place <= length - channels
    };
    assert!(
        from.as_flattened()
            .iter()
            .all(|&place| inside(place, source.len()))
    );
    assert!(
        to.as_flattened()
            .iter()
            .all(|&place| inside(place, target.len()))
    );
    assert!(channels.is_multiple_of(LANES) && (bias.is_empty() || bias.len() == channels));
    let bias = (!bias.is_empty()).then_some(bias.as_ptr());
    let (source, target) = (source.as_ptr(), target.as_mut_ptr());
    // SAFETY: all channels of all places are in their slices; an `Isa` exists only if the processor has
    // its features.
    unsafe {
        match isa.set() {
            Set::Portable => lanes::<T, [f32; 4], M, N>(channels, source, from, bias, target, to),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => avx2::<T, M, N>(channels, source, from, bias, target, to),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => avx512::<T, M, N>(channels, source, from, bias, target, to),
        }
    }
}

/// # Safety
/// As [`lanes`]; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<T: Transform<M, N>, const M: usize, const N: usize>(
    channels: usize,
    source: *const f32,
    from: &Places<M>,
    bias: Option<*const f32>,
    target: *mut f32,
    to: &Places<N>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        lanes::<T, std::arch::x86_64::__m256, M, N>(channels, source, from, bias, target, to);
    }
}

/// # Safety
/// As [`lanes`]; the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<T: Transform<M, N>, const M: usize, const N: usize>(
    channels: usize,
    source: *const f32,
    from: &Places<M>,
    bias: Option<*const f32>,
    target: *mut f32,
    to: &Places<N>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        lanes::<T, std::arch::x86_64::__m512, M, N>(channels, source, from, bias, target, to);
    }
}

/// # Safety
/// The processor has the instruction set of `V`, whose width divides `channels`. All channels are
/// readable at the places in `source` and at `bias`, and writable at those in `target`.
#[inline(always)]
unsafe fn lanes<T: Transform<M, N>, V: Vector, const M: usize, const N: usize>(
    channels: usize,
    source: *const f32,
    from: &Places<M>,
    bias: Option<*const f32>,
    target: *mut f32,
    to: &Places<N>,
) {
    for channel in (0..channels).step_by(V::WIDTH) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut half = [[V::zero(); M]; N];
            for j in 0..M {
                let mut column = [V::zero(); M];
                for i in 0..M {
                    let place = from[i][j];
                    if place != OUTSIDE {
                        column[i] = V::load(source.add(place + channel));
                    }
                }
                let column = T::apply(column);
                for i in 0..N {
                    half[i][j] = column[i];
                }
            }
            let bias = match bias {
                Some(bias) => V::load(bias.add(channel)),
                None => V::zero(),
            };
            for i in 0..N {
                let row = T::apply(half[i]);
                for j in 0..N {
                    let place = to[i][j];
                    if place != OUTSIDE {
                        row[j].plus(bias).store(target.add(place + channel));
                    }
                }
            }
        }
    }
}
