"""The paper's networks in plain PyTorch with `laq.torch.LossAware`, beside `laq train`: same initial weights, same batches.

    python3 benches/pytorch/same_steps.py [--steps 50] [--networks mnist,char-lstm] [--methods lat-e,ttq]

The Rust side is `cargo run --release -p laq-models --example trace_steps`. Prints the largest difference of the losses for
each method, and beside it that of the Rust side from itself with another instruction set (`LAQ_KERNEL=portable`): a level that
rounding moves across a threshold changes all later losses.
"""

import argparse
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

import feedforward
import laq
import laq.torch

ROOT = Path(__file__).parents[2]
SYMBOLS, HIDDEN, LENGTH, BATCH = 87, 512, 100, 100


class CharLstm(torch.nn.Module):
    """A one-layer LSTM with one bias and a linear map to the symbols; gradients of the gates are not clipped."""

    def __init__(self):
        super().__init__()
        self.lstm, self.output = torch.nn.LSTM(SYMBOLS, HIDDEN), torch.nn.Linear(HIDDEN, SYMBOLS)
        self.lstm.bias_hh_l0.requires_grad_(False).zero_()

    def forward(self, x):
        hidden, _ = self.lstm(torch.nn.functional.one_hot(x.long(), SYMBOLS).float())
        return self.output(hidden)

    def load(self, tensor):
        self.lstm.weight_ih_l0.data.copy_(tensor("lstm.weight_ih", 4 * HIDDEN, SYMBOLS))
        self.lstm.weight_hh_l0.data.copy_(tensor("lstm.weight_hh", 4 * HIDDEN, HIDDEN))
        self.lstm.bias_ih_l0.data.copy_(tensor("lstm.bias", 4 * HIDDEN))
        self.output.weight.data.copy_(tensor("output.weight", SYMBOLS, HIDDEN))
        self.output.bias.data.copy_(tensor("output.bias", SYMBOLS))


class Adam(torch.optim.Optimizer):
    """Adam in the order of the end of section 2 of its paper, as in `laq train`: epsilon is added before the correction of
    the bias."""

    def __init__(self, parameters, rate, epsilon):
        super().__init__(parameters, {"lr": rate, "epsilon": epsilon})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
                state["step"] += 1
                m, v, g = state["exp_avg"], state["exp_avg_sq"], parameter.grad
                m.lerp_(g, 0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                size = group["lr"] * (1 - 0.999 ** state["step"]) ** 0.5 / (1 - 0.9 ** state["step"])
                parameter.addcdiv_(m, v.sqrt().add_(group["epsilon"]), value=-size)


def char_lstm(folder, steps):
    model = CharLstm()
    model.load(lambda name, *shape: torch.from_numpy(np.fromfile(folder / f"{name}.f32", "<f4").reshape(shape)))
    symbols = torch.from_numpy(np.fromfile(folder / "batches.u8", np.uint8)).view(steps, 2, LENGTH, BATCH).long()

    def loss(step):
        inputs, targets = symbols[step]
        return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return model, loss, 0.002, "lstm.weight*"


def mnist(folder, steps):
    model = feedforward.mlp()
    layers = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(layers, 1):
        name = f"dense{number}.weight" if number < len(layers) else "output.weight"
        layer.weight.data.copy_(torch.from_numpy(np.fromfile(folder / f"{name}.f32", "<f4")).view_as(layer.weight))
    images = torch.from_numpy(np.fromfile(folder / "pixels.f32", "<f4")).view(steps, BATCH, 784)
    labels = torch.from_numpy(np.fromfile(folder / "batches.u8", np.uint8)).view(steps, BATCH).long()
    return model, lambda step: feedforward.loss(model, images[step], labels[step]), 0.01, "*.weight"


def same_steps(network, method, steps, epsilon, program, control):
    with tempfile.TemporaryDirectory() as folder:
        arguments = [folder, method, network, str(steps), str(epsilon)]
        losses = []
        for kernel in ({"LAQ_KERNEL": "portable"}, {}) if control else ({},):
            command = [*shlex.split(program), *arguments]
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **kernel})
            losses.append(np.fromfile(Path(folder) / "losses.f64", "<f8"))
        other, ours = losses[0], losses[-1]
        folder = Path(folder)
        model, loss, rate, include = (mnist if network == "mnist" else char_lstm)(folder, steps)
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = Adam(weights, rate, epsilon)
        if method != "full":
            formats = {method.id for method in laq.formats()}
            kind = {"format": method} if method in formats else {"method": method}
            optimizer = laq.torch.LossAware(optimizer, model, include=include, clip=1.0, **kind)
        theirs = []
        for step in range(steps):
            optimizer.zero_grad()
            found = loss(step)
            found.backward()
            optimizer.step()
            theirs.append(found.item())
        return ours, np.array(theirs), other


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--epsilon", type=float, default=1e-8, help="of Adam")
    parser.add_argument("--networks", default="mnist,char-lstm")
    every = "full,binaryconnect,bwn,lab,twn,ttq,lat-a,lat-e,lat2-a,lat2-e,laq-linear-3,laq-linear-3-e,laq-log-3,laq-log-3-e,"
    parser.add_argument("--methods", default=every + "dorefa-3,absmean,absmax-3,q2_0,q4_0,iq4_nl")
    parser.add_argument("--program", default="cargo run --quiet --release --package laq-models --example trace_steps --")
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True, help="the portable kernels as well")
    options = parser.parse_args()
    print(f"{options.steps} steps, epsilon {options.epsilon}, PyTorch {torch.__version__}\n")
    print("| network | method | first loss | last loss | PyTorch, largest difference | portable kernels, largest difference |\n|---|---|---:|---:|---:|---:|")
    for network in options.networks.split(","):
        for method in options.methods.split(","):
            ours, theirs, other = same_steps(network, method, options.steps, options.epsilon, options.program, options.control)
            difference, own = np.abs(ours - theirs), np.abs(ours - other)
            own = f"{own.max():.1e}" if options.control else ""
            print(f"| {network} | {method} | {ours[0]:.4f} | {ours[-1]:.4f} | {difference.max():.1e} | {own} |", flush=True)


if __name__ == "__main__":
    main()
