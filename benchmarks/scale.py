#!/usr/bin/env python
"""Scale on paper: a model of stages, fed by rates measured here, for 1, 8 and 64 actors and 100 million images.

python benchmarks/scale.py

Every rate is a measured one, and the record says whence. Those of the stages and of one CPU core are what
`jobs/score.py --plan` measures, here and now, on generated JPEGs in a temporary folder and a bundle of random weights,
which take as long as trained ones. That of a GPU is measured here, or else read from the record of the row ``gpu_peak``
where that was measured, or else given. There is no rival and no ratio: what comes of it is a table, each line with its
bottleneck. The lines of a GPU say nothing where no rate of one is known.
"""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import FEWEST_REPEATS, RESULTS, Record, spread, write_record
from jsonargparse import auto_cli
from scoring_job import untrained_bundle

from feclip.archive import Source
from feclip.archive.measuring import Measured, measure_stages
from feclip.bundle import read_bundle
from feclip.demo import FAMILIES, write_archive
from feclip.planning import ModelRate, ScaleRow, StageTimes, cores_needed, model_rates, plan_scales
from feclip.scoring import Scorer

NUM_IMAGES = 100_000_000
GPU_RECORD = "gpu_peak"
"""Row whose record tells the model's rate on a GPU, of the default backbone and input."""


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
    """Measure the stages, and write the row ``scale``.

    Args:
        backbone: The trunk, with random weights.
        image_size: Side of the model's input, pixels.
        source_size: Side of the square with the area of each JPEG, pixels.
        sample_size: Images that are measured.
        batch_size: Images in one forward pass.
        repeats: Measurements, whose median counts.
        gpu_images_per_second: The model's rate on a GPU, measured elsewhere; where this machine has none.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="feclip-scale-") as folder:
        root, families = Path(folder), FAMILIES["unseen"]
        write_archive(
            root / "field", seed=0, families=families, num_images=sample_size, defect_fraction=0, image_size=source_size
        )
        bundle = read_bundle(untrained_bundle(root / "bundle", backbone=backbone, image_size=image_size))
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
    if gpu_name is None and gpu_images_per_second is None:
        models = [models[0], recorded_gpu(f"{backbone} at {image_size} px") or models[1]]
    write_record(
        Record(
            row="scale",
            what=f"model of stages for {NUM_IMAGES:,} images, {backbone} at {image_size} px, JPEGs of {source_size} px",
            rival="none",
            wanted="table with the bottleneck of each row",
            command=f"python benchmarks/scale.py --backbone {backbone} --image_size {image_size}",
            ratio=None,
            ratio_of="a table",
            met=None,
            device=gpu_name or "cpu",
            facts={
                "megabytes_per_image": round(times.num_bytes / 1e6, 3),
                "images_per_second_of_one_core": {
                    name: spread([1 / value for value in values])
                    for name, values in _by_stage(found).items()
                    if name != "num_bytes"
                },
                "model_images_per_second": {models[0].name: spread(measured)},
                "cores_needed_per_actor": {
                    model.name: cores_needed(times, model) for model in models if model.images_per_second is not None
                },
                "table": [_line(row) for row in plan_scales(times, models, num_images=NUM_IMAGES)],
                "assumed": "storage and network keep up; start-up, decisions and the end's check take nothing",
            },
        )
    )


def recorded_gpu(model: str) -> ModelRate | None:
    """Return the rate of a GPU that a record holds for this model, or None where none was measured."""
    path = RESULTS / f"{GPU_RECORD}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if record is None or record["ratio"] is None or model not in record["what"]:
        return None
    name = f"GPU ({record['device']}, record {GPU_RECORD} of {record['date']})"
    return ModelRate(images_per_second=record["facts"]["images_per_second"], on_gpu=True, name=name)


def _by_stage(found: list[Measured]) -> dict[str, list[float]]:
    names = [field.name for field in dataclasses.fields(StageTimes)]
    return {name: [getattr(one.times, name) for one in found] for name in names}


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
