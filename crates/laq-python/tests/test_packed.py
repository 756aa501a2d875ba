"""Packed weights, their files and products."""

import copy
import json
import os
import pickle
import subprocess

import laq
import numpy as np
import pytest

CASES = [
    {},
    {"axis": 0},
    {"method": "lab"},
    {"method": "lat2-e"},
    {"method": "lat2-e", "axis": 0},
    {"method": "ttq", "block": 5},
    {"method": "dorefa-2"},
    {"method": "laq-linear-4-e", "axis": 0},
    {"method": "laq-log-8", "block": 32},
    {"method": "laq-linear-3", "block": 1000},
    {"format": "q4_0"},
    {"format": "nvfp4"},
    {"codebook": laq.Codebook.custom([-1, -0.125, 0.125, 1]), "axis": 0},
    {"codebook": laq.Codebook.custom([-1, 0.5, 3]), "block": 16},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("shape", [(6, 70), (40,), (4, 3, 5, 2)])
def test_packing_and_files_keep_every_bit(options, shape, problem, tmp_path):
    w, d = problem(*shape)
    result = laq.quantize(w, d, **options)
    packed = laq.pack(result)
    path = tmp_path / "packed.safetensors"
    laq.save(path, {"a": result, "b": packed, "c": w}, {"made by": "a test"})
    loaded = laq.load(str(path))
    assert sorted(loaded) == ["a", "b", "c"] and loaded.metadata == {"made by": "a test"}
    assert (loaded["c"] == w).all() and loaded["c"].dtype == np.float32
    for found in (packed, loaded["a"], loaded["b"], pickle.loads(pickle.dumps(packed))):
        assert found.shape == w.shape
        assert (found.decoded() == result.decoded).all()
        assert (found.levels == result.levels).all() and found.levels.dtype == np.int8
        assert (found.scale.ravel() == result.scale.ravel()).all()
        assert (found.values == result.values).all()
        assert found.bits == result.codebook.bits and found.two_scales == result.two_scales
        levels, scale = laq.unpack(found)
        assert (levels == found.levels).all() and (scale == found.scale).all()
    if loaded["a"].block == result.block:
        assert loaded["a"].scale.shape == result.scale.shape


def test_levels_are_packed_with_their_scale():
    levels = np.array([[1, 0, -1], [1, 0, 0]])
    ternary = laq.Codebook.ternary()
    packed = laq.pack(levels, scale=0.5, codebook=ternary)
    assert packed.decoded().tolist() == [[0.5, 0, -0.5], [0.5, 0, 0]]
    assert packed.nbytes == 6 and packed.bits == 2 and packed.scale == 0.5
    rows = laq.pack(levels, scale=[0.5, 2], codebook=ternary)
    assert rows.decoded().tolist() == [[0.5, 0, -0.5], [2, 0, 0]]
    blocks = laq.pack(levels, scale=[[1, 2], [3, 4]], codebook=ternary, block=2)
    assert blocks.decoded().tolist() == [[1, 0, -2], [3, 0, 0]] and blocks.block == 2
    signs = laq.pack(levels, scale=[0.5, 2], codebook=ternary, two_scales=True)
    assert signs.decoded().tolist() == [[0.5, 0, -2], [0.5, 0, 0]]
    trits = laq.pack(levels, scale=0.5, codebook=ternary, packing="trits5")
    assert trits.bits == 1.6 and trits.packing == "trits5"
    assert (trits.decoded() == packed.decoded()).all()
    assert copy.copy(trits).packing == "trits5"
    single = laq.pack(np.int8(1), scale=0.5, codebook=ternary)
    assert single.shape == () and single.decoded() == 0.5
    assert laq.pack(levels.T, scale=0.5, codebook=ternary).decoded().tolist() == packed.decoded().T.tolist()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_products_are_those_of_numpy(options, problem):
    w, d = problem(37, 70)
    packed = laq.pack(laq.quantize(w, d, **options))
    x = problem(11, 70, seed=5)[0]
    weights = packed.decoded().astype(np.float64)
    close = {"rtol": 0, "atol": 1e-4 * np.abs(weights).max()}
    y = laq.matvec(packed, x)
    assert y.shape == (11, 37) and y.dtype == np.float32
    np.testing.assert_allclose(y, x @ weights.T, **close)
    for threads in (1, 3):
        assert (laq.matvec(packed, x, threads=threads) == y).all()
    np.testing.assert_allclose(packed @ x[0], weights @ x[0], **close)
    np.testing.assert_allclose(packed @ x.T.copy(), weights @ x.T, **close)
    np.testing.assert_allclose(packed @ x.T, weights @ x.T, **close)
    assert laq.matvec(packed, x[:0]).shape == (0, 37)
    assert laq.matvec(packed, x.reshape(11, 1, 70).astype(np.float64)).shape == (11, 1, 37)


def test_products_of_other_shapes():
    vector = laq.pack(laq.quantize(np.array([1, -1, 1], np.float32)))
    with pytest.raises(ValueError, match="expected a matrix"):
        vector @ np.ones(3, np.float32)
    kernel = laq.pack(laq.quantize(np.ones((2, 3, 2, 2), np.float32)))
    assert (kernel @ np.ones(12, np.float32)).tolist() == [12, 12]
    none = laq.pack(laq.quantize(np.ones((0, 3), np.float32)))
    assert (none @ np.ones(3, np.float32)).shape == (0,)
    empty = laq.pack(laq.quantize(np.ones((3, 0), np.float32)))
    assert (empty @ np.ones(0, np.float32)).tolist() == [0, 0, 0]


def test_errors_of_packing_and_products(problem, tmp_path):
    w, _ = problem(4, 6)
    result = laq.quantize(w)
    packed = laq.pack(result)
    ternary = laq.Codebook.ternary()
    for call, word in [
        (lambda: laq.pack(laq.quantize(w, axis=1)), "axis 1"),
        (lambda: laq.pack(result, scale=1.0), "own scale"),
        (lambda: laq.pack(result.levels), "scale= and codebook="),
        (lambda: laq.pack(result.levels * 2, scale=1.0, codebook=ternary), "not in the codebook"),
        (lambda: laq.pack(result.levels.astype(int) * 500, scale=1.0, codebook=ternary), "-128 to 127"),
        (lambda: laq.pack(result.levels, scale=[1.0, 2, 3], codebook=ternary), "steps"),
        (lambda: laq.pack(result.levels, scale=np.nan, codebook=ternary), "finite"),
        (lambda: laq.pack(result.levels, scale=1.0, codebook=ternary, block=2), "steps"),
        (lambda: laq.pack(result, packing="bits9"), "bits"),
        (lambda: laq.pack(result, packing="bits1"), "3 levels"),
        (lambda: laq.pack(result, packing="zip"), "trits5"),
        (lambda: packed @ np.ones(5, np.float32), "(6,)"),
        (lambda: packed @ np.ones((5, 2), np.float32), "(5, 2), expected (6,) or (6, n)"),
        (lambda: laq.save(tmp_path / "x", {"a": packed, "b": np.array([1e300])}), "b has values beyond"),
        (lambda: packed @ np.ones((1, 2, 6), np.float32), "matvec"),
        (lambda: laq.matvec(packed, np.ones((6, 2), np.float32)), "(..., 6)"),
        (lambda: laq.matvec(packed, np.ones((2, 6), np.float32).T), "ascontiguousarray"),
        (lambda: laq.matvec(packed, np.ones(6, np.float32), threads=0), "threads=0"),
        (lambda: laq.save(tmp_path / "x", {"a": packed, "a.scale": w}), "a.scale"),
        (lambda: laq.save(tmp_path / "x", {"__metadata__": w}), "__metadata__"),
        (lambda: laq.save(tmp_path / "x", {"a": packed}, {"laq.tensors": ""}), "laq.tensors"),
    ]:
        with pytest.raises(ValueError) as caught:
            call()
        assert word in str(caught.value) and "\n" not in str(caught.value), caught.value
    for call in [
        lambda: laq.pack(w, scale=1.0, codebook=ternary),
        lambda: laq.pack(result.levels, scale=1.0, codebook="ternary"),
        lambda: laq.matvec(w, w),
        lambda: laq.unpack(result),
        lambda: w @ packed,
        lambda: laq.Packed(3),
        lambda: laq.save(tmp_path / "x", {"a": result.levels}),
        lambda: laq.save(tmp_path / "x", {3: w}),
        lambda: laq.save(tmp_path / "x", {"a": w}, {"a": 3}),
    ]:
        with pytest.raises(TypeError):
            call()
    assert not os.listdir(tmp_path)


def test_errors_of_files(tmp_path, problem):
    with pytest.raises(FileNotFoundError):
        laq.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError):
        laq.save(tmp_path / "none" / "x.safetensors", {})
    whole = tmp_path / "whole.safetensors"
    laq.save(whole, {"a": laq.quantize(problem(9, 9)[0]), "b": np.ones(3, np.float16)})
    assert laq.load(whole)["b"].tolist() == [1, 1, 1]
    data = whole.read_bytes()
    part = tmp_path / "part.safetensors"
    for length in (0, 4, 8, 100, len(data) - 1):
        part.write_bytes(data[:length])
        with pytest.raises(ValueError, match="part.safetensors"):
            laq.load(part)
    part.write_bytes(data.replace(b"laq.tensors", b"laq.tensorz"))
    with pytest.raises(ValueError, match="no packed weights"):
        laq.load(part)


def test_files_with_tensors_of_other_types(tmp_path, problem):
    path = tmp_path / "model.safetensors"
    laq.save(path, {"a": laq.quantize(problem(3, 8)[0]), "bias": np.ones(4, np.float32)})
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    found = data[8 : 8 + header]
    path.write_bytes(
        data[:8] + found.replace(b'"bias":{"dtype":"F32"', b'"bias":{"dtype":"I32"') + data[8 + header :]
    )
    assert laq.load(path)["bias"].tolist() == [0x3F800000] * 4


@pytest.mark.skipif("LAQ_BINARY" not in os.environ, reason="LAQ_BINARY does not name the program laq")
def test_files_of_the_program_and_for_it(tmp_path, problem):
    laq_binary = os.environ["LAQ_BINARY"]
    w, _ = problem(8, 64)
    mine = tmp_path / "mine.safetensors"
    laq.save(mine, {"weight": laq.quantize(w, axis=0), "blocks": laq.quantize(w, format="q4_0")})
    printed = subprocess.run(
        [laq_binary, "inspect", mine, "--json"], capture_output=True, check=True, text=True
    )
    names = json.dumps(json.loads(printed.stdout))
    assert "weight" in names and "blocks" in names
    # A file of it, from weights that safetensors has: those of a file without packed ones.
    plain, theirs = tmp_path / "plain.safetensors", tmp_path / "theirs.safetensors"
    laq.save(plain, {"weight": w, "bias": w[0]})
    for options, arguments in [
        ({"method": "lat-e", "axis": 0}, ["--method", "lat-e", "--granularity", "row"]),
        ({"method": "lat2-e"}, ["--method", "lat2-e", "--granularity", "tensor"]),
        (
            {"method": "lat-e", "axis": 1},
            ["--method", "lat-e", "--granularity", "row", "--channel-axis", "weight=1"],
        ),
        (
            {"method": "laq-linear-4-e", "block": 16},
            ["--method", "laq-linear-4-e", "--granularity", "block:16"],
        ),
        ({"format": "q4_0"}, ["--format", "q4_0"]),
    ]:
        command = [laq_binary, "quantize", plain, "--out", theirs, *arguments]
        subprocess.run(command, capture_output=True, check=True)
        loaded, own = laq.load(theirs), laq.quantize(w, **options)
        assert (loaded["weight"].levels == own.levels).all(), arguments
        assert (loaded["weight"].decoded() == own.decoded).all(), arguments
        assert (loaded["bias"] == w[0]).all()
