"""Decodes random blocks of every type that the package gguf (0.19) reads, for tests/gguf_types.rs: prints a JSON object with
the types, each with the bytes of four blocks in hexadecimal, the hash of the bytes of the decoded f32 (FNV-1a of 64 bits), and
the bits of every 23rd; and with weights that are rounded to Q8_0, F16 and BF16, all in hexadecimal.

    python3 -m venv venv && venv/bin/pip install numpy==2.4.6 gguf==0.19.0
    venv/bin/python gguf_types.py > ../fixtures/gguf_types.json

With a folder it writes thousands of blocks and what they decode to there instead, NAME.blocks and NAME.f32, with a scale that
is no number in some, and weights.f32 rounded to NAME.rounded; the test that is ignored by default compares them:

    venv/bin/python gguf_types.py /tmp/gguf
    LAQ_GGUF_TYPES=/tmp/gguf cargo test -p laq-packed --test gguf_types -- --ignored
"""

import json
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Where the numbers in f16 of a block are.
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "TQ1_0": [52], "TQ2_0": [64], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ1_S": [0], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip
TYPES = [*HALVES, "IQ1_M", "MXFP4", "NVFP4", "F32", "BF16"]


def random_blocks(random, name, count):
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    if name == "F32":
        return random.normal(size=(count, 1)).astype(np.float32).view(np.uint8)
    return random.integers(0, 256, (count, size), dtype=np.uint8)


def put_scales(blocks, name):
    """Scales of either sign, small and large, where random bytes might be no number."""
    scales = np.array([0.75, -2.5e-5, 3000.0, 0.0123], np.float16)
    for start in HALVES.get(name, []):
        blocks[:, start : start + 2] = scales.view(np.uint8).reshape(4, 2)
        scales = np.roll(-scales, 1)
    if name == "IQ1_M":
        # Four bits in the highest bits of each of four numbers.
        for place in range(4):
            four = (scales.view(np.uint16) >> (4 * place) & 15).astype(np.uint8)
            blocks[:, 49 + 2 * place] = blocks[:, 49 + 2 * place] & 15 | four << 4
    if name == "NVFP4":
        blocks[0, :4] = [0x7F, 0xFF, 0x00, 0x81]
    if name == "MXFP4":
        blocks[:, 0] = [0, 255, 130, 1]
    if name == "BF16":
        blocks[:, 1] &= 0xBF


def decode(blocks, name):
    return quants.dequantize(blocks, GGMLQuantizationType[name]).astype(np.float32, copy=False).ravel()


def fnv_1a(data):
    found = 0xCBF29CE484222325
    for byte in data:
        found = (found ^ byte) * 0x100000001B3 % 2**64
    return found


def rounded(random, repeats):
    """Weights of many sizes, in blocks of 32: some are halfway between two integers times the scale."""
    sizes = [0.02, 3.0, 1e-6, 1e-39, 2e-42, 1e6, 0.0]
    weights = np.repeat(sizes, repeats)[:, None] * random.normal(size=(len(sizes) * repeats, 32))
    halfway = random.integers(-253, 254, (repeats, 32)) / 2
    halfway[:, 0] = 127
    bits = random.integers(0x30000000, 0x47000000, (repeats, 32)).astype(np.uint32)
    # Halfway between floats of 16 bits.
    bits[:, ::2] = bits[:, ::2] & 0xFFFFE000 | 0x1000
    bits[:, ::4] = bits[:, ::4] & 0xFFFF0000 | 0x8000
    weights = np.concatenate([weights, halfway, halfway * 2.0**-9, bits.view(np.float32)]).astype(np.float32)
    # Finite weights stay finite here.
    limit = float(np.finfo(np.float16).max)
    with np.errstate(all="ignore"):
        by_type = {
            "Q8_0": quants.quantize(weights, GGMLQuantizationType.Q8_0),
            "F16": quants.quantize(np.clip(weights, -limit, limit), GGMLQuantizationType.F16),
            "BF16": quants.quantize(weights, GGMLQuantizationType.BF16),
        }
    return weights, by_type


def fixture():
    random = np.random.default_rng(7)
    found = {}
    for name in TYPES:
        blocks = random_blocks(random, name, 4)
        put_scales(blocks, name)
        # The largest scale of MXFP4 is beyond f32.
        with np.errstate(over="ignore"):
            weights = decode(blocks, name)
        assert not np.isnan(weights).any(), name
        bits = weights.view(np.uint32)
        found[name] = {
            "bytes": blocks.tobytes().hex(),
            "hash": f"{fnv_1a(bits.tobytes()):016x}",
            "every_23rd": bits[::23].tolist(),
        }
    weights, by_type = rounded(random, 1)
    found["rounded"] = {name: data.tobytes().hex() for name, data in {"F32": weights, **by_type}.items()}
    lines = (f"{json.dumps(name)}: {json.dumps(of_type)}" for name, of_type in found.items())
    print("{\n" + ",\n".join(lines) + "\n}")


def many(folder):
    random = np.random.default_rng()
    for name in TYPES:
        blocks = random_blocks(random, name, 20000)
        with np.errstate(all="ignore"):
            weights = decode(blocks, name)
        blocks.tofile(folder / f"{name}.blocks")
        weights.tofile(folder / f"{name}.f32")
    weights, by_type = rounded(random, 2000)
    weights.tofile(folder / "weights.f32")
    for name, data in by_type.items():
        data.tofile(folder / f"{name}.rounded")


if len(sys.argv) > 1:
    many(pathlib.Path(sys.argv[1]))
else:
    fixture()
