"""Ternary weights for an LSTM that reads characters, trained from scratch with a scale for each gate."""

import copy

import common
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import laq.torch

options = common.options(__doc__, steps=200)
torch.manual_seed(options.seed)
tokens, alphabet = common.text(200_000, seed=1)
test_tokens, _ = common.text(20_000, seed=2)


class CharLstm(nn.Module):
    """Logits of the next character, (batch, length, characters)."""

    def __init__(self, characters: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.lstm = nn.LSTM(32, units, batch_first=True)
        self.head = nn.Linear(units, characters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


def loss(model: nn.Module) -> torch.Tensor:
    x, y = common.windows(tokens, 32, 64)
    return cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def test_loss(model: nn.Module) -> float:
    x, y = test_tokens[None, :-1], test_tokens[None, 1:]
    return float(cross_entropy(model(x).flatten(0, 1), y.flatten()))


full = CharLstm(len(alphabet), 128)
ternary = copy.deepcopy(full)

optimizer = torch.optim.Adam(full.parameters(), lr=1e-2)
common.train(full, optimizer, options.steps, loss)

# The change: latent weights within ±1, as in the paper.
optimizer = torch.optim.Adam(ternary.parameters(), lr=1e-2)
optimizer = laq.torch.LossAware(optimizer, ternary, method="lat-e", clip=1.0)
common.train(ternary, optimizer, options.steps, loss)

figures = {"nats a character": (test_loss(full), test_loss(ternary))}
common.report(f"{options.folder}/char_lstm.safetensors", full, ternary, figures)
