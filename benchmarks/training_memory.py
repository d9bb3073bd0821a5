#!/usr/bin/env python
"""What gradient checkpointing saves and costs: a fine-tuning step that keeps its activations against one that does not.

python benchmarks/training_memory.py compare
python benchmarks/training_memory.py peak --recompute true   # one side, in bytes

The peak is the resident memory of a process of its own beyond what stood there before the step, taken as
benchmarks/adapters_once.py does.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from adapters_once import status_bytes
from devices import Size, corner_loss, model_and_images
from harness import in_turns
from jsonargparse import auto_cli

from feclip.model import FeClipModel


def compare(
    *, backbone: str = "ViT-B-16", image_size: int = 224, batch: int = 8, repeats: int = 5, num_threads: int = 2
) -> None:
    """Print time, peak and the largest relative difference of the gradients.

    Args:
        backbone: Name of the open_clip model; its weights are random.
        image_size: Side of the input, in pixels.
        batch: Images of a step.
        repeats: Counted steps of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    size = Size(backbone=backbone, image_size=image_size, batch=batch)
    model, images = model_and_images(size, torch.device("cpu"))
    recomputing, keeping = _stepping(model, images, recompute=True), _stepping(model, images, recompute=False)
    seconds = dict(zip((True, False), in_turns(recomputing, keeping, repeats=repeats), strict=True))
    for recompute, timing in seconds.items():
        peak = _peak_in_child(size, recompute=recompute) / 2**20
        named = "recomputing" if recompute else "keeping"
        spread = f"{min(timing.values):.3g} to {max(timing.values):.3g}"
        print(f"{named}: {timing.median:.3g} s ({spread}), peak {peak:.0f} MiB", flush=True)
    keeping()
    kept = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    recomputing()
    again = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(again, kept, strict=True))
    print(f"largest difference of a gradient, relative to its largest entry: {apart:.2g}")


def peak(*, backbone: str, image_size: int, batch: int, recompute: bool, num_threads: int = 2) -> None:
    """Print the peak of one step in bytes.

    Args:
        backbone: Name of the open_clip model; its weights are random.
        image_size: Side of the input, in pixels.
        batch: Images of a step.
        recompute: Whether blocks between taps are computed again.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    model, images = model_and_images(Size(backbone=backbone, image_size=image_size, batch=batch), torch.device("cpu"))
    _stepping(model, images[:1], recompute=recompute)()  # loads what a first call loads
    model.zero_grad()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM to VmRSS, see proc(5)
    before = status_bytes("VmRSS")
    _stepping(model, images, recompute=recompute)()
    print(status_bytes("VmHWM") - before)


def _stepping(model: FeClipModel, images: torch.Tensor, *, recompute: bool) -> Callable[[], None]:
    """Return one forward and backward pass on ``images``."""

    def run() -> None:
        model.gradient_checkpointing = recompute
        model.zero_grad()
        torch.autograd.backward(corner_loss(model(images)))

    return run


def _peak_in_child(size: Size, *, recompute: bool) -> int:
    command = [sys.executable, __file__, "peak", f"--backbone={size.backbone}", f"--image_size={size.image_size}"]
    command += [f"--batch={size.batch}", f"--recompute={recompute}", f"--num_threads={torch.get_num_threads()}"]
    # A fixed threshold makes glibc return every larger block when it is freed, so that resident is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)  # noqa: S603 - this file


if __name__ == "__main__":
    auto_cli([compare, peak])
