"""One training step of the paper's character LSTM (512 cells, 87 symbols, 100 steps, batch 100):
forward, backward and Adam, ours and PyTorch's in turn, in one run, on the same cores.

    python3 benches/pytorch/lstm_step.py [--repetitions 15] [--threads 2] [--json FILE]

PyTorch runs twice: with torch.nn.LSTM (its fused CPU kernel, which cannot clip the gates'
gradients and takes its one-hot input as a dense product, about a tenth of its arithmetic), and with
a loop over time that clips as the paper does and gathers its input.
"""

import resource

import torch

import interleave

options = interleave.parser(__doc__, methods="full,lat-a,lat-e").parse_args()
interleave.prepare(options)
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


def full(net):
    adam = torch.optim.Adam(net.parameters(), lr=0.002, fused=True)
    return interleave.stepper(lambda: torch.nn.functional.cross_entropy(net(inputs), targets), adam)


candidates = {"PyTorch torch.nn.LSTM": full(Fused()), "PyTorch loop, clipped": full(Loop())}
candidates |= interleave.ours(options, "char-lstm")
pairs = [("laq full", theirs) for theirs in list(candidates)[:2]]
pairs += [("laq lat-a", "PyTorch torch.nn.LSTM"), ("laq lat-a", "laq full"), ("laq lat-e", "laq full")]
interleave.run(options, "A training step of the character LSTM, batch 100, 100 steps", candidates, pairs)
print(f"peak memory of the PyTorch process: "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
