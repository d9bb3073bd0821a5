"""A small fine-tuning in this process: a random backbone, two epochs on generated pictures."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from feclip.building import build_images, build_model
from feclip.config import DataConfig, LossConfig, ModelConfig, OptimConfig, Precision, Resize
from feclip.model import FeClipModel
from feclip.training import TrainState, fit

IMAGE_SIZE = 64
MODEL = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=IMAGE_SIZE, num_taps=3)
OPTIM = OptimConfig(epochs=2, batch_size=4, precision=Precision.float32, grad_clip=5.0)
CPU = torch.device("cpu")


def small_data(root: str) -> DataConfig:
    """Return the config of a data set in MVTec layout of which a part is held out."""
    return DataConfig(root=root, protocol="b", fractions=(0.6, 0.4, 0.0))  # type: ignore[arg-type]


def shapes_data(root: str) -> DataConfig:
    """Return the config of `write_shapes`, its images as rectangles."""
    shares = (0.6, 0.4, 0.0)
    return DataConfig(manifest=f"{root}/m.csv", resize=Resize.rectangle, protocol="b", fractions=shares)  # type: ignore[arg-type]


def write_shapes(root: Path) -> DataConfig:
    """Write 20 pictures of four shapes, every second one with a bright square that its mask shows."""
    root.mkdir()
    random = np.random.default_rng(4)
    rows = ["path,label,mask_path"]
    for index in range(20):
        height, width = ((60, 20), (20, 60), (40, 40), (64, 48))[index % 4]
        image = random.integers(60, 120, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        if index // 4 % 2:
            mask[4:14, 6:16] = 255
            image[mask > 0] = 250
            Image.fromarray(mask).save(root / f"{index}_mask.png")
        Image.fromarray(image).save(root / f"{index}.png")
        rows.append(f"{index}.png,{index // 4 % 2},{f'{index}_mask.png' if index // 4 % 2 else ''}")
    (root / "m.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return shapes_data(str(root))


def run_fit(
    manifest: pa.Table,
    data: DataConfig,
    *,
    optim: OptimConfig = OPTIM,
    state: TrainState | None = None,
    model: FeClipModel | None = None,
    **hooks: object,
) -> tuple[TrainState, list[TrainState]]:
    """Train on the rows of split ``train`` and return the last state and the state of each epoch."""
    states: list[TrainState] = []
    rows = manifest["split"].to_pylist()
    chosen = {split: [index for index, value in enumerate(rows) if value == split] for split in ("train", "held_out")}
    model = build_model(MODEL, seed=7) if model is None else model
    last = fit(
        model,
        train=build_images(manifest.take(chosen["train"]), data, image_size=IMAGE_SIZE, patch_size=model.patch_size),
        held_out=build_images(
            manifest.take(chosen["held_out"]), data, image_size=IMAGE_SIZE, patch_size=model.patch_size
        ),
        loss=LossConfig(),
        optim=optim,
        seed=7,
        device=CPU,
        num_threads=2,
        state=state,
        on_epoch=states.append,
        **hooks,  # type: ignore[arg-type]
    )
    return last, states
