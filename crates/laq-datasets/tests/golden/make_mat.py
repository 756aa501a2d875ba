"""Writes the MAT-files of this folder with scipy: `python3 make_mat.py`.

Every X is X[row, column, channel, image] = (7 row + 13 column + 101 channel + 31 image) mod 251. The labels are
1 to 10 over and over. The tests know both formulas.
"""
import pathlib

import numpy as np
import scipy.io

HERE = pathlib.Path(__file__).parent


def images(count):
    row, column, channel, image = np.ogrid[:32, :32, :3, :count]
    return ((7 * row + 13 * column + 101 * channel + 31 * image) % 251).astype(np.uint8)


def labels(count, dtype):
    return (np.arange(count) % 10 + 1).astype(dtype).reshape(-1, 1)


def write(name, compressed, **arrays):
    scipy.io.savemat(HERE / name, arrays, do_compression=compressed)


write("compressed.mat", True, X=images(12), y=labels(12, np.uint8))
write("plain.mat", False, X=images(2), y=labels(2, np.uint8))
# Doubles that MATLAB would store, other arrays before and between, and labels first.
write(
    "mixed.mat",
    True,
    note="some text",
    y=labels(11, np.float64),
    things={"a": 1.5, "b": np.array([1 + 2j])},
    cells=np.array([np.eye(2), "x"], dtype=object),
    X=images(11),
)
# One image has no fourth dimension.
write("one.mat", True, X=images(1)[:, :, :, 0], y=np.array([[10]], dtype=np.int16))
