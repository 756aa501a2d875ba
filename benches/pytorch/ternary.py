"""The ternary problem in PyTorch: minimise 1/2 sum d (w - a b)^2 over a > 0, b in {-1, 0, 1}^n (PAPER.md, 1 and 2).

`exact(w, d)` solves it once. The others are for training: each makes the solver of one weight, a
function (w, v) -> a b with Adam's second moment v, d = sqrt(v) + 1e-8, that starts from its levels of the
step before; at first from the sign of every weight. They stop by the rule of our alternating solver:
when the scale moves by at most 1e-6, or after ten iterations.
"""

import torch

FLOOR, TOLERANCE, MAX_ITERATIONS = 1e-8, 1e-6, 10


def exact(w, d):
    """The scale and the levels, by sorting: the best prefix has the largest (sum d|w|)^2 / sum d."""
    magnitude, order = w.abs().sort(descending=True)
    d = d[order].double()
    S, D = (d * magnitude).cumsum(0), d.cumsum(0)
    best = (S * S / D).argmax()
    scale = (S[best] / D[best]).float()
    return scale, torch.where(w.abs() > scale / 2, w.sign(), 0)


def by_sorting(weight):
    def solve(w, v):
        scale, levels = exact(w.view(-1), v.view(-1).sqrt() + FLOOR)
        return (scale * levels).view_as(w)

    return solve


def by_elements(weight):
    """Alternating, as the formulas stand."""
    b = weight.sign()

    def solve(w, v):
        nonlocal b
        d = v.sqrt() + FLOOR

        def best_scale():
            return (d * b.abs() * w.abs()).sum() / (d * b.square()).sum()

        scale = best_scale()
        for _ in range(MAX_ITERATIONS):
            b = (w.abs() > scale / 2) * w.sign()
            before, scale = scale, best_scale()
            if (scale - before).abs() <= TOLERANCE:
                break
        return scale * b

    return solve


def by_dots(weight):
    """Alternating with everything that does not change computed once, dot products, and no temporaries."""
    d, magnitude, product, mask, quantized = (torch.empty(weight.numel()) for _ in range(5))
    mask.fill_(1)

    def solve(w, v):
        w = w.view(-1)
        torch.sqrt(v.view(-1), out=d).add_(FLOOR)
        torch.abs(w, out=magnitude)
        torch.mul(d, magnitude, out=product)

        def best_scale():
            return (torch.dot(mask, product) / torch.dot(mask, d)).item()

        scale = best_scale()
        for _ in range(MAX_ITERATIONS):
            torch.gt(magnitude, scale / 2, out=mask)
            before, scale = scale, best_scale()
            if abs(scale - before) <= TOLERANCE:
                break
        return torch.mul(mask, scale, out=quantized).copysign_(w).view_as(weight)

    return solve


def sums(w, d, b):
    return (d * b * w).sum() / (d * b.square()).sum()


def one_round(w, d, scale):
    """The best scale for the levels that are nearest for this one."""
    mask = w.abs() > scale / 2
    return (d * w.abs() * mask).sum() / (d * mask).sum()


def levels(w, scale):
    return (w.abs() > scale / 2) * w.sign()


def by_compiling(weight):
    """Alternating, with loops that torch.compile fuses: an iteration reads w and d once and writes nothing."""
    fused_sums, fused_round, fused_levels = (
        torch.compile(function, dynamic=True) for function in (sums, one_round, levels))
    b = weight.view(-1).sign()

    def solve(w, v):
        nonlocal b
        w, d = w.view(-1), v.view(-1).sqrt() + FLOOR
        scale = fused_sums(w, d, b)
        for _ in range(MAX_ITERATIONS):
            before, scale = scale, fused_round(w, d, scale)
            if (scale - before).abs() <= TOLERANCE:
                break
        b = fused_levels(w, scale)
        return (scale * b).view_as(weight)

    return solve
