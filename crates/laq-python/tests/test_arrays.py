"""What ``quantize`` takes and returns: memory, types, threads and errors."""

import copy
import inspect
import os
import pickle
import re
import threading

import laq
import numpy as np
import pytest


def address(array):
    return array.__array_interface__["data"][0]


def test_the_weights_are_quantized_in_place(problem):
    w, d = problem(7, 9)
    expected = laq.quantize(w, d)
    assert (w != expected.decoded).any()
    result = laq.quantize(w, d, out=w)
    assert result.decoded is w and (w == expected.decoded).all()
    assert (result.levels == expected.levels).all() and result.error == expected.error


def test_output_goes_to_the_memory_of_out(problem):
    w, d = problem(7, 9)
    memory = np.full(200, np.nan, np.float32)
    out = memory[20:83].reshape(7, 9)
    for axis in (None, 0, 1):
        memory[:] = np.nan
        result = laq.quantize(w, d, axis=axis, out=out)
        assert result.decoded is out and address(result.decoded) == address(memory) + 80
        assert np.isnan(memory[:20]).all() and np.isnan(memory[83:]).all()
        assert not np.isnan(out).any()
    assert laq.quantize(w, out=d).decoded is d, "the curvature is read no more"


def test_float32_is_not_copied():
    from laq._arrays import to_float32

    w = np.zeros((3, 4), np.float32)
    assert to_float32(w, "w") is w
    memory = bytearray(48)
    read = to_float32(memoryview(memory).cast("f"), "w")
    memory[0:4] = np.float32(5).tobytes()
    assert read[0] == 5


class Tensor:
    """What a tensor of PyTorch has."""

    def __init__(self, array, dtype="torch.float32", device="cpu"):
        self.array, self.dtype = array, dtype
        self.device = type("Device", (), {"type": device})()

    def detach(self):
        return self

    def float(self):
        assert self.dtype == "torch.bfloat16"
        return Tensor(self.array.astype(np.float32))

    def numpy(self):
        assert self.dtype != "torch.bfloat16", "numpy has no bfloat16"
        return self.array


class Dlpack:
    """What has the protocol of DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Array:
    """What has ``__array__`` alone."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_arrays_of_others(problem):
    w, d = problem(6, 8)
    expected = laq.quantize(w, d)
    for wrap in (Tensor, Dlpack, Array, lambda array: array.tolist(), lambda array: array.view(np.matrix)):
        result = laq.quantize(wrap(w), wrap(d))
        assert (result.levels == expected.levels).all() and result.scale == expected.scale
    result = laq.quantize(Tensor(w), out=Tensor(w))
    assert address(result.decoded) == address(w)
    short = laq.quantize(Tensor(w.astype(np.float16), "torch.bfloat16"))
    assert (short.levels == laq.quantize(w.astype(np.float16)).levels).all()


def test_halves_and_doubles_are_rounded_to_singles(problem):
    w, d = problem(100)
    for dtype in (np.float16, np.float64, ">f4"):
        result = laq.quantize(w.astype(dtype), d.astype(dtype))
        expected = laq.quantize(w.astype(dtype).astype(np.float32), d.astype(dtype).astype(np.float32))
        assert (result.levels == expected.levels).all()
        assert (result.decoded == expected.decoded).all() and result.decoded.dtype == np.float32


def test_results_do_not_depend_on_threads(problem):
    w, d = problem(1_200_000)
    for options in ({}, {"method": "laq-linear-4"}, {"block": 64}, {"format": "q4_0"}):
        first = laq.quantize(w, d, threads=1, **options)
        for threads in (2, 5, None):
            other = laq.quantize(w, d, threads=threads, **options)
            assert (first.levels == other.levels).all() and (first.scale == other.scale).all()
            assert (first.decoded == other.decoded).all() and first.error == other.error


def test_python_goes_on_while_a_solver_runs(problem):
    w, d = problem(600_000)
    started, done = threading.Event(), threading.Event()

    def solve():
        started.set()
        try:
            laq.quantize(w, d, "laq-linear-8-e", threads=1)
        finally:
            done.set()

    # With the lock held for the whole call, this thread could not count before it is done.
    solver = threading.Thread(target=solve)
    solver.start()
    started.wait()
    steps = 0
    while not done.is_set():
        steps += 1
    solver.join()
    assert steps > 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads(problem):
    w, d = problem(600_000)
    expected = laq.quantize(w, d)
    child = os.fork()
    if child == 0:
        same = (laq.quantize(w, d).levels == expected.levels).all()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


W = np.arange(12, dtype=np.float32).reshape(3, 4)


def spoiled(value, index=(1, 2)):
    array = np.ones((3, 4), np.float32)
    array[index] = value
    return array


@pytest.mark.parametrize(
    "options, words",
    [
        ({"w": spoiled(np.nan)}, ["w[1, 2] is NaN", "finite"]),
        ({"w": spoiled(np.inf)}, ["w[1, 2] is inf"]),
        ({"w": spoiled(np.nan), "axis": 1}, ["w[1, 2] is NaN"]),
        ({"w": spoiled(np.nan, (2, 0)), "block": 2}, ["w[2, 0] is NaN"]),
        ({"w": np.full((3, 4), 1e300)}, ["is inf"]),
        ({"d": spoiled(-1)}, ["d[1, 2] is -1", "not negative"]),
        ({"d": spoiled(np.nan)}, ["d[1, 2] is NaN"]),
        ({"d": np.ones(4, np.float32)}, ["d has the shape (4,)", "(3, 4)"]),
        ({"d": np.ones((4, 3), np.float32)}, ["d has the shape (4, 3)"]),
        ({"w": W.T}, ["w is not contiguous", "np.ascontiguousarray(w)"]),
        ({"w": W[:, ::2]}, ["w is not contiguous"]),
        ({"d": np.ones((4, 3), np.float32).T}, ["np.ascontiguousarray(d)"]),
        ({"method": "lat_e"}, ["unknown method `lat_e`", "did you mean `lat-e`?"]),
        ({"method": "q4-0"}, ["did you mean `q4_0`?"]),
        ({"method": "xyzzy-quantizer"}, ["unknown method", "expected one of"]),
        ({"method": "laq-linear"}, ["lacks a valid number of bits", "bits="]),
        ({"method": "laq-linear-9"}, ["laq-linear-2", "laq-linear-8"]),
        ({"method": "laq-linear", "bits": 9}, ["laq-linear-8"]),
        ({"method": "laq-linear", "bits": 1000}, ["bits=1000"]),
        ({"method": "laq-linear-3", "bits": 4}, ["3 bits, not 4"]),
        ({"method": "lat-e", "bits": 2}, ["no choice of bits"]),
        ({"method": "full"}, ["full precision", "laq.methods()"]),
        ({"format": "q4_1x"}, ["unknown format", "did you mean `q4_0`"]),
        ({"format": "q4_0", "method": "lat-e"}, ["method and format", "one of them"]),
        ({"format": "q4_0", "block": 64}, ["32 weights", "block=64"]),
        ({"format": "q4_0", "bits": 4}, ["bits=4"]),
        ({"axis": 2}, ["axis=2"]),
        ({"axis": -3}, ["axis=-3"]),
        ({"block": 0}, ["block=0", "1 to 65536"]),
        ({"block": 65537}, ["block=65537"]),
        ({"threads": 0}, ["threads=0"]),
        ({"threads": -1}, ["threads=-1"]),
        ({"threads": 2**70}, ["threads=1180591620717411303424"]),
        ({"method": "laq-linear", "bits": 2**70}, ["bits=1180591620717411303424"]),
        ({"out": np.empty((4, 3), np.float32)}, ["out has the shape (4, 3)"]),
        ({"out": np.empty((4, 3), np.float32).T}, ["out is not contiguous"]),
        ({"out": np.broadcast_to(np.float32(0), (3, 4))}, ["out is not contiguous"]),
        ({"w": Tensor(W, device="cuda")}, ["device cuda", "w.cpu()"]),
    ],
)
def test_errors_say_what_to_do(options, words):
    options = {"w": W, **options}
    with pytest.raises(ValueError) as caught:
        laq.quantize(**options)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_an_error_leaves_out_as_it_is():
    for w in (spoiled(np.nan), spoiled(1.0)):
        out = np.full((3, 4), 7, np.float32)
        with pytest.raises(ValueError):
            laq.quantize(w, spoiled(-1), out=out)
        assert (out == 7).all()
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        laq.quantize(W, out=out)


@pytest.mark.parametrize(
    "options",
    [
        {"w": W.astype(int)},
        {"w": W.astype(complex)},
        {"w": "weights"},
        {"w": None},
        {"w": [[1.0], ["a"]]},
        {"d": W.astype(int)},
        {"out": W.astype(np.float64)},
        {"out": [1.0]},
        {"method": 3},
        {"format": 4},
        {"axis": "0"},
        {"axis": 0.0},
        {"bits": 2.5, "method": "laq-linear"},
        {"block": 1.5},
        {"threads": "all"},
        {"codebook": [-1, 1]},
    ],
)
def test_wrong_types_are_type_errors(options):
    with pytest.raises(TypeError) as caught:
        laq.quantize(**{"w": W, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values, word",
    [
        ([], "0 others"),
        ([1.0], "1 others"),
        ([1, 0], "followed by"),
        ([0, 0], "followed by"),
        ([-1, 1, 1], "followed by"),
        ([0, np.nan], "NaN"),
        ([0, 1e30], "largest magnitude"),
        ([-1e-6, 0, 1e-6], "largest magnitude"),
        (np.arange(129), "129 others"),
    ],
)
def test_values_that_are_no_codebook(values, word):
    with pytest.raises(ValueError, match=word):
        laq.Codebook.custom(values)


def test_other_values_quantize_at_most_a_block():
    codebook = laq.Codebook.custom([-2, 1, 3])
    w = np.ones(65_537, np.float32)
    with pytest.raises(ValueError, match="pass block="):
        laq.quantize(w, codebook=codebook)
    assert laq.quantize(w, codebook=codebook, block=4096).error == 0
    for wrong in (
        lambda: laq.Codebook([1]),
        lambda: laq.Codebook.linear(2.0),
        lambda: laq.Codebook.custom("a"),
    ):
        with pytest.raises(TypeError):
            wrong()
    for bits in (1, 9, -1, 10**6):
        with pytest.raises(ValueError):
            laq.Codebook.uniform(bits)


def test_codebooks_and_results_are_copied_and_pickled(problem):
    w, d = problem(2, 64)
    results = [
        laq.quantize(w, d, **{kind: method.id})
        for kind, listed in (("method", laq.methods()), ("format", laq.formats()))
        for method in listed
        if method.id != "full"
    ]
    own = [laq.Codebook.custom(values) for values in ([-1, -0.25, 0.25, 1], [-1, 0.5, 3], [0, 1])]
    for codebook in (*own, *(result.codebook for result in results)):
        for copied in (copy.deepcopy(codebook), pickle.loads(pickle.dumps(codebook))):
            assert copied == codebook and repr(copied) == repr(codebook)
            assert (copied.values == codebook.values).all() and (copied.levels == codebook.levels).all()
    copied = pickle.loads(pickle.dumps(results[-1]))
    assert (copied.decoded == results[-1].decoded).all() and copied.codebook == results[-1].codebook


def test_every_function_has_a_docstring_and_types():
    for name in laq.__all__:
        found = getattr(laq, name)
        if name == "__version__":
            assert re.fullmatch(r"\d+\.\d+\.\d+", found)
            continue
        assert inspect.getdoc(found)
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            assert signature.return_annotation is not inspect.Signature.empty
            assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_tensors_of_pytorch(problem):
    torch = pytest.importorskip("torch")
    w, d = problem(6, 8)
    expected = laq.quantize(w, d, axis=0)
    tensor = torch.nn.Parameter(torch.from_numpy(w.copy()))
    result = laq.quantize(tensor, torch.from_numpy(d), axis=0, out=tensor)
    assert (result.levels == expected.levels).all()
    assert (tensor.detach().numpy() == expected.decoded).all()
    half = torch.from_numpy(w).to(torch.bfloat16)
    assert (laq.quantize(half).levels == laq.quantize(half.float().numpy()).levels).all()
    with pytest.raises(TypeError, match="expected float32"):
        laq.quantize(half, out=half)
