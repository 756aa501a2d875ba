"""One training step of the paper's CIFAR-10 network ((2x128C3)-MP2-(2x256C3)-MP2-(2x512C3)-MP2-(2x1024FC)-10 with
batch normalization, squared hinge loss, batch 50): forward, backward and Adam, ours and PyTorch's in turn, in one
run, on the same cores.

    python3 benches/pytorch/vgg_step.py [--repetitions 15] [--threads 2] [--json FILE]

PyTorch takes part twice, in full precision with its fused Adam: with its images channels first, as it stores
them by default, and channels last, as this project stores them.
"""

import torch

import feedforward
import interleave

options = interleave.parser(__doc__, methods="full,lat-a").parse_args()
interleave.prepare(options)
images, labels = 2 * torch.rand(50, 3, 32, 32) - 1, torch.arange(50) % 10


def full(memory_format):
    net = feedforward.vgg().to(memory_format=memory_format)
    own_images = images.to(memory_format=memory_format)
    adam = torch.optim.Adam(net.parameters(), lr=0.002, fused=True)
    return interleave.stepper(lambda: feedforward.loss(net, own_images, labels), adam)


candidates = {
    "PyTorch full, channels first": full(torch.contiguous_format),
    "PyTorch full, channels last": full(torch.channels_last),
}
candidates |= interleave.ours(options, "cifar10")
peers = interleave.peers(options, "cifar10")
candidates |= peers
pairs = [("laq full", theirs) for theirs in list(candidates)[:2]] + [("laq lat-a", "laq full")]
pairs += [("laq full", peer) for peer in peers]
interleave.run(options, "A training step of the CIFAR-10 network, batch 50", candidates, pairs)
