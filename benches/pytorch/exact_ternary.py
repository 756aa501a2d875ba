"""The exact ternary solver compared with PyTorch: minimise 1/2 sum d (w - a b)^2 over a > 0, b in {-1, 0, 1}^n,
both in turn, in one run, on the same cores and the same numbers.

    python3 benches/pytorch/exact_ternary.py [--sizes 4194304,10000000] [--repetitions 7] [--threads 2]

PyTorch sorts the magnitudes, sums d|w| and d in that order in float64, takes the prefix with the largest
S^2/D, and rounds to the levels; nothing else of it is timed. The time of lat-e includes the check of
the input for values that are not finite, and the weighted error. The script fails if the two errors
differ.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import ternary

parser = argparse.ArgumentParser()
parser.add_argument("--sizes", default="4194304,10000000")
parser.add_argument("--repetitions", type=int, default=7)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument(
    "--server", help="the program to compare with",
    default="cargo run --quiet --release --package laq-benches --bin solver_server --")
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(1)


class Server:
    def __init__(self, w, d):
        self.process = subprocess.Popen(
            [*shlex.split(options.server), "lat-e", str(options.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        self.process.stdin.write(f"{len(w)}\n".encode() + w.numpy().tobytes() + d.numpy().tobytes())

    def solve(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer:
            sys.exit("our program has ended; its message is above")
        return [float(number) for number in answer]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


print(f"PyTorch {torch.__version__}, {options.threads} threads, {options.repetitions} repetitions in turn; medians (min)")
for size in map(int, options.sizes.split(",")):
    w, d = 0.1 * torch.randn(size), torch.randn(size).exp()
    server = Server(w, d)
    theirs, ours = [], []
    for repetition in range(options.repetitions + 1):
        start = time.perf_counter()
        scale, levels = ternary.exact(w, d)
        seconds = time.perf_counter() - start
        our_seconds, our_error = server.solve()
        # The first repetition allocates memory.
        if repetition > 0:
            theirs.append(seconds)
            ours.append(our_seconds)
    server.end()
    error = (0.5 * d.double() * (w.double() - scale.double() * levels.double()) ** 2).sum().item()
    if abs(error - our_error) > 1e-6 * error:
        sys.exit(f"{size} weights: PyTorch ends with weighted error {error}, ours with {our_error}")
    median = statistics.median
    print(f"{size:>9} weights  PyTorch {1e3 * median(theirs):8.2f} ms ({1e3 * min(theirs):.2f})"
          f"  lat-e {1e3 * median(ours):8.2f} ms ({1e3 * min(ours):.2f})"
          f"  PyTorch/lat-e {median(theirs) / median(ours):.2f}"
          f"  weighted errors agree to {abs(error - our_error) / error:.0e}", flush=True)
