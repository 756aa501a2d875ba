"""Writes feedforward.txt: one training step of three small networks by PyTorch, in f64.

    python3 make_feedforward.py > feedforward.txt          (made with PyTorch 2.15.0)

They have the layers of the paper's MLP, of its VGG for CIFAR-10, and of that for CIFAR-100 (biases
and softmax at the end). A line a tensor: network and name, sizes joined by x, numbers (nine digits, which f32 needs): images and
labels, the loss, every parameter before the step, its gradient, and after the step, the running
averages of the normalizations after the step, and loss and errors of an evaluation with them.
Images are pixel by pixel and filters output, row, column, input, as this project stores them.
"""

import torch
from torch import nn

torch.set_default_dtype(torch.float64)
BETA2 = 0.999


def exact(tensor):
    """Numbers that f32 holds exactly, so that both sides start from the same."""
    return tensor.float().double()


def last(tensor):
    """From channels first, PyTorch's order, to channels last."""
    return tensor.movedim(1, -1).contiguous() if tensor.dim() == 4 else tensor


class Net(nn.Module):
    def __init__(self, size, channels, filters, units, classes, output_norm):
        super().__init__()
        self.convolutions, self.pooled, inputs = nn.ModuleDict(), set(), channels
        self.dense, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for stage, count in enumerate(filters):
            for number in (1, 2):
                name = f"conv{2 * stage + number}"
                self.convolutions[name] = nn.Conv2d(inputs, count, 3, padding=1, bias=False)
                self.norms[name] = nn.BatchNorm2d(count, eps=1e-4, momentum=0.1)
                inputs = count
                if number == 2:
                    self.pooled.add(name)
                    size //= 2
        self.image = (size, inputs)
        inputs *= size * size
        for index, outputs in enumerate(units + [classes]):
            name = f"dense{index + 1}" if index < len(units) else "output"
            norm = output_norm or name != "output"
            self.dense[name] = nn.Linear(inputs, outputs, bias=not norm)
            if norm:
                self.norms[name] = nn.BatchNorm1d(outputs, eps=1e-4, momentum=0.1)
            inputs = outputs

    def forward(self, x):
        for name, convolution in self.convolutions.items():
            x = convolution(x)
            if name in self.pooled:
                x = nn.functional.max_pool2d(x, 2)
            x = torch.relu(self.norms[name](x))
        x = last(x).flatten(1)
        for name, dense in self.dense.items():
            x = dense(x)
            if name in self.norms:
                x = self.norms[name](x)
            if name != "output":
                x = torch.relu(x)
        return x

    def named(self):
        """Parameters and running averages under this project's names."""
        for name, layer in (*self.convolutions.items(), *self.dense.items()):
            yield f"{name}.weight", layer.weight
            if layer.bias is not None:
                yield f"{name}.bias", layer.bias
            if name in self.norms:
                yield f"{name}.norm.scale", self.norms[name].weight
                yield f"{name}.norm.shift", self.norms[name].bias


def hinge(y, labels):
    t = 2.0 * nn.functional.one_hot(labels, y.shape[1]) - 1.0
    return (1 - t * y).clamp(min=0).square().mean()


def show(name, tensor):
    sizes = "x".join(map(str, tensor.shape)) or "1"
    print(name, sizes, *(f"{x:.9g}" for x in tensor.detach().reshape(-1).tolist()))


def run(network, size, channels, filters, units, classes, output_norm, loss_of, batch):
    net = Net(size, channels, filters, units, classes, output_norm)
    with torch.no_grad():
        for name, parameter in net.named():
            scale, shift = (0.5, 1.0) if name.endswith("scale") else (0.8, 0.0)
            parameter.copy_(exact(shift + scale * (torch.rand_like(parameter) - 0.5)))
    images = exact(torch.randn(batch, channels, size, size))
    labels = torch.randint(classes, (batch,))
    x = images if filters else last(images).flatten(1)
    # This project adds Adam's epsilon before it corrects the bias; at the first step that is this one.
    adam = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.9, BETA2), eps=1e-8 / (1 - BETA2) ** 0.5)
    show(f"{network}/images", last(images))
    show(f"{network}/labels", labels)
    for name, parameter in net.named():
        show(f"{network}/{name}", last(parameter))
    loss = loss_of(net(x), labels)
    loss.backward()
    show(f"{network}/loss", loss)
    for name, parameter in net.named():
        show(f"{network}/{name}.gradient", last(parameter.grad))
    adam.step()
    for name, parameter in net.named():
        show(f"{network}/{name}.after", last(parameter))
    for name, norm in net.norms.items():
        show(f"{network}/{name}.norm.mean", norm.running_mean)
        show(f"{network}/{name}.norm.variance", norm.running_var)
    net.eval()
    outputs = net(x)
    show(f"{network}/evaluation.loss", loss_of(outputs, labels))
    show(f"{network}/evaluation.errors", (outputs.argmax(1) != labels).sum())


torch.manual_seed(1)
cross_entropy = nn.functional.cross_entropy
run("mlp", 4, 1, [], [15, 17, 13], 10, True, hinge, 9)
run("vgg", 8, 3, [4, 6, 5], [11, 12], 10, True, hinge, 16)
run("vgg100", 8, 3, [4, 6], [11], 23, False, cross_entropy, 6)
