"""Loss-aware quantization of weights to one to eight bits.

Finds scales s and levels b that minimise ½ Σ d (w − ŵ)² with ŵ = s · v(b), where d is the curvature of the loss::

    import laq

    result = laq.quantize(w, d, method="lat-e", axis=0)  # ternary weights, a scale for each row
    laq.save("model.safetensors", {"weight": result})
    y = laq.load("model.safetensors")["weight"] @ x
"""

from ._codebook import Codebook
from ._export import export
from ._laq import __version__
from ._packed import Packed, Tensors, load, matvec, pack, save, unpack
from ._quantize import Method, Quantized, formats, methods, quantize
from ._run import Metrics, Run, read_run

__all__ = [
    "Codebook",
    "Method",
    "Metrics",
    "Packed",
    "Quantized",
    "Run",
    "Tensors",
    "__version__",
    "export",
    "formats",
    "load",
    "matvec",
    "methods",
    "pack",
    "quantize",
    "read_run",
    "save",
    "unpack",
]
