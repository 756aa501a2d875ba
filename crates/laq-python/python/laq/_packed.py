"""Packed weights: tensors, files and products."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _laq, _safetensors
from ._arrays import to_float32, to_numpy, whole_number
from ._codebook import Codebook
from ._quantize import Quantized, layout


class Packed:
    """Weights of one to eight bits, packed as files have them: made by :func:`pack` and :func:`load`.

    ``packed @ x`` is the product with a vector, or with the columns of a matrix.
    """

    __slots__ = ("_core",)
    # numpy leaves `array @ packed` to this class, which refuses it.
    __array_ufunc__ = None

    def __init__(self, core: _laq.Packed) -> None:
        if not isinstance(core, _laq.Packed):
            raise TypeError("packed weights are made by laq.pack and laq.load")
        self._core = core

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights."""
        return tuple(self._core.shape)

    @property
    def bits(self) -> float:
        """Bits of a packed level: 1 to 8, or 1.6 for five trits a byte."""
        return self._core.bits

    @property
    def packing(self) -> str:
        """``bits1`` to ``bits8``, or ``trits5``."""
        return self._core.packing

    @property
    def block(self) -> int | None:
        """The weights of a block, if a row has several scales."""
        return self._core.block

    @property
    def two_scales(self) -> bool:
        """Whether there is a scale for each sign."""
        return self._core.two_scales

    @property
    def nbytes(self) -> int:
        """Bytes of levels and scales in a file."""
        return self._core.nbytes

    @property
    def values(self) -> NDArray[np.float32]:
        """The value of each level, rising."""
        return np.array(self._core.multipliers(), np.float32)

    @property
    def levels(self) -> NDArray[np.int8]:
        """The level of each weight, unpacked."""
        values = self.values
        codes = self._core.codes().astype(np.int16)
        if values.tolist() == [-1.0, 1.0]:
            found = 2 * codes - 1
        else:
            found = codes - np.count_nonzero(values < 0)
        return found.astype(np.int8).reshape(self.shape)

    @property
    def scale(self) -> NDArray[np.float32]:
        """The factors of the values, in the shape of ``Quantized.scale``, but ``(rows,)`` for rows of one block each, and
        ``()`` if there is one.
        """
        steps = self._core.steps()
        signs = (2,) if self.two_scales else ()
        groups = steps.size // (2 if self.two_scales else 1)
        rows = self._core.rows
        if self.block is not None and (rows != 1 or len(self.shape) > 1):
            return steps.reshape(rows, -1 if rows else 0, *signs)
        if self.block is None and groups == 1:
            return steps.reshape(signs)
        return steps.reshape(groups, *signs)

    def decoded(self) -> NDArray[np.float32]:
        """The weights: scale times value, in float32."""
        return self._core.decode().reshape(self.shape)

    def __matmul__(self, x: Any) -> NDArray[np.float32]:
        vectors = to_numpy(x, "x")
        if vectors.ndim > 2:
            raise ValueError(f"x has {vectors.ndim} axes, expected 1 or 2; laq.matvec takes batches")
        columns = math.prod(self.shape[1:])
        if vectors.ndim > 0 and len(self.shape) > 1 and len(vectors) != columns:
            raise ValueError(f"x has the shape {vectors.shape}, expected ({columns},) or ({columns}, n)")
        if vectors.ndim < 2:
            return matvec(self, x)
        return np.ascontiguousarray(matvec(self, np.ascontiguousarray(vectors.T)).T)

    def __reduce__(self) -> tuple[Callable[..., Packed], tuple[Any, ...]]:
        codebook = Codebook.custom(self.values)
        return pack, (self.levels, self.scale, codebook, self.block, self.two_scales, self.packing)

    def __repr__(self) -> str:
        return f"Packed(shape={self.shape}, bits={self.bits:g}, nbytes={self.nbytes})"


def pack(
    weights: Any,
    scale: Any = None,
    codebook: Codebook | None = None,
    block: int | None = None,
    two_scales: bool = False,
    packing: str | None = None,
) -> Packed:
    """Packs a result of :func:`quantize`, or levels with their scale and codebook.

    Parameters
    ----------
    weights : Quantized or array of int
        The result, with scales for the whole array, for axis 0, or for blocks of its rows; or levels of any shape.
    scale, codebook, block, two_scales
        For levels alone: their scales, in the shape that ``Quantized.scale`` has, and what they belong to.
    packing : str, optional
        ``bits1`` to ``bits8``, or ``trits5`` (1.6 bits for three levels); the fewest whole bits if None.

    Raises
    ------
    ValueError
        A level that is not in the codebook, a scale that is not finite, a shape that does not fit, or scales along
        another axis than 0.
    """
    if isinstance(weights, Quantized):
        if scale is not None or codebook is not None or block is not None or two_scales:
            raise ValueError("a result of quantize has its own scale, codebook and blocks: omit them")
        found: Any = weights
        if found.axis not in (None, 0):
            raise ValueError(
                f"the scales are those of axis {found.axis}, expected axis 0: quantize and pack the transposed weights"
            )
        levels, axis = found.levels, found.axis
        scale, codebook, block, two_scales = found.scale, found.codebook, found.block, found.two_scales
    else:
        if scale is None or codebook is None:
            raise ValueError("levels need their scale and codebook: pass scale= and codebook=")
        levels = _levels(weights)
        axes = np.ndim(scale) - int(two_scales)
        axis = None if axes == 0 or (block is not None and axes == 1) else 0
    if not isinstance(codebook, Codebook):
        raise TypeError(f"codebook is a {type(codebook).__name__}, expected a laq.Codebook")
    if packing is not None and not isinstance(packing, str):
        raise TypeError(f"packing is {packing!r}, expected a str")
    block = None if block is None else whole_number(block, "block")
    if block is not None and not 1 <= block <= _laq.MAX_BLOCK:
        raise ValueError(f"found block={block}, expected 1 to {_laq.MAX_BLOCK}")
    steps = np.asarray(scale, np.float32).reshape(-1).tolist()
    groups = layout(levels.shape, axis, block)
    return Packed(
        _laq.Packed.pack(levels.reshape(-1), codebook._core, groups, steps, bool(two_scales), packing)
    )


def _levels(weights: Any) -> NDArray[np.int8]:
    found = to_numpy(weights, "levels")
    if found.dtype.kind not in "iu":
        raise TypeError(f"levels have elements of {found.dtype}, expected integers; see laq.quantize")
    if found.size and not (-128 <= found.min() and found.max() <= 127):
        raise ValueError("a level is not within -128 to 127")
    return np.asarray(found, np.int8, order="C")


def unpack(packed: Packed) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The levels and the scale of packed weights."""
    _check(packed)
    return packed.levels, packed.scale


def matvec(packed: Packed, x: Any, threads: int | None = None) -> NDArray[np.float32]:
    """W·x in float32 with the packed weights as a matrix W: the first axis by all others.

    Parameters
    ----------
    packed : Packed
        Weights of rows × columns. Up to 16 levels stay packed; more, and blocks with scales of their own, are decoded
        for the first product and kept.
    x : array
        Shape ``(columns,)``, or ``(..., columns)`` for several vectors.
    threads : int, optional
        As in :func:`quantize`.

    Returns
    -------
    array
        Shape ``(rows,)`` or ``(..., rows)``: each vector with its sums in the order of the columns, rounded alike for
        any number of threads.
    """
    _check(packed)
    vectors = to_float32(x, "x")
    shape = packed.shape
    if len(shape) < 2:
        raise ValueError(f"the packed weights have the shape {shape}, expected a matrix")
    rows = shape[0]
    columns = packed._core.elements // rows if rows else 0
    if vectors.ndim == 0 or (rows and vectors.shape[-1] != columns):
        raise ValueError(f"x has the shape {vectors.shape}, expected ({columns},) or (..., {columns})")
    if threads is not None:
        threads = whole_number(threads, "threads")
    y = np.empty((*vectors.shape[:-1], rows), np.float32)
    packed._core.multiply(vectors.reshape(-1), y.reshape(-1), threads)
    return y


def _check(packed: object) -> None:
    if not isinstance(packed, Packed):
        raise TypeError(f"found a {type(packed).__name__}, expected the result of laq.pack or laq.load")


class Tensors(dict[str, "Packed | NDArray[Any]"]):
    """The tensors of a file by name: packed ones, and arrays for all others."""

    metadata: dict[str, str]
    """The metadata of the file, without the entries that describe the packed tensors."""


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file of packed weights, which ``laq`` reads too: safetensors with packed levels and scales.

    Results of :func:`quantize` are packed; arrays are written in float32. The file is replaced when it is complete.

    Raises
    ------
    ValueError
        Names that clash, a result that :func:`pack` refuses, or values beyond the range of float32.
    OSError
        The file cannot be written.
    """
    packed, floats = contents(tensors)
    parts = {name + part for name, _ in packed for part in (".packed", ".scale")}
    clash = next((name for name in tensors if name in parts or name == "__metadata__"), None)
    if clash is not None:
        raise ValueError(f"the name {clash} is that of a part of the file: choose another")
    entries = check_metadata(metadata)
    for key in ("laq.format_version", "laq.tensors"):
        if key in entries:
            raise ValueError(f"the metadata entry {key} is written by laq: choose another")
    _laq.write_packed(path, (packed, floats), entries)


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """The metadata, which are texts."""
    entries = dict(metadata or {})
    for key, text in entries.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"the metadata {key!r}: {text!r} is not a str: str")
    return entries


def contents(tensors: Mapping[str, Any]) -> _laq.NewTensors:
    """Tensors by name as files have them: those that are packed, and all others in float32 with their shapes."""
    packed: list[tuple[str, _laq.Packed]] = []
    floats: list[tuple[str, tuple[int, ...], NDArray[np.float32]]] = []
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is not a str")
        if isinstance(tensor, Quantized):
            try:
                tensor = pack(tensor)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if isinstance(tensor, Packed):
            packed.append((name, tensor._core))
            continue
        array = to_numpy(tensor, name)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise TypeError(f"{name} has elements of {array.dtype}, expected floats or packed weights")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(array, np.float32)
        if array.dtype.itemsize > 4 and np.any(np.isinf(values.reshape(array.shape)) & np.isfinite(array)):
            raise ValueError(f"{name} has values beyond the range of float32: scale or clip them")
        floats.append((name, array.shape, values.reshape(-1)))
    return packed, floats


def load(path: str | os.PathLike[str]) -> Tensors:
    """Reads a file of packed weights: of :func:`save`, ``laq quantize`` or ``laq export --to packed``.

    Raises
    ------
    ValueError
        The file is damaged, or has no packed weights.
    OSError
        The file cannot be read.
    """
    packed, others, metadata = _laq.read_packed(path)
    found = Tensors((name, Packed(core)) for name, core in packed)
    if others:
        found.update(_safetensors.read(path, set(others))[0])
    found.metadata = metadata
    return found
