"""A forward pass and some training steps of a model, on made-up images.

Shapes: B images, S side of the model input in pixels, H_t x W_t token grid.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from feclip.config import LossConfig, OptimConfig
from feclip.data import InputOptions, valid_tokens
from feclip.doctor.finding import Finding, failed, ok, warning
from feclip.model import FeClipModel, autocast, fe_clip_loss_terms

__all__ = ["check_forward", "check_training"]

NUM_STEPS = 5
TOLERANCE = 1e-3
"""Largest difference of a logit between an image alone and in a batch, in float32."""
BFLOAT16_TOLERANCE = 0.2
"""The same in bfloat16, whose rounding moves the logits of images by up to 0.15 (README)."""


def check_forward(model: FeClipModel, *, options: InputOptions, precision: str) -> Iterator[Finding]:
    """Score a square image and a wide one, which has padding, together and one of them alone.

    Args:
        model: The model, where it computes.
        options: How images become inputs.
        precision: Number format of the trunk.
    """
    images, valid_pixels = _inputs(model, options)
    tokens = valid_tokens(valid_pixels, patch_size=model.patch_size)
    started = time.perf_counter()
    context = autocast(precision, device=images.device)
    tolerance = BFLOAT16_TOLERANCE if isinstance(context, torch.autocast) else TOLERANCE
    with torch.no_grad(), context:
        output = model(images, tokens)
        logits = output.image_logit.tolist()
        seconds = time.perf_counter() - started
        alone = model(images[:1], tokens[:1]).image_logit.item()
    size = model.image_size
    expected = {"image_logit": (2,), "anomaly_map": (2, size, size), "token_map": (2, *model.token_grid)}
    shapes = {name: tuple(getattr(output, name).shape) for name in expected}
    if shapes != expected:
        yield failed("forward pass", f"shapes are {shapes}, not {expected}", advice="report it with --diagnose out.zip")
    elif not all(map(math.isfinite, logits)) or not torch.equal(output.token_map.isfinite(), tokens):
        yield failed("forward pass", f"scores are not finite: {logits}", advice="try precision float32")
    elif abs(logits[0] - alone) > tolerance:
        told = f"an image has logit {alone:.4f} alone and {logits[0]:.4f} beside another"
        yield failed("forward pass", told, advice="images of a batch mix: report it with --diagnose out.zip")
    else:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        yield ok("forward pass", f"{told}; {seconds:.2f} s for two images")


def check_training(model: FeClipModel, *, options: InputOptions, precision: str) -> Iterator[Finding]:
    """Take a few steps on one batch; they change the model, which is thrown away afterwards.

    Args:
        model: The model, where it computes.
        options: How images become inputs.
        precision: Number format of the trunk.
    """
    images, valid_pixels = _inputs(model, options)
    tokens = valid_tokens(valid_pixels, patch_size=model.patch_size)
    gt_masks = torch.zeros_like(valid_pixels)
    middle = model.image_size // 2
    gt_masks[1, middle - middle // 4 : middle + middle // 4, middle:] = True  # on the second image, which is anomalous
    labels = torch.tensor([0, 1], device=images.device)
    weights, trained = LossConfig(), {name: p for name, p in model.named_parameters() if p.requires_grad}
    adam = torch.optim.Adam(trained.values(), lr=OptimConfig().learning_rate)
    model.train()
    with autocast(precision, device=images.device):
        prefix = model.prefix(images, tokens)
    losses = []
    started = time.perf_counter()
    for _ in range(NUM_STEPS):
        with autocast(precision, device=images.device):
            output = model.forward_from_prefix(prefix, tokens)
        terms = fe_clip_loss_terms(output, labels, gt_masks, valid_pixels=valid_pixels)
        loss = weights.class_weight * terms.class_loss + weights.focal_weight * terms.focal
        loss = (loss + weights.dice_weight * terms.dice).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(loss.item())
    seconds = (time.perf_counter() - started) / NUM_STEPS
    model.eval()
    yield _learned(model, losses=losses, seconds=seconds)


def _learned(model: FeClipModel, *, losses: list[float], seconds: float) -> Finding:
    reached = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    strangers = [name for name in reached if name.startswith("visual.")]
    gradients = {name: model.get_parameter(name).grad for name in reached}
    broken = [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    idle = [name for name, value in model.named_parameters() if value.requires_grad and not _moves(gradients.get(name))]
    told = f"loss {losses[0]:.4f} to {losses[-1]:.4f} in {NUM_STEPS} steps of {seconds:.2f} s"
    if strangers:
        return failed(
            "training", f"gradients reach the backbone: {strangers[0]}", advice="report it with --diagnose out.zip"
        )
    if broken or not all(map(math.isfinite, losses)):
        name = broken[0] if broken else "the loss"
        return failed("training", f"{told}; {name} is not finite", advice="try precision float32")
    if idle:
        which = f"{len(idle)} of the trained tensors, {idle[0]} among them"
        return warning("training", f"{told}; no gradient reaches {which}", advice="they will not learn")
    if losses[-1] >= losses[0]:
        return warning("training", told, advice="the loss does not fall on one batch: lower optim.learning_rate")
    return ok("training", f"{told}; gradients are finite, and in adapters and patch head alone")


def _moves(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _inputs(model: FeClipModel, options: InputOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two normalised images ``(2, 3, S, S)``, the second with padding if any is added, and valid pixels."""
    generator = np.random.default_rng(0)
    size = model.image_size
    placed = [
        options.place(generator.integers(0, 256, shape, np.uint8)) for shape in ((size, size, 3), (size // 2, size, 3))
    ]
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in placed])).to(model.text_embeddings.device)
    valid = torch.from_numpy(np.stack([record.valid_pixels() for _, record in placed])).to(pixels.device)
    return model.normalize(pixels.permute(0, 3, 1, 2).contiguous(), valid), valid
