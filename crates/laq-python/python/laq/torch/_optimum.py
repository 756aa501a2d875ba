"""The optimum of ½ Σ d (w − s·v)² for every group of weights, in operations of torch on all groups at once.

With the nearest values v for a scale s > 0, twice the reduction of the error of all zeros is G(s) = 2s·H(s)
with H(s) = S − ½ s D, S = Σ d w v and D = Σ d v². A weight changes its value where it passes the middle m of
two values, at the breakpoint s = w/m; between breakpoints the best scale is S/D, where G is S²/D. Two ways to
the largest G:

- *All breakpoints* are sorted, and cumulative sums give S and D between every two of them.
- *By bounds*, for long groups with several magnitudes: the weights are sorted, and cumulative sums over them
  give S and D at any scale by a binary search for each middle. H is convex, so that its chord between two
  scales bounds G there. Scales are cut into cells, and those whose bound is above the best G so far are cut
  again, until they have at most one breakpoint.

Sums are float64. Gains that differ by less than about 1e-13 of Σ d w² are equal to rounding, and either may
win."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST = float(np.finfo(np.float32).max)

# Elements that are in work at a time: bounds the memory.
CHUNK = 1 << 21

# Groups of more weights are solved by bounds.
_MAX_SORTED = 1024

# Cells at first, and those that a remaining one is cut into.
_CELLS, _CUTS = 64, 8

# Enough to cut every cell down to neighbouring numbers.
_MAX_ROUNDS = 20

# Gains that are less apart are equal to rounding.
_ROUNDING = 4e-15


def chunks(count: int, elements: int) -> Iterator[slice]:
    """The groups, of ``elements`` each, that are in work at a time."""
    step = max(CHUNK // max(elements, 1), 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def floor_float32(bound: Tensor) -> Tensor:
    """The largest float32 that is not above ``bound``, which is not negative."""
    rounded = bound.float()
    return (rounded.view(torch.int32) - (rounded.double() > bound).int()).view(torch.float32)


class Values(NamedTuple):
    """Rising values, as weights pass them for a falling scale: for weights from 0 on, and for negative ones
    if there are any. A weight starts at the value nearest to 0."""

    start: Tensor
    """Shape (signs,)."""
    middles: Tensor
    """Shape (signs, K): infinite where a sign passes fewer than K."""
    changes: Tensor
    """Shape (signs, K): of the value."""
    changes_of_square: Tensor
    """Shape (signs, K)."""

    @classmethod
    def of(cls, values: NDArray[np.float32], magnitudes: bool, device: torch.device) -> Values:
        """``magnitudes``: all weights and values are from 0 on."""
        v = values.astype(np.float64)
        middles = 0.5 * (v[1:] + v[:-1])
        up = v[np.count_nonzero(middles <= 0) :]
        down = v[: np.count_nonzero(middles < 0) + 1][::-1]
        paths = [up] if magnitudes else [up, down]
        length = max(len(path) for path in paths) - 1

        def padded(path: NDArray[np.float64], end: float) -> NDArray[np.float64]:
            return np.concatenate([path, np.full(length - len(path), end)])

        ends = [np.inf, -np.inf]
        rows = [
            [padded(0.5 * (path[1:] + path[:-1]), end) for path, end in zip(paths, ends, strict=False)],
            [padded(path[1:] - path[:-1], 0.0) for path in paths],
            [padded(path[1:] ** 2 - path[:-1] ** 2, 0.0) for path in paths],
        ]
        start = torch.tensor([path[0] for path in paths], dtype=torch.float64, device=device)
        return cls(start, *(torch.from_numpy(np.array(row)).to(device) for row in rows))


def _states(w: Tensor, d: Tensor, values: Values) -> tuple[Tensor, Tensor]:
    """S and D of all assignments that are the best for a scale, from infinity down: shape (groups, 1 + K ·
    weights), for K middles."""
    w, d = w.double(), d.double()
    signs = (w < 0).int() if len(values.start) == 2 else 0

    def of(table: Tensor) -> Tensor:
        return table[signs]

    order = (w[..., None] / of(values.middles)).flatten(1).argsort(1, descending=True)

    def sums(weighted: Tensor, start: Tensor, changes: Tensor) -> Tensor:
        first = (weighted * of(start)).sum(1, keepdim=True)
        changes = (weighted[..., None] * of(changes)).flatten(1).gather(1, order)
        return torch.cat([first, changes], 1).cumsum_(1)

    return (
        sums(d * w, values.start, values.changes),
        sums(d, values.start.square(), values.changes_of_square),
    )


def _best_of(product: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The best scale S/D of an assignment and its gain; both zero for all zeros."""
    scale = torch.where(square > 0, product / square, 0.0).clamp_(max=LARGEST)
    return scale, scale * (2 * product - scale * square)


def optimum(x: Tensor, d: Tensor, magnitudes: Tensor, values: Values) -> Tensor:
    """The best scale of every group in float64, zero without a gain; the smallest of equals.

    ``x``, ``d``: magnitudes of weights and their curvature, float32, shape (groups, weights). ``magnitudes``:
    those of the codebook, rising; ``values``: the same.
    """
    if x.shape[1] > _MAX_SORTED and len(magnitudes) > 2:
        return _by_bounds(x, d, magnitudes.double())
    scales = []
    for part in chunks(len(x), x.shape[1] * (len(magnitudes) - 1)):
        scale, gain = _best_of(*_states(x[part], d[part], values))
        last = gain.shape[1] - 1 - gain.flip(1).argmax(1, keepdim=True)
        scales.append(scale.gather(1, last))
    return torch.cat(scales).squeeze(1)


def _by_bounds(x: Tensor, d: Tensor, q: Tensor) -> Tensor:
    groups, count = x.shape
    middles, steps, of_square = 0.5 * (q[1:] + q[:-1]), q.diff(), q.square().diff()
    lowest, highest = q[0], q[-1]

    x, order = torch.where(d > 0, x.abs(), 0.0).sort(1)
    d = d.gather(1, order).double()

    def from_each_on(terms: Tensor) -> Tensor:
        """Shape (groups, 1 + weights): the sum of the terms from each weight on."""
        reverse = torch.cat([terms.new_zeros(groups, 1), terms.flip(1)], 1).cumsum_(1)
        return reverse.flip(1)

    products, squares = from_each_on(d * x), from_each_on(d)
    total = products[:, 0]
    base_product, base_square = lowest * total, lowest.square() * squares[:, 0]
    # Positive floats order as their bits do; the group is in the bits above.
    number = torch.arange(groups, device=x.device)
    keys = (x.view(torch.int32) + (number << 31)[:, None]).flatten()

    def states(group: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S, D, and how many breakpoints are above the scale."""
        parts = []
        for part in chunks(len(group), len(middles)):
            of_group = group[part, None]
            bits = floor_float32(scale[part, None] * middles).view(torch.int32)
            index = torch.searchsorted(keys, bits + (of_group << 31), right=True)
            passed = (of_group + 1) * count - index
            index += of_group
            product = base_product[group[part]] + (products.flatten()[index] * steps).sum(1)
            square = base_square[group[part]] + (squares.flatten()[index] * of_square).sum(1)
            parts.append((product, square, passed.sum(1)))
        product, square, passed = (torch.cat(each) for each in zip(*parts, strict=True))
        return product, square, passed

    best_scale, best_gain = torch.zeros_like(total), torch.zeros_like(total)

    def improve(group: Tensor, product: Tensor, square: Tensor) -> None:
        nonlocal best_scale, best_gain
        scale, gain = _best_of(product, square)
        last_gain, best_gain = best_gain, best_gain.scatter_reduce(0, group, gain, "amax")
        kept = torch.where(best_gain > last_gain, torch.inf, best_scale)
        of_best = torch.where(gain == best_gain[group], scale, torch.inf)
        best_scale = kept.scatter_reduce(0, group, of_best, "amin")

    def heights(group: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """H, and how many breakpoints are above, at scales of shape (cells, scales)."""
        of_scale = group[:, None].expand_as(scales).reshape(-1)
        product, square, passed = states(of_scale, scales.reshape(-1))
        improve(of_scale, product, square)
        return product.view_as(scales) - 0.5 * scales * square.view_as(scales), passed.view_as(scales)

    # All weights at the lowest, and at the highest magnitude.
    improve(number, base_product, base_square)
    improve(number, highest * total, highest.square() * (d * ((x > 0) | (lowest > 0))).sum(1))

    # From the scale of the first breakpoint to one below which G ≤ 2 s q Σ d x is too small.
    high = (x[:, -1] / middles[0] * (1 + 1e-15)).clamp(max=LARGEST)
    low = torch.minimum(best_gain / (2 * highest * total) * (1 - 1e-12), 0.5 * high)
    ends = torch.stack([torch.where(total > 0, low, 1.0), torch.where(total > 0, high, 2.0)], 1)
    group, (height, passed), cuts = number, heights(number, ends), _CELLS
    for _ in range(_MAX_ROUNDS):
        share = torch.arange(1, cuts, device=x.device, dtype=torch.float64) / cuts
        inner = ends[:, :1] * (ends[:, 1:] / ends[:, :1]) ** share
        pairs = zip((ends, height, passed), (inner, *heights(group, inner)), strict=True)
        scales, height, passed = (torch.cat([at[:, :1], within, at[:, 1:]], 1) for at, within in pairs)
        is_above = _bounds(scales, height) > best_gain[group, None] * (1 + _ROUNDING)
        cell, place = (is_above & (passed[:, :-1] - passed[:, 1:] > 1)).nonzero(as_tuple=True)
        if len(cell) == 0:
            break
        pair = torch.stack([place, place + 1], 1)
        ends, height, passed = (table[cell].gather(1, pair) for table in (scales, height, passed))
        group, cuts = group[cell], _CUTS
    return best_scale


def _bounds(scales: Tensor, heights: Tensor) -> Tensor:
    """What G is at most between successive scales: the maximum of 2s times the chord of H."""
    low, high, at_low, at_high = scales[:, :-1], scales[:, 1:], heights[:, :-1], heights[:, 1:]
    slope = (at_low - at_high) / (high - low)
    peak = torch.where(slope > 0, 0.5 * (at_low / slope + low), high).clamp(low, high)
    return 2 * peak * (at_low - slope * (peak - low))


class Grid:
    """The scales that a format can store: numbers of a floating-point type.

    ``grid``: see ``_laq.Quantizer.grid``; ``limit``: no scale is above it.
    """

    def __init__(self, grid: tuple[int, int, float, float, bool], limit: float) -> None:
        self.mantissa, self.exponent, self.smallest, largest, self.is_signed = grid
        bound = min(largest, limit)
        step = 2.0 ** (max(math.frexp(bound)[1] - 1, self.exponent) - self.mantissa)
        self.largest = math.floor(bound / step) * step

    def neighbours(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The largest scale up to ``scale``, which is not negative, and the smallest from it on."""
        exponent = ((scale.view(torch.int64) >> 52) - 1023).clamp(min=self.exponent)
        step = ((exponent - self.mantissa + 1023) << 52).view(torch.float64)
        below = (scale / step).floor() * step
        above = torch.where(below < scale, below + step, below).clamp(self.smallest, self.largest)
        return below.clamp(self.smallest, self.largest), above


def optimum_on_grid(w: Tensor, d: Tensor, signs: list[Values], grid: Grid) -> Tensor:
    """The best scale of the grid for every group, in float64; the smallest without a gain.

    ``w``, ``d``: weights, or their magnitudes, and their curvature, float32, shape (groups, weights).
    ``signs``: the values, and their negatives for negative scales.
    """
    scales = []
    for part in chunks(len(w), w.shape[1] * max(values.middles.shape[1] for values in signs)):
        best = torch.full_like(w[part, 0], grid.smallest, dtype=torch.float64)
        best_gain = torch.zeros_like(best)
        for sign, values in zip((1.0, -1.0), signs, strict=False):
            product, square = _states(w[part], d[part], values)
            has_scale = (product > 0) & (square > 0)
            both = grid.neighbours(torch.where(has_scale, product / square, 0.0))
            scale = torch.cat(both, 1)
            product, square = (sums.repeat(1, 2) for sums in (product, square))
            gain, index = (scale * (2 * product - scale * square)).max(1)
            scale = sign * scale.gather(1, index[:, None]).squeeze(1)
            best = torch.where(gain > best_gain, scale, best)
            best_gain = torch.maximum(gain, best_gain)
        scales.append(best)
    return torch.cat(scales)
