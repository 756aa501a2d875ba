"""One training step of the paper's character LSTM (512 cells, 87 symbols, 100 steps, batch 100):
forward, backward and Adam, ours and PyTorch's in turn, in one run, on the same cores.

    cargo build --release -p laq-models --example step_server
    python3 benches/pytorch/lstm_step.py [--rounds 15] [--threads 2] [--server target/release/examples/step_server]

PyTorch runs twice: with torch.nn.LSTM (its fused CPU kernel, which cannot clip the gates'
gradients and takes its one-hot input as a dense product, about a tenth of its arithmetic), and with
a loop over time that clips as the paper does and gathers its input. Printed: medians, and their
ratio to PyTorch's faster variant.
"""

import argparse
import resource
import statistics
import subprocess
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--server", default="target/release/examples/step_server")
parser.add_argument("--methods", default="full,lat-a,lat-e")
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(1)
T, B, V, H = 100, 100, 87, 512
symbols = torch.randint(V, (T * B + 1,))
inputs, targets = symbols[:-1].view(T, B), symbols[1:]


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(context, a):
        return a.view_as(a)

    @staticmethod
    def backward(context, gradient):
        return gradient.clamp(-5, 5)


class Fused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.output = torch.nn.LSTM(V, H), torch.nn.Linear(H, V)

    def forward(self, x):
        hidden, _ = self.lstm(torch.nn.functional.one_hot(x, V).float())
        return self.output(hidden.view(T * B, H))


class Loop(torch.nn.Module):
    def __init__(self):
        super().__init__()
        uniform = lambda *shape: torch.nn.Parameter((torch.rand(*shape) - 0.5) * 0.16)
        self.weight_ih, self.weight_hh = uniform(V, 4 * H), uniform(4 * H, H)
        self.bias, self.output = torch.nn.Parameter(torch.zeros(4 * H)), torch.nn.Linear(H, V)

    def forward(self, x):
        h, c, hidden = torch.zeros(B, H), torch.zeros(B, H), []
        table = torch.nn.functional.embedding(x, self.weight_ih) + self.bias
        for t in range(T):
            i, f, g, o = Clip.apply(torch.addmm(table[t], h, self.weight_hh.t())).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            hidden.append(h)
        return self.output(torch.stack(hidden).view(T * B, H))


def stepper(net):
    adam = torch.optim.Adam(net.parameters(), lr=0.002, fused=True)

    def step():
        start = time.perf_counter()
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), targets).backward()
        adam.step()
        return time.perf_counter() - start

    return step


def server(method):
    process = subprocess.Popen(
        [options.server, method, str(options.threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step():
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline().split()[0])

    return step


def build_loop():
    return stepper(Loop())


candidates = {"torch.nn.LSTM": stepper(Fused()), "torch loop, clipped": build_loop()}
candidates |= {f"laq {method}": server(method) for method in options.methods.split(",")}
seconds = {name: [] for name in candidates}
for round in range(options.rounds + 2):
    for name, step in candidates.items():
        taken = step()
        if round >= 2:
            seconds[name].append(taken)
best = min(statistics.median(seconds[name]) for name in list(candidates)[:2])
print(f"PyTorch {torch.__version__}, {options.threads} threads, {options.rounds} rounds in turn")
for name, values in seconds.items():
    median = statistics.median(values)
    print(f"{name:22} median {median:.3f} s  (min {min(values):.3f}, max {max(values):.3f})"
          f"  {median / best:.2f} of PyTorch's faster")
print(f"peak memory of the PyTorch process: "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
