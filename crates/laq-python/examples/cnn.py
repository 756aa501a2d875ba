"""Weights of 1 to 4 bits by layer, for a convolutional network on drawn shapes, trained from scratch."""

import copy

import common
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import laq.torch

options = common.options(__doc__, steps=200)
torch.manual_seed(options.seed)
images, labels = common.shapes(4000, seed=1)
test_images, test_labels = common.shapes(1000, seed=2)


def block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def loss(model: nn.Module) -> torch.Tensor:
    batch = torch.randint(len(images), (64,))
    return cross_entropy(model(images[batch]), labels[batch])


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return float((model(test_images).argmax(1) == test_labels).float().mean())


full = nn.Sequential(block(1, 16), block(16, 32), block(32, 64), nn.Flatten(), nn.Linear(64 * 9, 5))
mixed = copy.deepcopy(full)

optimizer = torch.optim.Adam(full.parameters(), lr=3e-3)
common.train(full, optimizer, options.steps, loss)

# The change: the first layer keeps full precision, the other convolutions are binary, the last has 4 bits.
rules = {"0.*": None, "4.weight": {"format": "q4_0"}, "*": {"method": "lab", "granularity": "row"}}
optimizer = torch.optim.Adam(mixed.parameters(), lr=3e-3)
optimizer = laq.torch.LossAware(optimizer, mixed, rules=rules)
common.train(mixed, optimizer, options.steps, loss)

figures = {"accuracy": (accuracy(full), accuracy(mixed))}
common.report(f"{options.folder}/cnn.safetensors", full, mixed, figures)
