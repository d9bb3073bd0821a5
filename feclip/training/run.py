"""From a config and its images to a trained model: what a training worker and a trial of a sweep do alike."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import torch

from feclip.building import build_images, build_model
from feclip.bundle import Bundle
from feclip.config import FinetuneConfig
from feclip.data import LabelledImages, Split
from feclip.model import FeClipModel
from feclip.training.checkpoint import TrainState
from feclip.training.loop import Step, fit

__all__ = ["fit_config"]


def fit_config(
    config: FinetuneConfig,
    *,
    images: pa.Table,
    parent: Bundle | None = None,
    device: torch.device,
    state: TrainState | None,
    on_epoch: Callable[[TrainState], None],
    on_step: Callable[[Step], None] = lambda _: None,
) -> tuple[FeClipModel, TrainState]:
    """Build the model and the data sets of ``config`` and train to its last epoch.

    Args:
        config: The run.
        images: Its images with their splits; those of ``train`` train, those of ``held_out`` are for the metrics, and
            no other is opened.
        parent: Bundle whose tensors training starts from, and among whose tuned epochs the best is chosen.
        device: Where the model computes.
        state: State to go on from.
        on_epoch: See :func:`feclip.training.fit`.
        on_step: See :func:`feclip.training.fit`.

    Returns:
        The trained model, that of the best epoch where a parent is tuned, and the last state.

    Raises:
        BundleError: If the parent cannot be built.
        ConfigError: If the model cannot be built.
        RunError: If training cannot go on.
    """
    model = build_model(config.model, seed=config.seed) if parent is None else parent.build()

    def of(split: Split) -> LabelledImages:
        rows = images.filter(pc.field("split") == split.value)
        return build_images(rows, config.data, image_size=model.image_size, patch_size=model.patch_size)

    last = fit(
        model,
        train=of(Split.TRAIN),
        held_out=of(Split.HELD_OUT),
        loss=config.loss,
        optim=config.optim,
        seed=config.seed,
        device=device,
        num_threads=config.data.num_workers,
        state=state,
        on_epoch=on_epoch,
        on_step=on_step,
        chooses=parent is not None,
    )
    if parent is not None:
        model.load_trainable_state_dict(last.best)
    return model, last
