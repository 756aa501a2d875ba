"""Models of another producer, with what `inspect` should find in them: `python3 quantized_models.py FOLDER`.

Writes `NAME.onnx` for each case, and `expected.json`: for each NAME the quantized tensor `w`.
"""
import json
import pathlib
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save
from onnx.reference import ReferenceEvaluator

FOLDER = pathlib.Path(sys.argv[1])
SIGNED = {"INT2": 2, "INT4": 4, "INT8": 8, "INT16": 16}
UNSIGNED = {"UINT2": 2, "UINT4": 4, "UINT8": 8}
random = np.random.default_rng(1)
expected = {}


def dtype(kind):
    return helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))


def tensor(name, values, kind, typed=False):
    if typed:  # int32_data or float_data instead of raw_data
        return helper.make_tensor(name, getattr(TensorProto, kind), values.shape, values.reshape(-1))
    return numpy_helper.from_array(values.astype(dtype(kind)), name)


def model(node, tensors, kind, constant=False):
    """A model of one node with initializers, or with nodes `Constant`."""
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] if constant else []
    output = helper.make_tensor_value_info("y", getattr(TensorProto, kind), tensors[0].dims)
    graph = helper.make_graph([*nodes, node], "graph", [], [output], [] if constant else tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], producer_name="other")
    checker.check_model(made, full_check=True)
    return made


def case(name, kind, shape, scale, zero=None, scale_kind="FLOAT", typed=False, constant=False, **attributes):
    bits = {**SIGNED, **UNSIGNED}[kind]
    low, high = (-(1 << bits - 1), 1 << bits - 1) if kind in SIGNED else (0, 1 << bits)
    q, scale = random.integers(low, high, shape), np.array(scale, np.float32)
    tensors = {"w": tensor("w", q, kind, typed), "w.scale": tensor("w.scale", scale, scale_kind, typed)}
    if zero is not None:
        tensors["w.zero"] = tensor("w.zero", np.array(zero), kind, typed)
    node = helper.make_node("DequantizeLinear", list(tensors), ["y"], **attributes)
    save(model(node, list(tensors.values()), scale_kind, constant), FOLDER / f"{name}.onnx")

    # With scales of one the node computes the levels.
    ones = [tensor(t.name, np.ones_like(scale), scale_kind) if t.name == "w.scale" else t for t in tensors.values()]
    (found,) = ReferenceEvaluator(model(node, ones, scale_kind)).run(None, {})
    levels, counts = np.unique(found.astype(int), return_counts=True)
    expected[name] = {
        "name": "w", "dtype": kind, "shape": shape, "bits": bits, "bytes": -(-q.size * bits // 8),
        "scales": scale.reshape(-1).tolist(), "groups": scale.size,
    }
    if bits <= 8:
        shares = [{"multiplier": int(level), "share": count / q.size} for level, count in zip(levels, counts)]
        expected[name] |= {"levels": shares, "sparsity": float((found == 0).mean())}
    else:
        expected[name] |= {"levels": []}
    if np.any(zero):
        expected[name]["zero_points"] = np.array(zero).reshape(-1).tolist()


for kind in [*SIGNED, *UNSIGNED]:
    for typed in [False, True]:
        case(f"{kind}-{typed}", kind, [5, 7], 0.25, 1, typed=typed)
case("axis0", "INT4", [3, 5, 2], [0.5, 0.25, 2.0], [1, 0, -3], axis=0)
case("axis1", "UINT8", [3, 5, 2], [1.0, 2.0, 3.0, 4.0, 5.0], [128, 127, 0, 3, 255])
case("last", "UINT4", [3, 5], [1.0, 2.0, 3.0, 4.0, 5.0], [8, 7, 0, 3, 15], axis=-1)
case("symmetric", "INT8", [4, 6], [0.5, 0.25, 2.0, 1.0], axis=0)
case("one", "INT4", [4, 6], [0.5], [0])
case("half", "INT4", [2, 9], [0.5, 0.25], axis=0, scale_kind="FLOAT16")
case("half-typed", "INT4", [2, 9], [0.5, 0.25], axis=0, scale_kind="FLOAT16", typed=True)
case("bfloat", "INT4", [2, 9], [0.5, 0.25], axis=0, scale_kind="BFLOAT16")
case("constant", "INT4", [3, 5], [0.5, 0.25, 2.0], [1, 0, -3], axis=0, constant=True)
scales = np.linspace(0.5, 1.0, 3 * 4 * 2).reshape(3, 4, 2)
case("blocks", "INT4", [3, 10, 2], scales, random.integers(-8, 8, [3, 4, 2]), axis=1, block_size=3)
(FOLDER / "expected.json").write_text(json.dumps(expected))
print(len(expected), "models")
