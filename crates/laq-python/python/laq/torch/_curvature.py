"""The curvature of a trained model."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ._selection import evaluation, modules_of, named_weights


def fisher(
    model: torch.nn.Module,
    batches: Iterable[Any],
    loss: Callable[[torch.nn.Module, Any], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The diagonal of the empirical Fisher information: the mean over batches of g², with the gradient g of the loss.

    Small batches are better than large ones, in whose gradients the examples cancel.

    Parameters
    ----------
    model : torch.nn.Module
        The model, in the mode that it is to be looked at (``model.eval()``, usually). Its gradients are left as they are.
    batches : iterable
        What ``loss`` takes.
    loss : callable
        ``loss(model, batch)`` returns the mean loss of a batch.

    Returns
    -------
    dict
        For the name of each trained parameter with two or more dimensions a tensor of its shape, in float32.

    Raises
    ------
    ValueError
        No batches, or a gradient that is not finite.
    """
    weights = [(name, p) for name, _, p in named_weights(model) if p.requires_grad]
    if not weights:
        raise ValueError("no parameter of the model with two or more dimensions requires a gradient")
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for _, parameter in weights]
    count = 0
    for batch in batches:
        with torch.enable_grad():
            found = loss(model, batch)
            gradients = torch.autograd.grad(found, [p for _, p in weights], allow_unused=True)
        for (name, _), total, gradient in zip(weights, sums, gradients, strict=True):
            if gradient is None:
                continue
            if not bool(torch.isfinite(gradient).all()):
                raise ValueError(f"the gradient of {name} in batch {count} is not finite")
            total += gradient.double() ** 2
        count += 1
    if count == 0:
        raise ValueError("there are no batches")
    return {name: (total / count).float() for (name, _), total in zip(weights, sums, strict=True)}


@torch.no_grad()
def input_second_moments(
    model: torch.nn.Module,
    batches: Iterable[Any],
    forward: Callable[[torch.nn.Module, Any], Any] | None = None,
) -> dict[str, torch.Tensor]:
    """The mean x² of the inputs that each weight is multiplied by: the curvature of the squared error of a layer's outputs.

    It is that of linear layers, convolutions (also transposed ones), embeddings (the frequency of each row), and of LSTM,
    GRU and RNN layers, whose hidden states are computed again; and of ``in_proj_weight`` of attention, but not of its
    ``out_proj``. Layers with packed sequences are left out. The model runs in evaluation mode, and has its modes afterwards.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    batches : iterable
        Inputs.
    forward : callable, optional
        ``forward(model, batch)`` runs the model; ``model(batch)`` if None.

    Returns
    -------
    dict
        For the name of each weight of these layers that the batches reached a tensor of its shape, in float32.

    Raises
    ------
    ValueError
        No batches, or an input that is not finite.
    """
    names = {id(parameter): name for name, _, parameter in named_weights(model)}
    moments = _Moments(names)
    modules = modules_of(model).modules()
    handles = [module.register_forward_pre_hook(moments.hook, with_kwargs=True) for module in modules]
    count = 0
    try:
        with evaluation(model):
            for batch in batches:
                model(batch) if forward is None else forward(model, batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        raise ValueError("there are no batches")
    found = {}
    for parameter, (total, positions) in moments.sums.values():
        name = names[id(parameter)]
        mean = (total / positions).float()
        if not bool(torch.isfinite(mean).all()):
            raise ValueError(f"the inputs of {name} are not finite")
        found[name] = mean.expand(parameter.shape).contiguous()
    return found


# Inputs of torch's layers that may be given by name, in the order of their places.
_INPUTS = ("input", "hx", "query", "key", "value")


class _Moments:
    """Sums of x² by parameter, in shapes that expand to those of the parameters, and how many positions they are of."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.sums: dict[int, tuple[torch.Tensor, tuple[torch.Tensor, int]]] = {}

    def add(self, parameter: torch.Tensor, total: torch.Tensor, positions: int) -> None:
        # A parametrized weight is computed at each access, and no parameter.
        if id(parameter) not in self.names:
            return
        _, (before, count) = self.sums.get(id(parameter), (parameter, (torch.zeros_like(total), 0)))
        self.sums[id(parameter)] = (parameter, (before + total, count + positions))

    def hook(self, module: torch.nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        inputs = (*inputs, *(keywords[name] for name in _INPUTS if name in keywords))
        if not inputs or not isinstance(inputs[0], torch.Tensor):
            return
        x = inputs[0].detach()
        if isinstance(module, torch.nn.Linear):
            rows = x.reshape(-1, x.shape[-1]).double()
            self.add(module.weight, (rows**2).sum(0), len(rows))
        elif isinstance(module, torch.nn.Embedding):
            counts = torch.bincount(x.reshape(-1), minlength=module.num_embeddings)
            self.add(module.weight, counts.double()[:, None], x.numel())
        elif isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
            self._convolution(module, x)
        elif isinstance(
            module, (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
        ):
            # Every input meets every weight of its channel.
            channels = x.transpose(0, 1) if x.dim() == module.weight.dim() else x
            flat = channels.reshape(len(channels), -1).double()
            total = (flat**2).sum(1).view(-1, *[1] * (module.weight.dim() - 1))
            self.add(module.weight, total, flat.shape[1])
        elif isinstance(module, torch.nn.MultiheadAttention):
            if module.in_proj_weight is not None and len(inputs) >= 3:
                parts = [part.detach().reshape(-1, part.shape[-1]).double() for part in inputs[:3]]
                means = torch.stack([(rows**2).mean(0) for rows in parts])
                width = module.embed_dim
                each = means[:, None].expand(3, width, width).reshape(3 * width, width)
                self.add(module.in_proj_weight, each * len(parts[0]), len(parts[0]))
        elif isinstance(module, torch.nn.RNNBase):
            self._recurrent(module, x, inputs[1] if len(inputs) > 1 else None)

    def _convolution(self, module: Any, x: torch.Tensor) -> None:
        """The gradient of Σ y with respect to the weights of a convolution of x² is the sum of x² that each one meets."""
        weight = torch.zeros_like(module.weight[: module.groups], dtype=torch.float64, requires_grad=True)
        if x.dim() < module.weight.dim():
            x = x[None]
        squares = x.double() ** 2
        if module.padding_mode != "zeros":
            squares = torch.nn.functional.pad(
                squares, module._reversed_padding_repeated_twice, mode=module.padding_mode
            )
        padding = module.padding if module.padding_mode == "zeros" else 0
        with torch.enable_grad():
            dimension = module.weight.dim() - 2
            convolution = getattr(torch.nn.functional, f"conv{dimension}d")
            y = convolution(squares, weight, None, module.stride, padding, module.dilation, module.groups)
            (total,) = torch.autograd.grad(y.sum(), weight)
        positions = y.numel() // y.shape[1]
        # A filter has the inputs of its group.
        total = total.repeat_interleave(module.out_channels // module.groups, 0)
        self.add(module.weight, total, positions)

    def _recurrent(self, module: torch.nn.RNNBase, x: torch.Tensor, state: Any) -> None:
        """Runs the layers one after another, for the inputs and hidden states of each."""
        if x.dim() == 2:
            x = x[:, None]
            state = _map_state(state, lambda part: part[:, None])
        elif module.batch_first:
            x = x.transpose(0, 1)
        directions = 2 if module.bidirectional else 1
        options: dict[str, Any] = {"bias": module.bias, "bidirectional": module.bidirectional}
        if isinstance(module, torch.nn.LSTM):
            options["proj_size"] = module.proj_size
        elif isinstance(module, torch.nn.RNN):
            options["nonlinearity"] = module.nonlinearity
        kind_of_layer: Any = type(module)
        for layer in range(module.num_layers):
            single = kind_of_layer(x.shape[-1], module.hidden_size, 1, **options)
            suffixes = ["", "_reverse"][:directions]
            for suffix in suffixes:
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
                    if hasattr(module, f"{kind}_l{layer}{suffix}"):
                        setattr(single, f"{kind}_l0{suffix}", getattr(module, f"{kind}_l{layer}{suffix}"))
            own = _map_state(state, operator.itemgetter(slice(layer * directions, (layer + 1) * directions)))
            y = single(x, own)[0]
            squares = (x.double() ** 2).sum((0, 1))
            width = y.shape[-1] // directions
            for direction, suffix in enumerate(suffixes):
                hidden = y[..., direction * width : (direction + 1) * width].double()
                # The step that has no hidden state of another starts from that of the caller.
                hidden = hidden[1:] if suffix else hidden[:-1]
                total = (hidden**2).sum((0, 1))
                if own is not None:
                    first = own[0] if isinstance(own, tuple) else own
                    total = total + (first[direction].double() ** 2).sum(0)
                positions = x.shape[0] * x.shape[1]
                self.add(getattr(module, f"weight_ih_l{layer}{suffix}"), squares, positions)
                self.add(getattr(module, f"weight_hh_l{layer}{suffix}"), total, positions)
            x = y


def _map_state(state: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The state of an RNN or GRU, or both parts of that of an LSTM."""
    if state is None:
        return None
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)
