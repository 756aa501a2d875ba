"""Shared by the scripts `*_step.py`: training steps of several candidates, interleaved in one run.

A candidate is a function that takes one step and returns its seconds and, of these, those of
quantization. In every repetition each candidate takes one step. The order is reversed from one
repetition to the next, so that a slow phase of the machine affects all candidates, and none always
follows the same other one.
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
# After that pause it takes milliseconds until the system has distributed the threads over the cores again. A candidate
# whose step is shorter than SHORT_SECONDS takes untimed steps for MOMENT_SECONDS before the timed one, as in a training.
MOMENT_SECONDS = 0.05
SHORT_SECONDS = 0.2


def parser(docstring, methods):
    """The options of every script; `methods` is the default of `--methods`."""
    options = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repetitions", type=positive, default=15, help="timed repetitions (default: 15)")
    options.add_argument(
        "--warm-up", type=positive, default=3, metavar="REPETITIONS",
        help="untimed repetitions before them, which allocate memory and give the alternating solvers their warm starts: "
             "these need many iterations when a training begins, and few later (default: 3)")
    options.add_argument("--threads", type=positive, default=2, help="of PyTorch and of ours (default: 2)")
    options.add_argument("--methods", default=methods, help=f"of ours (default: {methods})")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options.add_argument(
        "--server", help="our program (default: cargo builds and runs it)",
        default="cargo run --quiet --release --package laq-models --example step_server --")
    options.add_argument(
        "--peer", type=peer, action="append", default=[], metavar="NAME=COMMAND",
        help="another library's program in full precision, which gets the threads and the network as arguments (see "
             "benches/peers); repeatable")
    return options


def peer(text):
    name, _, command = text.partition("=")
    if not name or not command:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=COMMAND")
    return name, command


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def prepare(options):
    """Before the first tensor: threads and seed. A file that cannot be written fails here, not after the run."""
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
    arguments = [str(options.threads), network]
    return {f"laq {method}": server(options.server, [method, *arguments]) for method in options.methods.split(",")}


def peers(options, network):
    """A candidate for each program of `--peer`."""
    return {f"{name} full": server(command, [str(options.threads), network]) for name, command in options.peer}


def server(command, arguments):
    process = subprocess.Popen(
        [*shlex.split(command), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def step():
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = process.stdout.readline().split()
        if not answer:
            sys.exit(f"{command} {' '.join(arguments)} has ended; its message is above")
        return tuple(map(float, answer))

    # The first step comes when cargo has built the program.
    step()
    return step


def run(options, title, candidates, pairs, summary=lambda ratios: {}):
    """Takes the steps and prints a table of them, and one of the ratios of `pairs` of candidates where both take part,
    with what `summary` makes of them."""
    steps, last = {name: [] for name in candidates}, {}
    for repetition in range(options.warm_up + options.repetitions):
        order = list(candidates.items())
        for name, step in order if repetition % 2 == 0 else reversed(order):
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            while last.get(name, 1) < SHORT_SECONDS and time.perf_counter() < start + MOMENT_SECONDS:
                step()
            taken = step()
            last[name] = taken[0]
            if repetition >= options.warm_up:
                steps[name].append(taken)
    machine = {
        "processor": processor(), "threads": options.threads,
        "repetitions": options.repetitions, "warm_up": options.warm_up,
        "torch": torch.__version__, "python": sys.version.split()[0], "commit": commit(),
    }
    print(f"{title}\nPyTorch {machine['torch']}, Python {machine['python']}, laq {machine['commit']}, "
          f"{machine['processor']}, {options.threads} threads, {options.repetitions} repetitions in turn "
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
    ratios |= summary(ratios)
    print(f"\n{'':{width}} {'medians':>9} {'minima':>9} {'paired':>9}")
    for name, ratio in ratios.items():
        print(f"{name:{width}} " + " ".join(f"{ratio[part]:9.3f}" for part in ("medians", "minima", "paired")))
    print("\npaired: the median of the ratios of each repetition.", flush=True)
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
        "paired": median(x / y for x, y in zip(a, b)),
    }


def processor():
    """Its name, on Linux."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def commit():
    """The commit of the working tree, marked if there are uncommitted changes."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown"
