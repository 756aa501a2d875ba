"""What the short examples share: data that they make, options, and the report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import laq

Pairs = tuple[torch.Tensor, torch.Tensor]

GLYPHS = [
    "01110100011001110101110011000101110",
    "00100011000010000100001000010001110",
    "01110100010000100010001000100011111",
    "11111000100010000010000011000101110",
    "00010001100101010010111110001000010",
    "11111100001111000001000011000101110",
    "00110010001000011110100011000101110",
    "11111000010001000100010000100001000",
    "01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
]
"""Digits of 7 rows by 5 columns."""

GRAMMAR = {
    "entry": ["{hour} {ship} {moves}. ", "{hour} {ship} {moves}, {weather}. ", "{weather} {since}. "],
    "hour": ["At dawn", "At noon", "In the evening", "Before midnight", "After the second bell"],
    "ship": ["the {adjective} {kind} {name}", "the {kind} {name}", "a {adjective} {kind}"],
    "adjective": ["old", "heavy", "grey", "two-masted", "newly painted", "slow"],
    "kind": ["schooner", "ferry", "trawler", "barge", "brig", "pilot boat"],
    "name": ["Margaret", "Halcyon", "Petrel", "Good Intent", "Aurora", "Kittiwake"],
    "moves": ["{goes} {place}", "{goes} {place} with {cargo}", "waits for {cargo}"],
    "goes": ["leaves for", "comes in from", "is towed to", "anchors off"],
    "place": ["the north pier", "Saltholm", "the outer roads", "Varnby", "the customs quay", "Eastness"],
    "cargo": ["timber", "coal and rope", "forty barrels of herring", "mail", "slate", "salt and wool"],
    "weather": ["wind from the {side}", "fog over the sound", "a clear sky", "rain and a high sea"],
    "side": ["west", "north-east", "south", "east"],
    "since": ["since yesterday", "all through the day", "until the evening", "for the third day"],
}
"""A log of an invented harbour."""


def digits(count: int, seed: int) -> Pairs:
    """Images of digits, (count, 1, 16, 16), moved, bent and noisy; and which digits they are."""
    random = np.random.default_rng(seed)
    glyphs = np.array([[int(c) for c in glyph] for glyph in GLYPHS]).reshape(10, 7, 5)
    labels = random.integers(0, 10, count)
    images = random.normal(0, 0.35, (count, 1, 16, 16))
    for image, label in zip(images, labels, strict=True):
        top, left = random.integers(0, 3, 2)
        drawn = glyphs[label].repeat(2, 0).repeat(2, 1) * random.uniform(0.6, 1.2)
        for row, line in enumerate(drawn):
            shift = left + round(random.uniform(0, 0.2) * row)
            image[0, top + row, shift : shift + 10] += line
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def shapes(count: int, seed: int) -> Pairs:
    """Discs, rings, squares, triangles and crosses in noise, (count, 1, 24, 24); and which they are."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, count)
    y, x = np.mgrid[0:24, 0:24]
    images = random.normal(0, 0.5, (count, 1, 24, 24))
    for image, label in zip(images, labels, strict=True):
        (u, v), size, angle = random.uniform(8, 16, 2), random.uniform(4, 8), random.uniform(-0.4, 0.4)
        a = ((x - u) * np.cos(angle) + (y - v) * np.sin(angle)) / size
        b = ((y - v) * np.cos(angle) - (x - u) * np.sin(angle)) / size
        radius, side = np.hypot(a, b), np.maximum(abs(a), abs(b))
        image[0] += [
            radius < 1,
            (radius < 1) & (radius > 0.55),
            side < 0.9,
            (abs(a) < (b + 1) / 2) & (b < 1),
            (side < 1) & (np.minimum(abs(a), abs(b)) < 0.3),
        ][label]
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def text(length: int, seed: int) -> tuple[torch.Tensor, str]:
    """Characters of sentences of ``GRAMMAR`` as indices into the alphabet, which is second."""
    random = np.random.default_rng(seed)
    alphabet = "".join(sorted(set("".join(sum(GRAMMAR.values(), []))) - set("{}")))
    written = ""
    while len(written) < length:
        sentence = "{entry}"
        while "{" in sentence:
            before, rest = sentence.split("{", 1)
            rule, after = rest.split("}", 1)
            sentence = before + str(random.choice(GRAMMAR[rule])) + after
        written += sentence
    return torch.tensor([alphabet.index(c) for c in written[:length]]), alphabet


def windows(tokens: torch.Tensor, count: int, length: int) -> Pairs:
    """``count`` windows of ``length`` tokens at random places, and the tokens that follow each of them."""
    starts = torch.randint(len(tokens) - length, (count, 1)) + torch.arange(length)
    return tokens[starts], tokens[starts + 1]


def options(description: str | None, steps: int) -> argparse.Namespace:
    """``--steps``, ``--seed`` and ``--folder``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps, help=f"of each training (default {steps})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=".", help="where the file is written (default: here)")
    options = parser.parse_args()
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    return options


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss: Callable[[torch.nn.Module], torch.Tensor],
) -> torch.nn.Module:
    """``steps`` steps on ``loss(model)``, with a learning rate that falls to 0."""
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, max(steps, 1))
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def report(
    path: str, full: torch.nn.Module, quantized: torch.nn.Module, figures: dict[str, tuple[float, float]]
) -> None:
    """Writes the packed file of ``quantized``; prints its size and ``figures`` beside full precision."""
    laq.export(quantized, path)
    before = sum(4 * tensor.numel() for tensor in full.state_dict().values())
    print(f"{'':24}{'full precision':>16}{'quantized':>12}")
    for name, (first, second) in figures.items():
        print(f"{name:24}{first:16.4f}{second:12.4f}")
    print(f"{'bytes':24}{before:16,}{os.path.getsize(path):12,}  {path}")
