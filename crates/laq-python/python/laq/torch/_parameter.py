"""Latent and quantized weights of one parameter."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _laq
from .._codebook import Codebook
from .._quantize import Quantized

Job = tuple[
    _laq.ParameterQuantizer, NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]
]


class ParameterState:
    """The quantizer of a parameter, with buffers for its latent and its quantized weights.

    The parameter has one of both as its ``data``. Weights that are not contiguous, or whose outputs are not in front,
    are copied for the solver.
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
        self.parameter = parameter
        self.granularity = granularity
        self.axis = axis
        self.definition = quantizer
        self.trains_scales = quantizer.id == "ttq"
        self.has_latent_gradient = quantizer.has_latent_gradient
        self.latent = parameter.detach()
        self.quantized_weights = torch.empty_like(self.latent)
        matrix = self._matrix(self.latent)
        self.solver = _laq.ParameterQuantizer(name, list(matrix.shape), quantizer, granularity, gates)
        self._is_direct = matrix.data_ptr() == self.latent.data_ptr()
        self._arrays = (self._flat(self.latent), self._flat(self.quantized_weights))
        self._known: torch.Tensor | None = None
        self._job: Job | None = None
        self._pointer = self.quantized_weights.data_ptr()
        self._version = -1

    def use_latent(self) -> None:
        """Gives the parameter its latent weights."""
        self.check()
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
                f"the data of {self.name} was replaced: move or convert a model before it is quantized"
            )
        if self.parameter._version != self._version:
            raise RuntimeError(
                f"the quantized weights of {self.name} were written to: change weights, or load them, within "
                f"`with optimizer.latent():`"
            )

    def job(self, curvature: torch.Tensor | None) -> Job:
        """What ``_laq.solve_parameters`` takes; :meth:`finish` comes after it."""
        if curvature is self._known and self._job is not None:
            return self._job
        d = None if curvature is None else self._curvature_array(curvature)
        if not self._is_direct:
            self._copy = np.empty(self.latent.numel(), np.float32)
            return (self.solver, self._flat(self.latent), d, self._copy)
        job = (self.solver, self._arrays[0], d, self._arrays[1])
        if d is None or d.ctypes.data == curvature.data_ptr():
            # Optimizers write to the same tensor in every step.
            self._known, self._job = curvature, job
        return job

    def finish(self) -> None:
        """Takes the result of a job."""
        if not self._is_direct:
            copied = torch.from_numpy(self._copy)
            self.quantized_weights.copy_(self._unmatrix(copied))
            del self._copy

    def to_latent_gradient(self, threads: int | None) -> None:
        """Turns the gradient of the quantized weights into that of the latent ones."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        matrix = self._matrix(gradient)
        _laq.latent_gradients([(self.solver, self._flat(self.latent), matrix.view(-1).numpy())], threads)
        if matrix.data_ptr() != gradient.data_ptr():
            gradient.copy_(self._unmatrix(matrix.view(-1)))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Latent weights, levels and scales."""
        return {
            "latent": self.latent.clone(),
            "levels": torch.from_numpy(self.solver.levels()),
            "scales": torch.from_numpy(self.solver.scales()),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores :meth:`state_dict`; the parameter has its quantized weights afterwards."""
        if state["latent"].shape != self.latent.shape:
            raise ValueError(
                f"the state of {self.name} has the shape {tuple(state['latent'].shape)}, expected "
                f"{tuple(self.latent.shape)}"
            )
        decoded = np.empty(self.latent.numel(), np.float32)
        self.solver.load(state["levels"].numpy(), state["scales"].numpy(), decoded)
        self.latent.copy_(state["latent"])
        self.quantized_weights.copy_(self._unmatrix(torch.from_numpy(decoded)))

    def quantized(self) -> Quantized:
        """Levels and scales of the quantized weights."""
        self.check()
        levels = torch.from_numpy(self.solver.levels())
        steps = self.solver.steps()
        rows = self._matrix(self.latent).shape[0]
        block = None
        if self.granularity.startswith("block:"):
            block = int(self.granularity.removeprefix("block:"))
            axis: int | None = self.axis
            shape: tuple[int, ...] = (rows, len(steps) // rows)
        elif len(steps) == 1:
            axis, shape = None, ()
        else:
            # Gates are rows with equal scales.
            axis, shape = self.axis, (rows,)
            steps = np.repeat(steps, rows // len(steps), axis=0)
        if steps.shape[1] == 2:
            shape = (*shape, 2)
        return Quantized(
            levels=self._unmatrix(levels).contiguous().numpy(),
            scale=steps.reshape(shape),
            error=self.solver.error(),
            decoded=self.quantized_weights.contiguous().numpy().copy(),
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

    def _curvature_array(self, curvature: torch.Tensor) -> NDArray[np.float32]:
        if not isinstance(curvature, torch.Tensor) or curvature.shape != self.latent.shape:
            shape = tuple(getattr(curvature, "shape", ()))
            raise ValueError(
                f"the curvature of {self.name} is a {type(curvature).__name__} of shape {shape}, expected a "
                f"tensor of shape {tuple(self.latent.shape)}"
            )
        return self._flat(curvature.detach().to(self.latent.device, torch.float32))
