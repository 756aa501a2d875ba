"""Models of PyTorch as files: packed, GGUF and compressed-tensors, read back by others."""

import dataclasses
import json
import os
import types

import laq
import numpy as np
import pytest


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
    laq.export(model, path, quantized={})
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
        ({"quantized": {"none": rows}}, "none"),
        ({"quantized": {"0.weight": rows}}, "(64, 12)"),
        ({"quantized": {"1.weight": rows}}, "1.weight: the scales are those of axis 1"),
        ({"metadata": {"laq.tensors": ""}}, "laq.tensors"),
        ({"path": tmp_path / "model.gguf", "metadata": {"size": -1}}, "size"),
        ({"format": "gguf", "metadata": {"general.alignment": 64}}, "general.alignment"),
    ]:
        with pytest.raises(ValueError) as caught:
            laq.export(model, **{"path": file, "quantized": quantized, **options})
        assert word in str(caught.value) and "\n" not in str(caught.value), caught.value
    for options in [{"metadata": {"a": 3}}, {"format": "gguf", "metadata": {"a": [3]}}]:
        with pytest.raises(TypeError):
            laq.export(model, file, quantized=quantized, **options)
    model.register_buffer("count", torch.tensor(2**24 + 1))
    with pytest.raises(ValueError, match="count"):
        laq.export(model, file, quantized=quantized)
    del model.count
    assert not os.listdir(tmp_path)
    for path in ("none/x.safetensors", "none/x.gguf"):
        with pytest.raises(FileNotFoundError):
            laq.export(model, tmp_path / path, quantized=quantized)
