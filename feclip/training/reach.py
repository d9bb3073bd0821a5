"""Which trained tensors a loss can reach: of image labels alone, those that a class score depends on.

A class score of a tap sees the adapters of the taps before it. So the class loss never reaches the last tap's adapters,
nor the patch head; the optimiser leaves them alone then, weight decay included.
"""

import torch

from feclip.errors import RunError
from feclip.model import FeClipModel

__all__ = ["class_parameters"]


def class_parameters(model: FeClipModel) -> set[str]:
    """Return the names of the trained parameters that the class scores depend on, as a backward pass finds them.

    Raises:
        RunError: If there are none: image labels alone would train nothing.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    blank = torch.zeros(1, 3, model.image_size, model.image_size, device=model.pixel_mean.device)
    with torch.enable_grad():
        scores = model.forward_from_prefix(model.prefix(blank)).class_logits.float()
        if not scores.requires_grad:
            msg = (
                "No image has a gt mask, and no class score sees an adapter, so nothing can be trained: take more taps "
                "(model.num_taps, model.tap_blocks), or images with masks."
            )
            raise RunError(msg)
        gradients = torch.autograd.grad(scores.sum(), list(named.values()), allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
