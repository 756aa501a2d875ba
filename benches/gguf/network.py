"""Weighted errors of a trained network's matrices in block formats: what `laq quantize` finds beside the usual quantizers.

    laq export RUN --to safetensors-f32 --out w.safetensors
    laq calibrate RUN --out d.safetensors
    python3 benches/gguf/network.py target/release/laq w.safetensors d.safetensors

Those of GGUF are the reference quantizers of the package gguf, bit by bit, without curvature; those of compressed-tensors take
the largest magnitude of a group as vLLM's tools do by default (an observer of minima and maxima, symmetric). Both are given every
matrix whose rows are whole blocks. Prints a table of Σ d (w − ŵ)² / Σ d w² in percent, over all these matrices.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file, save_file

laq, weights_path, curvature_path = sys.argv[1:]
weights, curvature = load_file(weights_path), load_file(curvature_path)


def of_gguf(name):
    kind = GGMLQuantizationType[name]
    return lambda matrix: quants.dequantize(quants.quantize(matrix, kind), kind)


def of_observer(bits, group):
    import torch
    from compressed_tensors.quantization import QuantizationArgs, fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(num_bits=bits, strategy="group", group_size=group, symmetric=True)

    def decoded(matrix):
        tensor = torch.from_numpy(matrix)
        groups = tensor.reshape(len(matrix), -1, group)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
        return fake_quantize(tensor, scale, zero, args).numpy()

    return decoded


FORMATS = [(name.lower(), block, of_gguf(name)) for name, block in [("TQ1_0", 256), ("TQ2_0", 256), ("Q4_0", 32), ("MXFP4", 32)]]
FORMATS += [(f"int{bits}-g{group}", group, of_observer(bits, group)) for bits in (2, 3, 4) for group in (32, 128)]


def usual(decoded, names, d):
    error = energy = 0.0
    for name in names:
        matrix = weights[name].reshape(len(weights[name]), -1)
        of = d[name].reshape(matrix.shape).astype(np.float64)
        error += np.sum(of * (matrix.astype(np.float64) - decoded(matrix)) ** 2)
        energy += np.sum(of * matrix.astype(np.float64) ** 2)
    return 100 * error / energy


def exact(name, names, d):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file({name: weights[name] for name in names}, folder / "w.safetensors")
        save_file({name: d[name] for name in names}, folder / "d.safetensors")
        command = [laq, "quantize", folder / "w.safetensors", "--format", name, "--curvature", folder / "d.safetensors"]
        lines = subprocess.run([*command, "--out", folder / "q.safetensors", "--json"], capture_output=True, check=True).stdout
    records = [json.loads(line) for line in lines.splitlines()]
    error = sum(record["weighted_error"] for record in records)
    energy = sum(0.5 * np.sum(d[n].astype(np.float64) * weights[n].astype(np.float64) ** 2) for n in names)
    return 100 * error / energy


print("| format | d = 1: usual | exact | quotient | given d: usual | exact | quotient |")
print("|---|---:|---:|---:|---:|---:|---:|")
ones = {name: np.ones_like(matrix) for name, matrix in weights.items()}
for name, block, decoded in FORMATS:
    names = [n for n in weights if n in curvature and weights[n].ndim >= 2 and weights[n][0].size % block == 0]
    cells = [name]
    for d in (ones, curvature):
        before, after = usual(decoded, names, d), exact(name, names, d)
        cells += [f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}"]
    print("| " + " | ".join(cells) + " |")
