"""Compare the TensorBoard events of run folders with metrics.jsonl, by TensorBoard's own reader.

    python read_events.py RUN_DIR...
"""

import json
import math
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(record):
    """The expected scalars of a line of metrics.jsonl, as float32."""
    values = {
        "loss/train": record["train_loss"],
        "loss/validation": record["validation_loss"],
        "loss/test": record["test_loss"],
        "error/validation": record["validation_error"],
        "error/test": record["test_error"],
        "learning_rate": record["learning_rate"],
    }
    for layer in record["layers"]:
        scale, name = layer["scale"], layer["name"]
        if len(scale) == 2:
            values[f"scale/{name}/positive"], values[f"scale/{name}/negative"] = scale
        else:
            values[f"scale/{name}"] = scale[0]
        values[f"sparsity/{name}"] = layer["sparsity"]
    values = {tag: value for tag, value in values.items() if value is not None}
    return {tag: struct.unpack("<f", struct.pack("<f", value))[0] for tag, value in values.items()}


def check(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        steps = [point.step for point in points]
        assert steps == sorted(set(steps)), f"{tag}: steps {steps}"
        for point in points:
            found.setdefault(point.step, {})[tag] = point.value
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    expected = {record["epoch"]: scalars(record) for record in map(json.loads, lines)}
    assert expected and found == expected, f"{folder}: {found} instead of {expected}"
    assert all(math.isfinite(value) for values in found.values() for value in values.values())
    print(f"{folder}: {len(found)} epochs, {len(found[1])} scalars")


if len(sys.argv) < 2:
    sys.exit(__doc__)
for argument in sys.argv[1:]:
    check(Path(argument))
