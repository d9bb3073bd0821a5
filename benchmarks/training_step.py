#!/usr/bin/env python
"""A fine-tuning step against the guide's loop: forward, loss, backward, Adam, the same taps and loss, random weights.

python benchmarks/training_step.py step         # the whole step, CPU, float32
python benchmarks/training_step.py cached_step  # ours from a cached prefix, CPU, float32
python benchmarks/training_step.py gpu_step     # ours in bfloat16, the guide's in float32

The guide's loop is open_clip's encoder with the literal adapters of benchmarks/guide.py hooked in. It is given what
it does not say: frozen weights without gradients, text embeddings computed once, our loss on every tap.
"""

from collections.abc import Callable

import torch
from devices import TINY, Size, corner_loss, model_and_images, name_of, not_measured
from guide import GuideModel
from harness import Record, in_turns, write_record
from jsonargparse import auto_cli
from torch import nn

from feclip.model import FeClipOutput, autocast

BACKBONE, IMAGE_SIZE = "ViT-L-14-336", 336  # the paper's
LEARNING_RATE = 5e-4  # the paper's

STEP_WANTED = 1.0  # times as fast, on the CPU
CACHED_WANTED = 1.2
GPU_WANTED = 4.0


def step(
    *, backbone: str = BACKBONE, image_size: int = IMAGE_SIZE, batch: int = 1, repeats: int = 5, num_threads: int = 2
) -> None:
    """Time whole steps on the CPU in float32.

    Args:
        backbone: Name of the open_clip model.
        image_size: Side of the input, in pixels.
        batch: Images of a step.
        repeats: Counted steps of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    size = Size(backbone=backbone, image_size=image_size, batch=batch)
    write_record(
        _measure("step", torch.device("cpu"), size=size, named=size, cached=False, wanted=STEP_WANTED, repeats=repeats)
    )


def cached_step(
    *, backbone: str = BACKBONE, image_size: int = IMAGE_SIZE, batch: int = 1, repeats: int = 5, num_threads: int = 2
) -> None:
    """Time our steps from a cached prefix against the guide's whole steps, on the CPU in float32.

    Args:
        backbone: Name of the open_clip model.
        image_size: Side of the input, in pixels.
        batch: Images of a step.
        repeats: Counted steps of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    size = Size(backbone=backbone, image_size=image_size, batch=batch)
    cpu = torch.device("cpu")
    write_record(
        _measure("cached_step", cpu, size=size, named=size, cached=True, wanted=CACHED_WANTED, repeats=repeats)
    )


def gpu_step(
    *, backbone: str = BACKBONE, image_size: int = IMAGE_SIZE, batch: int = 16, repeats: int = 7, num_threads: int = 2
) -> None:
    """Time our steps in bfloat16 against the guide's in float32 on a GPU.

    Args:
        backbone: Name of the open_clip model.
        image_size: Side of the input, in pixels.
        batch: Images of a step.
        repeats: Counted steps of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    named = Size(backbone=backbone, image_size=image_size, batch=batch)
    measured = torch.cuda.is_available()
    device, size = (torch.device("cuda"), named) if measured else (torch.device("cpu"), TINY)
    record = _measure("gpu_step", device, size=size, named=named, cached=False, wanted=GPU_WANTED, repeats=repeats)
    write_record(record if measured else not_measured(record, ran=str(size)))


ROWS = {"step": "training_step", "cached_step": "training_step_cached", "gpu_step": "training_step_gpu"}


def _measure(
    command: str, device: torch.device, *, size: Size, named: Size, cached: bool, wanted: float, repeats: int
) -> Record:
    on_gpu = command == "gpu_step"
    precision = "bfloat16" if on_gpu else "float32"
    model, images = model_and_images(size, device)
    model.train()
    guide = GuideModel(model)
    prefix = model.prefix(images)

    def ours() -> FeClipOutput:
        with autocast(precision, device=device):
            return model.forward_from_prefix(prefix) if cached else model(images)

    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    left, right = in_turns(
        _stepping(ours, trained=own),
        _stepping(lambda: guide(images), trained=guide.trained()),
        repeats=repeats,
    )
    ratio = right.median / left.median
    kind = "from the cached prefix" if cached else "whole"
    return Record(
        row=ROWS[command],
        what=f"fine-tuning step, {kind}, {named}, {precision}, {'GPU' if on_gpu else 'CPU'}",
        rival="the guide's loop, float32 (benchmarks/guide.py)",
        wanted="not slower" if wanted == 1 else f">= {wanted:g} x",
        command=f"python benchmarks/training_step.py {command}",
        ratio=ratio,
        ratio_of="rival / ours, time",
        met=ratio >= wanted,
        ours=left,
        theirs=right,
        device=name_of(device),
        facts={"cached_mib_per_image": prefix[0].nbytes / 2**20} if cached else {},
    )


def _stepping(forward: Callable[[], FeClipOutput], *, trained: list[nn.Parameter]) -> Callable[[], None]:
    """Return one optimiser step of a candidate."""
    adam = torch.optim.Adam(trained, lr=LEARNING_RATE)

    def run() -> None:
        loss = corner_loss(forward())
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        adam.step()

    return run


if __name__ == "__main__":
    auto_cli([step, cached_step, gpu_step])
