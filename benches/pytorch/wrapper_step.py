"""A training step of plain PyTorch models with `laq.torch.LossAware` around the fused Adam, and with the fused Adam alone, in
turn, in one run: the paper's MLP, torch.nn.LSTM, and 20 small layers, whose quantization takes no time, so that what
remains is the wrapper itself. Then 1,000 steps, whose memory must not grow.

    python3 benches/pytorch/wrapper_step.py [--repetitions 15] [--threads 2] [--methods lat-e,lat-a] [--json FILE]
"""

import resource
import statistics
import time

import torch

import feedforward
import interleave
import laq.torch

options = interleave.parser(__doc__, methods="lat-e,lat-a,ttq,q2_0").parse_args()
interleave.prepare(options)
FORMATS = {method.id for method in laq.formats()}


def stepper(make, loss_of, method):
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, fused=True)
    if method:
        kind = {"format": method} if method in FORMATS else {"method": method}
        optimizer = laq.torch.LossAware(optimizer, model, **kind)
    return interleave.stepper(lambda: loss_of(model), optimizer)


def bench(title, make, loss_of, methods):
    candidates = {"Adam": stepper(make, loss_of, None)}
    candidates |= {method: stepper(make, loss_of, method) for method in methods}
    interleave.run(options, title, candidates, [(method, "Adam") for method in methods])


methods = options.methods.split(",")
images, labels = 2 * torch.rand(100, 784) - 1, torch.arange(100) % 10
bench("MLP, batch 100", feedforward.mlp, lambda model: feedforward.loss(model, images, labels), methods)

T, B, V, H = 100, 100, 87, 512
symbols = torch.randint(V, (T * B + 1,))
one_hot = torch.nn.functional.one_hot(symbols[:-1].view(T, B), V).float()


class CharLstm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.output = torch.nn.LSTM(V, H), torch.nn.Linear(H, V)

    def forward(self, x):
        return self.output(self.lstm(x)[0].view(T * B, H))


bench("LSTM of 512 units, batch 100, 100 steps", CharLstm,
      lambda model: torch.nn.functional.cross_entropy(model(one_hot), symbols[1:]), methods)

small = lambda: torch.nn.Sequential(*[torch.nn.Linear(8, 8, bias=False) for _ in range(20)])
x = torch.randn(4, 8)
steps = {name: stepper(small, lambda model: model(x).square().mean(), method)
         for name, method in (("Adam", None), ("lat-e", "lat-e"))}
seconds = {name: [] for name in steps}
for repetition in range(2000):
    for name, step in steps.items():
        seconds[name].append(step()[0])
medians = {name: 1e6 * statistics.median(found[200:]) for name, found in seconds.items()}
print(f"\n20 parameters of 8 x 8: a step takes {medians['Adam']:.0f} µs, with lat-e {medians['lat-e']:.0f} µs")

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step = steps["lat-e"]
start = time.perf_counter()
for _ in range(1000):
    step()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"peak memory after 1,000 more steps: {after / 1024:.1f} MiB, {(after - before) / 1024:+.1f} MiB")
