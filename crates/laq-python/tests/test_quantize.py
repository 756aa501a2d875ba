"""Results of ``quantize`` against references."""

import itertools

import laq
import numpy as np
import pytest
import reference

METHODS = [method.id for method in laq.methods() if method.id != "full"]
FORMATS = [record.id for record in laq.formats()]


def decoded_by_hand(result):
    """``scale · value`` in float32."""
    place = np.searchsorted(result.codebook.levels, result.levels)
    values, scale = result.values[place], result.scale
    if result.two_scales:
        pairs = scale
        scale = pairs[..., 0]
    if result.block is not None:
        rows = result.levels.reshape(-1, result.levels.shape[-1])
        column = np.arange(rows.shape[1]) // min(result.block, rows.shape[1])
        pick = lambda scale: scale.reshape(len(rows), -1)[:, column].reshape(values.shape)
    else:
        after = values.ndim - 1 - (result.axis or 0)
        pick = lambda scale: scale.reshape(scale.shape + (1,) * after) if scale.ndim else scale
    if result.two_scales:
        return values * np.where(values < 0, pick(pairs[..., 1]), pick(scale))
    return values * pick(scale)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_error_of_the_reference(method, problem):
    for seed, curved in [(0, True), (1, False)]:
        w, d = problem(150, seed=seed)
        result = laq.quantize(w, d if curved else None, method)
        w64, d64 = w.astype(np.float64), d.astype(np.float64) if curved else np.ones(150)
        expected = reference.expected(method, w64, d64)
        assert result.error == pytest.approx(expected, rel=1e-5)
        assert result.error == pytest.approx(reference.error(w64, d64, result.decoded), rel=1e-9)
        assert (result.decoded == decoded_by_hand(result)).all()
        assert result.method == method


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_optimum_in_every_block(name, problem):
    block = next(record.block for record in laq.formats() if record.id == name)
    w, d = problem(1, block, seed=3)
    result = laq.quantize(w, d, format=name)
    assert result.scale.shape == (1, 1)
    assert (result.decoded == decoded_by_hand(result)).all()
    scales, values = reference.grid(name), reference.format_values(name)
    assert set(result.scale.ravel().tolist()) <= set(scales.tolist())
    assert result.values.tolist() == list(values)
    expected = reference.optimum_on_grid(w[0].astype(np.float64), d[0], values, scales)
    assert result.error == pytest.approx(expected, rel=1e-9)


def test_small_problems_have_the_optimum_of_all_assignments(problem):
    values = [-1.0, -0.25, 0.0, 0.25, 1.0]
    table = [-0.5, 0.25, 2.0]
    for seed in range(10):
        w, d = problem(4, seed=seed)
        for codebook in (values, table, [-3, -1, 1, 3]):
            result = laq.quantize(w, d, codebook=laq.Codebook.custom(codebook))
            expected = reference.brute_force(w.astype(np.float64), d, codebook)
            assert result.error == pytest.approx(expected, rel=1e-5, abs=1e-9), (seed, codebook)
            assert result.values.tolist() == codebook
        result = laq.quantize(w, d)
        assert result.error == pytest.approx(
            reference.brute_force(w.astype(np.float64), d, [-1, 0, 1]), rel=1e-5, abs=1e-9
        )


@pytest.mark.parametrize("method", ["lat-e", "lat2-e", "laq-linear-4", "lab", "ttq"])
def test_rows_axes_and_blocks_are_problems_of_their_own(method, problem):
    w, d = problem(6, 10)
    two = (2,) if method in ("lat2-e", "ttq") else ()
    rows = laq.quantize(w, d, method, axis=0)
    columns = laq.quantize(np.ascontiguousarray(w.T), np.ascontiguousarray(d.T), method, axis=1)
    assert (columns.levels.T == rows.levels).all() and (columns.decoded.T == rows.decoded).all()
    assert (columns.scale == rows.scale).all() and columns.error == rows.error
    assert rows.scale.shape == (6, *two)
    blocks = laq.quantize(w, d, method, block=4)
    assert blocks.scale.shape == (6, 3, *two)
    for row in range(6):
        alone = laq.quantize(w[row], d[row], method)
        assert alone.scale.shape == two
        assert (rows.levels[row] == alone.levels).all() and (rows.scale[row] == alone.scale).all()
        cut = laq.quantize(w[row], d[row], method, block=4)
        assert cut.scale.shape == (3, *two) and (blocks.scale[row] == cut.scale).all()
        for block in range(3):
            part = slice(4 * block, 4 * block + 4)
            alone = laq.quantize(w[row, part], d[row, part], method)
            assert (blocks.decoded[row, part] == alone.decoded).all()
    for result in (rows, columns, blocks):
        assert (result.decoded == decoded_by_hand(result)).all()
        assert result.two_scales == bool(two)


def test_blocks_of_columns():
    w = np.arange(24, dtype=np.float32).reshape(6, 4)
    result = laq.quantize(w, axis=1, block=3, method="lab")
    assert result.scale.tolist() == [[w[:3, c].mean(), w[3:, c].mean()] for c in range(4)]


def test_shapes_of_all_sizes(problem):
    for shape in [(), (1,), (0,), (0, 3), (3, 0), (2, 3, 4, 5), (1, 7), (7, 1)]:
        w, d = problem(*shape)
        w, d = np.asarray(w, np.float32), np.asarray(d, np.float32)
        for axis in [None, *range(len(shape))]:
            kept = w.copy()
            result = laq.quantize(w, d, "laq-linear-3-e", axis=axis)
            assert (w == kept).all()
            assert result.levels.shape == result.decoded.shape == shape
            assert result.levels.dtype == np.int8
            assert result.scale.shape == (() if axis is None else (shape[axis],))
            assert result.error == pytest.approx(reference.error(w, d, result.decoded), rel=1e-4, abs=1e-6)
        if shape:
            assert laq.quantize(w, d, block=2).levels.shape == shape


def test_bits_are_a_part_of_the_id_or_an_argument(problem):
    w, d = problem(50)
    for method, bits, expected in [
        ("laq-linear", 4, "laq-linear-4"),
        ("laq-linear-4", 4, "laq-linear-4"),
        ("LAQ_log", None, "laq-log-3"),
        ("LATe", None, "lat-e"),
    ]:
        result = laq.quantize(w, d, method, bits)
        assert result.method == expected
        assert (result.levels == laq.quantize(w, d, expected).levels).all()


def test_edge_cases_have_solutions():
    zeros = laq.quantize(np.zeros(5, np.float32))
    assert zeros.error == 0 and not zeros.decoded.any()
    w = np.array([1, -2, 3], np.float32)
    assert laq.quantize(w, np.zeros(3, np.float32)).error == 0
    huge = np.array([3e38, -3e38, 1e-45], np.float32)
    assert np.isfinite(laq.quantize(huge, method="laq-linear-8-e").decoded).all()


def test_methods_and_formats_are_listed():
    methods = {method.id: method for method in laq.methods()}
    assert methods["full"].bits == 32 and methods["lab"].bits == 1 and methods["laq-log-7"].bits == 7
    assert "1802.08635" in methods["lat-e"].source and methods["lat-e"].block is None
    assert {record.id: record.block for record in laq.formats()}["q4_0"] == 32
    assert len(set(methods)) == len(laq.methods()) > 40


def test_codebooks_are_compared_and_shown():
    custom = laq.Codebook.custom([-1, -0.5, 0.5, 1])
    assert custom == laq.Codebook.custom(np.array([-1, -0.5, 0.5, 1])) != laq.Codebook.ternary()
    assert len({custom, laq.Codebook.custom((-1, -0.5, 0.5, 1)), laq.Codebook.binary()}) == 2
    assert repr(laq.Codebook.linear(3)) == "laq.Codebook.linear(3)"
    assert custom.levels.tolist() == [-2, -1, 0, 1] and custom.bits == 2
    assert laq.Codebook.custom([-1, 1]) == laq.Codebook.binary()
    assert laq.Codebook.linear(3).values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    for make, bits in itertools.product([laq.Codebook.uniform, laq.Codebook.logarithmic], range(2, 9)):
        assert len(make(bits).levels) == len(make(bits).values) > 2
        assert make(bits).bits == bits
