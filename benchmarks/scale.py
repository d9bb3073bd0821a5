#!/usr/bin/env python
"""Scale on paper: a model of stages, fed by rates measured here, for 1, 8 and 64 actors and 100 million images.

python benchmarks/scale.py

The rates are those that `jobs/score.py --plan` measures, on generated JPEGs in a temporary folder and a bundle of
random weights, which take as long as trained ones. There is no rival and no ratio: the table stands in the facts of the
row ``scale_on_paper``, each line with its bottleneck. Lines of a GPU say nothing where none was measured or given.
"""

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from harness import FEWEST_REPEATS, Record, write_record
from jsonargparse import auto_cli

from feclip.archive import Source
from feclip.archive.measuring import Measured, measure_stages
from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig
from feclip.demo import FAMILIES, write_archive
from feclip.planning import ScaleRow, StageTimes, cores_needed, model_rates, plan_scales
from feclip.scoring import Scorer

NUM_IMAGES = 100_000_000


def scale(
    *,
    backbone: str = "ViT-L-14-336",
    image_size: int = 336,
    source_size: int = 1024,
    sample_size: int = 32,
    batch_size: int = 4,
    repeats: int = FEWEST_REPEATS,
    gpu_images_per_second: float | None = None,
) -> None:
    """Measure the stages, and write the row ``scale_on_paper``.

    Args:
        backbone: The trunk, with random weights.
        image_size: Side of the model's input, pixels.
        source_size: Side of the square with the area of each JPEG, pixels.
        sample_size: Images that are measured.
        batch_size: Images in one forward pass.
        repeats: Measurements, whose median counts.
        gpu_images_per_second: The model's rate on a GPU where this machine has none, measured elsewhere.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="feclip-scale-") as folder:
        root, families = Path(folder), FAMILIES["unseen"]
        write_archive(
            root / "field", seed=0, families=families, num_images=sample_size, defect_fraction=0, image_size=source_size
        )
        bundle = _bundle(str(root / "bundle"), backbone=backbone, image_size=image_size)
        scorer = Scorer(bundle, device=device, batch_size=batch_size)
        found = [
            measure_stages(
                bundle,
                Source(archive=str(root / "field" / "images"), manifest=None),
                num_images=sample_size,
                num_readers=8,
                make_scorer=lambda _: scorer,
                batch_size=batch_size,
            )
            for _ in range(repeats)
        ]
    times = StageTimes(**{name: statistics.median(values) for name, values in _by_stage(found).items()})
    measured = [one.model_images_per_second for one in found]
    gpu_name = torch.cuda.get_device_name() if device == "cuda" else None
    models = model_rates(statistics.median(measured), gpu_name=gpu_name, given=gpu_images_per_second)
    write_record(
        Record(
            row="scale_on_paper",
            what=f"model of stages for {NUM_IMAGES:,} images, {backbone} at {image_size} px, JPEGs of {source_size} px",
            rival="none",
            wanted="table with the bottleneck of each row",
            command=f"python benchmarks/scale.py --backbone {backbone} --image_size {image_size}",
            ratio=None,
            ratio_of="none",
            met=None,
            device=gpu_name or "cpu",
            facts={
                "megabytes_per_image": round(times.num_bytes / 1e6, 3),
                "images_per_second_of_one_core": {
                    name: _spread([1 / value for value in values])
                    for name, values in _by_stage(found).items()
                    if name != "num_bytes"
                },
                "model_images_per_second": {models[0].name: _spread(measured)},
                "cores_needed_per_actor": {
                    model.name: cores_needed(times, model) for model in models if model.images_per_second is not None
                },
                "table": [_line(row) for row in plan_scales(times, models, num_images=NUM_IMAGES)],
                "assumed": "storage and network keep up; start-up, decisions and the end's check take nothing",
            },
        )
    )


def _bundle(folder: str, *, backbone: str, image_size: int) -> Bundle:
    config = ModelConfig(backbone=backbone, pretrained="none", image_size=image_size)
    run = FinetuneConfig(output=folder, model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["none"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(folder, model=build_model(config, seed=0), config=run, images=images, metrics=[])
    return read_bundle(folder)


def _by_stage(found: list[Measured]) -> dict[str, list[float]]:
    names = [field.name for field in dataclasses.fields(StageTimes)]
    return {name: [getattr(one.times, name) for one in found] for name in names}


def _spread(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _line(row: ScaleRow) -> dict[str, Any]:
    known = row.images_per_second is not None
    megabytes = None if row.storage_bytes_per_second is None else round(row.storage_bytes_per_second / 1e6, 1)
    return {
        "model_on": row.model.name,
        "actors": row.num_actors,
        "cores": row.cores if known else None,
        "images_per_second": row.images_per_second,
        "bottleneck": row.bottleneck.value if row.bottleneck else "not measured",
        "hours": row.hours,
        "storage_megabytes_per_second": megabytes,
    }


if __name__ == "__main__":
    auto_cli(scale)
