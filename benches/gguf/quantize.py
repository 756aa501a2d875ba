"""Quantizes the weights that `block_table` wrote with the reference quantizers of the package gguf, which use no curvature,
for `cargo xtask bench blocks --gguf`: takes their folder, and prints a JSON array of rows as `block_table` does.
"""

import json
import pathlib
import sys
import time

import numpy as np
from gguf import GGMLQuantizationType, quants

COLUMNS = 1024

folder = pathlib.Path(sys.argv[1])
weights, curvature = (
    np.fromfile(folder / f"{name}.f32", np.float32).reshape(-1, COLUMNS) for name in ("weights", "curvature")
)


def error(decoded, d):
    square = lambda values: np.sum(d * values.astype(np.float64) ** 2)
    return square(weights - decoded) / square(weights)


rows = []
for name in ("TQ1_0", "TQ2_0", "Q4_0", "MXFP4"):
    kind = GGMLQuantizationType[name]
    start = time.perf_counter()
    blocks = quants.quantize(weights, kind)
    seconds = time.perf_counter() - start
    decoded = quants.dequantize(blocks, kind)
    rows.append({
        "block_type": name.lower(),
        "quantizer": "gguf",
        "weighted_error": error(decoded, curvature.astype(np.float64)),
        "plain_error": error(decoded, 1.0),
        "median_seconds": seconds,
    })
print(json.dumps(rows))
