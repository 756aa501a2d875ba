"""Loss-aware quantization of PyTorch models, in training and after it::

import laq, laq.torch

optimizer = laq.torch.LossAware(torch.optim.Adam(model.parameters(), 2e-3), model, method="lat-e")
for x, y in batches:
    optimizer.zero_grad()
    loss(model(x), y).backward()
    optimizer.step()
laq.export(model, "model.safetensors")
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("laq.torch needs PyTorch: pip install torch") from error

from ._curvature import fisher, input_second_moments
from ._loss_aware import LossAware
from ._quantize import quantize_
from ._selection import quantized

__all__ = ["LossAware", "fisher", "input_second_moments", "quantize_", "quantized"]
