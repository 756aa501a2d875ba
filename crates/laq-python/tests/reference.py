"""All methods in float64 and plain numpy: slow, and meant to be obviously right."""

from __future__ import annotations

import itertools

import numpy as np

IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
E2M1 = [0.5, 1, 1.5, 2, 3, 4, 6]
E2M1 = [-v for v in reversed(E2M1)] + [0.0] + E2M1


def error(w, d, quantized):
    return 0.5 * np.sum(d * (w - quantized) ** 2)


def nearest(x, values):
    """The index of the nearest value."""
    values = np.asarray(values, np.float64)
    return np.searchsorted((values[1:] + values[:-1]) / 2, x)


def at_scale(w, d, values, scale):
    """The error of the nearest values at a scale of either sign."""
    values = scale * np.asarray(values, np.float64)
    values = np.sort(values)
    return error(w, d, values[nearest(w, values)])


def brute_force(w, d, values):
    """The least error over all levels, each with its best scale of either sign."""
    least = error(w, d, 0.0)
    for chosen in itertools.product(values, repeat=len(w)):
        b = np.array(chosen)
        square = np.sum(d * b * b)
        if square > 0:
            least = min(least, error(w, d, np.sum(d * b * w) / square * b))
    return least


def optimum(w, d, values):
    """The least error for symmetric values: all assignments between two scales at which one changes."""
    values = np.asarray(values, np.float64)
    middles = (values[1:] + values[:-1]) / 2
    middles = middles[middles > 0]
    breaks = np.unique(np.abs(w)[:, None] / middles)
    breaks = np.concatenate([[breaks[0] / 2], breaks, [2 * breaks[-1]]])
    scales = (breaks[1:] + breaks[:-1]) / 2
    b = values[nearest(w / scales[:, None], values)]
    product, square = (d * b * w).sum(1), (d * b * b).sum(1)
    gain = np.divide(product**2, square, out=np.zeros_like(square), where=square > 0)
    return error(w, d, 0.0) - gain.max() / 2


def optimum_of_signs(w, d):
    """Ternary levels with a scale for each sign."""
    return sum(optimum(w[side], d[side], [-1, 0, 1]) for side in (w > 0, w < 0))


def alternating(w, d, values):
    """Algorithm of the paper from a cold start, until it lowers the error no more."""
    values = np.asarray(values, np.float64)
    scale, least = np.sum(d * np.abs(w)) / np.sum(d), np.inf
    while True:
        b = values[nearest(w / scale, values)]
        scale = np.sum(d * b * w) / np.sum(d * b * b)
        found = error(w, d, scale * values[nearest(w / scale, values)])
        if found >= least:
            return found
        least = found


def grid(name):
    """All scales of a format."""
    with np.errstate(all="ignore"):
        half = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    if name == "mxfp4":
        return 2.0 ** np.arange(-127.0, 128.0)
    if name == "nvfp4":
        mantissa, exponent = np.arange(8.0), np.arange(1.0, 16.0)
        normal = ((1 + mantissa / 8)[:, None] * 2.0 ** (exponent - 7)).ravel()
        scales = np.concatenate([mantissa / 8 * 2.0**-6, normal])
        return scales[scales <= 448]
    return half[np.isfinite(half)]


def optimum_on_grid(w, d, values, scales):
    """The least error with scales of a grid."""
    # Both signs of a scale for values that are not symmetric.
    bound = 3 * np.abs(w).max() / np.abs(values).max() + scales[scales > 0].min()
    near = [s for s in scales if abs(s) <= max(bound, np.abs(scales).min())]
    return min(at_scale(w, d, values, s) for s in near)


def dorefa(w, d, bits):
    t = np.tanh(w)
    t = t / np.abs(t).max()
    top = 2**bits - 1
    return error(w, d, 2 * np.round((t + 1) / 2 * top) / top - 1)


def expected(method, w, d):
    """The error of a method."""
    name, bits = method, None
    parts = method.removesuffix("-e").rsplit("-", 1)
    if len(parts) == 2 and parts[1].isdigit():
        name, bits = parts[0] + ("-e" if method.endswith("-e") else ""), int(parts[1])
    magnitude = np.abs(w)
    top = 2 ** ((bits or 2) - 1) - 1
    linear = np.arange(-top, top + 1) / top
    powers = 2.0 ** -np.arange(top - 1.0, -1, -1)
    logarithmic = np.concatenate([-powers[::-1], [0.0], powers])
    ternary = np.array([-1.0, 0.0, 1.0])
    twn = magnitude > 0.7 * magnitude.mean()
    twn_scale = magnitude[twn].mean()
    signs = np.where(w >= 0, 1.0, -1.0)
    match name:
        case "binary-connect":
            return error(w, d, signs)
        case "bwn":
            return error(w, d, magnitude.mean() * signs)
        case "lab":
            return error(w, d, np.sum(d * magnitude) / d.sum() * signs)
        case "twn":
            return error(w, d, twn_scale * twn * signs)
        case "ttq":
            return error(w, d, twn_scale * (magnitude > 0.05 * magnitude.max()) * signs)
        case "lat-e":
            return optimum(w, d, ternary)
        case "lat-a":
            return alternating(w, d, ternary)
        case "lat2-e":
            return optimum_of_signs(w, d)
        case "lat2-a":
            return sum(alternating(w[side], d[side], ternary) for side in (w > 0, w < 0))
        case "dorefa":
            return dorefa(w, d, bits)
        case "laq-linear":
            return alternating(w, d, linear)
        case "laq-log":
            return alternating(w, d, logarithmic)
        case "laq-linear-e":
            return optimum(w, d, linear)
        case "laq-log-e":
            return optimum(w, d, logarithmic)
        case "absmean":
            return at_scale(w, d, ternary, magnitude.mean())
        case "absmax":
            return at_scale(w, d, linear, magnitude.max())
    raise AssertionError(f"{method} has no reference")


def format_values(name):
    if name.startswith("int"):
        half = 2 ** (int(name[3]) - 1)
        return np.arange(-half, half)
    return {
        "q1_0": [-1, 1],
        "tq1_0": [-1, 0, 1],
        "tq2_0": [-1, 0, 1],
        "q2_0": [-1, 0, 1, 2],
        "q4_0": np.arange(-8, 8),
        "iq4_nl": IQ4_NL,
        "mxfp4": E2M1,
        "nvfp4": E2M1,
    }[name]
