"""Which parameters of a model are quantized, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from .. import _laq
from .._codebook import Codebook
from .._quantize import Quantized, _quantizer
from ._parameter import ParameterState

Predicate: TypeAlias = Callable[[str, torch.nn.Parameter], bool]
Selection: TypeAlias = str | Sequence[str] | Predicate
Rules: TypeAlias = Mapping[str, str | Mapping[str, Any] | None]

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
_GATES = {torch.nn.LSTM: 4, torch.nn.LSTMCell: 4, torch.nn.GRU: 3, torch.nn.GRUCell: 3}
_RECURRENT = (torch.nn.RNNBase, torch.nn.RNNCellBase)

_WEIGHTS = re.compile(
    r"(weight|weight_(ih|hh|hr)(_l\d+(_reverse)?)?|in_proj_weight|[qkv]_proj_weight)(_orig)?"
)
"""The weights of these modules, also with ``_orig`` as torch.nn.utils.prune names them, but no bias_k or weight_g."""

_OPTIONS = ("method", "bits", "format", "codebook", "granularity")

_states: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""The state of every parameter that is quantized."""


@dataclass(frozen=True)
class Chosen:
    """A parameter that is to be quantized."""

    name: str
    parameter: torch.nn.Parameter
    quantizer: _laq.Quantizer
    granularity: str
    gates: int
    axis: int
    """The axis of the outputs."""

    def state(self) -> ParameterState:
        """A quantizer of the parameter that has solved nothing."""
        return ParameterState(
            self.name, self.parameter, self.quantizer, self.granularity, self.gates, self.axis
        )


def modules_of(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself if it is a compiled one."""
    found = getattr(model, "_orig_mod", model)
    if not isinstance(found, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    return found


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, torch.nn.Parameter]]:
    """The parameters with elements in two or more dimensions, each once, and the modules that have them."""
    seen: set[int] = set()
    for prefix, module in modules_of(model).named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2 and parameter.numel() > 0 and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{name}" if prefix else name, module, parameter


@contextmanager
def evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Within it all modules are in evaluation mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def choose(
    model: torch.nn.Module,
    method: str | None,
    bits: int | None,
    format: str | None,
    codebook: Codebook | None,
    granularity: str | None,
    include: Selection | None,
    exclude: Selection,
    rules: Rules | None,
) -> list[Chosen]:
    """The parameters that are chosen by ``include`` without ``exclude``, or by the first of ``rules`` that matches."""
    weights = list(named_weights(model))
    names = [name for name, _, _ in weights]
    options: dict[str, Any] = dict(zip(_OPTIONS, (method, bits, format, codebook, granularity), strict=True))
    if rules is not None:
        given = [name for name, value in options.items() if value is not None]
        given += ["include"] if include is not None else []
        given += ["exclude"] if exclude != () else []
        if given:
            raise ValueError(f"found rules and {', '.join(given)}, which are part of a rule")
        _check_rules(rules, names)
        found = []
        for name, module, parameter in weights:
            pattern = _first_match(rules, name)
            rule = None if pattern is None else rules[pattern]
            if rule is not None:
                own = dict(rule) if isinstance(rule, Mapping) else {"method": rule}
                found.append(_chosen(name, module, parameter, **own))
        if not found:
            raise ValueError("the rules leave all parameters in full precision")
        return found
    included = None if include is None else _matcher(include, names, "include")
    excluded = _matcher(exclude, names, "exclude")
    others = _others(modules_of(model)) if included is None else set()
    found = []
    for name, module, parameter in weights:
        is_included = id(parameter) not in others if included is None else included(name, parameter)
        if is_included and not excluded(name, parameter):
            found.append(_chosen(name, module, parameter, **options))
    if not found:
        raise ValueError(f"no parameter is to be quantized; the model has {_listed(names)}")
    return found


def remember(parameter: torch.nn.Parameter, state: ParameterState) -> None:
    """Keeps the state for :func:`quantized`, as long as the parameter exists."""
    _states[parameter] = state


def quantized(model: torch.nn.Module) -> dict[str, Quantized]:
    """The parameters of a model that :class:`LossAware` or :func:`quantize_` has quantized, by their names.

    Tied parameters are there once, under their first name.

    Raises
    ------
    ValueError
        A quantized parameter was written to by others, so that it has no levels.
    """
    found = {}
    for name, _, parameter in named_weights(model):
        state: ParameterState | None = _states[parameter] if parameter in _states else None
        if state is not None:
            found[name] = state.quantized()
    return found


def _others(model: torch.nn.Module) -> set[int]:
    """The parameters that keep full precision if nothing else is said: those that are not in all of their modules a
    weight of a layer."""
    dense = (torch.nn.Linear, torch.nn.Bilinear, torch.nn.MultiheadAttention)
    layers = (*dense, *_CONVOLUTIONS, *_TRANSPOSED, *_RECURRENT)
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not (isinstance(module, layers) and _WEIGHTS.fullmatch(name))
    }


def _chosen(
    name: str,
    module: torch.nn.Module,
    parameter: torch.nn.Parameter,
    method: str | None = None,
    bits: int | None = None,
    format: str | None = None,
    codebook: Codebook | None = None,
    granularity: str | None = None,
) -> Chosen:
    if parameter.dtype != torch.float32:
        raise ValueError(
            f"{name} has elements of {parameter.dtype}, expected torch.float32: train float32 weights with "
            f"torch.autocast, or exclude it"
        )
    quantizer = _quantizer(method, bits, format, codebook)
    if quantizer.block is not None:
        own = f"block:{quantizer.block}"
        if granularity not in (None, own):
            raise ValueError(
                f"`{quantizer.id}` has a scale for {quantizer.block} weights, found "
                f"granularity={granularity!r}: omit it"
            )
        granularity = own
    if isinstance(module, _RECURRENT):
        gates = next((gates for kind, gates in _GATES.items() if isinstance(module, kind)), 1)
    else:
        gates = 3 if name.rsplit(".", 1)[-1] == "in_proj_weight" else 1
    if isinstance(module, torch.nn.LSTM) and name.rsplit(".", 1)[-1].startswith("weight_hr"):
        gates = 1
    axis = 1 if isinstance(module, _TRANSPOSED) else 0
    return Chosen(name, parameter, quantizer, granularity or "gate", gates, axis)


def _check_rules(rules: Rules, names: list[str]) -> None:
    """Every rule is the first that matches some parameter, and has known options."""
    first = {_first_match(rules, name) for name in names}
    for pattern, rule in rules.items():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"the rule {pattern!r} matches no parameter; the model has {_listed(names)}")
        if pattern not in first:
            raise ValueError(
                f"the rule {pattern!r} comes after others that match all of its parameters: move it up"
            )
        unknown = sorted(set(rule) - set(_OPTIONS)) if isinstance(rule, Mapping) else []
        if unknown:
            raise ValueError(f"the rule {pattern!r} has {unknown[0]!r}, expected {', '.join(_OPTIONS)}")


def _first_match(rules: Rules, name: str) -> str | None:
    return next((pattern for pattern in rules if fnmatchcase(name, pattern)), None)


def _matcher(selection: Selection, names: list[str], argument: str) -> Predicate:
    if callable(selection):
        return selection
    patterns = [selection] if isinstance(selection, str) else list(selection)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{argument}: {pattern!r} matches no parameter; the model has {_listed(names)}")
    return lambda name, _: any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: list[str]) -> str:
    return (", ".join(names[:8]) + (f" and {len(names) - 8} others" if len(names) > 8 else "")) or "none"
