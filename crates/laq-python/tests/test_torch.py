"""Training, quantizing and looking at PyTorch models, beside plain loops."""

import copy
import gc
import math
import weakref

import laq
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import laq.torch

F = torch.nn.functional
FLOOR = 1e-8


def data(seed=0, count=64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, generator=generator)
    return x, (x[:, :3] ** 2).argmax(1)


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Tanh(), torch.nn.Linear(24, 3))


def train(model, optimizer, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        x, y = data(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


METHODS = [
    method.id
    for method in laq.methods()
    if method.id != "full"
    and not method.id.endswith(("-4", "-5", "-6", "-7", "-8", "-4-e", "-5-e", "-6-e", "-7-e", "-8-e"))
]


class PlainLoop:
    """Algorithm 3 of the paper with Adam, in float64 and with laq.quantize; cold starts."""

    def __init__(self, model, method, clip):
        self.parameters = list(model.parameters())
        self.method, self.clip = method, clip
        self.w = [p.detach().double().numpy().copy() for p in self.parameters]
        self.m = [np.zeros_like(w) for w in self.w]
        self.v = [np.zeros_like(w) for w in self.w]
        self.steps = 0
        self.scales = {}
        self.quantize()

    def adam(self, w, m, v, g):
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        m_hat, v_hat = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
        w -= 0.01 * m_hat / (np.sqrt(v_hat) + 1e-8)

    def quantize(self):
        self.levels = {}
        for index, (p, w, v) in enumerate(zip(self.parameters, self.w, self.v, strict=True)):
            value = w
            if w.ndim == 2:
                d = (np.sqrt(v) + FLOOR).astype(np.float32)
                found = laq.quantize(w.astype(np.float32), d, self.method)
                self.levels[index] = found.levels
                value = found.decoded
                if self.method == "ttq":
                    if index not in self.scales:
                        scale = found.scale.astype(float)
                        self.scales[index] = [scale, np.zeros(2), np.zeros(2)]
                    positive, negative = self.scales[index][0]
                    value = np.where(found.levels > 0, positive, -negative) * (found.levels != 0)
            p.data.copy_(torch.from_numpy(np.asarray(value, np.float32)))

    def step(self):
        self.steps += 1
        for index, p in enumerate(self.parameters):
            g = p.grad.double().numpy().copy()
            w = self.w[index]
            if w.ndim == 2 and self.method == "ttq":
                levels = self.levels[index]
                scale, m, v = self.scales[index]
                gradient = np.array([g[levels > 0].sum(), -g[levels < 0].sum()])
                factor = np.where(levels > 0, scale[0], np.where(levels < 0, scale[1], 1.0))
                self.adam(scale, m, v, gradient)
                g = g * factor
            if w.ndim == 2 and self.method.startswith("dorefa"):
                t = np.tanh(w)
                largest = np.unravel_index(np.abs(t).argmax(), t.shape)
                g[largest] -= (g * t).sum() / t[largest]
                g *= (1 - t**2) / abs(t[largest])
            self.adam(w, self.m[index], self.v[index], g)
            if w.ndim == 2 and self.clip is not None:
                np.clip(w, -self.clip, self.clip, out=w)
        self.quantize()


@pytest.mark.parametrize("method", METHODS)
def test_training_is_algorithm_3(method):
    """Alternating methods start warm here and cold in the loop, so that only their first steps are compared."""
    ours, theirs = network(), network()
    optimizer = laq.torch.LossAware(torch.optim.Adam(ours.parameters(), 0.01), ours, method, clip=0.25)
    loop = PlainLoop(theirs, method, 0.25)
    # Levels at a threshold differ after more steps.
    steps = {"absmax-2": 5, "dorefa-3": 4}.get(method, 15)
    steps = (
        1
        if method.endswith("-a") or method in ("laq-linear-3", "laq-linear-2", "laq-log-3", "laq-log-2")
        else steps
    )
    for step in range(steps):
        x, y = data(step)
        losses = []
        for model, stepper in ((ours, optimizer), (theirs, loop)):
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            stepper.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=2e-4), step
    if steps > 1:
        assert train(ours, optimizer, 60, steps)[-1] < losses[0]


def optimizers():
    yield "adam", lambda p: torch.optim.Adam(p, 0.01)
    yield "adamw", lambda p: torch.optim.AdamW(p, 0.01, fused=True)
    yield "nadam", lambda p: torch.optim.NAdam(p, 0.01)
    yield "rmsprop", lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9)
    yield "adagrad", lambda p: torch.optim.Adagrad(p, 0.1)
    yield "sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)


@pytest.mark.parametrize("method", ["lat-e", "lat-a", "ttq", "q4_0"])
@pytest.mark.parametrize("make", [make for _, make in optimizers()], ids=[name for name, _ in optimizers()])
def test_a_loaded_state_goes_on_with_the_same_bits(method, make, tmp_path):
    kind = {"format": method} if method == "q4_0" else {"method": method}

    def start(seed):
        model = network(seed)
        return model, laq.torch.LossAware(make(model.parameters()), model, **kind)

    model, optimizer = start(0)
    train(model, optimizer, 5)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    whole = train(model, optimizer, 5, 5)

    other, resumed = start(1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    with resumed.latent():
        other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    for name, value in state["model"].items():
        assert torch.equal(other.state_dict()[name], value), name
    assert train(other, resumed, 5, 5) == whole
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("make", [make for _, make in optimizers()], ids=[name for name, _ in optimizers()])
def test_weights_are_the_optimum_for_the_second_moments(make):
    model = network()
    inner = make(model.parameters())
    optimizer = laq.torch.LossAware(inner, model, "lat-e", granularity="row")
    squares = torch.zeros(24, 12)
    for step in range(4):
        train(model, optimizer, 1, step)
        squares.mul_(0.999).addcmul_(model[0].weight.grad, model[0].weight.grad, value=0.001)
    state = inner.state[model[0].weight]
    v = next((state[key] for key in ("exp_avg_sq", "square_avg", "sum") if key in state), squares)
    with optimizer.latent():
        latent = model[0].weight.detach().clone()
    expected = laq.quantize(latent, v.sqrt() + FLOOR, "lat-e", axis=0)
    found = laq.torch.quantized(model)["0.weight"]
    assert (found.levels == expected.levels).all()
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-6)
    assert (model[0].weight.detach().numpy() == found.decoded).all()
    assert (found.decoded == found.scale[:, None] * found.levels).all()


def test_a_callable_has_the_curvature():
    model = network()
    d = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    optimizer = laq.torch.LossAware(
        torch.optim.Adam(model.parameters(), 0.01), model, curvature=lambda name, _: d[name]
    )
    train(model, optimizer, 3)
    with optimizer.latent():
        latent = model[2].weight.detach().clone()
    expected = laq.quantize(latent, d["2.weight"], "lat-e")
    assert (model[2].weight.detach().numpy() == expected.decoded).all()

    with pytest.raises(
        ValueError, match=r"the curvature of 0.weight is a Tensor of shape \(3,\), expected .*\(24, 12\)"
    ):
        laq.torch.LossAware(torch.optim.Adam(model.parameters()), model, curvature=lambda *_: torch.ones(3))


def test_schedulers_clipping_and_accumulation_are_used_as_always():
    one, two = network(), network()
    first = laq.torch.LossAware(torch.optim.SGD(one.parameters(), 0.1), one, "lat-e")
    schedule = torch.optim.lr_scheduler.StepLR(first, 1, 0.5)
    second = laq.torch.LossAware(torch.optim.SGD(two.parameters(), 0.1), two, "lat-e")
    for step in range(3):
        x, y = data(step)
        first.zero_grad()
        for part in range(2):  # Two halves of the batch.
            half = slice(32 * part, 32 * (part + 1))
            (F.cross_entropy(one(x[half]), y[half]) / 2).backward()
        norm = torch.nn.utils.clip_grad_norm_(one.parameters(), 0.05)
        first.step()
        schedule.step()
        for group in second.param_groups:
            group["lr"] = 0.1 * 0.5**step
        second.zero_grad()
        F.cross_entropy(two(x), y).backward()
        assert norm.item() == pytest.approx(
            torch.nn.utils.clip_grad_norm_(two.parameters(), 0.05).item(), rel=1e-4
        )
        second.step()
    assert first.param_groups[0]["lr"] == pytest.approx(0.0125)
    with first.latent(), second.latent():
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["lat-e", "ttq"])
def test_a_gradient_scaler_changes_nothing(method):
    plain, scaled = network(), network()
    one = laq.torch.LossAware(torch.optim.Adam(plain.parameters(), 0.01), plain, method)
    two = laq.torch.LossAware(torch.optim.Adam(scaled.parameters(), 0.01), scaled, method)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(5):
        x, y = data(step)
        one.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        one.step()
        two.zero_grad()
        scaler.scale(F.cross_entropy(scaled(x), y)).backward()
        scaler.step(two)
        scaler.update()
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(a, b)
    before = [p.clone() for p in scaled.parameters()]
    scaled[0].weight.grad[0, 0] = math.inf
    scaler.step(two)
    assert all(torch.equal(a, b) for a, b in zip(before, scaled.parameters(), strict=True))


def test_a_closure_sees_quantized_weights():
    model = network()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    x, y = data()

    def closure():
        optimizer.zero_grad()
        assert len(model[0].weight.unique()) <= 3
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


def test_latent_weights_are_seen_and_written_within_latent():
    model = network()
    start = model[0].weight.detach().clone()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model, "lat-a")
    quantized = model[0].weight.detach().clone()
    with optimizer.latent():
        assert torch.equal(model[0].weight, start)
    assert torch.equal(model[0].weight, quantized)
    with optimizer.latent(), torch.no_grad():
        model[0].weight.neg_()
    torch.testing.assert_close(model[0].weight, -quantized)

    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="the quantized weights of 0.weight were written to"):
        train(model, optimizer, 1)
    with pytest.raises(RuntimeError, match="within `with optimizer.latent"):
        laq.torch.quantized(model)


def test_backward_through_old_weights_is_an_error():
    model = network()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    x, y = data()
    hidden = torch.tanh(model[0](x)).requires_grad_()
    loss = F.cross_entropy(model[2](hidden), y)
    train(model, optimizer, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_are_freed():
    model, trained = network(), network()
    laq.torch.quantize_(model)
    optimizer = laq.torch.LossAware(torch.optim.Adam(trained.parameters()), trained)
    train(trained, optimizer, 1)
    parameters = [weakref.ref(model[0].weight), weakref.ref(trained[0].weight)]
    assert len(laq.torch.quantized(model)) == len(laq.torch.quantized(trained)) == 2
    del model, trained, optimizer
    gc.collect()
    assert [parameter() for parameter in parameters] == [None, None]


def test_a_moved_model_is_an_error():
    model = network()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    model[0].weight.data = model[0].weight.data.clone()
    with pytest.raises(RuntimeError, match="0.weight was replaced"):
        train(model, optimizer, 1)


def test_tied_weights_are_one_parameter():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(12, 12)
            self.decoder = torch.nn.Linear(12, 12)
            self.decoder.weight = self.encoder.weight

        def forward(self, x):
            return self.decoder(torch.relu(self.encoder(x)))

    model = Tied()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    assert optimizer.names == ["encoder.weight"]
    x, _ = data()
    F.mse_loss(model(x), x).backward()
    optimizer.step()
    assert model.decoder.weight is model.encoder.weight
    assert len(model.decoder.weight.unique()) == 3
    assert list(laq.torch.quantized(model)) == ["encoder.weight"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_is_trained():
    plain, compiled = network(), network()
    one = laq.torch.LossAware(torch.optim.Adam(plain.parameters(), 0.01), plain)
    model = torch.compile(compiled, backend="aot_eager")
    two = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    assert two.names == ["0.weight", "2.weight"]
    np.testing.assert_allclose(train(plain, one, 10), train(model, two, 10), rtol=1e-5)


def recurrent():
    torch.manual_seed(3)
    return torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(11, 6),
            "lstm": torch.nn.LSTM(6, 8, 2, bidirectional=True),
            "gru": torch.nn.GRU(16, 5),
            "conv": torch.nn.Conv2d(2, 6, 3, groups=2),
            "up": torch.nn.ConvTranspose2d(6, 4, 3),
            "attention": torch.nn.MultiheadAttention(8, 2),
            "norm": torch.nn.LayerNorm(5),
        }
    )


def test_gates_rows_and_blocks_have_scales_of_their_own():
    model = recurrent()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    names = laq.torch.LossAware(optimizer, model).names
    assert "embed.weight" not in names and "norm.weight" not in names
    assert {"lstm.weight_hh_l1_reverse", "gru.weight_ih_l0", "attention.in_proj_weight", "up.weight"} <= set(
        names
    )

    def scales(**options):
        fresh = recurrent()
        laq.torch.LossAware(torch.optim.Adam(fresh.parameters()), fresh, **options)
        return fresh, laq.torch.quantized(fresh)

    model, found = scales()
    lstm = found["lstm.weight_hh_l0"]
    assert lstm.axis == 0 and lstm.scale.shape == (4,)
    assert (lstm.decoded == lstm.levels * np.repeat(lstm.scale, 8)[:, None]).all()
    assert found["gru.weight_hh_l0"].scale.shape == (3,)
    assert found["attention.in_proj_weight"].scale.shape == (3,)
    assert found["conv.weight"].scale.shape == ()
    model, found = scales(granularity="tensor")
    assert found["lstm.weight_hh_l0"].scale.shape == ()
    model, found = scales(granularity="row")
    conv, up = found["conv.weight"], found["up.weight"]
    assert conv.scale.shape == (6,) and conv.axis == 0
    assert up.scale.shape == (4,) and up.axis == 1
    assert (up.decoded == up.levels * up.scale[:, None, None]).all()
    original = recurrent()["up"].weight.detach()
    assert (up.levels == laq.quantize(original, axis=1).levels).all()
    model, found = scales(method="lat2-e", granularity="block:9")
    assert found["conv.weight"].scale.shape == (6, 1, 2)
    assert found["up.weight"].scale.shape == (4, 6, 2)
    for name, parameter in model.named_parameters():
        if name in found:
            assert (found[name].decoded == parameter.detach().numpy()).all(), name
            if found[name].axis == 0:
                assert (laq.pack(found[name]).decoded() == found[name].decoded).all()


def test_what_was_trained_is_exported(tmp_path):
    model = recurrent()
    del model["up"]  # Its outputs are in the second axis, which packed files do not have.
    optimizer = laq.torch.LossAware(
        torch.optim.Adam(model.parameters(), 0.01),
        model,
        rules={"lstm.*": "lat-e", "conv.*": {"format": "q4_0"}},
    )
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    laq.export(model, tmp_path / "model.safetensors")
    file = laq.load(tmp_path / "model.safetensors")
    assert set(file) == set(model.state_dict())
    for name, parameter in model.named_parameters():
        found = file[name].decoded() if isinstance(file[name], laq.Packed) else file[name]
        np.testing.assert_array_equal(found, parameter.detach().numpy(), name)
    assert file["lstm.weight_hh_l0"].bits == 2

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = torch.nn.LSTM(6, 8), torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    with pytest.raises(ValueError, match="no parameter of the model is quantized"):
        laq.export(copy.deepcopy(model), tmp_path / "copy.safetensors")

    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    model = Tagger()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    x = torch.randn(5, 2, 6)
    model(x).square().mean().backward()
    optimizer.step()
    laq.export(model, tmp_path / "model.onnx", x)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, model(x).detach().numpy(), atol=1e-5)


def test_memory_formats_and_projections():
    model = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    original = model.weight.detach().clone()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model, format="q4_0")
    expected = laq.quantize(original.contiguous(), format="q4_0")
    assert (model.weight.detach().contiguous().numpy() == expected.decoded).all()
    model(torch.randn(1, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert model.weight.is_contiguous(memory_format=torch.channels_last)

    model = torch.nn.LSTM(6, 8, proj_size=4)
    laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    assert laq.torch.quantized(model)["weight_hr_l0"].scale.shape == ()


def test_what_is_quantized_is_chosen_by_name_predicate_and_rules():
    def names(**options):
        model = recurrent()
        return laq.torch.LossAware(torch.optim.Adam(model.parameters()), model, **options).names

    assert names(include="*.weight", exclude="up.*") == [
        "embed.weight",
        "conv.weight",
        "attention.out_proj.weight",
    ]
    assert names(include=["lstm.*_l0", "embed*"]) == [
        "embed.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    ]
    assert names(include=lambda name, p: p.dim() == 4) == ["conv.weight", "up.weight"]
    model = recurrent()
    laq.torch.LossAware(
        torch.optim.Adam(model.parameters()),
        model,
        rules={"lstm.*hh*": None, "lstm.*": "lab", "conv.weight": {"format": "q4_0"}},
    )
    found = laq.torch.quantized(model)
    assert set(found) == {
        name for name, _ in model.named_parameters() if "weight_ih" in name and "lstm" in name
    } | {"conv.weight"}
    assert found["lstm.weight_ih_l0"].method == "lab" and found["conv.weight"].method == "q4_0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lat"}, "lat"),
        ({"include": "*.bias"}, r"include: '\*.bias' matches no parameter; the model has 0.weight, 2.weight"),
        ({"exclude": "head"}, "exclude: 'head' matches no parameter"),
        ({"exclude": "*"}, "no parameter is to be quantized"),
        ({"rules": {"head": "lab"}}, "the rule 'head' matches no parameter"),
        ({"rules": {"*": "lab", "2.*": None}}, "the rule '2.\\*' comes after others"),
        ({"rules": {"*": None}}, "the rules leave all parameters in full precision"),
        ({"rules": {"0.*": {"methd": "lab"}}}, "has 'methd', expected method"),
        ({"rules": {"0.*": "lab"}, "method": "lab"}, "found rules and method"),
        (
            {"format": "q4_0", "granularity": "row"},
            "`q4_0` has a scale for 32 weights, found granularity='row'",
        ),
        ({"granularity": "rows"}, "unknown granularity `rows`"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"beta2": 1.0}, "beta2=1.0"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_options_that_do_not_fit_are_told(options, message):
    model = network()
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=message):
        laq.torch.LossAware(optimizer, model, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_optimizers_and_weights_that_do_not_fit_are_told():
    model = network()
    with pytest.raises(ValueError, match="LBFGS"):
        laq.torch.LossAware(torch.optim.LBFGS(model.parameters()), model)
    aware = laq.torch.LossAware(torch.optim.Adam(model.parameters()), model)
    with pytest.raises(ValueError, match="optimizer is a LossAware already"):
        laq.torch.LossAware(aware, model)
    with pytest.raises(ValueError, match="2.weight is not among the parameters of the optimizer"):
        laq.torch.LossAware(torch.optim.Adam(model[0].parameters()), model, include="*.weight")
    assert laq.torch.LossAware(torch.optim.Adam(model[0].parameters()), model).names == ["0.weight"]
    half = network().half()
    with pytest.raises(ValueError, match="0.weight has elements of torch.float16"):
        laq.torch.LossAware(torch.optim.Adam(half.parameters()), half)
    with pytest.raises(TypeError, match="model is a list"):
        laq.torch.LossAware(torch.optim.Adam(model.parameters()), [model])


def test_weights_that_are_not_finite_are_told_by_name():
    model = network()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    train(model, optimizer, 1)
    model[2].weight.grad[1, 5] = math.nan
    with pytest.raises(ValueError, match=r"cannot quantize 2.weight: w\[1, 5\] is NaN"):
        optimizer.step()


def test_a_state_of_others_is_told():
    model, other = network(), recurrent()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters()), model)
    of_other = laq.torch.LossAware(torch.optim.Adam(other.parameters()), other)
    with pytest.raises(ValueError, match="the state is of other parameters: only quantized here is 0.weight"):
        optimizer.load_state_dict(of_other.state_dict())
    with pytest.raises(ValueError, match="'optimizer' is missing"):
        optimizer.load_state_dict(optimizer.optimizer.state_dict())
    model2 = network()
    other_method = laq.torch.LossAware(torch.optim.Adam(model2.parameters()), model2, "laq-linear-3")
    train(model2, other_method, 3)
    with pytest.raises(ValueError, match="the state of 0.weight is of another method"):
        optimizer.load_state_dict(other_method.state_dict())


def test_a_model_is_quantized_after_training():
    model = network()
    original = [p.detach().clone() for p in model.parameters()]
    d = {"0.weight": torch.rand(24, 12)}
    errors = laq.torch.quantize_(model, "laq-linear", bits=3, curvature=d, granularity="row")
    for index, name in ((0, "0.weight"), (2, "2.weight")):
        w = original[index]
        curvature = d.get(name, torch.ones_like(w))
        expected = laq.quantize(w, curvature, "laq-linear-3", axis=0)
        assert (model[index].weight.detach().numpy() == expected.decoded).all()
        relative = 2 * expected.error / (curvature.double() * w.double() ** 2).sum().item()
        assert errors[name] == pytest.approx(relative, rel=1e-9)
    assert torch.equal(model[0].bias, original[1])
    with pytest.raises(ValueError, match="the curvature has head.weight, which is no parameter"):
        laq.torch.quantize_(model, curvature={"head.weight": torch.ones(1)})
    # A second time, from quantized weights.
    laq.torch.quantize_(model, "lat-e")
    assert laq.torch.quantized(model)["0.weight"].method == "lat-e"


def test_fisher_is_the_mean_of_squared_gradients():
    model = network()
    batches = [data(seed, 4) for seed in range(5)]
    found = laq.torch.fisher(model, batches, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    expected = torch.zeros(24, 12)
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        expected += model[0].weight.grad ** 2 / 5
    torch.testing.assert_close(found["0.weight"], expected)
    assert set(found) == {"0.weight", "2.weight"}
    with pytest.raises(ValueError, match="there are no batches"):
        laq.torch.fisher(model, [], lambda *_: None)


def brute_force_convolution(module, x):
    """The mean x² that each weight meets, position by position."""
    unit = torch.zeros_like(module.weight)
    found = torch.empty_like(module.weight, dtype=torch.float64)
    for index in np.ndindex(*module.weight.shape):
        unit.zero_()
        unit[index] = 1
        with torch.no_grad():
            module.weight.copy_(unit)
            y = module(x)[:, index[0]].double()
        found[index] = (y**2).mean()
    return found


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (torch.nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (3, 4, 9)),
        (torch.nn.Conv2d(2, 3, 3, padding="same", dilation=2, bias=False), (2, 2, 6, 5)),
        (torch.nn.Conv2d(2, 3, (2, 3), padding=(1, 2), padding_mode="reflect", bias=False), (2, 2, 6, 5)),
        (torch.nn.Conv3d(1, 2, 2, bias=False), (2, 1, 3, 3, 3)),
    ],
)
def test_inputs_of_convolutions(module, shape):
    x = torch.randn(shape)
    found = laq.torch.input_second_moments(module, [x])["weight"]
    torch.testing.assert_close(found.double(), brute_force_convolution(module, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_inputs_of_recurrent_layers(kind, batch_first):
    """Beside cells that are run step by step."""
    torch.manual_seed(1)
    module = kind(3, 4, 2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(5, 2, 3)
    shape = (4, 2, 4)
    start = torch.randn(shape) if kind is not torch.nn.LSTM else (torch.randn(shape), torch.randn(shape))
    cell_kind = {
        torch.nn.LSTM: torch.nn.LSTMCell,
        torch.nn.GRU: torch.nn.GRUCell,
        torch.nn.RNN: torch.nn.RNNCell,
    }[kind]
    inputs = x
    expected = {}
    for layer in range(2):
        outputs = []
        for direction, suffix in enumerate(["", "_reverse"]):
            cell = cell_kind(inputs.shape[-1], 4)
            with torch.no_grad():
                for kind_of in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(cell, kind_of).copy_(getattr(module, f"{kind_of}_l{layer}{suffix}"))
            row = 2 * layer + direction
            state = tuple(part[row] for part in start) if isinstance(start, tuple) else start[row]
            squares, steps = torch.zeros(4), []
            with torch.no_grad():
                for step in range(5) if not suffix else reversed(range(5)):
                    hidden = state[0] if isinstance(state, tuple) else state
                    squares += (hidden**2).sum(0)
                    state = cell(inputs[step], state)
                    steps.append(state[0] if isinstance(state, tuple) else state)
            outputs.append(torch.stack(steps if not suffix else steps[::-1]))
            expected[f"weight_ih_l{layer}{suffix}"] = (inputs**2).mean((0, 1))
            expected[f"weight_hh_l{layer}{suffix}"] = squares / 10
        inputs = torch.cat(outputs, -1)
    found = laq.torch.input_second_moments(
        module, [(x.transpose(0, 1) if batch_first else x, start)], lambda module, batch: module(*batch)
    )
    for name, row in expected.items():
        torch.testing.assert_close(found[name], row.expand_as(found[name]), rtol=1e-4, atol=1e-6)


def test_inputs_of_other_layers():
    linear = torch.nn.Linear(5, 3)
    x = torch.randn(2, 4, 5)
    found = laq.torch.input_second_moments(linear, [x, 2 * x])["weight"]
    torch.testing.assert_close(found, (x**2).mean((0, 1)).mul(2.5).expand(3, 5))

    embedding = torch.nn.Embedding(4, 3)
    found = laq.torch.input_second_moments(embedding, [torch.tensor([[0, 2], [2, 2]])])["weight"]
    torch.testing.assert_close(found, torch.tensor([0.25, 0, 0.75, 0])[:, None].expand(4, 3))

    up = torch.nn.ConvTranspose1d(2, 3, 2)
    x = torch.randn(4, 2, 6)
    found = laq.torch.input_second_moments(up, [x])["weight"]
    torch.testing.assert_close(found, (x**2).mean((0, 2))[:, None, None].expand(2, 3, 2))

    attention = torch.nn.MultiheadAttention(4, 2)
    q, k, v = torch.randn(3, 1, 4), torch.randn(5, 1, 4), torch.randn(5, 1, 4)
    found = laq.torch.input_second_moments(attention, [(q, k, v)], lambda m, b: m(*b))["in_proj_weight"]
    for index, part in enumerate((q, k, v)):
        rows = slice(4 * index, 4 * index + 4)
        torch.testing.assert_close(found[rows], (part**2).mean((0, 1)).expand(4, 4))
    with pytest.raises(ValueError, match="the inputs of weight are not finite"):
        laq.torch.input_second_moments(linear, [torch.full((1, 5), math.nan)])


@pytest.mark.parametrize("method", ["lat-e", "lat-a", "ttq", "dorefa-3", "q4_0", "lat2-e"])
def test_other_devices_have_the_same_results(method, monkeypatch):
    """The solvers in operations of torch, here on the CPU."""
    kind = {"format": method} if method == "q4_0" else {"method": method}

    def run(steps):
        model = network()
        optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model, clip=0.25, **kind)
        return model, optimizer, train(model, optimizer, steps)

    expected_model, _, expected = run(4)
    records = laq.torch.quantized(expected_model)
    monkeypatch.setattr("laq.torch._parameter.is_on_host", lambda _: False)
    model, optimizer, found = run(4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, record in laq.torch.quantized(model).items():
        np.testing.assert_array_equal(record.levels, records[name].levels)
        np.testing.assert_allclose(record.scale, records[name].scale, rtol=1e-5)
        assert record.error == pytest.approx(records[name].error, rel=1e-4)
        assert (record.decoded == dict(model.named_parameters())[name].detach().numpy()).all()

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    whole = train(model, optimizer, 3, 4)
    other, resumed, _ = run(1)
    with resumed.latent():
        other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert train(other, resumed, 3, 4) == whole


def test_errors_on_other_devices_have_names(monkeypatch):
    monkeypatch.setattr("laq.torch._parameter.is_on_host", lambda _: False)
    model = network()
    optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 0.01), model)
    train(model, optimizer, 1)
    model[2].weight.grad[1, 5] = math.nan
    with pytest.raises(ValueError, match=r"cannot quantize 2.weight: w\[1, 5\] is NaN"):
        optimizer.step()


def test_channels_on_other_devices(monkeypatch):
    model = recurrent()
    errors = laq.torch.quantize_(model, granularity="row")
    monkeypatch.setattr("laq.torch._parameter.is_on_host", lambda _: False)
    other = recurrent()
    found = laq.torch.quantize_(other, granularity="row")
    for name, error in errors.items():
        assert found[name] == pytest.approx(error, rel=1e-5)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
