"""Run folders of ``laq train``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _laq, _safetensors

# What a checkpoint has beside the weights.
_STATE = (".first_moment", ".second_moment", ".levels", ".scales", ".scale_moments")


class Metrics(dict[str, NDArray[Any]]):
    """A column for each field of the epochs, with nan where an epoch has no value.

    The fields of layers are ``LAYER/FIELD``, such as ``lstm.weight_hh.forget/sparsity``.
    """

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each epoch; columns of two scales become two.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas makes a pandas.DataFrame: pip install pandas") from error

        columns: dict[str, Any] = {}
        for name, column in self.items():
            if column.ndim == 1:
                columns[name] = column
            else:
                columns.update((f"{name}/{index}", part) for index, part in enumerate(column.T))
        return pandas.DataFrame(columns)


class Run:
    """A folder of ``laq train``; its files are read when they are asked for."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        """The folder."""
        if not (self.folder / "config.toml").is_file():
            raise FileNotFoundError(f"{self.folder} has no config.toml: expected a run folder of `laq train`")

    @property
    def config(self) -> dict[str, Any]:
        """The experiment, with every key that it did not set."""
        text = (self.folder / "config.toml").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(_laq.toml_to_json(text))
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The results of the best epoch; empty before the first."""
        return self._json("summary.json")

    @property
    def environment(self) -> dict[str, Any]:
        """The machine and the version of the sources."""
        return self._json("environment.json")

    @property
    def metrics(self) -> Metrics:
        """Losses, errors and layers after each epoch."""
        return _columns(self.folder / "metrics.jsonl")

    @property
    def comparison(self) -> Metrics:
        """The errors of the solver beside the optimum, if the experiment compares them."""
        return _columns(self.folder / "comparison.jsonl")

    def tensors(self, checkpoint: str = "best", state: bool = False) -> dict[str, NDArray[Any]]:
        """The latent weights of the best epoch, or of the ``last`` checkpoint; with ``state`` all that it has.

        Raises
        ------
        ValueError
            Another checkpoint than ``best`` and ``last``, or a damaged file.
        FileNotFoundError
            The run has no checkpoint; with ``checkpoint.keep = "packed"``, :func:`load` reads its packed network.
        """
        if checkpoint not in ("best", "last"):
            raise ValueError(f"found checkpoint={checkpoint!r}, expected 'best' or 'last'")
        path = self.folder / f"{checkpoint}.safetensors"
        packed = self.folder / "packed.safetensors"
        if not path.is_file() and packed.is_file():
            raise FileNotFoundError(f"the run has no {path.name}: laq.load({str(packed)!r}) has its network")
        tensors, metadata = _safetensors.read(path)
        if metadata.get("format") != "laq-checkpoint":
            raise ValueError(f"{path} is no checkpoint of laq")
        if state:
            return tensors
        return {
            name: tensor
            for name, tensor in tensors.items()
            if tensor.dtype == np.float32 and not name.endswith(_STATE)
        }

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def read_run(folder: str | os.PathLike[str]) -> Run:
    """A run of ``laq train``: its experiment, metrics, summary and weights.

    Raises
    ------
    FileNotFoundError
        The folder is not that of a run.
    """
    return Run(folder)


def _columns(path: Path) -> Metrics:
    """The lines of a file by field. Damaged lines are left out, and the last if the run is still writing it."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            rows.append(_flat(record))
    names = dict.fromkeys(name for row in rows for name in row)
    return Metrics((name, _column([row.get(name) for row in rows])) for name in names)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    row = {name: value for name, value in record.items() if name != "layers"}
    for layer in record.get("layers") or []:
        for field, value in layer.items():
            if field != "name":
                row[f"{layer.get('name')}/{field}"] = value
    return row


def _column(values: list[Any]) -> NDArray[Any]:
    values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
    width = max((len(value) for value in values if isinstance(value, list)), default=None)
    if width is not None:
        rows = [
            value if isinstance(value, list) and len(value) == width else [np.nan] * width for value in values
        ]
        return np.array(rows, np.float64)
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)
