"""Quantizing a model after training."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .._arrays import whole_number
from .._codebook import Codebook
from ._parameter import solve
from ._selection import Rules, Selection, choose, modules_of, remember


@torch.no_grad()
def quantize_(
    model: torch.nn.Module,
    method: str | None = None,
    *,
    curvature: Mapping[str, torch.Tensor] | None = None,
    bits: int | None = None,
    format: str | None = None,
    codebook: Codebook | None = None,
    granularity: str | None = None,
    include: Selection | None = None,
    exclude: Selection = (),
    rules: Rules | None = None,
    threads: int | None = None,
) -> dict[str, float]:
    """Replaces the weights of a trained model by quantized ones, which minimise ½ Σ d (w − ŵ)².

    Parameters
    ----------
    model : torch.nn.Module
        The model; its weights are written to.
    curvature : dict, optional
        d by the names of the parameters, each of the parameter's shape: of :func:`fisher` or
        :func:`input_second_moments`. None, and for parameters that are not in it, means 1.
    method, bits, format, codebook, granularity, include, exclude, rules, threads
        As those of :class:`LossAware`.

    Returns
    -------
    dict
        Σ d (w − ŵ)² / Σ d w² by the name of each quantized parameter.

    Raises
    ------
    ValueError
        As :class:`LossAware`; a weight or curvature that is not finite. No weight is changed then.
    """
    chosen = choose(model, method, bits, format, codebook, granularity, include, exclude, rules)
    states = [found.state() for found in chosen]
    given = {} if curvature is None else curvature
    unknown = sorted(set(given) - {name for name, _ in modules_of(model).named_parameters()})
    if unknown:
        raise ValueError(f"the curvature has {unknown[0]}, which is no parameter of the model")
    count = torch.get_num_threads() if threads is None else whole_number(threads, "threads")
    solve(states, lambda state: given.get(state.name), False, count)
    # There is no next step in which an alternating method would go on from its levels.
    unsettled = [state for state in states if state.definition.algorithm == "alternating"]
    while unsettled:
        before = [state.error() for state in unsettled]
        solve(unsettled, lambda state: given.get(state.name), False, count)
        unsettled = [state for state, error in zip(unsettled, before, strict=True) if state.error() < error]
    errors = {}
    for state in states:
        squares = state.latent.double() ** 2
        if state.name in given:
            squares *= given[state.name].to(squares.device)
        whole = float(squares.sum())
        errors[state.name] = 2 * state.error() / whole if whole > 0 else 0.0
    for state in states:
        remember(state.parameter, state)
        state.use_quantized()
        state.forget_latent()
    return errors
