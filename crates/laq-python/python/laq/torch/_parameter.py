"""Latent and quantized weights of one parameter."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _laq
from .._codebook import Codebook
from .._quantize import Quantized
from ._device import DeviceQuantizer

Job = tuple[_laq.ParameterQuantizer, NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]]


def is_on_host(tensor: torch.Tensor) -> bool:
    """Whether the solvers in Rust reach the memory of a tensor."""
    return tensor.device.type == "cpu"


class ParameterState:
    """The quantizer of a parameter, with buffers for its latent and its quantized weights.

    The parameter has one of both as its ``data``. Weights that are not contiguous, or whose outputs are not in front,
    are copied for the solver. Those on another device than the CPU are solved there.
    """

    def __init__(
        self,
        name: str,
        parameter: torch.nn.Parameter,
        quantizer: _laq.Quantizer,
        granularity: str,
        gates: int,
        axis: int,
    ) -> None:
        self.name = name
        # States are kept for as long as their parameters exist.
        self._parameter = weakref.ref(parameter)
        self.granularity = granularity
        self.axis = axis
        self.definition = quantizer
        self.trains_scales = quantizer.id == "ttq"
        self.has_latent_gradient = quantizer.has_latent_gradient
        self.latent = parameter.detach()
        self.quantized_weights = torch.empty_like(self.latent)
        matrix = self._matrix(self.latent)
        self.solver = _laq.ParameterQuantizer(name, list(matrix.shape), quantizer, granularity, gates)
        codebook = quantizer.codebook
        # What a state has in common with this one if its levels and scales mean the same weights.
        self._kind = {
            "values": [value / codebook.divisor for value in codebook.multipliers()],
            "two_scales": quantizer.two_scales,
            "groups": list(_laq.groups(granularity, len(matrix), matrix[0].numel(), gates)),
        }
        self.device: DeviceQuantizer | None = None
        self._is_direct = matrix.data_ptr() == self.latent.data_ptr()
        self._arrays: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        if is_on_host(self.latent):
            self._arrays = (self._flat(self.latent), self._flat(self.quantized_weights))
        else:
            columns = matrix[0].numel()
            place = self.latent.device
            self.device = DeviceQuantizer(quantizer, len(matrix), columns, granularity, gates, place)
        self._scale_gradient: torch.Tensor | None = None
        self._known: torch.Tensor | None = None
        self._job: Job | None = None
        # Of a state that was loaded, until the next solve.
        self._error: float | None = None
        self._pointer = self.quantized_weights.data_ptr()
        self._version = -1

    @property
    def parameter(self) -> torch.nn.Parameter:
        """The parameter."""
        found = self._parameter()
        assert found is not None
        return found

    def forget_latent(self) -> None:
        """Frees the latent weights, after the last solve."""
        self.latent = self.quantized_weights
        self._arrays, self._known, self._job = None, None, None

    def use_latent(self) -> None:
        """Gives the parameter its latent weights; :meth:`check` comes before."""
        self.parameter.data = self.latent

    def use_quantized(self) -> None:
        """Gives the parameter its quantized weights."""
        self.parameter.data = self.quantized_weights
        # A backward pass through weights of before the step is an error then, as with any optimizer.
        torch.autograd.graph.increment_version(self.parameter)
        self._version = self.parameter._version

    def check(self) -> None:
        """An error if the parameter has other weights than the quantized ones."""
        if self.parameter.data_ptr() != self._pointer:
            raise RuntimeError(
                f"the data of {self.name} was replaced: move or convert a model before it is quantized, and "
                f"quantize it with one optimizer"
            )
        if self.parameter._version != self._version:
            raise RuntimeError(
                f"the quantized weights of {self.name} were written to: quantize the model again, or in training "
                f"with LossAware change weights, or load them, within `with optimizer.latent():`"
            )

    def job(self, curvature: torch.Tensor | None) -> Job:
        """What ``_laq.solve_parameters`` takes; :meth:`finish` comes after it."""
        self._error = None
        if curvature is self._known and self._job is not None:
            return self._job
        d = None if curvature is None else self._flat(self._checked(curvature))
        if not self._is_direct:
            # An error may leave it as it is.
            self._copy = self._flat(self.quantized_weights).copy()
            return (self.solver, self._flat(self.latent), d, self._copy)
        assert self._arrays is not None
        job = (self.solver, self._arrays[0], d, self._arrays[1])
        if curvature is None or d is None or d.ctypes.data == curvature.data_ptr():
            # Optimizers write to the same tensor in every step.
            self._known, self._job = curvature, job
        return job

    def finish(self) -> None:
        """Takes the result of a job."""
        if self.device is None and not self._is_direct:
            copied = torch.from_numpy(self._copy)
            self.quantized_weights.copy_(self._unmatrix(copied))
            del self._copy

    def solve_on_device(self, curvature: torch.Tensor | None, is_second_moment: bool) -> None:
        """Solves where the parameter is."""
        assert self.device is not None
        self._error = None
        w, out = self._matrix(self.latent), self._matrix(self.quantized_weights)
        d = None if curvature is None else self._matrix(self._checked(curvature))
        try:
            if d is not None and is_second_moment:
                self.device.solve(w, d, out)
            else:
                self.device.solve_with_curvature(w, d, out)
        except ValueError as error:
            raise ValueError(f"cannot quantize {self.name}: {error}") from None
        if not self._is_direct:
            self.quantized_weights.copy_(self._unmatrix(out.view(-1)))

    def to_latent_gradient(self, threads: int | None) -> None:
        """Turns the gradient of the quantized weights into that of the latent ones."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        matrix = self._matrix(gradient)
        if self.device is not None:
            self._scale_gradient = self.device.scale_gradient(matrix)
            self.device.latent_gradient(self._matrix(self.latent), matrix)
        else:
            self.solver.latent_gradient(self._flat(self.latent), matrix.view(-1).numpy(), threads)
        if matrix.data_ptr() != gradient.data_ptr():
            gradient.copy_(self._unmatrix(matrix.view(-1)))

    def scales(self) -> torch.Tensor:
        """The scales, a row for each group, where the parameter is."""
        if self.device is not None:
            return self.device.scales.view(-1, 2 if self.definition.two_scales else 1).clone()
        return torch.from_numpy(self.solver.scales())

    def scale_gradients(self) -> torch.Tensor:
        """The gradients of trained scales as of the last :meth:`to_latent_gradient`."""
        if self.device is not None:
            assert self._scale_gradient is not None
            return self._scale_gradient
        return torch.from_numpy(self.solver.scale_gradients())

    def set_scales(self, scales: torch.Tensor) -> None:
        """Replaces trained scales."""
        if self.device is not None:
            self.device.load(self.device.levels, scales)
        else:
            self.solver.set_scales(scales.numpy())

    def error(self) -> float:
        """½ Σ d (w − ŵ)² as of the last solve."""
        if self._error is not None:
            return self._error
        return self.solver.error() if self.device is None else float(self.device.weighted_error.sum())

    def state_dict(self) -> dict[str, Any]:
        """Latent weights, levels, scales and the error, with what they are of."""
        on_host = torch.from_numpy(self.solver.levels())
        levels = on_host if self.device is None else self.device.levels.clone()
        error = torch.tensor(self.error(), dtype=torch.float64)
        tensors = {"latent": self.latent.clone(), "levels": levels, "scales": self.scales(), "error": error}
        return {**tensors, "method": self.definition.id, "granularity": self.granularity, **self._kind}

    def check_state(self, state: dict[str, Any]) -> None:
        """An error if a :meth:`state_dict` has weights of another shape, or other levels, scales or groups."""
        if state["latent"].shape != self.latent.shape:
            raise ValueError(
                f"the state of {self.name} has the shape {tuple(state['latent'].shape)}, expected "
                f"{tuple(self.latent.shape)}"
            )
        if any(state.get(key, own) != own for key, own in self._kind.items()):
            raise ValueError(
                f"the state of {self.name} is of another method or granularity: found `{state['method']}` with "
                f"`{state['granularity']}`, expected `{self.definition.id}` with `{self.granularity}`"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; the parameter has its quantized weights afterwards."""
        decoded = self._load(state["levels"], state["scales"])
        if self.device is not None:
            self.device.load(state["levels"], state["scales"])
        self._error = float(state.get("error", torch.nan))
        self.latent.copy_(state["latent"])
        self.quantized_weights.copy_(self._unmatrix(decoded))

    def _load(self, levels: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Gives levels and scales to the solver in Rust, which decodes them."""
        decoded = np.empty(self.latent.numel(), np.float32)
        self.solver.load(levels.cpu().numpy(), scales.cpu().numpy(), decoded)
        return torch.from_numpy(decoded)

    def quantized(self) -> Quantized:
        """Levels and scales of the quantized weights."""
        self.check()
        if self.device is not None:
            self._load(self.device.levels, self.scales())
        levels = torch.from_numpy(self.solver.levels())
        steps = self.solver.steps()
        block = None
        if self.granularity.startswith("block:"):
            block = int(self.granularity.removeprefix("block:"))
            axis: int | None = self.axis
            rows = self.latent.shape[self.axis]
            shape: tuple[int, ...] = (rows, len(steps) // rows)
        elif len(steps) == 1:
            axis, shape = None, ()
        else:
            axis, shape = self.axis, (len(steps),)
        if steps.shape[1] == 2:
            shape = (*shape, 2)
        return Quantized(
            levels=self._unmatrix(levels).contiguous().numpy(),
            scale=steps.reshape(shape),
            error=self.error(),
            decoded=self.quantized_weights.contiguous().cpu().numpy().copy(),
            method=self.definition.id,
            codebook=Codebook(self.definition.codebook),
            axis=axis,
            block=block,
        )

    def _matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        """With the axis of the outputs in front, contiguous."""
        return tensor.movedim(self.axis, 0).contiguous()

    def _unmatrix(self, flat: torch.Tensor) -> torch.Tensor:
        shape = self.latent.movedim(self.axis, 0).shape
        return flat.view(shape).movedim(0, self.axis)

    def _flat(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self._matrix(tensor.detach()).view(-1).numpy()
        return array

    def _checked(self, curvature: torch.Tensor) -> torch.Tensor:
        if not isinstance(curvature, torch.Tensor) or curvature.shape != self.latent.shape:
            shape = tuple(getattr(curvature, "shape", ()))
            raise ValueError(
                f"the curvature of {self.name} is a {type(curvature).__name__} of shape {shape}, expected a "
                f"tensor of shape {tuple(self.latent.shape)}"
            )
        return curvature.detach().to(self.latent.device, torch.float32)


def solve(
    states: list[ParameterState],
    curvature_of: Callable[[ParameterState], torch.Tensor | None],
    is_second_moment: bool,
    threads: int,
) -> None:
    """Writes the quantized weights of all parameters, with d or the second moment of each."""
    jobs = []
    for state in states:
        if state.device is None:
            jobs.append(state.job(curvature_of(state)))
        else:
            state.solve_on_device(curvature_of(state), is_second_moment)
    if jobs:
        try:
            _laq.solve_parameters(jobs, is_second_moment, threads)
        finally:
            for state in states:
                state.finish()
