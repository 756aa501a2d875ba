"""Files of models of PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _laq
from ._arrays import to_numpy, whole_number
from ._packed import check_metadata, contents, save
from ._quantize import Quantized

if TYPE_CHECKING:
    import torch

_FORMATS = {".safetensors": "packed", ".gguf": "gguf", ".onnx": "onnx"}
_NAMES = (*_FORMATS.values(), "compressed-tensors")
_OPSETS = range(21, 26)


def export(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    example_input: Any = None,
    quantized: Mapping[str, Quantized] | None = None,
    metadata: Mapping[str, Any] | None = None,
    format: str | None = None,
    opset: int | None = None,
    dynamic_shapes: Any = None,
) -> None:
    """Writes a model of PyTorch with its quantized weights as they are: levels and scales.

    ==================== ================ ==========================================================
    format               suffix           content
    ==================== ================ ==========================================================
    `packed`             ``.safetensors`` packed levels and scales, as :func:`save` writes them
    `gguf`               ``.gguf``        weights of a format of GGUF as its blocks, others in float32
    `onnx`               ``.onnx``        a model that runs: integers of 2, 4 or 8 bits, decoded by nodes
    `compressed-tensors` none: a folder   ``model.safetensors`` and ``config.json`` as vLLM has them:
                                          matrices of integers with one scale a group, others in float32
    ==================== ================ ==========================================================

    Decoded weights are those of ``quantized`` bit for bit, whatever the parameters of the model are now. A
    parameter with several names (tied weights) is written once, with the first. All other parameters and
    the buffers of ``state_dict`` are written in float32. The file is replaced when it is complete.

    Parameters
    ----------
    model : torch.nn.Module
        The model, on any device.
    path : path
        The file, or the folder for `compressed-tensors`.
    example_input : tensor or tuple of tensors
        What ``forward`` takes, for ONNX.
    quantized : dict of Quantized, optional
        The quantized weights by the names of ``model.named_parameters()``; those of
        ``laq.torch.quantized(model)`` if None.
    metadata : dict of str, optional
        Entries of the file. GGUF also takes integers, floats and truth values; ``general.architecture`` is
        ``laq`` unless given.
    format : str, optional
        One of the table, if the suffix does not tell.
    opset : int, optional
        For ONNX: 21 to 25. With 25, the default, levels that fit have 2 bits, else 4.
    dynamic_shapes : optional
        For ONNX: the sizes that may change, as ``torch.onnx.export`` takes them.

    Raises
    ------
    ValueError
        Nothing is quantized, an unknown suffix or format, a name or shape that is not that of a parameter, scales along another
        axis than 0 (which ONNX alone has), values beyond the range of float32, or a quantized weight that the graph of
        ONNX does not have.
    ImportError
        ONNX needs the packages torch, onnx and onnxscript.
    OSError
        The file cannot be written.
    """
    kind = _format(path, format)
    from .torch._selection import modules_of

    model = modules_of(model)
    if quantized is None:
        from . import torch as laq_torch

        quantized = laq_torch.quantized(model)
    if not quantized:
        raise ValueError(
            "no parameter of the model is quantized: export the model that laq.torch has quantized, not a copy of "
            "it, or pass quantized="
        )
    # A module's extra state may be of any type.
    state = {name: v for name, v in model.state_dict(keep_vars=True).items() if hasattr(v, "detach")}
    first: dict[int, str] = {}
    aliases = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    weights = {}
    for name, weight in quantized.items():
        if not isinstance(weight, Quantized):
            raise TypeError(f"{name} is a {type(weight).__name__}, expected the result of laq.quantize")
        if name not in aliases:
            raise ValueError(f"{name} is quantized, but the model has no parameter of this name")
        if weight.levels.shape != tuple(state[name].shape):
            raise ValueError(
                f"the levels of {name} have the shape {weight.levels.shape}, "
                f"expected that of the parameter, {tuple(state[name].shape)}"
            )
        weights[aliases[name]] = weight
    if kind == "onnx":
        check_metadata(metadata)
        _export_onnx(model, path, example_input, weights, aliases, metadata or {}, opset, dynamic_shapes)
        return
    options = {"example_input": example_input, "opset": opset, "dynamic_shapes": dynamic_shapes}
    given = next((option for option, value in options.items() if value is not None), None)
    if given is not None:
        raise ValueError(f"found {given}= for the format `{kind}`, expected it for `onnx` alone: omit it")
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
    """Writes quantized tensors and others as :func:`export` does, in all formats but ONNX."""
    kind = _format(path, format)
    everything = {**floats, **tensors}
    if kind == "packed":
        save(path, everything, metadata)
    elif kind == "compressed-tensors":
        _laq.write_compressed_tensors(path, contents(everything), check_metadata(metadata))
    elif kind == "gguf":
        formats = {name: tensor.method for name, tensor in tensors.items()}
        _laq.write_gguf(path, contents(everything), formats, _gguf_metadata(metadata))
    else:
        raise ValueError("an ONNX model has a graph: laq.export(model, path, example_input) writes it")


def _export_onnx(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    example_input: Any,
    weights: Mapping[str, Quantized],
    aliases: Mapping[str, str],
    metadata: Mapping[str, str],
    opset: int | None,
    dynamic_shapes: Any,
) -> None:
    try:
        import onnxscript  # noqa: F401  torch.onnx.export needs it

        from . import _onnx
    except ImportError as error:
        raise ImportError(
            f"ONNX models need torch, onnx and onnxscript ({error}): pip install torch onnx onnxscript"
        ) from error
    if example_input is None:
        raise ValueError("an ONNX model needs the input of forward: pass example_input=")
    version = 25 if opset is None else whole_number(opset, "opset")
    if version not in _OPSETS:
        raise ValueError(f"found opset={version}, expected {_OPSETS[0]} to {_OPSETS[-1]}")
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    exported = _onnx.quantized_model(model, arguments, weights, aliases, version, dynamic_shapes)
    for key, text in metadata.items():
        exported.metadata_props.add(key=key, value=text)
    _laq.write_bytes(path, exported.SerializeToString())


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
