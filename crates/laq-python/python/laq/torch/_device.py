"""The quantizer of a parameter in training, in operations of torch: for tensors on any device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .. import _laq
from ._optimum import (
    LARGEST,
    Grid,
    Values,
    chunks,
    floor_float32,
    optimum,
    optimum_on_grid,
)

# The curvature is √v plus this.
_CURVATURE_FLOOR = 1e-8

# The alternating solvers stop after so many iterations, or if the scale changes by no more.
_MAX_ITERATIONS = 10
_SCALE_TOLERANCE = 1e-6
_LARGEST_FLOAT32 = torch.finfo(torch.float32).max

# Thresholds relative to the mean magnitude (TWN) and to the largest (TTQ).
_TWN_THRESHOLD = 0.7
_TTQ_THRESHOLD = 0.05


class DeviceQuantizer:
    """Levels and scales of a parameter in training, computed on its device.

    The results are those of the solvers in Rust: the same levels, the same bits of decoded weights for a
    scale, and scales to the rounding of sums in float64. Where two solutions have the same error to rounding
    it may find the other.

    Many groups are solved at once, and the host learns only whether all inputs are finite: for that it waits
    for the device once per solve, at the start. For groups of more than 1024 weights the exact solvers with
    more than 3 levels wait up to ten times more for each 2 million weights.

    *Memory* besides the tensors: about 100 bytes for each weight of a group, and up to 500 MB where groups
    are small; for blocks of a codebook that is not symmetric about 100 bytes for each weight of a block and
    each level.

    *Time* of the exact solvers: for groups of up to 1024 weights, for formats and with 3 levels that of
    sorting a number for each weight and each positive level; for larger groups that of sorting the weights,
    and of some hundred to thousand scales, for each of which every level costs a binary search.

    MPS has no float64: there the CPU solves, with a copy of the inputs and results.

    Parameters
    ----------
    quantizer
        The solver and its codebook.
    rows, columns
        The parameter as a matrix; its elements are in the order of rows.
    granularity
        The weights that share a scale: ``tensor``, ``gate``, ``row`` or ``block:N``, N successive weights of
        a row.
    gates
        Equal parts of the rows with scales of their own, for ``gate``.
    device
        Where levels, scales and the tensors of all calls are.

    Raises
    ------
    ValueError
        An unknown granularity, one that a format does not have, rows that do not form the gates, or more than
        65536 weights with a scale for a codebook that is not symmetric around 0 within −1 to 1.
    """

    levels: Tensor
    """The level of each weight: int8, shape (rows · columns,)."""
    scales: Tensor
    """The scale of each group, float32: shape (groups,); for methods with a scale for each sign (groups, 2),
    for levels from 0 on and for negative ones."""
    weighted_error: Tensor
    """½ Σ d (w − ŵ)² of each group: float64, shape (groups,); on the CPU if the device has no float64."""

    def __init__(
        self,
        quantizer: _laq.Quantizer,
        rows: int,
        columns: int,
        granularity: str,
        gates: int,
        device: torch.device | str,
    ) -> None:
        if quantizer.block is not None and granularity != f"block:{quantizer.block}":
            raise ValueError(
                f"`{quantizer.id}` has a scale for each block of {quantizer.block} weights, found "
                f"{granularity!r}: pass 'block:{quantizer.block}'"
            )
        self.device = torch.device(device)
        self._solving_device = torch.device("cpu") if self.device.type == "mps" else self.device
        self._quantizer = quantizer
        self._algorithm = quantizer.algorithm
        self._columns = columns
        self._spans, self._span, self._length = _laq.groups(granularity, rows, columns, gates)
        # A span without weights has a group nevertheless.
        padded = max(-(-self._span // self._length), 1) * self._length
        self._padding = padded - self._span
        self._groups = self._spans * padded // self._length
        if quantizer.grid is not None and self._length > _laq.MAX_BLOCK:
            raise ValueError(
                f"{self._length} weights share a scale, expected at most {_laq.MAX_BLOCK} for values that "
                "are not symmetric around 0 within -1 to 1; pass a granularity of blocks"
            )

        levels = np.array(quantizer.codebook.level_indices(), np.int64)
        multipliers = np.array(quantizer.codebook.multipliers(), np.float32)
        divisor = np.array([quantizer.codebook.divisor], np.float32)
        values = multipliers / divisor
        self._is_symmetric = bool((values == -values[::-1]).all())
        self._has_zero = bool((values == 0).any())
        # Values that are compared with weights, or with their magnitudes if they are symmetric.
        nearest = values[values >= 0] if self._is_symmetric else values
        # The levels of the lowest one, for weights from 0 on and for negative ones.
        self._positive = int(levels[len(values) - len(nearest)])
        self._negative = -1 if nearest[0] > 0 else 0
        self._ends = float(nearest[0]), float(nearest[-1])
        self._are_successive = bool(nearest[0] % 1 == 0 and (np.diff(nearest) == 1).all())

        def on_device(array: NDArray[np.float32]) -> Tensor:
            return torch.from_numpy(array).to(self._solving_device)

        # By level + 128; levels that the codebook does not have count as the nearest.
        table = np.zeros(256, np.float32)
        table[levels + 128] = multipliers
        table = table[np.clip(np.arange(-128, 128), levels[0], levels[-1]) + 128]
        self._multipliers, self._values = on_device(table), on_device(table / divisor)
        # A tensor: by a number CUDA multiplies with the reciprocal, which rounds in another way.
        self._divisor = on_device(divisor)
        self._nearest_values = on_device(nearest)
        wide = self._nearest_values.double()
        self._middles = 0.5 * (wide[1:] + wide[:-1])
        self._passes = [Values.of(nearest, self._is_symmetric, self._solving_device)]
        if quantizer.grid is not None:
            self._grid = Grid(quantizer.grid, LARGEST / max(float(np.abs(values).max()), 1.0))
            if self._grid.is_signed and not self._is_symmetric:
                self._passes.append(Values.of(-values[::-1], False, self._solving_device))

        self._has_state = False
        self.levels = torch.zeros(rows * columns, dtype=torch.int8, device=self.device)
        shape = (self._groups, 2) if quantizer.two_scales else (self._groups,)
        self.scales = torch.zeros(shape, device=self.device)
        self.weighted_error = torch.zeros(self._groups, dtype=torch.float64, device=self._solving_device)

    @torch.no_grad()
    def solve(self, w: Tensor, second_moment: Tensor, out: Tensor) -> None:
        """Quantizes w with the curvature d = √v + 1e-8 of Adam's second moment v, and writes the decoded
        weights to ``out``, which may be ``w``.

        Alternating methods start from the levels of the previous solve; TTQ takes its scales.

        Raises
        ------
        ValueError
            A weight, curvature or trained scale is NaN or infinite, or a tensor has another size. Nothing has
            changed.
        """
        d = self._flat(second_moment, "the second moment").sqrt() + _CURVATURE_FLOOR
        self.solve_with_curvature(w, d, out)

    @torch.no_grad()
    def solve_with_curvature(self, w: Tensor, d: Tensor | None, out: Tensor) -> None:
        """As :meth:`solve` with the curvature ``d``, not negative; None means 1."""
        w = self._flat(w, "w")
        d = None if d is None else self._flat(d, "d")
        if out.numel() != len(w):
            raise ValueError(f"out has {out.numel()} elements, expected {len(w)}")
        self._check(w, d)
        ones = self._grouped(torch.ones_like(w)) if self._padding else w.new_ones(1, 1)
        w = self._grouped(w)
        ones = ones.expand_as(w)
        d = ones if d is None else self._grouped(d)
        levels = torch.empty_like(w, dtype=torch.int8)
        decoded = torch.empty_like(w)
        scales = torch.empty(self.scales.shape, device=self._solving_device)
        errors = torch.zeros_like(self.weighted_error)
        warm = self._grouped(self.levels.to(self._solving_device)) if self._has_state else None
        previous = self.scales.to(self._solving_device) if self._has_state else None
        for part in chunks(self._groups, self._length):
            starts = [None if state is None else state[part] for state in (warm, previous)]
            levels[part], scale = self._solved(w[part], d[part], ones[part], *starts)
            scales[part] = scale
            decoded[part] = self._decode(levels[part], scale)
            gap = w[part].double() - decoded[part]
            errors[part] = 0.5 * (d[part] * gap.square_()).sum(1)
        self.levels, self.scales = self._ungrouped(levels).to(self.device), scales.to(self.device)
        self.weighted_error = errors
        self._has_state = True
        out.copy_(self._ungrouped(decoded).view(out.shape))

    @torch.no_grad()
    def load(self, levels: Tensor, scales: Tensor) -> None:
        """Restores levels and scales, of the shapes of these attributes; the next solve is a warm start.

        Raises
        ------
        ValueError
            Another number of elements.
        """
        for name, found, own in (("levels", levels, self.levels), ("scales", scales, self.scales)):
            if found.numel() != own.numel():
                raise ValueError(f"found {found.numel()} {name}, expected {own.numel()}")
        # Copies, so that later changes of the arguments have no effect.
        self.levels = torch.empty_like(self.levels).copy_(levels.reshape(-1))
        self.scales = torch.empty_like(self.scales).copy_(scales.reshape(self.scales.shape))
        self._has_state = True

    @torch.no_grad()
    def scale_gradient(self, gradient: Tensor) -> Tensor | None:
        """∂loss/∂W_p = Σ g over the levels 1 and ∂loss/∂W_n = −Σ g over the levels −1, from g = ∂loss/∂ŵ:
        float32, shape (groups, 2). None if the scales are not trained, that is, for all but TTQ."""
        if self._algorithm != "trained":
            return None
        g = self._grouped(self._flat(gradient, "the gradient"))
        levels = self._grouped(self.levels.to(self._solving_device))
        sums = [torch.where(levels == sign, g, 0.0).sum(1, dtype=torch.float64) for sign in (1, -1)]
        return torch.stack([sums[0], -sums[1]], 1).float().to(self.device)

    @torch.no_grad()
    def latent_gradient(self, w: Tensor, gradient: Tensor) -> None:
        """Turns ∂loss/∂ŵ into ∂loss/∂w, in place: TTQ multiplies by the scale of the level, DoReFa by the
        derivative of tanh w / max |tanh w|. All other methods are straight-through."""
        if self._algorithm not in ("trained", "tanh"):
            return
        g = self._grouped(self._flat(gradient, "the gradient"))
        if self._algorithm == "trained":
            levels = self._grouped(self.levels.to(self._solving_device))
            positive, negative = self.scales.to(self._solving_device)[..., None].unbind(1)
            g = g * torch.where(levels > 0, positive, torch.where(levels < 0, negative, 1.0))
        else:
            g = _tanh_gradient(self._grouped(self._flat(w, "w")), g)
        gradient.copy_(self._ungrouped(g).view(gradient.shape))

    def _flat(self, tensor: Tensor, name: str) -> Tensor:
        """The elements of a tensor in float32, where they are solved."""
        if tensor.numel() != len(self.levels):
            raise ValueError(f"{name} has {tensor.numel()} elements, expected {len(self.levels)}")
        return tensor.detach().to(self._solving_device, torch.float32).reshape(-1)

    def _grouped(self, flat: Tensor) -> Tensor:
        """One group a row; zeros behind groups that are shorter."""
        spans = flat.view(self._spans, self._span)
        if self._padding:
            spans = functional.pad(spans, (0, self._padding))
        return spans.reshape(self._groups, self._length)

    def _ungrouped(self, grouped: Tensor) -> Tensor:
        return grouped.view(self._spans, -1)[:, : self._span].reshape(-1)

    def _check(self, w: Tensor, d: Tensor | None) -> None:
        """Waits for the device to learn whether all values are valid."""
        valid = torch.isfinite(w)
        if d is not None:
            valid &= torch.isfinite(d) & (d >= 0)
        are_valid = valid.all()
        is_trained = self._algorithm == "trained" and self._has_state
        if is_trained:
            are_valid &= torch.isfinite(self.scales).all().to(self._solving_device)
        if are_valid:
            return
        if is_trained and not (finite := torch.isfinite(self.scales)).all():
            value = _number(self.scales[~finite][0])
            raise ValueError(
                f"the trained scale is {value}, expected a finite number; training has probably diverged: "
                "go back to the last good checkpoint, or lower the learning rate"
            )
        name, values, expected = "w", w, "finite numbers"
        wrong = (~torch.isfinite(w)).nonzero()
        if d is not None and len(wrong) == 0:
            name, values, expected = "d", d, "finite numbers that are not negative"
            wrong = (~valid).nonzero()
        index = int(wrong[0])
        row, column = divmod(index, self._columns)
        raise ValueError(f"{name}[{row}, {column}] is {_number(values[index])}, expected {expected}")

    def _solved(
        self, w: Tensor, d: Tensor, ones: Tensor, levels: Tensor | None, previous: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Levels and scales of groups, from those of the previous step.

        ``d`` and ``ones`` are zero where a group has no weight.
        """
        x = w.abs()
        match self._algorithm:
            case "signs":
                scale = torch.ones_like(x[:, 0])
            case "mean-magnitude":
                scale = _mean(x, ones)
            case "largest-magnitude":
                scale = x.amax(1)
            case "weighted-signs":
                scale = _mean(x, _dropped_zero(d, d, ones))
            case "threshold":
                threshold, scale = _twn(x, ones)
                return _ternary(w, threshold, threshold), scale
            case "trained":
                scales = _twn(x, ones)[1][:, None].expand(-1, 2) if previous is None else previous
                threshold = floor_float32(_TTQ_THRESHOLD * x.amax(1).double())
                return _ternary(w, threshold, threshold), scales
            case "tanh":
                largest = x.amax(1).double().tanh()
                thresholds = floor_float32((largest[:, None] * self._middles).atanh())
                return self._nearest(w, thresholds), torch.ones_like(largest, dtype=torch.float32)
            case "exact-on-grid":
                d = self._counting(w, d, ones)
                scale = optimum_on_grid(x if self._is_symmetric else w, d, self._passes, self._grid)
                return self._nearest_on_grid(w, scale), scale.float()
            case _ if self._quantizer.two_scales:
                return self._solved_by_sign(w, d, ones, levels)
            case "exact":
                scale = optimum(x, self._counting(w, d, ones), self._nearest_values, self._passes[0])
            case "alternating":
                start = None if levels is None else (w, self._values[levels.int() + 128])
                scale = self._alternating(x, d, self._counting(w, d, ones), start)
        scale = _to_float32(scale)
        return self._nearest(w, self._thresholds(scale.double())), scale

    def _solved_by_sign(
        self, w: Tensor, d: Tensor, ones: Tensor, levels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Ternary levels with a scale for each sign, which are problems of their own."""
        scales = []
        for sign in (1, -1):
            x = (sign * w).clamp(min=0)
            is_side = x > 0
            of_side = torch.where(is_side, d, 0.0)
            of_side = _dropped_zero(of_side, of_side, torch.where(is_side, ones, 0.0))
            if self._algorithm == "exact":
                scale = optimum(x, of_side, self._nearest_values, self._passes[0])
            else:
                start = None if levels is None else (x, (is_side & (levels == sign)).float())
                scale = self._alternating(x, d, of_side, start)
            scales.append(_to_float32(scale))
        above, below = (self._thresholds(scale.double()).squeeze(1) for scale in scales)
        return _ternary(w, above, below), torch.stack(scales, 1)

    def _counting(self, w: Tensor, d: Tensor, ones: Tensor) -> Tensor:
        """The curvature; 1 for groups where it is zero for all weights that can have an error."""
        return _dropped_zero(d, torch.where(w != 0, d, 0.0) if self._has_zero else d, ones)

    def _alternating(
        self, x: Tensor, d: Tensor, dropped: Tensor, start: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Repeats b = the nearest magnitudes to x / α, then α = Σ d b x / Σ d b²; float64.

        ``start``: weights and values of the previous levels. ``dropped``: d, or 1 where all of it is zero.
        """
        scale = _mean(x, dropped)
        if start is not None:
            product, square = _sums(*start, d)
            of_levels = product / square
            has_scale = (product > 0) & (square > 0) & (of_levels <= _LARGEST_FLOAT32)
            scale = torch.where(has_scale, of_levels, scale)
        is_active = scale > 0
        for _ in range(_MAX_ITERATIONS):
            number = _count_below(self._thresholds(scale), x)
            product, square = _sums(x, self._nearest_values[number], dropped)
            is_active = is_active & (product > 0) & (square > 0)
            change = torch.where(is_active, product / square - scale, 0.0)
            scale = scale + change
            is_active &= change.abs() > _SCALE_TOLERANCE
        return scale

    def _thresholds(self, scale: Tensor) -> Tensor:
        """The middles between magnitudes times a scale of each group, in float32; infinite at scale 0."""
        thresholds = torch.where(scale[:, None] > 0, scale[:, None] * self._middles, torch.inf)
        return floor_float32(thresholds)

    def _nearest(self, w: Tensor, thresholds: Tensor) -> Tensor:
        """The level of the magnitude whose number is that of thresholds below |w|."""
        return self._level(w, _count_below(thresholds, w.abs()))

    def _level(self, w: Tensor, magnitude: Tensor) -> Tensor:
        return torch.where(w < 0, self._negative - magnitude, self._positive + magnitude).to(torch.int8)

    def _nearest_on_grid(self, w: Tensor, scale: Tensor) -> Tensor:
        """The level of the value nearest to w / scale, to 0 at scale 0."""
        inverse = torch.where(scale != 0, 1 / scale, 0.0)[:, None]
        x = (w.abs() if self._is_symmetric else w) * inverse
        if self._are_successive:
            low, high = self._ends
            place = (x.clamp(low, high).round() - low).int()
        else:
            place = torch.searchsorted(self._middles, x, out_int32=True)
        return self._level(w, place) if self._is_symmetric else (self._positive + place).to(torch.int8)

    def _decode(self, levels: Tensor, scale: Tensor) -> Tensor:
        """step · multiplier in float32: the bits of Rust."""
        step = scale / self._divisor
        overflows = torch.isinf(step * self._divisor) & torch.isfinite(scale)
        step = (step.view(torch.int32) - overflows.int()).view(torch.float32)
        multipliers = self._multipliers[levels.int() + 128]
        if step.ndim == 1:
            return multipliers * step[:, None]
        return multipliers * torch.where(levels < 0, step[:, 1:], step[:, :1])


def _number(value: Tensor) -> str:
    """As Rust prints it."""
    return str(value.cpu().numpy()).replace("nan", "NaN")


def _sums(x: Tensor, b: Tensor | float, d: Tensor) -> tuple[Tensor, Tensor]:
    """Σ d b x and Σ d b² of every group."""
    weighted = d.double() * b
    return (weighted * x).sum(1), (weighted * b).sum(1)


def _dropped_zero(d: Tensor, counted: Tensor, ones: Tensor) -> Tensor:
    """The curvature; 1 for groups where what counts of it is zero."""
    return torch.where(counted.sum(1, keepdim=True, dtype=torch.float64) > 0, d, ones)


def _mean(x: Tensor, d: Tensor) -> Tensor:
    """Σ d x / Σ d; zero if all weights are."""
    product, square = _sums(x, 1.0, d)
    return torch.where(product > 0, product / square, 0.0)


def _to_float32(scale: Tensor) -> Tensor:
    """The nearest finite float32."""
    return scale.clamp(-LARGEST, LARGEST).float()


def _count_below(thresholds: Tensor, x: Tensor) -> Tensor:
    """How many thresholds of its group are below each magnitude."""
    return torch.searchsorted(thresholds, x, out_int32=True)


def _ternary(w: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """1 if w > above, −1 if −w > below."""
    return (w > above[:, None]).to(torch.int8) - (w < -below[:, None]).to(torch.int8)


def _twn(x: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
    """The threshold 0.7 mean |w|, and the mean magnitude above; infinity and 0 if all weights are zero."""
    mean = _mean(x, ones)
    threshold = floor_float32(torch.where(mean > 0, _TWN_THRESHOLD * mean, torch.inf))
    is_above = x > threshold[:, None]
    return threshold, _to_float32(_mean(x, is_above.float()))


def _tanh_gradient(w: Tensor, g: Tensor) -> Tensor:
    """(1 − t²) / M · (g − [i = m] Σ_j g_j t_j / t_m) with t = tanh w, M = |t_m| at the first largest |w|."""
    at = w.abs().argmax(1, keepdim=True)
    t, wide = w.double().tanh(), g.double()
    of_largest = t.gather(1, at)
    slope = (1 - t.square()) / of_largest.abs()
    others = (wide * t).sum(1, keepdim=True) - wide.gather(1, at) * of_largest
    changed = (slope * wide).scatter(1, at, -slope.gather(1, at) * others / of_largest)
    # Where all weights are zero the derivative is unbounded.
    return torch.where(of_largest != 0, _to_float32(changed), g)
