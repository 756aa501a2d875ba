"""Models, optimizers and errors that are out of the ordinary."""

import copy
import math
import pickle

import laq
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import laq.torch

nn = torch.nn


def linears():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def step(model, optimizer):
    model.zero_grad()
    model(torch.randn(7, 6)).square().mean().backward()
    optimizer.step()


def levels_of(weight):
    return len(weight.unique())


@pytest.mark.parametrize("suffix", ["safetensors", "onnx"])
def test_a_compiled_model_is_exported_and_has_a_curvature(tmp_path, suffix):
    model = linears()
    compiled = torch.compile(model, backend="eager")
    curvature = laq.torch.fisher(compiled, [torch.randn(4, 6)] * 3, loss=lambda m, x: m(x).square().mean())
    laq.torch.quantize_(compiled, curvature=curvature)
    given = {"example_input": torch.randn(1, 6)} if suffix == "onnx" else {}
    laq.export(compiled, tmp_path / f"compiled.{suffix}", **given)
    laq.export(model, tmp_path / f"plain.{suffix}", **given)
    if suffix == "safetensors":
        ours, plain = (laq.load(tmp_path / f"{name}.safetensors") for name in ("compiled", "plain"))
        assert ours.keys() == plain.keys()


@pytest.mark.parametrize("method", ["lat-e", "ttq"])
def test_a_refused_step_leaves_quantized_weights(method):
    model = linears()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model, method)
    step(model, optimizer)
    with torch.no_grad():
        model[2].weight.add_(1)
    before = optimizer.state_dict()["parameters"]["0.weight"]["latent"]
    for refused in (lambda: step(model, optimizer), lambda: optimizer.latent().__enter__()):
        with pytest.raises(RuntimeError, match=r"quantized weights of 2\.weight were written to"):
            refused()
        assert levels_of(model[0].weight) <= 3
        assert torch.equal(optimizer.state_dict()["parameters"]["0.weight"]["latent"], before)


def test_after_an_error_levels_are_those_of_the_weights():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last)
    fails = False

    def curvature(name, parameter):
        return torch.full_like(parameter, math.nan if fails and name == "1.weight" else 1.0)

    optimizer = laq.torch.LossAware(torch.optim.SGD(model.parameters(), 0.1), model, curvature=curvature)
    for fails in (False, True):
        model.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        if fails:
            with pytest.raises(ValueError, match=r"1\.weight"):
                optimizer.step()
        else:
            optimizer.step()
    for name, found in laq.torch.quantized(model).items():
        weight = model.get_parameter(name).detach().numpy()
        decoded = np.array([-1.0, 0.0, 1.0], np.float32)[found.levels + 1] * found.scale
        np.testing.assert_array_equal(decoded, weight)


def test_a_state_of_other_groups_changes_nothing():
    def wrapped(groups):
        model = linears()
        parts = [model.parameters()] if groups == 1 else [model[0].parameters(), model[2].parameters()]
        inner = torch.optim.Adam([{"params": part} for part in parts], 0.01)
        optimizer = laq.torch.LossAware(inner, model)
        return model, optimizer

    model, optimizer = wrapped(2)
    step(model, optimizer)
    saved = optimizer.state_dict()
    model, optimizer = wrapped(1)
    before = copy.deepcopy(model.state_dict())
    damaged = [
        (saved, "parameter groups"),
        (
            {**optimizer.state_dict(), "running": {"0.weight": torch.zeros(3)}},
            r"squared gradients of 0\.weight",
        ),
    ]
    for state, expected in damaged:
        with pytest.raises(ValueError, match=expected):
            optimizer.load_state_dict(state)
        assert all(torch.equal(found, before[name]) for name, found in model.state_dict().items())


def test_the_error_survives_a_resumed_state():
    model = linears()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    step(model, optimizer)
    before = {name: found.error for name, found in laq.torch.quantized(model).items()}
    assert all(error > 0 for error in before.values())
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert {name: found.error for name, found in laq.torch.quantized(model).items()} == before
    step(model, optimizer)
    assert {name: found.error for name, found in laq.torch.quantized(model).items()} != before
    for parameter in state["parameters"].values():
        del parameter["error"]
    optimizer.load_state_dict(state)
    assert all(math.isnan(found.error) for found in laq.torch.quantized(model).values())


def test_computed_weights_have_no_moments_and_inputs_may_have_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
            self.plain = nn.Linear(5, 2)

        def forward(self, x):
            return self.plain(input=self.computed(x))

    model, x = Named(), torch.randn(4, 6)
    moments = laq.torch.input_second_moments(model, [x])
    assert list(moments) == ["plain.weight"]
    expected = model.computed(x).square().mean(0).expand(2, 5)
    torch.testing.assert_close(moments["plain.weight"], expected)


def test_trained_scales_of_named_parameters():
    model = linears()
    inner = torch.optim.Adam(model.named_parameters(), 0.01)
    optimizer = laq.torch.LossAware(inner, model, "ttq")
    step(model, optimizer)
    assert optimizer.param_groups[-1]["param_names"] == ["0.weight.scales", "2.weight.scales"]


def test_scales_stay_where_their_weights_have_no_gradient():
    model = linears()
    optimizer = laq.torch.LossAware(torch.optim.SGD(model.parameters(), 0.01), model, "ttq")
    step(model, optimizer)
    before = optimizer.scales["0.weight"].detach().clone()
    model.zero_grad()
    model[2](torch.randn(7, 5)).square().mean().backward()
    optimizer.step()
    assert model[0].weight.grad is None and torch.equal(optimizer.scales["0.weight"], before)


def test_names_are_unique_in_a_folder_of_compressed_tensors(tmp_path):
    model = nn.Module()
    model.l = nn.Linear(6, 5)
    model.l.weight_scale = nn.Parameter(torch.ones(7))
    laq.torch.quantize_(model, include="l.weight")
    with pytest.raises((ValueError, OSError), match=r"two tensors .*l\.weight_scale"):
        laq.export(model, tmp_path / "folder", format="compressed-tensors")


@pytest.mark.parametrize("granularity", ["tensor", "row", "block:4"])
@pytest.mark.parametrize("sizes", [(6, 0), (0, 4)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_parameters_without_elements_stay_as_they_are(sizes, granularity):
    model = nn.Sequential(nn.Linear(*sizes), nn.Linear(4, 3))
    optimizer = laq.torch.LossAware(
        torch.optim.Adam(model.parameters()), model, "ttq", granularity=granularity
    )
    assert optimizer.names == ["1.weight"]
    model[1](torch.randn(2, 4)).mean().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_the_wrapper_is_not_copied():
    model = linears()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters()), model)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"use state_dict\(\)"):
            copied(optimizer)


def test_scales_too_small_for_integers_are_stored_in_f32(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        model[0].weight.mul_(1e-43)
    laq.torch.quantize_(model, "laq-log-4-e")
    laq.export(model, tmp_path / "folder", format="compressed-tensors")
    from safetensors.numpy import load_file

    found = load_file(tmp_path / "folder" / "model.safetensors")
    np.testing.assert_array_equal(found["0.weight"], model[0].weight.detach().numpy())


def test_extra_state_is_left_out(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"calls": 1}

        def set_extra_state(self, state):
            pass

    model = nn.Sequential(Extra(6, 5))
    laq.torch.quantize_(model, include="0.weight")
    laq.export(model, tmp_path / "m.safetensors")
    assert sorted(laq.load(tmp_path / "m.safetensors")) == ["0.bias", "0.weight"]
