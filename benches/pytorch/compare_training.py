"""Ternary and 2-bit training at equal budget in PyTorch: full precision, `laq.torch.LossAware`, the straight-through
estimator with absmean and TWN, PARQ of torchao, and Brevitas's default weight quantizer.

    python3 benches/pytorch/compare_training.py mlp DATA/mnist [--units 512] [--epochs 3] [--seeds 1,2,3]
    python3 benches/pytorch/compare_training.py lstm DATA/war-and-peace/warpeace_input.txt [--units 256]

All have the same network, initial weights, batches, and Adam with a learning rate that falls linearly to 0; what is quantized are
all weights of the MLP (three hidden layers, batch normalization, squared hinge loss) and the weights of the character LSTM.
Without a scale for each row or block a tensor has one, or each gate of the LSTM. PARQ quantizes softly until 80 % of the
steps are done.
A line of the table is printed when all seeds of a method are done.
"""

import argparse
import gzip
import statistics
import time
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

import feedforward
import laq.torch

LENGTH = BATCH = 100


def mnist(folder):
    def read(name, header):
        packed = folder / f"{name}.gz"
        data = gzip.open(packed).read() if packed.exists() else (folder / name).read_bytes()
        return np.frombuffer(data, np.uint8, offset=header)

    def images(part):
        pixels = torch.from_numpy(read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32))
        return pixels / 127.5 - 1, torch.from_numpy(read(f"{part}-labels-idx1-ubyte", 8).astype(np.int64))

    x, y = images("train")
    return (x[:50_000], y[:50_000]), images("t10k")


class Mlp:
    """Error in percent."""

    rate, include = 0.01, "*.weight"

    def __init__(self, options):
        (self.x, self.y), self.test = mnist(options.data)
        self.steps, self.units = options.epochs * 500, options.units or 512

    def network(self, brevitas):
        model = feedforward.mlp(units=self.units)
        if brevitas:
            from brevitas.nn import QuantLinear

            for index, layer in enumerate(model):
                if isinstance(layer, torch.nn.Linear):
                    model[index] = QuantLinear(
                        layer.in_features, layer.out_features, bias=False, weight_bit_width=2)
                    model[index].weight.data.copy_(layer.weight.data)
        return model

    def batches(self, seed, steps):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps // 500):
            for part in torch.randperm(50_000, generator=generator).view(500, 100):
                yield self.x[part], self.y[part]

    def loss(self, model, batch):
        return feedforward.loss(model, *batch)

    def evaluate(self, model):
        x, y = self.test
        return 100 * (torch.cat([model(part) for part in x.split(1000)]).argmax(1) != y).double().mean().item()


class CharLstm(torch.nn.Module):
    def __init__(self, symbols, hidden):
        super().__init__()
        self.symbols = symbols
        self.lstm, self.output = torch.nn.LSTM(symbols, hidden), torch.nn.Linear(hidden, symbols)
        for weight in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0):
            torch.nn.init.uniform_(weight, -0.08, 0.08)

    def forward(self, x):
        return self.output(self.lstm(functional.one_hot(x, self.symbols).float())[0])


class Text:
    """Nats a character."""

    rate, include = 0.002, "lstm.weight*"

    def __init__(self, options):
        text = options.data.read_bytes()
        alphabet = sorted(set(text))
        self.symbols, self.hidden = len(alphabet), options.units or 256
        table = np.zeros(256, np.int64)
        table[alphabet] = np.arange(len(alphabet))
        numbers = torch.from_numpy(table[np.frombuffer(text, np.uint8)])
        train, self.test = numbers[: len(numbers) * 8 // 10], numbers[len(numbers) * 9 // 10 :]
        self.train = self.streams(train)
        self.steps = options.epochs * len(self.train)

    @staticmethod
    def streams(numbers):
        """(windows, length + 1, batch): each of the batch reads its own part of the text."""
        windows = (len(numbers) - 1) // BATCH // LENGTH
        streams = numbers[: BATCH * windows * LENGTH].view(BATCH, windows, LENGTH)
        after = numbers[1 : BATCH * windows * LENGTH + 1].view(BATCH, windows, LENGTH)
        return [(streams[:, w].t(), after[:, w].t()) for w in range(windows)]

    def network(self, brevitas):
        model = CharLstm(self.symbols, self.hidden)
        if brevitas:
            from brevitas.nn import QuantLSTM

            off = dict.fromkeys(
                ("bias_quant", "io_quant", "gate_acc_quant", "sigmoid_quant", "tanh_quant", "cell_state_quant"))
            lstm = QuantLSTM(self.symbols, self.hidden, weight_bit_width=2, **off)
            lstm.load_state_dict(model.lstm.state_dict())
            model.lstm = lstm
        return model

    def batches(self, seed, steps):
        for step in range(steps):
            yield self.train[step % len(self.train)]

    def loss(self, model, batch):
        return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def evaluate(self, model):
        return statistics.fmean(self.loss(model, batch).item() for batch in self.streams(self.test))


def parq(optimizer_of, model, include, steps):
    """The ternary quantizer of torchao's recipe."""
    from torchao.prototype.parq import ProxPARQ, QuantOptimizer, TernaryUnifQuantizer

    named = list(model.named_parameters())
    chosen = [p for name, p in named if p.dim() > 1 and fnmatchcase(name, include)]
    others = [p for _, p in named if all(p is not other for other in chosen)]
    optimizer = optimizer_of([{"params": chosen, "quant_bits": 0}, {"params": others}])
    return QuantOptimizer(optimizer, TernaryUnifQuantizer(), ProxPARQ(0, steps * 8 // 10), quant_period=1)


METHODS = {
    "full precision": {},
    "laq lat-e": {"method": "lat-e"},
    "laq lat-e, rows": {"method": "lat-e", "granularity": "row"},
    "laq q2_0 (4 levels, blocks of 64)": {"format": "q2_0"},
    "TWN, straight-through": {"method": "twn"},
    "absmean, straight-through (BitNet b1.58)": {"method": "absmean"},
    "PARQ, ternary (torchao)": "parq",
    "Brevitas, 2 bits (ternary)": "brevitas",
}


def train(task, kind, seed):
    torch.manual_seed(seed)
    model = task.network(kind == "brevitas")
    make = lambda parameters: torch.optim.Adam(parameters, task.rate, fused=True)
    if isinstance(kind, dict) and kind:
        optimizer = laq.torch.LossAware(make(model.parameters()), model, include=task.include, clip=1.0, **kind)
    elif kind == "parq":
        optimizer = parq(make, model, task.include, task.steps)
    else:
        optimizer = make(model.parameters())
    for step, batch in enumerate(task.batches(seed, task.steps)):
        for group in optimizer.param_groups:
            group["lr"] = task.rate * (1 - step / task.steps)
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return task.evaluate(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["mlp", "lstm"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--units", type=int, help="of the LSTM (256) or of a hidden layer (512)")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--methods", default="", help="only those whose name contains one of these, by commas")
    options = parser.parse_args()
    task = (Mlp if options.network == "mlp" else Text)(options)
    print(f"{options.network}, {options.epochs} epochs of {task.steps // options.epochs} steps: {task.__doc__}\n")
    print("| method | seeds | mean | seconds a step |\n|---|---|---:|---:|", flush=True)
    for name, kind in METHODS.items():
        if options.methods and not any(part in name for part in options.methods.split(",")):
            continue
        found, start = [], time.perf_counter()
        try:
            for seed in map(int, options.seeds.split(",")):
                found.append(train(task, kind, seed))
        except ImportError as error:
            print(f"| {name} | not installed: {error} | | |", flush=True)
            continue
        seconds = (time.perf_counter() - start) / len(found) / task.steps
        each = ", ".join(f"{value:.3f}" for value in found)
        print(f"| {name} | {each} | {statistics.fmean(found):.3f} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
