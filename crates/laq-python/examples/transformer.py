"""A causal transformer, trained in full precision, that goes on with 2 bits a weight in blocks of 64."""

import copy

import common
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import laq.torch

options = common.options(__doc__, steps=150)
torch.manual_seed(options.seed)
tokens, alphabet = common.text(200_000, seed=1)
test_tokens, _ = common.text(20_000, seed=2)
LENGTH = 64


class Transformer(nn.Module):
    """Logits of the next character, (batch, length, characters), for at most ``LENGTH`` characters."""

    def __init__(self, characters: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(torch.zeros(LENGTH, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, characters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embedding(x) + self.position
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        for layer in self.layers:
            y = layer(y, mask, is_causal=True)
        return self.head(y)


def loss(model: nn.Module) -> torch.Tensor:
    x, y = common.windows(tokens, 16, LENGTH)
    return cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def test_loss(model: nn.Module) -> float:
    torch.manual_seed(0)
    x, y = common.windows(test_tokens, 200, LENGTH)
    return float(cross_entropy(model(x).flatten(0, 1), y.flatten()))


full = Transformer(len(alphabet), 128, 2)
common.train(full, torch.optim.Adam(full.parameters(), lr=3e-3), options.steps, loss)
two_bits = copy.deepcopy(full)

optimizer = torch.optim.Adam(full.parameters(), lr=1e-3)
common.train(full, optimizer, options.steps, loss)

# The change: training goes on with quantized weights; the head and the embedding keep full precision.
optimizer = torch.optim.Adam(two_bits.parameters(), lr=1e-3)
optimizer = laq.torch.LossAware(optimizer, two_bits, format="q2_0", exclude="head.*")
common.train(two_bits, optimizer, options.steps, loss)

figures = {"nats a character": (test_loss(full), test_loss(two_bits))}
common.report(f"{options.folder}/transformer.safetensors", full, two_bits, figures)
