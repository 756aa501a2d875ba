"""The paper's training steps in PyTorch (PAPER.md, 2 to 4), on the same batches as laq's: in full precision, and with
ternary weights, alternating (lat-a) and exact (lat-e). Prints a line of JSON for each network, method and variant:

    eager            as PyTorch runs it line by line;
    eager, stopping  for lat-a: ends its rounds when no scale moves any more, which the device is asked after each;
    compiled         network and solver through torch.compile with CUDA graphs; the rounds of lat-a are unrolled.

Unless it stops, lat-a makes all its ten rounds: asking a GPU whether it may stop takes longer than most rounds, and a round
more never makes the weighted error larger. The network of every method is the same, so that it is compiled once; it holds
the quantized weights, and Adam the latent ones. torch.nn.LSTM thus keeps its weights in one piece, as cuDNN wants them; it
cannot clip the gradients of its gates. What is not measured when the time is over is named in the last line.
"""

import argparse
import json
import signal
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", type=torch.device, default=torch.device("cuda:0"))
parser.add_argument("--precision", choices=("tf32", "float32"), default="tf32", help="of products on a GPU")
parser.add_argument("--rounds", type=int, default=7, help="the median of these rounds is reported")
parser.add_argument("--steps", type=int, default=20, help="training steps in a round")
parser.add_argument("--seconds", type=float, default=150, help="after which nothing more is measured")
parser.add_argument("--small", action="store_true", help="small networks, for a rehearsal")

FLOOR, TOLERANCE, MOST_ROUNDS = 1e-8, 1e-6, 10
METHODS = {
    "full": ("eager", "compiled"),
    "lat-a": ("eager", "eager, stopping", "compiled"),
    "lat-e": ("eager", "compiled"),
}


class CharLstm(nn.Module):
    def __init__(self, symbols, cells):
        super().__init__()
        self.lstm, self.output = nn.LSTM(symbols, cells), nn.Linear(cells, symbols)

    def forward(self, x):
        hidden, _ = self.lstm(F.one_hot(x, self.output.out_features).float())
        return self.output(hidden.flatten(0, 1))


def dense(units):
    layers = [nn.Flatten()]
    for inputs, outputs in zip(units, units[1:]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, eps=1e-4), nn.ReLU()]
    return layers[:-1]


def vgg(filters, units, pixels):
    layers, inputs = [], 3
    for outputs in filters:
        for pooling in ([], [nn.MaxPool2d(2)]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), *pooling,
                       nn.BatchNorm2d(outputs, eps=1e-4), nn.ReLU()]
            inputs = outputs
    return nn.Sequential(*layers, *dense([inputs * (pixels // 8) ** 2, units, units, 10]))


def hinge(outputs, targets):
    signs = 2 * F.one_hot(targets, 10).float() - 1
    return F.relu(1 - signs * outputs).square().mean()


def quantized_weights(net):
    """The weights that are quantized, each with the number of its scales: the LSTM's gates have their own."""
    if isinstance(net, CharLstm):
        return [(net.lstm.weight_ih_l0, 4), (net.lstm.weight_hh_l0, 4)]
    return [(layer.weight, 1) for layer in net if isinstance(layer, (nn.Linear, nn.Conv2d))]


def rows(weight, scales):
    """A view of the numbers as they lie in memory, a row for each scale."""
    weight = weight.detach()
    return (weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight).view(scales, -1)


class Solver(nn.Module):
    """Minimizes 1/2 sum d (w - a b)^2 over a > 0 and b in {-1, 0, 1}^n, d = sqrt(v) + 1e-8, for each row of w, and writes
    a b to `quantized`. Before that it clips w to [-1, 1], which belongs to the end of the step before."""

    def __init__(self, method, stopping, w, v, quantized):
        super().__init__()
        self.method, self.stopping = method, stopping
        self.register_buffer("w", w)
        self.register_buffer("v", v)
        self.register_buffer("quantized", quantized)
        # Where b is not 0. Its sign is that of w.
        self.register_buffer("kept", torch.ones_like(w, dtype=torch.bool))

    def forward(self):
        self.w.clamp_(-1, 1)
        d, magnitude = self.v.sqrt() + FLOOR, self.w.abs()
        if self.method == "lat-a":
            scale, kept = self.alternating(d, magnitude)
            self.kept.copy_(kept)
        else:
            scale, kept = self.exact(d, magnitude)
        self.quantized.copy_(torch.where(kept, scale * self.w.sign(), 0))

    def alternating(self, d, magnitude):
        """Each row's best scale for b, then the best b for the scale, from the b of the step before."""
        product = d * magnitude

        def best_scale(kept):
            return torch.where(kept, product, 0).sum(1, keepdim=True) / torch.where(kept, d, 0).sum(1, keepdim=True)

        scale = best_scale(self.kept)
        for _ in range(MOST_ROUNDS):
            kept = magnitude > scale / 2
            before, scale = scale, best_scale(kept)
            if self.stopping and ((scale - before).abs() <= TOLERANCE).all():
                break
        return scale, kept

    def exact(self, d, magnitude):
        """Of each row's largest weights those with the largest (sum d|w|)^2 / sum d."""
        falling, order = magnitude.sort(1, descending=True)
        d = d.gather(1, order).double()
        S, D = (d * falling).cumsum(1), d.cumsum(1)
        best = (S * S / D).argmax(1, keepdim=True)
        scale = (S.gather(1, best) / D.gather(1, best)).float()
        return scale, magnitude > scale / 2


class Case:
    """A network with the batch that it is trained on."""

    def __init__(self, net, inputs, targets, loss):
        self.net, self.inputs, self.targets = net, inputs, targets
        self.start = {name: value.clone() for name, value in net.state_dict().items()}

        def forward(inputs, targets):
            return loss(net(inputs), targets)

        self.eager, self.compiled = forward, compiled(forward)

    def stepper(self, method, variant):
        """Algorithm 3: solve, forward and backward with the quantized weights, Adam on the latent ones."""
        self.net.load_state_dict(self.start)
        weights = [] if method == "full" else quantized_weights(self.net)
        latent = [nn.Parameter(weight.detach().clone()) for weight, _ in weights]
        in_net = {id(weight) for weight, _ in weights}
        trained = latent + [other for other in self.net.parameters() if id(other) not in in_net]
        adam = torch.optim.Adam(trained, lr=0.002, fused=True)
        # The moments come into being with the first step. One without gradients changes nothing else but the count.
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        adam.step()
        for state in adam.state.values():
            state["step"].zero_()
        solvers = [
            Solver(method, "stopping" in variant, rows(w, scales), rows(adam.state[w]["exp_avg_sq"], scales),
                   rows(weight, scales))
            for w, (weight, scales) in zip(latent, weights)
        ]

        @torch.no_grad()
        def quantize():
            for solver in solvers:
                solver()

        forward = self.eager
        if variant == "compiled":
            forward, quantize = self.compiled, compiled(quantize)

        def step():
            self.net.zero_grad()
            adam.zero_grad()
            if solvers:
                quantize()
            loss = forward(self.inputs, self.targets)
            loss.backward()
            for w, (weight, _) in zip(latent, weights):
                w.grad = weight.grad
            adam.step()
            return loss

        return step


def compiled(function):
    return torch.compile(function, mode="reduce-overhead", dynamic=False)


def cases(device, small):
    cells, length, units, filters, pixels = (32, 10, 32, (8, 8, 8), 8) if small else (512, 100, 2048, (128, 256, 512), 32)
    digits, images = (10, 10) if small else (100, 50)
    symbols = torch.randint(87, (length * length + 1,), device=device)
    classes = torch.randint(10, (digits,), device=device)
    pictures = torch.randn(images, 3, pixels, pixels, device=device).to(memory_format=torch.channels_last)
    mlp = nn.Sequential(*dense([64 if small else 784, units, units, units, 10]))
    vgg_like = vgg(filters, 32 if small else 1024, pixels).to(memory_format=torch.channels_last)
    return {
        "char-lstm": Case(CharLstm(87, cells).to(device), symbols[:-1].view(length, length), symbols[1:], F.cross_entropy),
        "mnist": Case(mlp.to(device), torch.randn(digits, mlp[1].in_features, device=device), classes, hinge),
        "cifar10": Case(vgg_like.to(device), pictures, classes[:images], hinge),
    }


def seconds(step, rounds, steps, wait):
    """The median seconds of a step."""
    for _ in range(3 if steps < 5 else 15):
        step()
    times = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        times.append((time.perf_counter() - start) / steps)
    return statistics.median(times)


def report(**line):
    print(json.dumps(line), flush=True)


def main():
    options = parser.parse_args()
    end = time.monotonic() + options.seconds

    def time_is_over(*_):
        raise TimeoutError("the time limit was reached")

    signal.signal(signal.SIGALRM, time_is_over)
    on_gpu = options.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(options.device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(1)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    report(torch=torch.__version__, device=name, cudnn=torch.backends.cudnn.version())
    networks = cases(options.device, options.small)
    # Compiled variants take longest and come last.
    found = [
        (network, method, variant)
        for compiling in (False, True)
        for method, variants in METHODS.items()
        for network in networks
        for variant in variants
        if (variant == "compiled") == compiling
    ]
    left_out = []
    for network, method, variant in found:
        line = {"network": network, "method": method, "variant": variant}
        start = time.monotonic()
        if start >= end:
            left_out.append(" ".join(line.values()))
            continue
        try:
            signal.setitimer(signal.ITIMER_REAL, end - start)
            step = networks[network].stepper(method, variant)
            wait = torch.cuda.synchronize if on_gpu else lambda: None
            median = seconds(step, options.rounds, options.steps, wait)
            report(**line, seconds=median, measured_in=round(time.monotonic() - start, 1))
        except TimeoutError:
            left_out.append(" ".join(line.values()))
        except Exception as error:  # A failing variant is reported and does not stop the others.
            message = str(error).splitlines() or [type(error).__name__]
            report(**line, error=message[0][:300])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if left_out:
        report(left_out=left_out)


if __name__ == "__main__":
    main()
