"""Codebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _laq
from ._arrays import to_numpy, whole_number


class Codebook:
    """The levels of a weight and their values, made by one of the functions below.

    ======================= ================================================ ============================
    codebook                levels                                           values
    ======================= ================================================ ============================
    ``binary()``            −1, 1                                            the level
    ``ternary()``           −1, 0, 1                                         the level
    ``linear(bits)``        −k to k with k = 2^(bits−1) − 1                  the level
    ``logarithmic(bits)``   −k to k                                          sign · 2^(|level| − k), or 0
    ``uniform(bits)``       −2^(bits−1) to 2^(bits−1) − 1                    2 · level + 1
    ``custom(values)``      from −m on if m values are negative              those given
    ======================= ================================================ ============================
    """

    __slots__ = ("_core",)

    def __init__(self, core: _laq.Codebook) -> None:
        if not isinstance(core, _laq.Codebook):
            raise TypeError("a codebook is made by Codebook.custom(values), Codebook.ternary() and others")
        self._core = core

    @staticmethod
    def binary() -> Codebook:
        """−1 and 1."""
        return Codebook(_laq.Codebook.binary())

    @staticmethod
    def ternary() -> Codebook:
        """−1, 0 and 1."""
        return Codebook(_laq.Codebook.ternary())

    @staticmethod
    def linear(bits: int) -> Codebook:
        """The integers from −k to k with k = 2^(bits−1) − 1; 2 to 8 bits."""
        return Codebook(_laq.Codebook.linear(whole_number(bits, "bits")))

    @staticmethod
    def logarithmic(bits: int) -> Codebook:
        """0 and ± the powers of two from 2^−(k−1) to 1, with k = 2^(bits−1) − 1; 2 to 8 bits."""
        return Codebook(_laq.Codebook.logarithmic(whole_number(bits, "bits")))

    @staticmethod
    def uniform(bits: int) -> Codebook:
        """The odd integers from −(2^bits − 1) to 2^bits − 1; 2 to 8 bits."""
        return Codebook(_laq.Codebook.uniform(whole_number(bits, "bits")))

    @staticmethod
    def custom(values: Any) -> Codebook:
        """Values of your own, in rising order.

        Those that are symmetric around 0 and within −1 to 1 quantize any number of weights; all others at most 65536
        weights with a scale, and the scale may be negative.

        Raises
        ------
        ValueError
            Fewer than two values, more than 128 negative ones or 128 others, values that do not rise or are not finite,
            or a largest magnitude outside 2⁻¹⁶ to 2¹⁶.
        """
        found = to_numpy(values, "values")
        if found.ndim != 1 or found.dtype.kind not in "iuf":
            raise TypeError("values: expected a sequence of numbers, such as [-1, -0.25, 0, 0.25, 1]")
        with np.errstate(over="ignore"):
            return Codebook(_laq.Codebook.custom(found.astype(np.float32).tolist()))

    @property
    def levels(self) -> NDArray[np.int8]:
        """All levels, rising."""
        return np.array(self._core.level_indices(), np.int8)

    @property
    def values(self) -> NDArray[np.float32]:
        """The value of each level, the factor of a scale."""
        return np.array(self._core.multipliers(), np.float32)

    @property
    def bits(self) -> int:
        """Bits of a packed level."""
        return self._core.bits

    def __reduce__(self) -> tuple[Callable[..., Codebook], tuple[Any, ...]]:
        name = self._core.maker
        given: dict[str, tuple[Any, ...]] = {"binary": (), "ternary": (), "custom": (self.values,)}
        return getattr(Codebook, name), given.get(name, (self.bits,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codebook) and self._core == other._core

    def __hash__(self) -> int:
        return hash(self._core)

    def __repr__(self) -> str:
        return f"laq.{self._core!r}"
