"""Arrays of others as contiguous numpy arrays of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOATS = (np.float16, np.float32, np.float64)


def to_numpy(array: Any, name: str) -> NDArray[Any]:
    """The array as numpy sees it: without a copy where it is in the memory of the processor."""
    if isinstance(array, np.ndarray):
        # Also np.matrix, whose rows have two axes.
        return np.asarray(array)
    if hasattr(array, "detach") and hasattr(array, "numpy"):
        # A tensor of PyTorch, which need not be installed.
        device = getattr(getattr(array, "device", None), "type", "cpu")
        if device != "cpu":
            raise ValueError(f"{name} is on the device {device}: pass {name}.cpu()")
        tensor = array.detach()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        found: NDArray[Any] = tensor.numpy()
        return found
    if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
        return np.from_dlpack(array)
    return np.asarray(array)


def to_float32(array: Any, name: str) -> NDArray[np.float32]:
    """The array in float32 and C order: itself if it is that already, a copy of other types."""
    found = to_numpy(array, name)
    if isinstance(array, (list, tuple, int, float)) and found.dtype.kind in "iuf":
        found = found.astype(np.float32)
    if found.dtype.name == "bfloat16":
        found = found.astype(np.float32)
    if found.dtype.type not in _FLOATS:
        raise TypeError(f"{name} has elements of {found.dtype}, expected float32, float16 or float64")
    if not found.flags.c_contiguous:
        raise ValueError(
            f"{name} is not contiguous (shape {found.shape}, strides {found.strides}): "
            f"pass np.ascontiguousarray({name})"
        )
    if found.dtype != np.float32 or not found.flags.aligned:
        # A float64 beyond the range of float32 becomes an infinity, which solvers refuse.
        with np.errstate(over="ignore"):
            found = found.astype(np.float32)
    return found


def to_output(array: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array whose memory is written to: float32, C order, this shape."""
    found = to_numpy(array, name)
    if not isinstance(array, np.ndarray) and not hasattr(array, "detach"):
        raise TypeError(f"{name} is a {type(array).__name__}, expected a numpy array or a tensor")
    if found.dtype != np.float32 or str(getattr(array, "dtype", "")) == "torch.bfloat16":
        raise TypeError(f"{name} has elements of {array.dtype}, expected float32")
    if found.shape != shape:
        raise ValueError(f"{name} has the shape {found.shape}, expected that of w, {shape}")
    if not (found.flags.c_contiguous and found.flags.aligned):
        raise ValueError(f"{name} is not contiguous, expected an array like np.empty(w.shape, np.float32)")
    if not found.flags.writeable:
        raise ValueError(f"{name} is read-only")
    return found


def whole_number(value: Any, name: str) -> int:
    """An integer of Python or numpy that has 64 bits."""
    try:
        found = int(value.__index__())
    except AttributeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"found {name}={found}, expected an integer of 64 bits")
    return found
