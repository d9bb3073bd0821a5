#!/usr/bin/env python
"""An exported model against PyTorch, one image at a time on the CPU: time, size and difference of each format.

python benchmarks/export.py exported
python benchmarks/export.py exported_demo
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from harness import FEWEST_REPEATS, Record, Timing, in_turns, spread, write_record
from jsonargparse import auto_cli

from feclip.building import build_model
from feclip.bundle import USUAL_STATISTICS
from feclip.config import ModelConfig
from feclip.data import InputOptions
from feclip.export import ExportedModel
from feclip.export.agreement import compare
from feclip.export.images import drawn_inputs
from feclip.export.onnx_file import encode_onnx, open_onnx
from feclip.export.torch_program import encode_torch, open_torch

WANTED = 1.0  # times as fast as PyTorch
TOLERANCE = 1e-4  # logits
FORMATS: Mapping[str, tuple[Callable[..., bytes], Callable[[bytes], Any]]] = {
    "onnx": (encode_onnx, open_onnx),
    "torch": (encode_torch, open_torch),
}


def exported(
    *, backbone: str = "ViT-B-16", image_size: int = 240, num_images: int = 20, repeats: int = 7, num_threads: int = 1
) -> None:
    """Time a model with random weights.

    Args:
        backbone: Name of an open_clip model.
        image_size: Pixels.
        num_images: Drawn pictures on which differences are taken.
        repeats: Counted runs of each.
        num_threads: Threads of torch and of ONNX Runtime.
    """
    config = ModelConfig(backbone=backbone, pretrained="none", image_size=image_size)
    _measure("exported", config, num_images=num_images, repeats=repeats, num_threads=num_threads)


def exported_demo(*, num_images: int = 100, repeats: int = 31, num_threads: int = 1) -> None:
    """Time the demonstration backbone.

    Args:
        num_images: Drawn pictures on which differences are taken.
        repeats: Counted runs of each.
        num_threads: Threads of torch and of ONNX Runtime.
    """
    config = ModelConfig(backbone="feclip-demo")
    _measure("exported_demo", config, num_images=num_images, repeats=repeats, num_threads=num_threads)


def _measure(row: str, config: ModelConfig, *, num_images: int, repeats: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    model = ExportedModel(build_model(config, seed=0), statistic_options=USUAL_STATISTICS)
    size = model.model.image_size
    formats, timings = {}, {}
    for name in FORMATS:
        formats[name], timings[name] = _measure_format(name, model, num_images=num_images, repeats=repeats)
    ours, theirs = timings["onnx"]
    ratio = theirs.median / ours.median
    largest = max(formats["onnx"]["largest difference"].values())
    write_record(
        Record(
            row=row,
            what=f"{config.backbone} at {size} px exported to ONNX, batch 1, float32, in ONNX Runtime, CPU",
            rival="the same model in PyTorch",
            wanted=f">= {WANTED:g} x its speed, differences <= {TOLERANCE:g}",
            command=f"python benchmarks/export.py {row}",
            ratio=ratio,
            ratio_of="rival / ours, time",
            met=ratio >= WANTED and largest <= TOLERANCE,
            ours=ours,
            theirs=theirs,
            facts={"images_compared": num_images, "formats": formats},
        )
    )


def _measure_format(
    name: str, model: ExportedModel, *, num_images: int, repeats: int
) -> tuple[dict[str, Any], tuple[Timing, Timing]]:
    """Return the facts of a format, and the seconds of one image in it and in PyTorch."""
    encode, opened = FORMATS[name]
    content = encode(model, batch_size=1, recipe="{}")
    run, _ = opened(content)
    options = InputOptions(image_size=model.model.image_size)
    drawn = drawn_inputs(options, num=num_images)
    agreement = compare(run, model, drawn, num=num_images, batch_size=1, tolerance=float("inf"))
    (drawn_pixels, drawn_valid), *_ = drawn_inputs(options, num=1)
    pixels, valid = np.stack([drawn_pixels]), np.stack([drawn_valid])
    tensors = torch.from_numpy(pixels), torch.from_numpy(valid)
    with torch.inference_mode():
        timings = in_turns(
            lambda: run(pixels=pixels, valid_pixels=valid),
            lambda: model(*tensors),
            repeats=max(repeats, FEWEST_REPEATS),
            warmup=3,
        )
    milliseconds = [spread([1000 * value for value in timing.values]) for timing in timings]
    facts = {
        "megabytes": len(content) / 1e6,
        "milliseconds": milliseconds[0],
        "milliseconds of pytorch": milliseconds[1],
        "largest difference": agreement.differences,
    }
    return facts, timings


if __name__ == "__main__":
    auto_cli([exported, exported_demo])
