"""Times onnxruntime's product of a 4-bit or 2-bit matrix and a vector (MatMulNBits), on one thread.

    python matvec.py REPETITIONS SIZE...

Prints a JSON array of rows as `packed_table` of laq-benches does, for `cargo xtask bench packed --onnxruntime`.
The operator has a scale for each block of 128 weights, and rounds the vector within the timed call.
"""
import json
import statistics
import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

BLOCK = 128


def session(size, bits, level):
    blocks = size // BLOCK
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 256, (size, blocks, BLOCK * bits // 8), dtype=np.uint8)
    scales = np.full(size * blocks, 0.01, np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=size, N=size, bits=bits, block_size=BLOCK, accuracy_level=level,
    )
    graph = helper.make_graph(
        [node], "matvec",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size])],
        [
            helper.make_tensor("w", TensorProto.UINT8, weights.shape, weights.tobytes(), raw=True),
            helper.make_tensor("s", TensorProto.FLOAT, scales.shape, scales.tobytes(), raw=True),
        ],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


repetitions, sizes = int(sys.argv[1]), [int(size) for size in sys.argv[2:]]
rows = []
for size in sizes:
    x = np.random.default_rng(2).standard_normal((1, size)).astype(np.float32)
    cases = []
    for bits in (2, 4):
        for level, product in ((1, "f32"), (4, "int8")):
            try:
                run = session(size, bits, level)
                bound = run.io_binding()
                bound.bind_cpu_input("x", x)
                bound.bind_output("y")
                run.run_with_iobinding(bound)
                cases.append((bits, product, run, bound, []))
            except Exception as error:
                print(f"MatMulNBits with {bits} bits, {product}: {error}", file=sys.stderr)
    for _ in range(repetitions):
        for _, _, run, bound, seconds in cases:
            start = time.perf_counter()
            for _ in range(20):
                run.run_with_iobinding(bound)
            seconds.append((time.perf_counter() - start) / 20)
    for bits, product, _, _, seconds in cases:
        rows.append({
            "size": size, "product": product, "codebook": f"onnxruntime {bits} bits", "isa": "",
            "bytes": size * size * bits // 8, "median_seconds": statistics.median(seconds),
            "min_seconds": min(seconds),
        })
print(json.dumps(rows))
