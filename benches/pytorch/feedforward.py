"""The paper's feedforward networks in PyTorch (PAPER.md, 4), for the scripts that time their steps.

Each is a row of blocks: a linear map without bias, max pooling at the end of a stage, batch
normalization, ReLU; the last block has no ReLU.
"""

import time

import torch
from torch import nn


def mlp(quantized=False, units=2048):
    """784-2048-2048-2048-10, or with as many hidden units."""
    return started(nn.Sequential(*dense([784, units, units, units, 10])), quantized)


def vgg():
    """(2x128C3)-MP2-(2x256C3)-MP2-(2x512C3)-MP2-(2x1024FC)-10 for 32 x 32 pixels in three colours."""
    layers, inputs = [], 3
    for filters in (128, 256, 512):
        for pooling in ([], [nn.MaxPool2d(2)]):
            layers += [nn.Conv2d(inputs, filters, 3, padding=1, bias=False), *pooling,
                       nn.BatchNorm2d(filters, eps=1e-4, momentum=0.1), nn.ReLU()]
            inputs = filters
    return started(nn.Sequential(*layers, nn.Flatten(), *dense([4 * 4 * 512, 1024, 1024, 10])), False)


def dense(units):
    layers = []
    for inputs, outputs in zip(units, units[1:]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, eps=1e-4, momentum=0.1), nn.ReLU()]
    return layers[:-1]


def started(net, quantized):
    """With the weights that training starts from: uniform in a range that depends on the fans."""
    for weight in weights(net):
        taps = weight[0, 0].numel()
        range = ((1.5 if quantized else 6.0) / (taps * (weight.shape[0] + weight.shape[1]))) ** 0.5
        nn.init.uniform_(weight, -range, range)
    return net


def weights(net):
    """What the methods quantize."""
    return [layer.weight for layer in net if isinstance(layer, (nn.Linear, nn.Conv2d))]


def loss(net, images, labels):
    """The mean squared hinge."""
    y = net(images)
    t = 2 * nn.functional.one_hot(labels, y.shape[1]) - 1
    return (1 - t * y).clamp(min=0).square().mean()


def quantized_stepper(solver, net, images, labels, adam):
    """One iteration of the paper's Algorithm 3 (PAPER.md, 3): forward and backward with the quantized weights, then
    Adam on the latent ones, which are clipped to [-1, 1]."""
    layers = [(weight, solver(weight.detach())) for weight in weights(net)]

    def step():
        start = time.perf_counter()
        latent = [weight.data for weight, _ in layers]
        for weight, solve in layers:
            v = adam.state[weight].get("exp_avg_sq")
            with torch.no_grad():
                weight.data = solve(weight.data, torch.zeros_like(weight) if v is None else v)
        quantize_seconds = time.perf_counter() - start
        adam.zero_grad()
        loss(net, images, labels).backward()
        for (weight, _), data in zip(layers, latent):
            weight.data = data
        adam.step()
        with torch.no_grad():
            for weight, _ in layers:
                weight.clamp_(-1, 1)
        return time.perf_counter() - start, quantize_seconds

    return step
