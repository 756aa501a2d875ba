"""The code blocks of the README and of the book run as they are, one after the other in a page."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

PACKAGE = Path(__file__).parents[1]
BOOK = PACKAGE.parents[1] / "docs" / "src"
PAGES = [PACKAGE / "README.md", BOOK / "python.md", BOOK / "pytorch.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    if not page.is_file():
        pytest.skip(f"{page} is not here")
    if page.name == "pytorch.md":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "page"}
    np.random.seed(0)
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_pytorch_is_asked_for_by_name(monkeypatch):
    for name in [name for name in sys.modules if name == "torch" or name.startswith("laq.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="laq.torch needs PyTorch: pip install torch"):
        importlib.import_module("laq.torch")
