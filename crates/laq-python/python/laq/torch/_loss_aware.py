"""Training with quantized weights, by wrapping an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeAlias

import torch

from .._arrays import whole_number
from .._codebook import Codebook
from ._parameter import ParameterState, solve
from ._selection import Rules, Selection, choose, remember

Curvature: TypeAlias = Callable[[str, torch.nn.Parameter], torch.Tensor]

_SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum")
"""Where the optimizers of PyTorch keep a mean (or sum) of squared gradients: Adam, AdamW, NAdam and RAdam; RMSprop and
Adadelta; Adagrad."""


class LossAware(torch.optim.Optimizer):
    """An optimizer whose model computes with quantized weights.

    Every chosen parameter w has latent weights, which the wrapped optimizer updates, and quantized weights ŵ, which are
    its ``data`` between steps: forward and backward passes use them without a change to the model. After each step of the
    optimizer, ŵ minimises

        ½ Σ d (w − ŵ)²,   d = √v + 1e-8,

    where v is the optimizer's running mean of squared gradients (Hou and Kwok, ICLR 2018).

    It is a ``torch.optim.Optimizer`` with the parameter groups and the state of the wrapped one: schedulers,
    ``torch.amp.GradScaler``, accumulation and clipping of gradients are used as always.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any optimizer that updates parameters in place and calls a closure at most once.
    model : torch.nn.Module
        The model, on its device already; also a compiled one.
    method, bits, format, codebook
        As those of :func:`laq.quantize`; ``lat-e`` if none is given.
    granularity : str, optional
        The weights that share a scale: ``tensor``; ``gate`` (the default), which is each gate of an LSTM or GRU and the
        tensor for others; ``row``, which is an output; ``block:N``. A format has its own blocks.
    include, exclude : str, list of str, or predicate, optional
        Globs of parameter names (``"encoder.*.weight"``), or ``predicate(name, parameter)``. Without ``include``: the
        weights with two or more dimensions of linear, convolutional, recurrent and attention modules that the optimizer
        trains, without those that are frozen, and tied weights that another module has too, such as an embedding.
    rules : dict, optional
        Instead of all of these: globs with a method, a dict of ``method``, ``bits``, ``format``, ``codebook`` and
        ``granularity``, or None for full precision. The first that matches holds, for any parameter with two or more
        dimensions; those without a match keep full precision. ``{"lstm.*": "lat-e", "head.weight": {"format": "q4_0"}}``
    clip : float, optional
        Keeps latent weights within ± clip after each step, as the paper does with 1.
    curvature : callable, optional
        ``curvature(name, parameter)`` returns d, a tensor of the parameter's shape. Without it v is that of Adam, AdamW,
        NAdam, RAdam, RMSprop, Adadelta or Adagrad; for optimizers without one, such as SGD, it is a running mean of
        squared gradients with the factor ``beta2``.
    beta2 : float, optional
        The factor of that mean.
    threads : int, optional
        The threads of the solvers; ``torch.get_num_threads()`` if None. No result depends on it.

    Raises
    ------
    ValueError
        Unknown methods, globs that match nothing, parameters that are not float32 or not trained by the optimizer.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        method: str | None = None,
        *,
        bits: int | None = None,
        format: str | None = None,
        codebook: Codebook | None = None,
        granularity: str | None = None,
        include: Selection | None = None,
        exclude: Selection = (),
        rules: Rules | None = None,
        clip: float | None = None,
        curvature: Curvature | None = None,
        beta2: float = 0.999,
        threads: int | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer")
        if isinstance(optimizer, LossAware):
            raise ValueError(
                "optimizer is a LossAware already: wrap its optimizer once, with rules= for several methods"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates the loss several times in a step, which this does not support")
        if clip is not None and not clip > 0:
            raise ValueError(f"found clip={clip!r}, expected a number above 0, or None")
        if not 0 <= beta2 < 1:
            raise ValueError(f"found beta2={beta2!r}, expected 0 to below 1")
        chosen = choose(model, method, bits, format, codebook, granularity, include, exclude, rules)
        is_explicit = include is not None or rules is not None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = {id(p) for p in parameters if is_explicit or p.requires_grad}
        untrained = [found.name for found in chosen if id(found.parameter) not in trained]
        if untrained and (is_explicit or len(untrained) == len(chosen)):
            raise ValueError(
                f"{untrained[0]} is not among the parameters of the optimizer, or frozen: exclude it"
            )
        chosen = [found for found in chosen if id(found.parameter) in trained]

        # For the hooks and the profiler of the base class; groups and state are those of the wrapped optimizer.
        super().__init__([dict(group) for group in optimizer.param_groups], {})
        self.optimizer = optimizer
        self._share()
        self._clip = clip
        self._curvature = curvature
        self._beta2 = beta2
        self._threads = None if threads is None else whole_number(threads, "threads")
        self._running: dict[str, torch.Tensor] = {}
        self._states = [found.state() for found in chosen]
        self._by_name = {state.name: state for state in self._states}
        # Those whose squared gradients are averaged here, until the optimizer is seen to do so.
        self._averaged = {} if curvature is not None else dict(self._by_name)
        self._transformed = [state for state in self._states if state.has_latent_gradient]
        self._scales: dict[str, torch.nn.Parameter] = {}
        self._solve(self._states)
        self._add_scales()
        for state in self._states:
            remember(state.parameter, state)
            state.use_quantized()

    @property
    def scales(self) -> dict[str, torch.nn.Parameter]:
        """The trained scales of TTQ by the name of their parameter, shape (groups, 2): of positive and negative levels.

        They are in a parameter group of their own, the last, with the options of the group of the first such parameter,
        but no weight decay.
        """
        return dict(self._scales)

    @property
    def names(self) -> list[str]:
        """The names of the quantized parameters."""
        return [state.name for state in self._states]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of the optimizer on the latent weights, and the quantized weights of the new ones.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and its gradients, with the quantized weights.

        Raises
        ------
        ValueError
            A latent weight or its curvature is no longer finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for state in self._states:
            state.check()
        self._prepare_gradients()
        try:
            for state in self._states:
                state.use_latent()
            self.optimizer.step()
            if self._clip is not None:
                for state in self._states:
                    state.latent.clamp_(-self._clip, self._clip)
            self._solve(self._states)
        finally:
            for state in self._states:
                state.use_quantized()
        return loss

    @contextmanager
    def latent(self) -> Iterator[None]:
        """Within it the model has its latent weights, in full precision, to look at or to load others.

        Weights that were changed are quantized at its end, unless it ends with an exception.
        """
        for state in self._states:
            state.check()
        before = [state.latent.clone() for state in self._states]
        try:
            for state in self._states:
                state.use_latent()
            yield
            changed = [
                state
                for state, old in zip(self._states, before, strict=True)
                if not torch.equal(state.latent.view(torch.int32), old.view(torch.int32))
            ]
            self._solve(changed)
        finally:
            for state in self._states:
                state.use_quantized()

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer, latent weights, levels and scales: training that goes on from it has the same bits."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "parameters": {state.name: state.state_dict() for state in self._states},
            "scales": {name: scales.detach().clone() for name, scales in self._scales.items()},
            "running": {name: running.clone() for name, running in self._running.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; the model has the quantized weights of it afterwards.

        Raises
        ------
        ValueError
            The state of other parameters, shapes, parameter groups, levels or granularities. Nothing is changed then.
        """
        missing = {"optimizer", "parameters", "scales", "running"} - set(state_dict)
        if missing:
            raise ValueError(f"this is no state of LossAware: {sorted(missing)[0]!r} is missing")
        saved = state_dict["parameters"]
        different = sorted(set(saved) ^ set(self.names))
        if different:
            where = "saved" if different[0] in saved else "quantized here"
            raise ValueError(f"the state is of other parameters: only {where} is {different[0]}")
        for state in self._states:
            state.check_state(saved[state.name])
        for name, scales in self._scales.items():
            found = state_dict["scales"].get(name)
            if found is None or found.shape != scales.shape:
                raise ValueError(
                    f"the state has no trained scales of {name} in the shape {tuple(scales.shape)}"
                )
        for name, running in state_dict["running"].items():
            if name not in self._by_name or running.shape != self._by_name[name].latent.shape:
                raise ValueError(
                    f"the state has squared gradients of {name} in the shape {tuple(running.shape)}"
                )
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._share()
        for state in self._states:
            state.load_state_dict(saved[state.name])
            state.use_quantized()
        with torch.no_grad():
            for name, scales in self._scales.items():
                scales.copy_(state_dict["scales"][name])
        self._averaged = {} if self._curvature is not None else dict(self._by_name)
        self._running = {
            name: running.to(self._by_name[name].latent, copy=True)
            for name, running in state_dict["running"].items()
        }

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "LossAware shares weights with its model and cannot be copied or pickled: use state_dict()"
        )

    def _share(self) -> None:
        self.defaults = self.optimizer.defaults
        self.state = self.optimizer.state
        self.param_groups = self.optimizer.param_groups

    def _add_scales(self) -> None:
        """The scales of TTQ as parameters, which the optimizer trains."""
        for state in self._states:
            if state.trains_scales:
                self._scales[state.name] = torch.nn.Parameter(state.scales())
        if self._scales:
            first = self._by_name[next(iter(self._scales))].parameter
            own = next(g for g in self.param_groups if any(p is first for p in g["params"]))
            group = deepcopy({key: v for key, v in own.items() if key not in ("params", "param_names")})
            group["params"] = list(self._scales.values())
            if "param_names" in own:
                group["params"] = [(f"{name}.scales", scales) for name, scales in self._scales.items()]
            if "weight_decay" in group:
                group["weight_decay"] = 0.0
            self.optimizer.add_param_group(group)

    def _prepare_gradients(self) -> None:
        for state in self._transformed:
            has_gradient = state.parameter.grad is not None
            if has_gradient:
                state.to_latent_gradient(self._thread_count())
            if state.name in self._scales:
                self._scales[state.name].grad = state.scale_gradients() if has_gradient else None
        for name, state in self._averaged.items():
            gradient = state.parameter.grad
            if gradient is not None:
                running = self._running.setdefault(name, torch.zeros_like(state.latent))
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                running.mul_(self._beta2).addcmul_(gradient, gradient, value=1 - self._beta2)

    def _second_moment(self, state: ParameterState) -> torch.Tensor | None:
        own = self.optimizer.state.get(state.parameter)
        if own:
            for key in _SECOND_MOMENTS:
                if key in own:
                    self._averaged.pop(state.name, None)
                    self._running.pop(state.name, None)
                    found: torch.Tensor = own[key]
                    return found
        return self._running.get(state.name)

    def _solve(self, states: list[ParameterState]) -> None:
        for name, scales in self._scales.items():
            self._by_name[name].set_scales(scales.detach())
        solve(
            states,
            self._second_moment if self._curvature is None else self._given_curvature,
            self._curvature is None,
            self._thread_count(),
        )

    def _given_curvature(self, state: ParameterState) -> torch.Tensor:
        assert self._curvature is not None
        return self._curvature(state.name, state.parameter)

    def _thread_count(self) -> int:
        return torch.get_num_threads() if self._threads is None else self._threads
