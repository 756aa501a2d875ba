"""Compares exported networks with this project's results, in onnxruntime and numpy.

    python3 check_exports.py FOLDER

`FOLDER/cases.json` is a list of cases: the names of the exported files of one network, and of raw
little-endian files with its inputs and with the outputs that this project computed.
"""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime

try:
    import compressed_tensors.compressors.pack_quantized.helpers
    import compressed_tensors.quantization
    import torch
except ImportError:
    compressed_tensors = None
try:
    import qonnx.core.modelwrapper
    import qonnx.core.onnx_exec
    import qonnx.transformation.infer_shapes
except ImportError:
    qonnx = None

DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32, "I64": np.int64}

# Of an output, relative to the largest, and of the mean loss.
TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-6


def session(path):
    options = onnxruntime.SessionOptions()
    # No rounding of activations to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read_npz(path):
    """The weights of an archive of arrays."""
    arrays = np.load(path)
    described = json.loads(arrays["laq.json"].tobytes())
    yield from decode(described["tensors"], lambda name: arrays[name])


def safetensors(path):
    """The header of a safetensors file, and a function that reads a tensor."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])

    def tensor(name):
        start, end = header[name]["data_offsets"]
        data = np.frombuffer(content[8 + length + start : 8 + length + end], DTYPES[header[name]["dtype"]])
        return data.reshape(header[name]["shape"])

    return header, tensor


def check_compressed(folder, packed):
    """Matrices as compressed-tensors packs them; by its own functions where it is installed."""
    header, tensor = safetensors(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    groups = config["config_groups"].values()
    weights_of = {target: group["weights"] for group in groups for target in group["targets"]}
    if compressed_tensors:
        compressed_tensors.quantization.QuantizationConfig.model_validate(config)
    for name, weights in packed.items():
        if name + "_packed" not in header:
            assert np.array_equal(tensor(name), weights), name
            continue
        described = weights_of[name.removesuffix(".weight")]
        bits, group = described["num_bits"], described.get("group_size")
        words, scale = tensor(name + "_packed"), tensor(name + "_scale").astype(np.float32)
        rows, columns = tensor(name + "_shape")
        fields = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        fields = fields[:, : columns * bits].reshape(rows, columns, bits)
        integers = (fields @ (1 << np.arange(bits))) - 2 ** (bits - 1)
        if compressed_tensors:
            unpack = compressed_tensors.compressors.pack_quantized.helpers.unpack_from_int32
            theirs = unpack(torch.from_numpy(words.copy()), bits, torch.Size([rows, columns]))
            assert np.array_equal(theirs.numpy(), integers), name
            args = compressed_tensors.quantization.QuantizationArgs.model_validate(described)
            dequantize = compressed_tensors.quantization.lifecycle.forward.dequantize
            theirs = dequantize(theirs.to(torch.float32), torch.from_numpy(scale), args=args)
            assert np.array_equal(theirs.numpy(), weights), name
        scale = scale if group is None else scale.repeat(group, axis=1)[:, :columns]
        assert np.array_equal(integers.astype(np.float32) * scale, weights), name


def check_qonnx(path, packed, inputs, expected):
    """The quantizing nodes of QONNX, and the outputs by its own interpreter where it is installed."""
    model = onnx.load(path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = dict(constants)
    for node in model.graph.node:
        if node.op_type == "BipolarQuant":
            x, scale = (values[name] for name in node.input)
            values[node.output[0]] = np.where(x >= 0, scale, -scale)
        elif node.op_type == "IntQuant":
            x, scale, zero, bits = (values[name] for name in node.input)
            integers = np.round(x / scale + zero)
            assert integers.min() >= -(2 ** (bits - 1)) and integers.max() < 2 ** (bits - 1), node.output
            values[node.output[0]] = integers * scale
        elif node.op_type == "Add" and all(name in values for name in node.input):
            values[node.output[0]] = sum(values[name] for name in node.input)
    check_weights(packed, values)
    if qonnx:
        wrapped = qonnx.core.modelwrapper.ModelWrapper(model)
        (name,) = [value.name for value in model.graph.output]
        # Its interpreter needs fixed shapes.
        for value, array in [*inputs.items(), (name, expected)]:
            wrapped.set_tensor_shape(value, list(array.shape))
        wrapped = wrapped.transform(qonnx.transformation.infer_shapes.InferShapes())
        close(qonnx.core.onnx_exec.execute_onnx(wrapped, inputs)[name], expected, path.name)


def read_packed(path):
    """The weights of a packed file, with numpy alone."""
    header, tensor = safetensors(path)
    yield from decode(json.loads(header["__metadata__"]["laq.tensors"]), tensor)


def decode(described, tensor):
    for name, t in described.items():
        packed, scale = tensor(name + ".packed"), tensor(name + ".scale").astype(np.float32)
        rows, columns = len(packed), int(np.prod(t["shape"])) // len(packed)
        if t["packing"] == "trits5":
            codes = packed[:, :, None] // 3 ** np.arange(5) % 3
        else:
            bits = np.unpackbits(packed, axis=1, bitorder="little")
            width = int(t["packing"][4:])
            codes = bits[:, : columns * width].reshape(rows, columns, width) @ (1 << np.arange(width))
        codes = codes.reshape(rows, -1)[:, :columns]
        values = np.array(t["values"], np.float32)[codes]
        if "block" in t:
            scale = scale.reshape(rows, -1, 1 + t["two_scales"]).repeat(t["block"], axis=1)[:, :columns]
        else:
            scale = scale.reshape(t["groups"], 1, -1).repeat(rows // t["groups"], axis=0)
        weights = values * np.where(values < 0, scale[..., -1], scale[..., 0])
        yield name, weights.reshape(t["shape"])


def onnx_weights(path):
    """The weights that `DequantizeLinear` and `Gather` give, computed by onnxruntime."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {domain.domain for domain in model.opset_import} == {""}, "standard operators only"
    named = [node.output[0] for node in model.graph.node if node.op_type in ("DequantizeLinear", "Gather")]
    for name in named:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {}
    for value in run.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        feeds[value.name] = np.zeros(shape, np.int64 if "int64" in value.type else np.float32)
    found = dict(zip(named, run.run(named, feeds)))
    for initializer in model.graph.initializer:
        found.setdefault(initializer.name, None)
    return {name: value for name, value in found.items() if value is not None}


# Rows of ONNX's gates i, o, f, c among those of training, i, f, g, o.
def gates(weights):
    i, f, g, o = np.split(weights, 4)
    return np.concatenate([i, o, f, g])


def check_weights(packed, found):
    for name, weights in packed.items():
        if name not in found:
            continue
        if name.startswith("lstm."):
            weights = gates(weights)
        elif weights.ndim == 4:
            weights = weights.transpose(0, 3, 1, 2)
        differ = weights != found[name]
        assert not differ.any(), f"{name}: {weights[differ][:4]}, found {found[name][differ][:4]}"


def close(found, expected, what):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE, f"{what}: relative error {error}"


def loss(outputs, kind):
    """The mean loss for arbitrary targets: the losses of training, in f64."""
    outputs = outputs.reshape(-1, outputs.shape[-1]).astype(np.float64)
    classes = outputs.shape[1]
    targets = np.arange(len(outputs)) % classes
    if kind == "squared-hinge":
        signs = np.where(np.arange(classes) == targets[:, None], 1, -1)
        return np.mean(np.maximum(0, 1 - signs * outputs) ** 2)
    largest = outputs.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(outputs - largest).sum(axis=1)) + (largest[:, 0] - outputs[np.arange(len(outputs)), targets]))


def close_losses(found, expected, kind, what):
    found, expected = loss(found, kind), loss(expected, kind)
    assert abs(found - expected) < LOSS_TOLERANCE * max(1, expected), f"{what}: loss {found}, expected {expected}"


def check(folder, case):
    packed = dict(read_packed(folder / case["packed"]))
    expected = np.fromfile(folder / case["outputs"], np.float32).reshape(case["output_shape"])
    if case["kind"] == "text":
        inputs = {"tokens": np.fromfile(folder / case["inputs"], np.uint8).reshape(case["input_shape"]).astype(np.int64)}
    else:
        inputs = {"images": np.fromfile(folder / case["inputs"], np.float32).reshape(case["input_shape"])}
    unpacked, floats = dict(read_npz(folder / case["npz"])), np.load(folder / case["npz_f32"])
    assert unpacked.keys() == packed.keys()
    for name, weights in packed.items():
        assert np.array_equal(weights, unpacked[name]) and np.array_equal(weights, floats[name]), name
    check_compressed(folder / case["compressed"], packed)
    check_qonnx(folder / case["qonnx"], packed, inputs, expected)
    for model in case["onnx"]:
        check_weights(packed, onnx_weights(folder / model))
        (found,) = session(folder / model).run(None, inputs)
        close(found, expected, model)
        close_losses(found, expected, case["loss"], model)
    if "step" in case:
        step = session(folder / case["step"])
        tokens = inputs["tokens"]
        shape = step.get_inputs()[1].shape
        hidden = cell = np.zeros((1, tokens.shape[1], shape[2]), np.float32)
        for time in range(len(tokens)):
            feeds = {"tokens": tokens[time : time + 1], "hidden": hidden, "cell": cell}
            logits, hidden, cell = step.run(None, feeds)
            close(logits[0], expected[time], f"{case['step']} at step {time}")
    return len(packed)


folder = pathlib.Path(sys.argv[1])
cases = json.loads((folder / "cases.json").read_text())
count = sum(check(folder, case) for case in cases)
checked = (", compressed-tensors" if compressed_tensors else "") + (", qonnx" if qonnx else "")
print(f"{len(cases)} networks, {count} packed tensors: equal in onnxruntime, numpy{checked}")
