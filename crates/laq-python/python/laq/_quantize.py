"""Quantizing an array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _laq
from ._arrays import to_float32, to_output, whole_number
from ._codebook import Codebook


class Method(NamedTuple):
    """A method or a format: how levels and scales are found."""

    id: str
    """What ``quantize`` takes as its method or format."""
    bits: int
    """Bits of a weight as a packed level; 32 for ``full``."""
    codebook: str
    """The levels."""
    scale: str
    """The scale."""
    solver: str
    """How both are found."""
    source: str
    """The publication, or whose format it is."""
    block: int | None
    """The weights that share a scale, for a format."""


def methods() -> list[Method]:
    """All methods, each with each of its numbers of bits."""
    return [Method(*record) for record in _laq.methods()]


def formats() -> list[Method]:
    """The block formats of files of others, such as GGUF: values, scales and blocks are given."""
    return [Method(*record) for record in _laq.formats()]


@dataclass(frozen=True, eq=False)
class Quantized:
    """The result of :func:`quantize`.

    With ``v(level)`` the entry of ``values`` that belongs to a level, in float32 and bit for bit::

        decoded = scale * v(levels)
    """

    levels: NDArray[np.int8]
    """The level of each weight; shape of w."""
    scale: NDArray[np.float32]
    """The factor of the values.

    Shape ``()`` for a tensor, ``(rows,)`` with ``axis``, ``(rows, blocks)`` with ``block`` or a format (``(blocks,)``
    for a vector); then 2, for values that are not negative and for negative ones, if the method has two scales. With
    ``axis=0`` it may also have one for each of equal parts of the rows, such as the gates of an LSTM.
    """
    error: float
    """½ Σ d (w − ŵ)², summed in float64."""
    decoded: NDArray[np.float32]
    """The quantized weights ŵ; shape of w. ``out`` itself, if that is a numpy array."""
    method: str
    """The id of the method or format; ``exact`` with a codebook."""
    codebook: Codebook
    """The levels and their values."""
    axis: int | None
    """The axis whose indices have scales of their own."""
    block: int | None
    """The weights of a block."""

    @property
    def values(self) -> NDArray[np.float32]:
        """The value of each level of ``codebook.levels``, rising."""
        return self.codebook.values

    @property
    def two_scales(self) -> bool:
        """Whether there is a scale for each sign."""
        return self.scale.ndim > _scale_axes(self)

    def __repr__(self) -> str:
        return (
            f"Quantized(method={self.method!r}, shape={self.levels.shape}, scale={self.scale.shape}, "
            f"error={self.error:.6g})"
        )


def _scale_axes(result: Quantized) -> int:
    """The axes of the scale, without that of the signs."""
    if result.block is not None:
        return 1 if result.levels.ndim <= 1 and result.axis is None else 2
    return 0 if result.axis is None else 1


class Layout(NamedTuple):
    """How an array is cut into groups with a scale."""

    shape: tuple[int, ...]
    axis: int
    rows: int
    columns: int
    block: int | None

    @property
    def blocks(self) -> int:
        """The blocks of a row."""
        length = min(self.block or self.columns, self.columns)
        return max(-(-self.columns // max(length, 1)), 1)


def layout(shape: tuple[int, ...], axis: int | None, block: int | None) -> Layout:
    """The groups of an array whose axis ``axis`` is in front: ``shape`` is that shape."""
    if not shape:
        rows = 1
    elif len(shape) == 1 and axis is None:
        rows = 1
    else:
        rows = shape[0]
    size = math.prod(shape)
    per_group = block if block is not None else (None if axis is None else 0)
    return Layout(shape, axis or 0, rows, size // rows if rows else 0, per_group)


def scale_shape(groups: Layout, axis: int | None, two_scales: bool) -> tuple[int, ...]:
    """The shape of the scales."""
    shape: tuple[int, ...]
    if groups.block is None:
        shape = ()
    elif groups.block == 0:
        shape = (groups.rows,)
    elif len(groups.shape) <= 1 and axis is None:
        shape = (groups.blocks,)
    else:
        shape = (groups.rows, groups.blocks)
    return (*shape, 2) if two_scales else shape


def _quantizer(
    method: str | None, bits: int | None, format: str | None, codebook: Codebook | None
) -> _laq.Quantizer:
    given = {"method": method, "format": format, "codebook": codebook}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"found {' and '.join(names)}, expected one of them")
    if bits is not None and (format is not None or codebook is not None):
        raise ValueError(f"found bits={bits!r} and {names[0]}, which has its own bits")
    if codebook is not None:
        if not isinstance(codebook, Codebook):
            raise TypeError(f"codebook is a {type(codebook).__name__}, expected laq.Codebook.custom(values)")
        return _laq.Quantizer.of_codebook(codebook._core)
    name = format if format is not None else ("lat-e" if method is None else method)
    if not isinstance(name, str):
        raise TypeError(f"{names[0]} is {name!r}, expected a str")
    if format is not None:
        return _laq.Quantizer.of_format(format)
    return _laq.Quantizer.of_method(name, None if bits is None else whole_number(bits, "bits"))


def _axis(axis: Any, dimensions: int) -> int | None:
    if axis is None:
        return None
    found = whole_number(axis, "axis")
    if not -dimensions <= found < dimensions:
        raise ValueError(f"found axis={found}, expected None or an axis of the {dimensions} of w")
    return found % dimensions


def _block(block: Any, quantizer: _laq.Quantizer) -> int | None:
    own = quantizer.block
    if block is None:
        return own
    found = whole_number(block, "block")
    if not 1 <= found <= _laq.MAX_BLOCK:
        raise ValueError(f"found block={found}, expected 1 to {_laq.MAX_BLOCK}")
    if own not in (None, found):
        raise ValueError(f"`{quantizer.id}` has a scale for {own} weights, found block={found}: omit it")
    return found


def quantize(
    w: Any,
    d: Any = None,
    method: str | None = None,
    bits: int | None = None,
    axis: int | None = None,
    block: int | None = None,
    format: str | None = None,
    codebook: Codebook | None = None,
    out: Any = None,
    threads: int | None = None,
) -> Quantized:
    """Quantizes weights by looking at the loss: finds scales s and levels b for

        minimise ½ Σ d (w − ŵ)²  with  ŵ = s · v(b)

    The default ``lat-e``, ``lab``, the methods that end in ``-e``, all formats and codebooks find the global optimum in
    every group of weights with a scale. The other methods find what their publications describe.

    Parameters
    ----------
    w : array
        The weights, of any shape: numpy, a tensor of PyTorch on the CPU, or anything else that numpy reads. float32 is
        not copied; float16, bfloat16 and float64 are rounded to float32. It must be contiguous, and no other thread
        may write to it until the call returns.
    d : array, optional
        The curvature of the loss in each weight: not negative, shape of w. A common factor has no effect on the levels.
        None means 1.
    method : str, optional
        One of :func:`methods`: ``lat-e`` if neither format nor codebook is given. ``ttq`` has the scales at which its
        training starts.
    bits : int, optional
        Its number of bits, if the method has a choice and does not name it: ``method="laq-linear", bits=4``.
    axis : int, optional
        A scale for each index of this axis, such as 0 for a weight of outputs × inputs; one for all weights if None.
        Other axes than 0 are copied to the front and back.
    block : int, optional
        A scale for each ``block`` successive weights of a row; the last of a row may have fewer. A row is one index
        of ``axis`` (0 if None) with all other axes flattened, and a vector is one row.
    format : str, optional
        One of :func:`formats`, such as ``q4_0``. It has its own blocks.
    codebook : Codebook, optional
        Levels of your own, with the optimum.
    out : array, optional
        Where the quantized weights are written: contiguous, float32, the shape of w; it may be w.
    threads : int, optional
        The number of threads; all processors if None. No result depends on it.

    Raises
    ------
    ValueError
        A weight or curvature that is not finite, a negative curvature, a shape, a method or an option that does not
        fit. ``out`` is not written then.
    TypeError
        An array of other elements.
    """
    quantizer = _quantizer(method, bits, format, codebook)
    weights = to_float32(w, "w")
    axis = _axis(axis, weights.ndim)
    per_block = _block(block, quantizer)
    curvature = None if d is None else to_float32(d, "d")
    if curvature is not None and curvature.shape != weights.shape:
        raise ValueError(f"d has the shape {curvature.shape}, expected that of w, {weights.shape}")
    if threads is not None:
        threads = whole_number(threads, "threads")
    if out is None:
        decoded = np.empty(weights.shape, np.float32)
    else:
        decoded = to_output(out, "out", weights.shape)
    levels = np.empty(weights.shape, np.int8)

    moved_levels, moved_decoded = levels, decoded
    if axis is not None and axis > 0:
        # A copy in any case: it is written to.
        weights = np.moveaxis(weights, axis, 0).copy(order="C")
        if curvature is not None:
            curvature = np.ascontiguousarray(np.moveaxis(curvature, axis, 0))
        moved_levels, moved_decoded = np.empty(weights.shape, np.int8), weights
    groups = layout(weights.shape, axis, per_block)
    steps, error = quantizer.solve(
        weights.reshape(-1),
        None if curvature is None else curvature.reshape(-1),
        groups,
        moved_levels.reshape(-1),
        moved_decoded.reshape(-1),
        threads,
    )
    if axis is not None and axis > 0:
        levels[...] = np.moveaxis(moved_levels, 0, axis)
        decoded[...] = np.moveaxis(moved_decoded, 0, axis)
    return Quantized(
        levels=levels,
        scale=steps.reshape(scale_shape(groups, axis, quantizer.two_scales)),
        error=error,
        decoded=decoded,
        method=quantizer.id,
        codebook=Codebook(quantizer.codebook),
        axis=axis,
        block=per_block,
    )
