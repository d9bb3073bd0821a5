"""A bundle that takes a second to write, and to load."""

from pathlib import Path

import pyarrow as pa

from feclip.building import build_model
from feclip.bundle import write_bundle
from feclip.config import DataConfig, FinetuneConfig, ModelConfig, OptimConfig, ValidRegion

SIZE = 64


def write_small_bundle(folder: Path, *, valid_region: str = "letterbox") -> str:
    """Write a bundle with a small random trunk and no thresholds, and return its place."""
    config = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=SIZE, num_taps=2)
    data = DataConfig(valid_region=ValidRegion(valid_region))
    run = FinetuneConfig(output=str(folder), data=data, model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/trained.png"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(folder), model=build_model(config, seed=3), config=run, images=images, metrics=[])
    return str(folder)
