"""Models, optimizers and errors that are out of the ordinary."""

import copy
import math
import pickle

import laq
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import laq.torch
from torch.nn.utils import prune

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


def aware(model, **options):
    return laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model, **options)


@pytest.mark.parametrize(
    ("saved", "here"),
    [
        ({"method": "lat-e"}, {"method": "laq-linear-4"}),
        ({"method": "laq-linear-3"}, {"method": "laq-log-3"}),
        ({"method": "lat-e"}, {"method": "lat2-e"}),
        ({"granularity": "block:4"}, {"granularity": "block:5"}),
    ],
)
def test_a_state_of_other_levels_or_groups_changes_nothing(saved, here):
    model, other = linears(), linears()
    optimizer, source = aware(model, **here), aware(other, **saved)
    step(other, source)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"the state of 0\.weight is of another method or granularity: found"
    ):
        optimizer.load_state_dict(source.state_dict())
    assert all(torch.equal(found, before[name]) for name, found in model.state_dict().items())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("is_old", [False, True])
def test_a_state_of_the_same_levels_is_loaded(is_old):
    model, other = linears(), linears()
    optimizer, source = aware(model, method="lat-a", granularity="tensor"), aware(other, method="lat-e")
    step(other, source)
    state = source.state_dict()
    if is_old:
        for parameter in state["parameters"].values():
            for key in ("method", "granularity", "values", "two_scales", "groups"):
                del parameter[key]
    optimizer.load_state_dict(state)
    for index in (0, 2):
        assert torch.equal(model[index].weight, other[index].weight)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_biases_and_parts_of_weights_keep_full_precision():
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2, add_bias_kv=True),
            "projections": nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            "normalized": nn.utils.weight_norm(nn.Linear(6, 5)),
            "normalized_lstm": nn.utils.weight_norm(nn.LSTM(4, 6), "weight_hh_l0"),
            "pruned": prune.l1_unstructured(nn.Linear(6, 5), "weight", 0.5),
            "lstm": nn.LSTM(4, 6, 2, proj_size=3, bidirectional=True),
            "cell": nn.GRUCell(4, 6),
            "bilinear": nn.Bilinear(3, 4, 5),
            "up": nn.ConvTranspose1d(3, 4, 5),
        }
    )
    others = ("bias_k", "bias_v", "weight_g", "weight_v", "weight_hh_l0_g", "weight_hh_l0_v")
    expected = [name for name, p in model.named_parameters() if p.dim() > 1 and not name.endswith(others)]
    assert aware(model).names == expected
    assert {"projections.q_proj_weight", "pruned.weight_orig", "lstm.weight_hr_l1_reverse"} <= set(expected)
    assert "attention.bias_k" in aware(model, include="*").names


@pytest.mark.parametrize("order", [("embedding", "head"), ("head", "embedding")])
def test_a_head_tied_to_an_embedding_keeps_full_precision(order):
    parts = {"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7)}
    parts["head"].weight = parts["embedding"].weight
    model = nn.ModuleDict({**{name: parts[name] for name in order}, "hidden": nn.Linear(4, 4)})
    assert aware(model).names == ["hidden.weight"]
    assert aware(model, include="*").names == [f"{order[0]}.weight", "hidden.weight"]


def test_frozen_parameters_are_quantized_if_named():
    model = linears()
    model[0].weight.requires_grad_(False)
    assert aware(model).names == ["2.weight"]
    assert aware(model, include="*.weight").names == ["0.weight", "2.weight"]
    assert set(laq.torch.quantize_(model)) == {"0.weight", "2.weight"}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0\.weight is not among .*, or frozen"):
        aware(model)


def test_trained_scales_have_the_options_of_their_group():
    model = linears()
    groups = [
        {"params": model[0].parameters()},
        {"params": model[2].parameters(), "lr": 0.001, "momentum": 0.5},
    ]
    inner = torch.optim.SGD(groups, 0.1, weight_decay=0.1)
    laq.torch.LossAware(inner, model, "ttq", include="2.weight")
    found = inner.param_groups[-1]
    assert (found["lr"], found["momentum"], found["weight_decay"]) == (0.001, 0.5, 0)


def test_latent_ends_after_weights_that_are_not_finite_and_errors_of_others():
    model = linears()
    optimizer = aware(model)
    step(model, optimizer)
    model[0].weight.grad[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"0\.weight"):
        optimizer.step()
    with optimizer.latent():
        assert model[0].weight.isnan().any()
    assert levels_of(model[0].weight) <= 3
    with pytest.raises(KeyError), optimizer.latent(), torch.no_grad():
        model[2].weight.fill_(math.nan)
        raise KeyError
    assert levels_of(model[2].weight) <= 3


def test_weights_that_are_changed_after_quantize_are_told():
    model = linears()
    laq.torch.quantize_(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="quantize the model again"):
        laq.torch.quantized(model)


def test_moments_are_those_of_evaluation_and_leave_the_model_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    model[0].eval()
    modes, before = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    x = torch.randn(9, 6)
    found = laq.torch.input_second_moments(model, [x])["3.weight"]
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = copy.deepcopy(model).eval()[:3](x).square().mean(0)
    torch.testing.assert_close(found, expected.expand(2, 5))
    # Its fast path in evaluation mode would pass by the linear layers.
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    assert {"linear1.weight", "linear2.weight"} <= set(
        laq.torch.input_second_moments(layer, [torch.randn(3, 1, 8)])
    )


@pytest.mark.parametrize("place", ["LossAware", "quantize_"])
def test_numbers_beyond_64_bits_are_value_errors(place):
    model = linears()
    call = aware if place == "LossAware" else laq.torch.quantize_
    for options in ({"threads": 2**70}, {"method": "laq-linear", "bits": 2**70}):
        with pytest.raises(ValueError, match="64 bits"):
            call(model, **options)
