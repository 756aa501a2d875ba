"""The paper's training steps in PyTorch, full precision, on the device of the first argument (cuda:0): prints a line of JSON
a network and variant. TF32 is on, as it is for laq."""

import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda:0")
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
steps = int(sys.argv[3]) if len(sys.argv) > 3 else 20
on_gpu = device.type == "cuda"
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
torch.manual_seed(1)


class CharLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.output = nn.LSTM(87, 512), nn.Linear(512, 87)

    def forward(self, x):
        hidden, _ = self.lstm(F.one_hot(x, 87).float())
        return self.output(hidden.view(-1, 512))


def normed(layer, outputs, norm, relu=True):
    return [layer, norm(outputs, eps=1e-4), *([nn.ReLU()] if relu else [])]


def mlp():
    layers, inputs = [nn.Flatten()], 784
    for outputs in (2048, 2048, 2048, 10):
        layers += normed(nn.Linear(inputs, outputs, bias=False), outputs, nn.BatchNorm1d, outputs != 10)
        inputs = outputs
    return nn.Sequential(*layers)


def vgg():
    layers, inputs = [], 3
    for filters in (128, 256, 512):
        for last in (False, True):
            convolution = [nn.Conv2d(inputs, filters, 3, padding=1, bias=False)]
            layers += convolution + ([nn.MaxPool2d(2)] if last else [])
            layers += [nn.BatchNorm2d(filters, eps=1e-4), nn.ReLU()]
            inputs = filters
    layers, inputs = layers + [nn.Flatten()], 512 * 16
    for outputs in (1024, 1024, 10):
        layers += normed(nn.Linear(inputs, outputs, bias=False), outputs, nn.BatchNorm1d, outputs != 10)
        inputs = outputs
    return nn.Sequential(*layers)


def hinge(outputs, targets):
    signs = 2 * F.one_hot(targets, 10).float() - 1
    return F.relu(1 - signs * outputs).square().mean()


def wait():
    if on_gpu:
        torch.cuda.synchronize()


def measure(network, variant, net, inputs, targets, loss):
    net = net.to(device)
    adam = torch.optim.Adam(net.parameters(), lr=0.001, fused=on_gpu)

    def forward(inputs, targets):
        return loss(net(inputs), targets)

    if variant == "compiled":
        forward = torch.compile(forward, mode="reduce-overhead")

    def step():
        adam.zero_grad(set_to_none=True)
        forward(inputs, targets).backward()
        adam.step()

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
    print(json.dumps({"network": network, "variant": variant, "seconds": statistics.median(times)}), flush=True)


name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
print(json.dumps({"torch": torch.__version__, "device": name, "cudnn": torch.backends.cudnn.version()}), flush=True)
symbols = torch.randint(87, (10_001,), device=device)
images = torch.randn(50, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
digits = torch.randn(100, 784, device=device)
classes = torch.randint(10, (100,), device=device)
for variant in ("eager", "compiled"):
    for network, build, inputs, targets, loss in (
        ("char-lstm", CharLstm, symbols[:-1].view(100, 100), symbols[1:], F.cross_entropy),
        ("mnist", mlp, digits, classes, hinge),
        ("cifar10", lambda: vgg().to(memory_format=torch.channels_last), images, classes[:50], hinge),
    ):
        try:
            measure(network, variant, build(), inputs, targets, loss)
        except Exception as error:  # One variant that PyTorch cannot do keeps the others from nothing.
            line = {"network": network, "variant": variant, "error": str(error).splitlines()[0][:300]}
            print(json.dumps(line), flush=True)
