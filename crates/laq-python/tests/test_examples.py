"""The examples run, with few steps."""

import ast
import json
import runpy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
laq = pytest.importorskip("laq")

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["digits_mlp", "cnn", "char_lstm", "transformer"]

if not EXAMPLES.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example with options, and returns what it printed."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SHORT)
def test_short_examples_print_figures_and_write_a_file(name, run, tmp_path):
    lines = run(name, "--steps", "3", "--folder", str(tmp_path)).splitlines()
    path = tmp_path / f"{name}.safetensors"
    assert lines[0].split() == ["full", "precision", "quantized"]
    before, after = (int(figure.replace(",", "")) for figure in lines[-1].split()[1:3])
    assert after == path.stat().st_size < before / 5
    tensors = laq.load(path)
    packed = [tensor for tensor in tensors.values() if isinstance(tensor, laq.Packed)]
    assert packed
    assert all(len(set(weight.decoded().ravel().tolist())) > 1 for weight in packed)


def test_quickstart_runs_and_is_stripped(tmp_path, monkeypatch, capsys):
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    names = {"__name__": "notebook"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            source = "".join(cell["source"]).replace("steps = 400", "steps = 3")
            exec(compile(source, f"cell {number}", "exec"), names)
    assert (tmp_path / "quickstart.safetensors").is_file()
    assert capsys.readouterr().out.count("accuracy") == 6


def test_speech_detector_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    printed = run("speech_detector")
    assert printed.startswith("skipped: ") and "install" in printed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_have_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
