"""Ternary weights for a multilayer perceptron on drawn digits, trained from scratch."""

import copy

import common
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import laq.torch

options = common.options(__doc__, steps=400)
torch.manual_seed(options.seed)
images, labels = common.digits(4000, seed=1)
test_images, test_labels = common.digits(2000, seed=2)


def loss(model: nn.Module) -> torch.Tensor:
    batch = torch.randint(len(images), (100,))
    return cross_entropy(model(images[batch]), labels[batch])


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return float((model(test_images).argmax(1) == test_labels).float().mean())


full = nn.Sequential(
    nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
)
ternary = copy.deepcopy(full)

optimizer = torch.optim.Adam(full.parameters(), lr=2e-3)
common.train(full, optimizer, options.steps, loss)

# The change: the optimizer of a model is wrapped, and the rest of the training is the same.
optimizer = torch.optim.Adam(ternary.parameters(), lr=2e-3)
optimizer = laq.torch.LossAware(optimizer, ternary, method="lat-e")
common.train(ternary, optimizer, options.steps, loss)

figures = {"accuracy": (accuracy(full), accuracy(ternary))}
common.report(f"{options.folder}/digits_mlp.safetensors", full, ternary, figures)
