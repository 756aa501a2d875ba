"""The products of the paper's dense layers and of its LSTM, ours, PyTorch's (MKL on Intel) and numpy's (OpenBLAS) in
turn, in one run, on the same cores.

    python3 benches/pytorch/products.py [--repetitions 15] [--threads 2] [--json FILE]

A layer has `rows` examples, `inputs` and `outputs`: forward is X W^T, the gradient of the weights G^T X, that of the
input G W. numpy takes part where it is installed; it computes with the threads of OPENBLAS_NUM_THREADS.
"""

import math
import os
import time

# OpenBLAS's threads spin for a tenth of a second after a product, which the next candidate would pay for.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import torch

import interleave

# What is computed, rows, inputs, outputs.
PRODUCTS = [
    ("forward", 100, 784, 2048), ("weight", 100, 784, 2048),
    ("forward", 100, 2048, 2048), ("both", 100, 2048, 2048),
    ("forward", 50, 8192, 1024), ("both", 50, 8192, 1024),
    ("forward", 50, 1024, 1024), ("both", 50, 1024, 1024),
    ("forward", 10000, 512, 87), ("both", 10000, 512, 87),
    ("weight", 10000, 512, 2048),
]

IN_A_ROW = 10

parser = interleave.parser(__doc__, methods="")
parser.set_defaults(server="cargo run --quiet --release --package laq-tensor --example product_server --")
options = parser.parse_args()
interleave.prepare(options)


def timed(products):
    """The mean of several in a row, as our program does."""

    def once():
        for multiply, a, b, out in products:
            multiply(a, b, out=out)

    def step():
        start = time.perf_counter()
        for _ in range(IN_A_ROW):
            once()
        return (time.perf_counter() - start) / IN_A_ROW, 0.0

    return step


def products(what, x, w, g, dx, dw, y, multiply):
    return timed({
        "forward": [(multiply, x, w.T, y)], "weight": [(multiply, g.T, x, dw)],
        "both": [(multiply, g, w, dx), (multiply, g.T, x, dw)],
    }[what])


def peers(what, rows, inputs, outputs):
    sizes = [(rows, inputs), (outputs, inputs), (rows, outputs), (rows, inputs), (outputs, inputs), (rows, outputs)]
    tensors = [2 * torch.rand(size) - 1 for size in sizes]
    found = {"PyTorch": products(what, *tensors, torch.mm)}
    try:
        import numpy
    except ImportError:
        return found
    return found | {"numpy": products(what, *(tensor.numpy().copy() for tensor in tensors), numpy.matmul)}


candidates, pairs = {}, []
for what, *sizes in PRODUCTS:
    name = f"{what} {' x '.join(map(str, sizes))}"
    candidates[f"laq {name}"] = interleave.server(options.server, [str(options.threads), str(IN_A_ROW), what, *map(str, sizes)])
    for peer, step in peers(what, *sizes).items():
        candidates[f"{peer} {name}"] = step
        pairs.append((f"laq {name}", f"{peer} {name}"))


def geometric_mean(ratios):
    """Over all shapes, of ours by the faster peer's."""
    fastest = {}
    for name, ratio in ratios.items():
        ours = name.split(" / ")[0]
        fastest[ours] = max(fastest.get(ours, 0.0), ratio["medians"])
    mean = math.exp(sum(map(math.log, fastest.values())) / len(fastest))
    return {"geometric mean of laq / the faster": {part: mean for part in ("medians", "minima", "paired")}}


interleave.run(options, "Products of dense layers: rows x inputs x outputs", candidates, pairs, geometric_mean)
