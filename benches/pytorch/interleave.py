"""What the scripts `*_step.py` share: training steps of several candidates, taken in turn, in one run.

A candidate is a function that takes one step and returns its seconds and, of these, those of
quantization. Every round, each candidate takes one step, in an order that turns round from round to
round, so that a slow spell of the machine touches all of them, and nobody is always behind the same
neighbour.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]

# Between two candidates: threads spin for a moment when they have nothing to do, ours and OpenMP's.
PAUSE_SECONDS = 0.02


def parser(docstring, methods):
    """The options that every script has; `methods` are those of ours that take part unless told otherwise."""
    options = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=positive, default=15, help="rounds that count (default: 15)")
    options.add_argument(
        "--warm-up", type=positive, default=3, metavar="ROUNDS",
        help="rounds before them, which bring memory into place, and alternating solvers to their warm starts: these take "
             "many turns while a training begins, and few in its course (default: 3)")
    options.add_argument("--threads", type=positive, default=2, help="of PyTorch and of ours (default: 2)")
    options.add_argument("--methods", default=methods, help=f"of ours (default: {methods})")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options.add_argument(
        "--server", help="our program (default: cargo builds and runs it)",
        default="cargo run --quiet --release --package laq-models --example step_server --")
    return options


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def prepare(options):
    """Before the first tensor: threads and seed. A file that cannot be written is told now, not after the run."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    if options.json:
        options.json.touch()


def stepper(loss_of, adam):
    """PyTorch's step: backward from what `loss_of()` returns, and Adam."""

    def step():
        start = time.perf_counter()
        adam.zero_grad()
        loss_of().backward()
        adam.step()
        return time.perf_counter() - start, 0.0

    return step


def ours(options, network):
    """A candidate for each of our methods, by name; each is a process of its own that waits between its steps."""
    return {f"laq {method}": server(options, method, network) for method in options.methods.split(",")}


def server(options, method, network):
    process = subprocess.Popen(
        [*shlex.split(options.server), method, str(options.threads), network],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def step():
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = process.stdout.readline().split()
        if not answer:
            sys.exit(f"our program for {method} has ended; its message is above")
        return tuple(map(float, answer))

    # The first step comes when cargo has built the program.
    step()
    return step


def run(options, title, candidates, pairs):
    """Takes the steps and prints a table of them, and one of the ratios of `pairs` of candidates where both take part."""
    steps = {name: [] for name in candidates}
    for round in range(options.warm_up + options.rounds):
        order = list(candidates.items())
        for name, step in order if round % 2 == 0 else reversed(order):
            time.sleep(PAUSE_SECONDS)
            taken = step()
            if round >= options.warm_up:
                steps[name].append(taken)
    machine = {
        "processor": processor(), "threads": options.threads,
        "rounds": options.rounds, "warm_up": options.warm_up,
        "torch": torch.__version__, "python": sys.version.split()[0], "commit": commit(),
    }
    print(f"{title}\nPyTorch {machine['torch']}, Python {machine['python']}, laq {machine['commit']}, "
          f"{machine['processor']}, {options.threads} threads, {options.rounds} rounds in turn "
          f"after {options.warm_up}; milliseconds\n")
    width = max(len(f"{a} / {b}") for a, b in [*pairs, (max(candidates, key=len), "")])
    print(f"{'':{width}} {'median':>9} {'min':>9} {'quantize':>9}")
    seconds = {name: [total for total, _ in values] for name, values in steps.items()}
    for name, values in steps.items():
        quantize = 1e3 * statistics.median(quantize for _, quantize in values)
        print(f"{name:{width}} {1e3 * statistics.median(seconds[name]):9.2f} {1e3 * min(seconds[name]):9.2f} "
              + (f"{quantize:9.2f}" if quantize >= 0.01 else f"{'–':>9}"))
    ratios = {f"{a} / {b}": compare(seconds[a], seconds[b])
              for a, b in pairs if a in seconds and b in seconds}
    print(f"\n{'':{width}} {'medians':>9} {'minima':>9} {'rounds':>9}")
    for name, ratio in ratios.items():
        print(f"{name:{width}} " + " ".join(f"{ratio[part]:9.3f}" for part in ("medians", "minima", "rounds")))
    print("\nrounds: the median of the ratios round by round.", flush=True)
    if options.json:
        figures = {
            name: {"seconds": seconds[name], "quantize_seconds": [quantize for _, quantize in values]}
            for name, values in steps.items()}
        text = json.dumps({"title": title, **machine, "steps": figures, "ratios": ratios}, indent=1)
        options.json.write_text(text + "\n")


def compare(a, b):
    median = statistics.median
    return {
        "medians": median(a) / median(b), "minima": min(a) / min(b),
        "rounds": median(x / y for x, y in zip(a, b)),
    }


def processor():
    """Its name, where Linux tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def commit():
    """That of the working tree, marked if there are changes beside it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown"
