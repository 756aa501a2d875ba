"""Times exported networks in onnxruntime, and the same LSTM in PyTorch if it is installed, on one thread.

    python networks.py REPETITIONS FILE.onnx...

Prints a JSON array of rows as `network_table` of laq-benches does, for `cargo xtask bench networks`. A model of
one step (`laq export --step`) reads a character at a time, another classifies one image.
"""
import json
import os
import statistics
import sys
import time

import numpy as np
import onnxruntime

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

SECONDS = 0.02


def onnx_call(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # No rounding of activations to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    run = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = run.get_inputs()
    feeds = {}
    for value in inputs:
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        feeds[value.name] = np.zeros(shape, np.int64 if "int64" in value.type else np.float32)
    if len(inputs) == 1:
        return "image", lambda: run.run(None, feeds)

    def step():
        _, feeds["hidden"], feeds["cell"] = run.run(None, feeds)

    return "character", step


def torch_call(symbols, hidden):
    lstm, output = torch.nn.LSTM(symbols, hidden), torch.nn.Linear(hidden, symbols)
    one_hot = torch.zeros(1, 1, symbols)
    one_hot[0, 0, 0] = 1
    state = None

    def step():
        nonlocal state
        with torch.inference_mode():
            hidden, state = lstm(one_hot, state)
            output(hidden)

    return step


repetitions, paths = int(sys.argv[1]), sys.argv[2:]
cases = []
for path in paths:
    unit, call = onnx_call(path)
    cases.append((path, "onnxruntime " + onnxruntime.__version__, unit, os.path.getsize(path), call, []))
    if unit == "character" and torch and not any(case[1].startswith("PyTorch") for case in cases):
        run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        symbols, hidden = run.get_outputs()[0].shape[-1], run.get_inputs()[1].shape[-1]
        parameters = 4 * hidden * (symbols + hidden + 2) + symbols * (hidden + 1)
        name = "PyTorch " + torch.__version__
        cases.append(("f32", name, unit, 4 * parameters, torch_call(symbols, hidden), []))
for _ in range(repetitions):
    for *_, call, seconds in cases:
        call()
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < SECONDS:
            call()
            count += 1
        seconds.append((time.perf_counter() - start) / count)
print(json.dumps([
    {"file": path, "program": program, "unit": unit, "bytes": size,
     "median_seconds": statistics.median(seconds), "min_seconds": min(seconds)}
    for path, program, unit, size, _, seconds in cases
]))
