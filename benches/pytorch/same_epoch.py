"""An epoch of the paper's networks on real data, in plain PyTorch with `laq.torch.LossAware` and with `laq train`.

    python3 benches/pytorch/same_epoch.py DATA [--networks mnist,char-lstm] [--methods full,lat-e] [--seeds 1,2,3]

DATA is the data folder of `laq`, with `mnist` and `war-and-peace`; `cargo build --release` makes the program. Networks, splits,
preprocessing and settings are those of `configs/`, at the learning rate of the first epoch; each side draws initial weights and the
order of the examples itself, so that results differ as those of other seeds. Prints, for each seed, the mean loss of the epoch and
the loss of the test split.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

import feedforward
import laq
import laq.torch
from compare_training import mnist
from same_steps import ROOT, Adam, CharLstm

CONFIGS = {"mnist": "table1/mnist", "char-lstm": "table2/war-and-peace"}


class Images:
    """The squared hinge of the MLP on MNIST, without the mean training image."""

    rate, include = 0.01, "*.weight"

    def __init__(self, data):
        (x, self.y), (test, self.test_y) = mnist(data / "mnist")
        mean = x.mean(0)
        self.x, self.test_x = ((pixels - mean) / 2 for pixels in (x, test))

    def network(self, is_full):
        return feedforward.mlp(quantized=not is_full)

    def batches(self):
        for part in torch.randperm(len(self.x)).split(100):
            yield self.x[part], self.y[part]

    def test(self):
        return list(zip(self.test_x.split(1000), self.test_y.split(1000)))

    def loss(self, model, batch):
        return feedforward.loss(model, *batch)


class Text:
    """Nats a character of the LSTM on War and Peace."""

    rate, include = 0.002, "lstm.weight*"

    def __init__(self, data):
        text = np.frombuffer((data / "war-and-peace/warpeace_input.txt").read_bytes(), np.uint8)
        table = np.zeros(256, np.int64)
        alphabet = np.unique(text)
        table[alphabet] = np.arange(len(alphabet))
        symbols = torch.from_numpy(table[text])
        ends = [len(text) * 8 // 10, len(text) * 9 // 10]
        self.train, self.tested = self.sequences(symbols[: ends[0]]), self.sequences(symbols[ends[1] :])

    @staticmethod
    def sequences(symbols):
        """Inputs and targets (sequence, 100) of whole batches."""
        count = (len(symbols) - 1) // 100 // 100 * 100
        return torch.stack([symbols[shift : shift + count * 100].view(count, 100) for shift in (0, 1)], 1)

    def network(self, is_full):
        model = CharLstm()
        for weight in (model.lstm.weight_ih_l0, model.lstm.weight_hh_l0):
            torch.nn.init.uniform_(weight, -0.08, 0.08)
        model.lstm.bias_ih_l0.data.zero_()[512:1024] = 1
        torch.nn.init.normal_(model.output.weight, std=0.01)
        torch.nn.init.zeros_(model.output.bias)
        return model

    def batches(self):
        for part in torch.randperm(len(self.train)).split(100):
            yield self.train[part].permute(1, 2, 0)

    def test(self):
        return [part.permute(1, 2, 0) for part in self.tested.split(100)]

    def loss(self, model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def in_pytorch(task, method, seed):
    torch.manual_seed(seed)
    model = task.network(method == "full")
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Adam(weights, task.rate, 1e-8)
    if method != "full":
        kind = {"format" if method in {found.id for found in laq.formats()} else "method": method}
        optimizer = laq.torch.LossAware(optimizer, model, include=task.include, clip=1.0, **kind)
    losses = []
    for batch in task.batches():
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        return statistics.fmean(losses), statistics.fmean(task.loss(model, batch).item() for batch in task.test())


def in_rust(network, method, seed, data, program):
    config = ROOT / "configs" / CONFIGS[network] / "full.toml"
    settings = [f"quantize.method={method}", f"train.seed={seed}", "train.epochs=1", f"data.dir={data}"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [program, "train", config, "--run-dir", folder, "--progress", "none"]
        threads = ["--threads", str(torch.get_num_threads())]
        subprocess.run([*arguments, *threads, *(part for each in settings for part in ("--set", each))], check=True)
        metrics = json.loads((Path(folder) / "metrics.jsonl").read_text())
        return metrics["train_loss"], metrics["test_loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("--networks", default="mnist,char-lstm")
    parser.add_argument("--methods", default="full,lat-e,twn,q2_0")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--program", default=ROOT / "target/release/laq")
    options = parser.parse_args()
    for network in options.networks.split(","):
        task = (Images if network == "mnist" else Text)(options.data)
        print(f"\n{task.__doc__}\n\n| method | side | losses of the epoch | mean | test losses | mean |\n|---|---|---|---:|---|---:|")
        for method in options.methods.split(","):
            seeds = [int(seed) for seed in options.seeds.split(",")]
            sides = {
                "PyTorch": [in_pytorch(task, method, seed) for seed in seeds],
                "laq train": [in_rust(network, method, seed, options.data, options.program) for seed in seeds],
            }
            for side, found in sides.items():
                cells = [f"{', '.join(f'{x:.4f}' for x in of)} | {statistics.fmean(of):.4f}" for of in zip(*found)]
                print(f"| `{method}` | {side} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
