"""Models of PyTorch as files: packed, GGUF, compressed-tensors and ONNX, read back by others."""

import dataclasses
import json
import os
import sys
import types

import laq
import numpy as np
import pytest

RULES = [
    {},
    {"axis": 0},
    {"method": "lab", "axis": 0},
    {"method": "laq-linear-2-e", "block": 4},
    {"method": "laq-linear-3-e"},
    {"method": "laq-linear-4-e", "block": 32},
    {"method": "laq-linear-8-e", "axis": 0},
    {"method": "laq-log-3", "axis": 0},
    {"method": "laq-log-4", "block": 5},
    {"method": "laq-log-8"},
    {"method": "dorefa-4"},
    {"method": "lat2-e"},
    {"method": "lat2-e", "axis": 0},
    {"method": "ttq", "block": 7},
    {"format": "q4_0"},
    {"format": "q2_0"},
    {"format": "iq4_nl"},
    {"format": "nvfp4"},
    {"format": "int4-g128"},
    {"codebook": laq.Codebook.custom([-1, -0.7, -0.4, -0.1, 0, 0.2, 0.5, 1]), "block": 6},
    {"codebook": laq.Codebook.custom([-1, -0.25, 0.25, 1]), "axis": 0},
]
# Scales along another axis, which ONNX alone has.
OTHER_AXIS = [
    {"axis": 1},
    {"axis": 1, "method": "lat2-e"},
    {"axis": 1, "block": 5},
    {"axis": 1, "format": "iq4_nl"},
]

# What torch.onnx.export warns of.
quiet = pytest.mark.filterwarnings("ignore")


def of_gates(w, count, **rule):
    """Weights of rows with a scale for each of `count` equal parts of the rows."""
    parts = laq.quantize(w.reshape(count, -1), axis=0, **rule)
    return dataclasses.replace(
        parts, levels=parts.levels.reshape(w.shape), decoded=parts.decoded.reshape(w.shape)
    )


def quantize_parameters(model, rules):
    """Quantizes all parameters of two and more axes in place, each by the next rule."""
    import torch

    found = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            rule = rules[len(found) % len(rules)]
            w = parameter.detach().numpy()
            gates = rule.get("gates")
            found[name] = of_gates(w, gates) if gates else laq.quantize(w, **rule)
            parameter.data.copy_(torch.from_numpy(found[name].decoded))
    return found


def models():
    """Models and their inputs by name."""
    import torch
    from torch import nn

    class First(nn.Module):
        """The first output of a model."""

        def __init__(self, model, several=1):
            super().__init__()
            self.model, self.several = model, several

        def forward(self, x):
            return self.model(*[x] * self.several)[0]

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.hidden = nn.Linear(8, 8)
            self.again = nn.Linear(8, 8)
            self.again.weight = self.hidden.weight
            self.out = nn.Linear(8, 11, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, x):
            return self.out(self.again(torch.tanh(self.hidden(self.embedding(x)))))

    torch.manual_seed(0)
    images = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.ConvTranspose2d(8, 4, 2),
    )
    images(torch.randn(5, 3, 8, 8))
    return {
        "linear": (nn.Sequential(nn.Linear(70, 33), nn.ReLU(), nn.Linear(33, 6)), torch.randn(3, 70)),
        "matmul": (nn.Linear(70, 33), torch.randn(2, 3, 70)),
        "tied": (Tied(), torch.tensor([[1, 2, 10], [4, 0, 9]])),
        "conv1d": (nn.Conv1d(4, 6, 3, padding=1), torch.randn(2, 4, 9)),
        "conv2d": (images, torch.randn(2, 3, 8, 8)),
        "conv3d": (nn.Conv3d(2, 3, 2), torch.randn(1, 2, 4, 4, 4)),
        "lstm": (First(nn.LSTM(6, 5, 2, bidirectional=True)), torch.randn(7, 2, 6)),
        "gru": (First(nn.GRU(6, 5, batch_first=True)), torch.randn(2, 7, 6)),
        "attention": (First(nn.MultiheadAttention(8, 2), 3), torch.randn(4, 2, 8)),
    }


@pytest.mark.parametrize("opset", [21, 25])
@pytest.mark.parametrize("shape", [(9, 70), (40,), (6, 4, 3, 2), (8, 32, 1, 1)], ids=str)
def test_onnx_decodes_every_bit(shape, opset, problem):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    from laq import _onnx
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    rules = RULES + (OTHER_AXIS if len(shape) > 1 else [])
    for rule in rules:
        w, d = problem(*shape)
        result = laq.quantize(w, d, **rule)
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Neg", ["w"], ["y"])],
            "graph",
            [value("w", TensorProto.FLOAT, shape)],
            [value("y", TensorProto.FLOAT, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 13 if opset == 25 else 10
        _onnx._replace_inputs(model.graph, {"w": result}, opset)
        onnx.checker.check_model(model, full_check=True)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for (found,) in (session.run(None, {}), ReferenceEvaluator(model).run(None, {})):
            assert np.array_equal(-found, result.decoded), rule
        # A code of the next width that onnx has, and no copy in float32.
        width = {1: 2, 3: 4}.get(result.codebook.bits, result.codebook.bits)
        width = 8 if width > 4 else max(width, 2 if opset == 25 else 4)
        sizes = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
        codes = sizes.pop("w.integers", None) or sizes.pop("w.codes")
        assert codes == -(-w.size * width // 8), (rule, codes)
        # The block of each weight of a row, for values of a table.
        columns = w.size if w.ndim == 1 else max(w.size // shape[axis] for axis in (0, 1))
        assert sizes.pop("w.blocks", 0) <= 8 * columns
        assert max(sizes.values()) <= 4 * max(result.scale.size, result.values.size, 8)


@quiet
@pytest.mark.parametrize(
    "name", ["linear", "matmul", "tied", "conv1d", "conv2d", "conv3d", "lstm", "gru", "attention"]
)
def test_onnx_models_compute_the_same(name, tmp_path):
    for package in ("torch", "onnxscript"):
        pytest.importorskip(package)
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    rules = (
        RULES + OTHER_AXIS + ([{"gates": 4}] if name == "lstm" else [{"gates": 3}] if name == "gru" else [])
    )
    path = tmp_path / "model.onnx"
    for start in {"lstm": (0, 8, 18), "gru": (24,), "tied": (10,)}.get(name, (0, 12)):
        model, x = models()[name]
        quantized = quantize_parameters(model, rules[start:] + rules[:start])
        laq.export(model, path, x, quantized)
        assert model.training
        exported = onnx.load(path)
        onnx.checker.check_model(exported, full_check=True)
        assert {domain.domain: domain.version for domain in exported.opset_import} == {"": 25}
        (value,) = exported.graph.input
        names = [tensor.name for tensor in exported.graph.initializer]
        codes = [name for name in names if name.endswith((".integers", ".codes"))]
        assert len(codes) == len(quantized)
        smallest = min(weight.levels.size for weight in quantized.values())
        for tensor in exported.graph.initializer:
            of_weight = tensor.name.endswith((".scale", ".scale.0", ".scale.1", ".values"))
            assert tensor.data_type != onnx.TensorProto.FLOAT or of_weight or np.prod(tensor.dims) < smallest
        assert str(tmp_path) not in str(exported) and ".py" not in str(exported)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found, *_) = session.run(None, {value.name: x.numpy()})
        expected = model.eval()(x).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@quiet
def test_lstm_in_onnx_has_gates_in_its_order(tmp_path):
    torch, onnx = pytest.importorskip("torch"), pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = torch.nn.LSTM(6, 5)
    quantized = quantize_parameters(model, [{"gates": 4}])
    path = tmp_path / "lstm.onnx"
    laq.export(model, path, torch.randn(7, 1, 6), quantized)
    exported = onnx.load(path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    (lstm,) = [node for node in exported.graph.node if node.op_type == "LSTM"]
    for value, name in zip(lstm.input[1:3], ["weight_ih_l0", "weight_hh_l0"], strict=True):
        (node,) = [node for node in exported.graph.node if value in node.output]
        assert node.op_type == "DequantizeLinear"
        integers, scale = (constants[name] for name in node.input)
        i, f, g, o = np.split(quantized[name].decoded, 4)
        found = integers.astype(np.float32) * scale[None, :, None]
        assert np.array_equal(found, np.concatenate([i, o, f, g])[None])


@quiet
def test_onnx_file_is_small_and_takes_other_sizes(tmp_path):
    torch, runtime = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Linear(512, 512))
    path, x = tmp_path / "model.onnx", torch.randn(4, 512)
    batch = torch.export.Dim("batch")
    for rule, bits in (({"axis": 0}, 2), ({"format": "q4_0"}, 5)):
        quantized = quantize_parameters(model, [rule])
        laq.export(model, path, x, quantized, {"made by": "a test"}, dynamic_shapes=({0: batch},))
        assert path.stat().st_size < 2 * 512 * 512 * bits / 8 + 20000
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert session.get_modelmeta().custom_metadata_map == {"made by": "a test"}
        other = torch.randn(7, 512)
        (found,) = session.run(None, {"input": other.numpy()})
        np.testing.assert_allclose(found, model(other).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.fixture
def mixed():
    """A model with tied weights, buffers and convolutions, and its quantized weights."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 12),
        torch.nn.Linear(12, 64, bias=False),
        torch.nn.Linear(64, 12, bias=False),
        torch.nn.BatchNorm1d(12),
        torch.nn.Conv2d(4, 6, 3),
        torch.nn.LSTM(4, 6),
    )
    model[2].weight = model[0].weight
    rules = [
        {"format": "q4_0"},
        {"axis": 0},
        {"method": "lat2-e"},
        {"gates": 4},
        {"method": "laq-linear-3-e", "block": 2},
    ]
    return model, quantize_parameters(model, rules)


def check_floats(model, quantized, found):
    """All other tensors of the model, each once."""
    state = model.state_dict()
    del state["2.weight"]
    assert {*found, *quantized} == {*state}
    for name, array in found.items():
        assert array.dtype == np.float32 and np.array_equal(array, state[name].numpy()), name


def test_packed_file(mixed, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model, quantized = mixed
    path = tmp_path / "model.safetensors"
    laq.export(model, path, quantized=quantized, metadata={"made by": "a test"})
    found = laq.load(path)
    assert found.metadata == {"made by": "a test"}
    packed = {name: found.pop(name) for name in quantized}
    for name, result in quantized.items():
        assert np.array_equal(packed[name].decoded(), result.decoded), name
    assert packed["5.weight_ih_l0"].scale.shape == (4,)
    check_floats(model, quantized, found)
    theirs = safetensors.load_file(path)
    assert theirs["1.weight.packed"].nbytes == 64 * 12 * 2 / 8


def test_gguf_file(mixed, tmp_path):
    gguf = pytest.importorskip("gguf")
    model, quantized = mixed
    path = tmp_path / "model.gguf"
    metadata = {"general.architecture": "test", "test.block_count": 3, "test.factor": 0.5, "test.flag": True}
    laq.export(model, path, quantized=quantized, metadata=metadata)
    reader = gguf.GGUFReader(path)
    assert {key: reader.fields[key].contents() for key in metadata} == metadata
    floats = {}
    for tensor in reader.tensors:
        name, shape = tensor.name, tuple(reversed(tensor.shape.tolist()))
        kind = "Q4_0" if name == "0.weight" else "F32"
        assert tensor.tensor_type.name == kind
        if name in quantized:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(values.reshape(shape), quantized[name].decoded), name
        else:
            floats[name] = tensor.data.reshape(model.state_dict()[name].shape)
    check_floats(model, quantized, floats)
    laq.export(model, path, quantized=quantized)
    assert gguf.GGUFReader(path).fields["general.architecture"].contents() == "laq"


def test_formats_of_gguf(tmp_path):
    torch, gguf = pytest.importorskip("torch"), pytest.importorskip("gguf")
    model = torch.nn.ModuleDict()
    for format in ("q4_0", "iq4_nl", "mxfp4", "tq1_0", "tq2_0"):
        model[format] = torch.nn.Linear(256, 3, bias=False)
    rules = [{"format": format} for format in model]
    # Rows that are no whole blocks.
    model["rest"] = torch.nn.Linear(100, 3, bias=False)
    quantized = quantize_parameters(model, [*rules, {"format": "q4_0"}])
    laq.export(model, tmp_path / "model.gguf", quantized=quantized)
    tensors = gguf.GGUFReader(tmp_path / "model.gguf").tensors
    assert len(tensors) == 6
    for tensor in tensors:
        name = tensor.name.removesuffix(".weight")
        assert tensor.tensor_type.name == ("F32" if name == "rest" else name.upper())
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(found, quantized[tensor.name].decoded), name


def test_compressed_tensors_folder(mixed, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    model, quantized = mixed
    laq.export(model, tmp_path / "model", quantized=quantized, format="compressed-tensors")
    config = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    found = safetensors.load_file(tmp_path / "model" / "model.safetensors")
    # A convolution with two scales has no integers.
    assert np.array_equal(found.pop("4.weight"), quantized["4.weight"].decoded)
    integers = [name for name in quantized if name != "4.weight"]
    groups = {
        target: group["weights"] for group in config["config_groups"].values() for target in group["targets"]
    }
    for name in integers:
        packed, scale, shape = (
            torch.from_numpy(found.pop(f"{name}_{part}")) for part in ("packed", "scale", "shape")
        )
        described = groups[name.removesuffix(".weight")]
        levels = unpack_from_int32(packed, described["num_bits"], torch.Size(shape.tolist()))
        arguments = QuantizationArgs.model_validate(described)
        weights = dequantize(levels.to(torch.float32), scale, args=arguments)
        assert np.array_equal(weights.numpy(), quantized[name].decoded), name
    check_floats(model, quantized, found)


def test_weights_of_the_package_by_default(mixed, tmp_path, monkeypatch):
    model, quantized = mixed
    module = types.SimpleNamespace(quantized=lambda found: quantized if found is model else None)
    monkeypatch.setattr(laq, "torch", module, raising=False)
    laq.export(model, tmp_path / "model.safetensors")
    assert np.array_equal(
        laq.load(tmp_path / "model.safetensors")["0.weight"].decoded(), quantized["0.weight"].decoded
    )


def test_errors_of_exports(mixed, tmp_path):
    torch = pytest.importorskip("torch")
    model, quantized = mixed
    file, rows = tmp_path / "model.safetensors", laq.quantize(quantized["1.weight"].decoded, axis=1)
    for options, word in [
        ({"path": tmp_path / "model.bin"}, "`.bin`"),
        ({"format": "zip"}, "compressed-tensors"),
        ({"quantized": {}}, "no parameter of the model is quantized"),
        ({"quantized": {"none": rows}}, "none"),
        ({"quantized": {"0.weight": rows}}, "(64, 12)"),
        ({"quantized": {"1.weight": rows}}, "1.weight: the scales are those of axis 1"),
        ({"example_input": torch.ones(1)}, "example_input="),
        ({"opset": 25}, "opset="),
        ({"dynamic_shapes": ()}, "dynamic_shapes="),
        ({"metadata": {"laq.tensors": ""}}, "laq.tensors"),
        ({"path": tmp_path / "model.gguf", "metadata": {"size": -1}}, "size"),
        ({"format": "gguf", "metadata": {"general.alignment": 64}}, "general.alignment"),
    ]:
        with pytest.raises(ValueError) as caught:
            laq.export(model, **{"path": file, "quantized": quantized, **options})
        assert word in str(caught.value) and "\n" not in str(caught.value), caught.value
    for options in [
        {"metadata": {"a": 3}},
        {"format": "gguf", "metadata": {"a": [3]}},
        {"quantized": {"0.weight": model[0].weight}},
    ]:
        with pytest.raises(TypeError):
            laq.export(model, file, quantized=quantized, **options)
    model.register_buffer("count", torch.tensor(2**24 + 1))
    with pytest.raises(ValueError, match="count"):
        laq.export(model, file, quantized=quantized)
    model.count = torch.tensor([1.0, -1e300], dtype=torch.float64)
    with pytest.raises(ValueError, match="count has values beyond the range of float32"):
        laq.export(model, file, quantized=quantized)
    del model.count
    assert not os.listdir(tmp_path)
    for path in ("none/x.safetensors", "none/x.gguf"):
        with pytest.raises(FileNotFoundError):
            laq.export(model, tmp_path / path, quantized=quantized)


@quiet
def test_errors_of_onnx(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    path, x = tmp_path / "model.onnx", torch.randn(2, 4)

    class Unused(torch.nn.Linear):
        def forward(self, x):
            return x + self.bias

    model = Unused(4, 4)
    with pytest.raises(ValueError, match="weight is quantized, but"):
        laq.export(model, path, x, quantize_parameters(model, [{}]))
    model = torch.nn.Linear(4, 4)
    quantized = quantize_parameters(model, [{}])
    with pytest.raises(ValueError, match="pass example_input="):
        laq.export(model, path, quantized=quantized)
    with pytest.raises(ValueError, match="opset=20, expected 21 to 25"):
        laq.export(model, path, x, quantized, opset=20)
    with pytest.raises(ValueError, match="expected float32"):
        laq.export(model.double(), path, x.double(), quantized)
    with pytest.raises(FileNotFoundError):
        laq.export(model.float(), tmp_path / "none" / "x.onnx", x, quantized)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install torch onnx onnxscript"):
        laq.export(model, path, x, quantized)
    assert not os.listdir(tmp_path)
