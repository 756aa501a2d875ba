"""The arrays of a safetensors file."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


def read(
    path: str | os.PathLike[str], names: set[str] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays with these names, or all, and the metadata. BF16 becomes float32."""
    with open(path, "rb") as file:
        header, start = _header(file, path)
        metadata = header.pop("__metadata__", None) or {}
        arrays = {}
        for name, info in header.items():
            if names is not None and name not in names:
                continue
            arrays[name] = _array(file, start, name, info, path)
    return arrays, metadata


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata."""
    return read(path, set())[1]


def _header(file: Any, path: Any) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if length > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{os.fspath(path)} is not a safetensors file, or truncated")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{os.fspath(path)} is not a safetensors file: no header")
    return header, 8 + length


def _array(file: Any, start: int, name: str, info: Any, path: Any) -> NDArray[Any]:
    try:
        dtype, shape = str(info["dtype"]), tuple(int(size) for size in info["shape"])
        first, last = (int(offset) for offset in info["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{os.fspath(path)}: the header entry of {name} is invalid") from None
    if dtype != "BF16" and dtype not in _TYPES:
        raise ValueError(f"{os.fspath(path)}: {name} has elements of {dtype}, which numpy does not have")
    element = np.dtype("<u2" if dtype == "BF16" else _TYPES[dtype])
    count = math.prod(shape)
    if min(first, last, *shape, 0) < 0 or last - first != count * element.itemsize:
        raise ValueError(f"{os.fspath(path)}: {name} has {last - first} bytes for the shape {shape}")
    if start + last > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{os.fspath(path)} is truncated: {name} is not complete")
    file.seek(start + first)
    found = np.fromfile(file, element, count)
    if dtype == "BF16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(found.dtype.newbyteorder("="), copy=False).reshape(shape)
