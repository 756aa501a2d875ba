"""One training step of the paper's MNIST network (784-2048-2048-2048-10 with batch normalization, squared hinge
loss, batch 100): forward, backward and Adam, ours and PyTorch's in turn, in one run, on the same cores.

    python3 benches/pytorch/mlp_step.py [--repetitions 15] [--threads 2] [--compile] [--json FILE]

PyTorch takes part in full precision with its fused Adam and with its plain one, and with ternary weights
(all with the fused Adam): alternating as the formulas stand (`elements`), alternating with dot products,
and exact by sorting (`ternary.py` has all of them). With --compile, alternation through torch.compile as
well, which needs a C++ compiler and up to a minute more.
"""

import sys

import torch

import feedforward
import interleave
import ternary

parser = interleave.parser(__doc__, methods="full,lat-a,lat-e")
parser.add_argument("--compile", action="store_true", help="alternation through torch.compile as well")
options = parser.parse_args()
interleave.prepare(options)
images, labels = 2 * torch.rand(100, 784) - 1, torch.arange(100) % 10
solvers = {
    "lat-a, elements": ternary.by_elements, "lat-a, dot products": ternary.by_dots,
    "lat-e, sorting": ternary.by_sorting,
}
if options.compile:
    solvers["lat-a, compiled"] = ternary.by_compiling


def check():
    """Figures of a solver that is wrong are worth nothing: on the same weights, alternating solvers must end with
    the same weighted error, and the exact one with none above it."""
    w, v = 0.02 * torch.randn(300, 200), torch.randn(300, 200).exp()
    d = v.sqrt().double()
    errors = {name: (d * (w - solver(w)(w, v)).double().square()).sum().item() for name, solver in solvers.items()}
    alternating, exact = errors["lat-a, elements"], errors["lat-e, sorting"]
    for name, error in errors.items():
        if exact > (1 + 1e-6) * error or name.startswith("lat-a") and abs(error - alternating) > 1e-5 * alternating:
            sys.exit(f"the solvers end with different weighted errors, one of them is wrong: {errors}")


def full(fused):
    net = feedforward.mlp()
    adam = torch.optim.Adam(net.parameters(), lr=0.002, fused=fused)
    return interleave.stepper(lambda: feedforward.loss(net, images, labels), adam)


def quantized(solver):
    net = feedforward.mlp(quantized=True)
    adam = torch.optim.Adam(net.parameters(), lr=0.002, fused=True)
    return feedforward.quantized_stepper(solver, net, images, labels, adam)


check()
candidates = {"PyTorch full, fused Adam": full(True), "PyTorch full, plain Adam": full(False)}
candidates |= {f"PyTorch {name}": quantized(solver) for name, solver in solvers.items()}
candidates |= interleave.ours(options, "mnist")
peers = interleave.peers(options, "mnist")
candidates |= peers
pairs = [
    ("laq full", "PyTorch full, fused Adam"), ("laq full", "PyTorch full, plain Adam"),
    ("laq lat-a", "PyTorch lat-a, elements"), ("laq lat-a", "PyTorch lat-a, dot products"),
    ("laq lat-a", "PyTorch lat-a, compiled"), ("laq lat-e", "PyTorch lat-e, sorting"),
    ("laq lat-a", "laq full"), ("laq lat-e", "laq full"),
    *(("laq full", peer) for peer in peers),
]
interleave.run(options, "A training step of the MNIST network, batch 100", candidates, pairs)
