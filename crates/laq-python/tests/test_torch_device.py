"""The quantizer in operations of torch against that in Rust, and warm starts against plain numpy."""

import itertools

import laq
import numpy as np
import pytest
from laq import _laq

torch = pytest.importorskip("torch")

from laq.torch import _optimum
from laq.torch._device import DeviceQuantizer

METHODS = [method.id for method in laq.methods() if method.id != "full"]
FORMATS = {record.id: record.block for record in laq.formats()}
GRANULARITIES = ["tensor", "gate", "row", "block:5", "block:64"]
GATES = 2

# Rows and columns; the rows form two gates.
SHAPES = [(4, 31), (2, 1), (6, 1), (2, 5), (4, 160)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Faster for small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(kind, rows, columns, seed):
    """Weights and curvatures of a kind."""
    random = np.random.default_rng(seed)
    shape = (rows, columns)
    w, d = random.normal(size=shape), random.lognormal(size=shape)
    match kind:
        case "heavy tails":
            w, d = random.standard_t(1.2, size=shape), random.lognormal(sigma=4, size=shape)
        case "ties":
            w, d = np.round(2 * w) / 4, np.ceil(d)
        case "zeros":
            w, d = w * random.integers(0, 2, shape), d * random.integers(0, 2, shape)
        case "constant":
            w, d = np.full(shape, -0.3), np.ones(shape)
        case "all zero":
            w = np.zeros(shape) * np.sign(w)
        case "no curvature in a group":
            d[: rows // 2] = 0
        case "of one sign":
            w = np.abs(w)
        case "tiny and huge":
            w = w * np.array([1e-30, 1e30])[np.arange(rows) % 2, None]
    return w.astype(np.float32), d.astype(np.float32)


KINDS = ["normal", "heavy tails", "ties", "zeros", "constant", "all zero", "no curvature in a group"]
KINDS += ["of one sign", "tiny and huge"]


def quantizer_of(name):
    return _laq.Quantizer.of_format(name) if name in FORMATS else _laq.Quantizer.of_method(name, None)


def group_of(granularity, rows, columns):
    """The group of each weight."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    if granularity.startswith("block"):
        length = min(int(granularity[6:]), columns)
        return row * -(-columns // length) + column // length
    return {"tensor": 0 * row, "gate": row // (rows // GATES), "row": row}[granularity]


def by_rust(name, w, d, granularity):
    """Levels, steps of the groups and decoded weights, each flat."""
    quantizer = _laq.ParameterQuantizer("w", list(w.shape), quantizer_of(name), granularity, GATES)
    decoded = np.empty(w.size, np.float32)
    _laq.solve_parameters([(quantizer, w.ravel(), None if d is None else d.ravel(), decoded)], False, 1)
    return quantizer.levels(), quantizer.steps(), decoded


def step_of(quantizer, scales):
    divisor = np.float32(quantizer.codebook.divisor)
    steps = scales.reshape(len(scales), -1) / divisor
    with np.errstate(over="ignore"):
        return np.where(np.isinf(steps * divisor), np.nextafter(steps, np.float32(0)), steps)


def multipliers(quantizer, levels):
    codebook = quantizer.codebook
    return np.array(codebook.multipliers(), np.float32)[np.searchsorted(codebook.level_indices(), levels)]


def per_weight(steps, levels, group):
    """The step of each weight."""
    return steps[group, np.where(levels < 0, steps.shape[1] - 1, 0)]


def errors(w, d, quantized, group):
    each = d.astype(np.float64) * (w.astype(np.float64) - quantized) ** 2
    return 0.5 * np.bincount(group, each)


def solver(name, shape, granularity):
    return DeviceQuantizer(quantizer_of(name), *shape, granularity, GATES, "cpu")


def compare(name, w, d, granularity):
    """Solves both ways: equal levels and scales, or equal errors, in every group."""
    found = solver(name, w.shape, granularity)
    out = torch.empty(w.shape)
    found.solve_with_curvature(torch.from_numpy(w), None if d is None else torch.from_numpy(d), out)
    quantizer, group = quantizer_of(name), group_of(granularity, *w.shape)
    rust_levels, rust_steps, rust_decoded = by_rust(name, w, d, granularity)
    levels, decoded = found.levels.numpy(), out.numpy().ravel()
    assert found.scales.dtype == torch.float32 and found.levels.dtype == torch.int8
    assert found.scales.shape == ((len(rust_steps), 2) if quantizer.two_scales else (len(rust_steps),))
    steps = step_of(quantizer, found.scales.numpy())
    expected = multipliers(quantizer, levels) * per_weight(steps, levels, group)
    assert (decoded.view(np.int32) == expected.view(np.int32)).all()

    flat, curvature = w.ravel(), np.ones(w.size, np.float32) if d is None else d.ravel()
    # Without the rounding of the product.
    exact = [
        errors(flat, curvature, multipliers(quantizer, b) * per_weight(s.astype(np.float64), b, group), group)
        for b, s in ((levels, steps), (rust_levels, rust_steps))
    ]
    size = errors(flat, curvature, 0, group)
    has_error = np.abs(exact[0] - exact[1]) <= 1e-9 * exact[1] + 1e-13 * size
    equal_levels = np.bincount(group, levels != rust_levels) == 0
    close = np.abs(steps - rust_steps) <= 1e-6 * np.abs(rust_steps)
    assert has_error.all(), (exact, steps, rust_steps)
    assert (close.all(1) | ~equal_levels).all(), (steps, rust_steps)
    if quantizer.algorithm not in ("exact", "exact-on-grid"):
        assert equal_levels.all() and close.all()
    same = (equal_levels & (steps == rust_steps).all(1))[group]
    assert (decoded[same].view(np.int32) == rust_decoded[same].view(np.int32)).all()
    expected = errors(flat, curvature, decoded, group)
    np.testing.assert_allclose(found.weighted_error.numpy(), expected, rtol=1e-12, atol=0)
    return equal_levels.mean()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_every_granularity(name):
    cases = itertools.cycle(itertools.product(SHAPES, KINDS))
    for seed, (granularity, _) in enumerate(itertools.product(GRANULARITIES, range(9))):
        shape, kind = next(cases)
        w, d = weights(kind, *shape, seed)
        compare(name, w, None if seed % 5 == 4 else d, granularity)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name):
    for seed, (shape, kind) in enumerate(itertools.product([(2, 300), (2, 1), (4, 17)], KINDS)):
        w, d = weights(kind, *shape, seed)
        compare(name, w, None if seed % 5 == 4 else d, f"block:{FORMATS[name]}")


def test_most_solutions_are_those_of_rust():
    for name in ["lat-e", "lat2-e", "laq-linear-3-e", "laq-linear-8-e", "q4_0", "iq4_nl", "nvfp4"]:
        w, d = weights("normal", 64, 64, 5)
        granularity = f"block:{FORMATS[name]}" if name in FORMATS else "row"
        assert compare(name, w, d, granularity) > 0.7


CODEBOOKS = [[-0.5, 0.5], [-1, -0.2, 0.2, 1], [-1, -0.5, 0, 0.5, 1], [-1, 1, 3], [1, 2, 4, 9]]


@pytest.mark.parametrize("values", CODEBOOKS)
def test_codebooks_of_the_caller(values):
    codebook = laq.Codebook.custom(values)
    quantizer = _laq.Quantizer.of_codebook(codebook._core)
    for kind in KINDS:
        w, d = weights(kind, 4, 50, 0)
        found = DeviceQuantizer(quantizer, 4, 50, "row", 1, "cpu")
        out = torch.empty(4, 50)
        found.solve_with_curvature(torch.from_numpy(w), torch.from_numpy(d), out)
        expected = laq.quantize(w, d, codebook=codebook, axis=0)
        slack = 1e-7 * 0.5 * (d.astype(np.float64) * w.astype(np.float64) ** 2).sum()
        assert float(found.weighted_error.sum()) == pytest.approx(expected.error, rel=1e-6, abs=slack)


@pytest.mark.parametrize(
    "name", ["laq-linear-3-e", "laq-linear-5-e", "laq-log-3-e", "laq-log-5-e", "laq-log-8-e"]
)
def test_search_by_bounds(name, monkeypatch):
    monkeypatch.setattr(_optimum, "_MAX_SORTED", 0)
    # Several parts.
    monkeypatch.setattr(_optimum, "CHUNK", 1 << 13)
    for seed, kind in enumerate(KINDS):
        w, d = weights(kind, 4, 40, seed)
        for granularity in ("tensor", "row"):
            compare(name, w, d, granularity)


@pytest.mark.parametrize("name", ["lat-e", "laq-linear-4-e", "laq-linear-8-e", "laq-log-4-e", "laq-linear-4"])
def test_many_weights(name):
    for kind in ("normal", "heavy tails", "ties"):
        w, d = weights(kind, 100, 500, 1)
        compare(name, w, d, "tensor")


@pytest.mark.parametrize(
    "name", ["absmax-8", "laq-linear-3-e", "laq-linear-8-e", "laq-log-8-e", "laq-linear-3"]
)
def test_the_largest_weights(name, monkeypatch):
    largest = np.finfo(np.float32).max
    for sorted_weights in (0, 1024):
        monkeypatch.setattr(_optimum, "_MAX_SORTED", sorted_weights)
        # The best scale of the first row is 1.5 times the largest number for 3 bits.
        w = np.array([[1, 0.5, 0.5, -1], [1, -1, 0, 1e-38]], np.float32) * largest
        compare(name, w, None, "row")


def test_the_curvature_is_the_root_of_the_second_moment():
    w, v = weights("normal", 4, 31, 3)
    one, other = solver("laq-linear-3-e", w.shape, "row"), solver("laq-linear-3-e", w.shape, "row")
    outs = torch.empty(2, *w.shape)
    one.solve(torch.from_numpy(w), torch.from_numpy(v), outs[0])
    other.solve_with_curvature(torch.from_numpy(w), torch.from_numpy(np.sqrt(v) + np.float32(1e-8)), outs[1])
    assert (outs[0] == outs[1]).all() and (one.scales == other.scales).all()


def alternating(w, d, values, levels, start):
    """The scale in float64 of one group, from the values of the previous levels."""
    middles = (values[1:] + values[:-1]) / 2
    nearest = lambda scale: values[np.searchsorted(middles, w / scale)]
    b = start if (d * start * w).sum() > 0 else np.sign(w) * values[-1]
    scale = (d * b * w).sum() / (d * b * b).sum()
    for iteration in range(10):
        b = nearest(scale)
        new = (d * b * w).sum() / (d * b * b).sum()
        change, scale = abs(new - scale), new
        if change <= 1e-6:
            break
    return scale, iteration


@pytest.mark.parametrize("name", ["lat-a", "laq-linear-2", "laq-linear-4", "laq-linear-8", "laq-log-3"])
def test_warm_starts_of_alternating(name):
    quantizer = quantizer_of(name)
    divisor = quantizer.codebook.divisor
    values = np.array(quantizer.codebook.multipliers(), np.float64) / divisor
    found = solver(name, (6, 200), "row")
    iterations, unlike_cold = [], 0
    for step in range(6):
        w, d = weights("normal", 6, 200, 7)
        w = w + np.float32(0.1 * step) * weights("normal", 6, 200, 8)[0]
        if step == 5:
            w[0] *= -1  # No positive scale for the previous levels.
        start = found.levels.numpy().reshape(w.shape).copy()
        out = torch.empty(w.shape)
        found.solve_with_curvature(torch.from_numpy(w), torch.from_numpy(d), out)
        for row in range(6):
            wide = w[row].astype(np.float64), d[row].astype(np.float64)
            warm = multipliers(quantizer, start[row]) / divisor if step else np.zeros(200)
            scale, iteration = alternating(*wide, values, start, warm)
            assert float(found.scales[row]) == pytest.approx(scale, rel=1e-6)
            iterations.append(iteration)
            unlike_cold += abs(alternating(*wide, values, start, np.zeros(200))[0] - scale) > 1e-5 * scale
    assert max(iterations) > 1 and unlike_cold > 0


def test_warm_starts_of_both_signs():
    found = solver("lat2-a", (6, 200), "row")
    ternary = np.array([-1.0, 0, 1])
    for step in range(5):
        w, d = weights("heavy tails", 6, 200, 7)
        d = np.sqrt(np.sqrt(d))
        w = w + np.float32(0.1 * step) * weights("normal", 6, 200, 8)[0]
        start = found.levels.numpy().reshape(w.shape).copy()
        found.solve_with_curvature(torch.from_numpy(w), torch.from_numpy(d), torch.empty(w.shape))
        for row, (column, sign) in itertools.product(range(6), enumerate([1, -1])):
            side = np.sign(w[row]) == sign
            wide = np.abs(w[row, side]).astype(np.float64), d[row, side].astype(np.float64)
            warm = (start[row, side] == sign).astype(np.float64)
            scale, _ = alternating(*wide, ternary, None, warm)
            assert float(found.scales[row, column]) == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("name", ["laq-linear-3", "lat2-a", "ttq"])
def test_a_loaded_state_continues(name):
    first, second = solver(name, (4, 50), "gate"), solver(name, (4, 50), "gate")
    outs = torch.empty(2, 4, 50)
    w, d = (torch.from_numpy(a) for a in weights("normal", 4, 50, 0))
    first.solve_with_curvature(w, d, outs[0])
    second.load(first.levels, first.scales)
    for quantizer, out in zip((first, second), outs, strict=True):
        quantizer.solve_with_curvature(w + 0.05 * d, d, out)
    assert (outs[0] == outs[1]).all() and (first.scales == second.scales).all()


def test_trained_scales_are_taken_and_have_a_gradient():
    found = solver("ttq", (4, 50), "row")
    w, g = weights("normal", 4, 50, 0)
    scales = torch.tensor([[0.5, 0.25], [1, 2], [-1, 3], [0, 0]])
    found.load(torch.zeros(200, dtype=torch.int8), scales)
    out = torch.empty(4, 50)
    found.solve_with_curvature(torch.from_numpy(w), None, out)
    assert (found.scales == scales).all()
    levels = found.levels.numpy().reshape(4, 50)
    threshold = 0.05 * np.abs(w).max(1, keepdims=True)
    assert (levels == np.sign(w) * (np.abs(w) > threshold)).all()
    gradient = torch.from_numpy(g.copy())
    of_scales = found.scale_gradient(gradient)
    expected = [(g * (levels == 1)).sum(1, dtype=np.float64), -(g * (levels == -1)).sum(1, dtype=np.float64)]
    np.testing.assert_allclose(of_scales.numpy(), np.stack(expected, 1), rtol=1e-6)
    found.latent_gradient(torch.from_numpy(w), gradient)
    factors = np.select([levels > 0, levels < 0], [scales[:, :1], scales[:, 1:]], 1.0)
    assert (gradient.numpy() == g * factors.astype(np.float32)).all()
    assert solver("lat-e", (4, 50), "row").scale_gradient(gradient) is None


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_gradient_of_dorefa_is_that_of_autograd(granularity):
    found = solver("dorefa-3", (4, 33), granularity)
    w, g = (torch.from_numpy(a) for a in weights("normal", 4, 33, 2))
    found.solve_with_curvature(w, None, torch.empty(4, 33))
    latent = w.double().requires_grad_()
    group = torch.from_numpy(group_of(granularity, 4, 33))
    t = latent.tanh().flatten()
    largest = torch.stack([t[group == i].abs().max() for i in range(int(group.max()) + 1)])
    ((t / largest[group]) * g.flatten()).sum().backward()
    found_gradient = g.clone()
    found.latent_gradient(w, found_gradient)
    np.testing.assert_allclose(found_gradient.numpy(), latent.grad.numpy(), rtol=1e-5, atol=1e-6)
    zeros = torch.zeros(4, 33)
    kept = g.clone()
    found.latent_gradient(zeros, kept)
    assert (kept == g).all()
    straight = solver("laq-linear-3", (4, 33), granularity)
    straight.latent_gradient(w, kept)
    assert (kept == g).all()


def test_values_that_are_not_finite_are_errors_and_change_nothing():
    found = solver("lat-e", (2, 5), "row")
    w, d = (torch.from_numpy(a) for a in weights("normal", 2, 5, 0))
    out = torch.zeros(2, 5)
    found.solve_with_curvature(w, d, out)
    before = out.clone(), found.levels.clone(), found.scales.clone()
    cases = [("w", np.nan, "NaN"), ("w", -np.inf, "-inf"), ("d", -0.1, "-0.1"), ("d", np.nan, "NaN")]
    for name, value, shown in cases:
        tensors = {"w": w.clone(), "d": d.clone()}
        tensors[name][1, 3] = value
        tensors["w"][1, 4] = -2.0
        with pytest.raises(ValueError, match=rf"^{name}\[1, 3\] is {shown}, expected finite numbers"):
            found.solve_with_curvature(tensors["w"], tensors["d"], out)
    with pytest.raises(ValueError, match=r"d\[0, 0\] is NaN"):
        found.solve(w, -torch.ones(2, 5), out)
    assert all((a == b).all() for a, b in zip(before, (out, found.levels, found.scales), strict=True))
    trained = solver("ttq", (2, 5), "tensor")
    trained.load(torch.zeros(10, dtype=torch.int8), torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(ValueError, match="the trained scale is inf"):
        trained.solve_with_curvature(w, None, out)


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="found 'row'.*pass 'block:32'"):
        solver("q4_0", (2, 64), "row")
    with pytest.raises(ValueError, match="unknown granularity `rows`"):
        solver("lat-e", (2, 64), "rows")
    with pytest.raises(ValueError, match="3 rows and 2 gates"):
        solver("lat-e", (3, 64), "gate")
    table = _laq.Quantizer.of_codebook(laq.Codebook.custom([-1, 2])._core)
    with pytest.raises(ValueError, match="65538 weights share a scale"):
        DeviceQuantizer(table, 2, 32769, "tensor", 1, "cpu")
    found = solver("lat-e", (2, 5), "row")
    w = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="out has 9 elements, expected 10"):
        found.solve_with_curvature(w, None, torch.empty(9))
    with pytest.raises(ValueError, match="d has 9 elements, expected 10"):
        found.solve_with_curvature(w, torch.ones(9), w)
    with pytest.raises(ValueError, match="found 3 scales, expected 2"):
        found.load(torch.zeros(10, dtype=torch.int8), torch.zeros(3))


def test_parameters_are_quantized_in_place_and_without_a_graph():
    w, _ = weights("normal", 4, 31, 3)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    found = solver("lat-e", w.shape, "row")
    found.solve_with_curvature(parameter, None, parameter.data)
    assert (parameter.detach().numpy() == laq.quantize(w, axis=0).decoded).all()
    transposed = torch.empty(31, 4).T
    found.solve_with_curvature(torch.from_numpy(w), None, transposed)
    assert (transposed == parameter).all() and not transposed.requires_grad


def test_matrices_without_columns():
    for name in METHODS:
        found = solver(name, (2, 0), "row")
        found.solve_with_curvature(torch.empty(2, 0), None, torch.empty(2, 0))
        steps = step_of(quantizer_of(name), found.scales.numpy())
        expected = laq.quantize(np.empty((2, 0), np.float32), None, name, axis=0).scale
        assert steps.tolist() == expected.reshape(steps.shape).tolist()
        assert found.weighted_error.tolist() == [0, 0]


@pytest.mark.parametrize("name", [*METHODS, *FORMATS])
def test_solving_reads_nothing_from_the_device(name, monkeypatch):
    """A meta tensor has no data: what needs it on the host, such as ``item()`` and ``nonzero()``, raises."""
    monkeypatch.setattr(DeviceQuantizer, "_check", lambda *_: None)
    granularity = f"block:{FORMATS[name]}" if name in FORMATS else "row"
    found = DeviceQuantizer(quantizer_of(name), 4, 100, granularity, 1, "meta")
    w = torch.empty(4, 100, device="meta")
    for _ in range(2):
        found.solve(w, w, w)
    found.scale_gradient(w)
    found.latent_gradient(w, w)
    assert found.levels.is_meta and found.scales.is_meta and found.weighted_error.is_meta
