"""Run folders of ``laq train``."""

import json
import os
import subprocess

import laq
import numpy as np
import pytest

CONFIG = 'title = "tiny"\n[quantize]\nmethod = "lat-a"\n[train]\nepochs = 2\nseeds = [1, 2]\nrate = 1e-3\n'


def safetensors(arrays, metadata):
    """A file as a checkpoint is."""
    header, data = {"__metadata__": metadata}, b""
    for name, (dtype, array) in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    layer = {
        "name": "dense1.weight",
        "scale": [0.5],
        "sparsity": 0.25,
        "weighted_error": 1.5,
        "iterations": 3,
    }
    two = {**layer, "name": "dense2.weight", "scale": [0.5, 0.75]}
    lines = [
        {"epoch": 1, "train_loss": 2.5, "test_loss": 2.25, "layers": [layer, two]},
        {"epoch": 2, "train_loss": 1.5, "test_loss": None, "layers": [layer, two]},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"epoch": 3, "train_lo')
    (tmp_path / "summary.json").write_text('{"status": "finished", "best_epoch": 2}')
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "dense1.weight": ("F32", weights),
        "dense1.weight.first_moment": ("F32", weights),
        "dense1.weight.levels": ("I8", np.zeros((2, 3), np.int8)),
        "counters": ("U64", np.zeros(2, np.uint64)),
        "half": ("BF16", (weights.view(np.uint32) >> 16).astype(np.uint16)),
    }
    (tmp_path / "best.safetensors").write_bytes(safetensors(arrays, {"format": "laq-checkpoint"}))
    return tmp_path


def test_a_run_is_read(folder):
    run = laq.read_run(str(folder))
    assert run.config["quantize"] == {"method": "lat-a"}
    assert run.config["train"] == {"epochs": 2, "seeds": [1, 2], "rate": 1e-3}
    assert run.summary == {"status": "finished", "best_epoch": 2}
    metrics = run.metrics
    assert metrics["epoch"].tolist() == [1, 2] and metrics["epoch"].dtype == np.int64
    assert metrics["train_loss"].tolist() == [2.5, 1.5]
    assert metrics["test_loss"][0] == 2.25 and np.isnan(metrics["test_loss"][1])
    assert metrics["dense1.weight/scale"].tolist() == [0.5, 0.5]
    assert metrics["dense2.weight/scale"].tolist() == [[0.5, 0.75]] * 2
    assert run.comparison == {} and run.environment == {}
    tensors = run.tensors()
    assert sorted(tensors) == ["dense1.weight", "half"]
    assert tensors["dense1.weight"].tolist() == tensors["half"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert "dense1.weight.levels" in run.tensors(state=True)
    assert laq.quantize(tensors["dense1.weight"], axis=0).scale.shape == (2,)


def test_errors_of_runs(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="run folder"):
        laq.read_run(tmp_path_factory.mktemp("empty"))
    run = laq.read_run(folder)
    with pytest.raises(ValueError, match="'best' or 'last'"):
        run.tensors("first")
    with pytest.raises(FileNotFoundError):
        run.tensors("last")
    (folder / "packed.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="laq.load"):
        run.tensors("last")
    best = folder / "best.safetensors"
    whole = best.read_bytes()
    for length in (0, 7, 20, len(whole) - 1):
        best.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="best.safetensors"):
            run.tensors()
    best.write_bytes(safetensors({}, {}))
    with pytest.raises(ValueError, match="no checkpoint"):
        run.tensors()
    (folder / "config.toml").write_text("= 3")
    with pytest.raises(ValueError) as caught:
        run.config
    assert "\n" not in str(caught.value)


def test_a_damaged_line_hides_no_other(folder):
    path = folder / "metrics.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first.replace(b"epoch", b"ep\xffch") + b"\n" + rest)
    assert laq.read_run(folder).metrics["epoch"].tolist() == [2]


def test_metrics_become_a_data_frame(folder):
    pytest.importorskip("pandas")
    frame = laq.read_run(folder).metrics.to_pandas()
    assert frame["train_loss"].tolist() == [2.5, 1.5]
    assert frame["dense2.weight/scale/1"].tolist() == [0.75, 0.75]


@pytest.mark.skipif("LAQ_BINARY" not in os.environ, reason="LAQ_BINARY does not name the program laq")
def test_a_run_of_the_program(tmp_path):
    config, text = tmp_path / "tiny.toml", tmp_path / "text.txt"
    text.write_text("a small text of few letters, repeated. " * 200)
    config.write_text(
        f'title = "tiny"\n[data]\nname = "file"\npath = "{text}"\ntrain_fraction = 0.8\nvalidation_fraction = 0.1\n'
        "length = 10\nbatch = 10\n"
        '[quantize]\nmethod = "lat-a"\n[model]\nhidden = 8\n[train]\nepochs = 1\nmax_batches = 2\n'
    )
    folder = tmp_path / "run"
    subprocess.run(
        [os.environ["LAQ_BINARY"], "train", config, "--run-dir", folder], capture_output=True, check=True
    )
    run = laq.read_run(folder)
    assert run.config["title"] == "tiny" and run.summary["status"] == "finished"
    assert run.metrics["epoch"].tolist() == [1]
    assert "lstm.weight_hh.forget/sparsity" in run.metrics
    weights = run.tensors()["lstm.weight_hh"]
    assert weights.dtype == np.float32 and np.abs(weights).max() <= 1
