"""Files of models of PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _laq
from ._arrays import to_numpy
from ._packed import check_metadata, contents, save
from ._quantize import Quantized

if TYPE_CHECKING:
    import torch

_FORMATS = {".safetensors": "packed", ".gguf": "gguf"}
_NAMES = (*_FORMATS.values(), "compressed-tensors")


def export(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    quantized: Mapping[str, Quantized] | None = None,
    metadata: Mapping[str, Any] | None = None,
    format: str | None = None,
) -> None:
    """Writes a model of PyTorch with its quantized weights as they are: levels and scales.

    ==================== ================ ==========================================================
    format               suffix           content
    ==================== ================ ==========================================================
    `packed`             ``.safetensors`` packed levels and scales, as :func:`save` writes them
    `gguf`               ``.gguf``        weights of a format of GGUF as its blocks, others in float32
    `compressed-tensors` none: a folder   ``model.safetensors`` and ``config.json`` as vLLM has them:
                                          matrices of integers with one scale a group, others in float32
    ==================== ================ ==========================================================

    Decoded weights are those of ``quantized`` bit for bit, whatever the parameters of the model are now. A
    parameter with several names (tied weights) is written once, with the first. All other parameters and
    buffers are written in float32. The file is replaced when it is complete.

    Parameters
    ----------
    model : torch.nn.Module
        The model, on any device.
    path : path
        The file, or the folder for `compressed-tensors`.
    quantized : dict of Quantized, optional
        The quantized weights by the names of ``model.named_parameters()``; those of
        ``laq.torch.quantized(model)`` if None.
    metadata : dict of str, optional
        Entries of the file. GGUF also takes integers, floats and truth values; ``general.architecture`` is
        ``laq`` unless given.
    format : str, optional
        One of the table, if the suffix does not tell.

    Raises
    ------
    ValueError
        An unknown suffix or format, a name or shape that is not that of a parameter, or scales along another
        axis than 0.
    OSError
        The file cannot be written.
    """
    kind = _format(path, format)
    if quantized is None:
        from . import torch as laq_torch

        quantized = laq_torch.quantized(model)
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    aliases = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    weights = {}
    for name, weight in quantized.items():
        if name not in aliases:
            raise ValueError(f"{name} is quantized, but the model has no parameter of this name")
        if weight.levels.shape != tuple(state[name].shape):
            raise ValueError(
                f"the levels of {name} have the shape {weight.levels.shape}, "
                f"expected that of the parameter, {tuple(state[name].shape)}"
            )
        weights[aliases[name]] = weight
    floats = {
        name: _floats(tensor.detach().cpu(), name)
        for name, tensor in state.items()
        if aliases[name] == name and name not in weights
    }
    export_quantized(weights, floats, path, kind, metadata)


def export_quantized(
    tensors: Mapping[str, Quantized],
    floats: Mapping[str, NDArray[Any]],
    path: str | os.PathLike[str],
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes quantized tensors and others as :func:`export` does."""
    kind = _format(path, format)
    everything = {**floats, **tensors}
    if kind == "packed":
        save(path, everything, metadata)
    elif kind == "compressed-tensors":
        _laq.write_compressed_tensors(path, contents(everything), check_metadata(metadata))
    else:
        formats = {name: tensor.method for name, tensor in tensors.items()}
        _laq.write_gguf(path, contents(everything), formats, _gguf_metadata(metadata))


def _format(path: str | os.PathLike[str], format: str | None) -> str:
    if format is None:
        suffix = os.path.splitext(os.fspath(path))[1]
        if suffix not in _FORMATS:
            expected = ", ".join(_FORMATS)
            raise ValueError(f"{os.fspath(path)} ends in `{suffix}`, expected {expected}, or format=")
        return _FORMATS[suffix]
    if format not in _NAMES:
        raise ValueError(f"found format={format!r}, expected one of {', '.join(_NAMES)}")
    return format


def _floats(tensor: Any, name: str) -> NDArray[Any]:
    """The tensor, with integers and truth values as float32."""
    array = to_numpy(tensor, name)
    if array.dtype.kind not in "iub":
        return array
    found = array.astype(np.float32)
    if not np.array_equal(found, array):
        raise ValueError(f"{name} has integers beyond 2^24, which float32 does not have")
    return found


def _gguf_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise TypeError(f"the metadata {key!r}: {value!r} is not a str: str, int, float or bool")
        if isinstance(value, int) and not 0 <= value < 2**32:
            raise ValueError(f"the metadata entry {key} is {value}, expected 0 to 2^32 - 1")
        if key == "general.alignment":
            raise ValueError(f"the metadata entry {key} is that of laq: omit it")
    return dict(metadata or {})
