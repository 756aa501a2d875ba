"""Decodes random blocks with the package gguf (0.19), for tests/gguf.rs: prints a JSON object of block types, each with the
bytes in hexadecimal and the bits of the decoded f32.

    pip install gguf && python gguf_blocks.py > ../fixtures/gguf_blocks.json
"""

import json

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

random = np.random.default_rng(7)
found = {}
for name in ("TQ1_0", "TQ2_0", "Q4_0", "IQ4_NL", "MXFP4", "NVFP4"):
    kind = GGMLQuantizationType[name]
    _, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (3, size), dtype=np.uint8)
    scales = np.array([0.75, -2.5e-5, 3000.0], np.float16)
    if name == "NVFP4":
        blocks[0, :4] = [0x7F, 0xFF, 0x00, 0x81]
    elif name != "MXFP4":
        start = size - 2 if name.startswith("TQ") else 0
        blocks[:, start : start + 2] = scales.view(np.uint8).reshape(3, 2)
    if name == "MXFP4":
        blocks[:, 0] = [0, 255, 130]
    weights = quants.dequantize(blocks, kind).astype(np.float32)
    found[name.lower()] = {"bytes": blocks.tobytes().hex(), "weights": weights.view(np.uint32).ravel().tolist()}
print(json.dumps(found))
