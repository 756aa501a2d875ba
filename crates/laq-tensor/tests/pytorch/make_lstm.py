"""Writes lstm.txt: one forward and backward pass of a small character LSTM by PyTorch, in f64.

    python3 make_lstm.py > lstm.txt          (made with PyTorch 2.15.0)

One line per tensor: name, sizes joined by x, values. The gradients are written twice: with the
gradients of the gates' pre-activations clipped at every time step to a limit that many of them
exceed ("clipped"), and without ("free"). The script compares the free ones with torch.nn.LSTM.
"""

import torch

T, B, V, H, CLIP = 6, 5, 7, 12, 2e-3
torch.manual_seed(1)
torch.set_default_dtype(torch.float64)


def uniform(*shape):
    """Weights that are exact in f32, so that both sides have the same."""
    return ((torch.rand(*shape) - 0.5) * 1.2).float().double().requires_grad_()


weights = {
    "weight_ih": uniform(4 * H, V),
    "weight_hh": uniform(4 * H, H),
    "bias": uniform(4 * H),
    "output_weight": uniform(V, H),
    "output_bias": uniform(V),
}
inputs, targets = torch.randint(V, (T, B)), torch.randint(V, (T, B))


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(context, a, limit):
        context.limit = limit
        return a.view_as(a)

    @staticmethod
    def backward(context, gradient):
        return gradient.clamp(-context.limit, context.limit), None


def loss_of(hidden):
    logits = hidden.reshape(T * B, H) @ weights["output_weight"].T + weights["output_bias"]
    return torch.nn.functional.cross_entropy(logits, targets.reshape(-1))


def by_hand(limit):
    h, c, hidden = torch.zeros(B, H), torch.zeros(B, H), []
    for t in range(T):
        a = weights["weight_ih"].T[inputs[t]] + h @ weights["weight_hh"].T + weights["bias"]
        i, f, g, o = Clip.apply(a, limit).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        hidden.append(h)
    return loss_of(torch.stack(hidden))


def by_library():
    lstm = torch.nn.LSTM(V, H)
    parameters = (weights["weight_ih"], weights["weight_hh"], weights["bias"], torch.zeros(4 * H))
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    one_hot = torch.nn.functional.one_hot(inputs, V).double()
    return loss_of(torch.func.functional_call(lstm, dict(zip(names, parameters)), one_hot)[0])


def gradients(loss):
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), retain_graph=True)))


def show(name, tensor):
    sizes = "x".join(map(str, tensor.shape)) or "1"
    print(name, sizes, *(repr(x) for x in tensor.detach().reshape(-1).tolist()))


free, clipped, library = by_hand(float("inf")), by_hand(CLIP), by_library()
assert torch.allclose(free, library, rtol=1e-12)
for name, gradient in gradients(library).items():
    assert torch.allclose(gradient, gradients(free)[name], rtol=1e-9, atol=1e-12), name

show("inputs", inputs)
show("targets", targets)
show("clip", torch.tensor(CLIP))
show("loss", free)
for name, value in weights.items():
    show(name, value)
for label, loss in (("free", free), ("clipped", clipped)):
    for name, value in gradients(loss).items():
        show(f"{label}.{name}", value)
