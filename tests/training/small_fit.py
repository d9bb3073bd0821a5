"""A small fine-tuning in this process: a random backbone, two epochs on generated pictures."""

import pyarrow as pa
import torch

from feclip.building import build_images, build_model
from feclip.config import DataConfig, LossConfig, ModelConfig, OptimConfig, Precision
from feclip.model import FeClipModel
from feclip.training import TrainState, fit

IMAGE_SIZE = 64
MODEL = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=IMAGE_SIZE, num_taps=3)
OPTIM = OptimConfig(epochs=2, batch_size=4, precision=Precision.float32, grad_clip=5.0)
CPU = torch.device("cpu")


def small_data(root: str) -> DataConfig:
    """Return the config of a data set in MVTec layout of which a part is held out."""
    return DataConfig(root=root, protocol="b", fractions=(0.6, 0.4, 0.0))  # type: ignore[arg-type]


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
    last = fit(
        build_model(MODEL, seed=7) if model is None else model,
        train=build_images(manifest.take(chosen["train"]), data, image_size=IMAGE_SIZE),
        held_out=build_images(manifest.take(chosen["held_out"]), data, image_size=IMAGE_SIZE),
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
