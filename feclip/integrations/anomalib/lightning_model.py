"""FE-CLIP as an `AnomalibModule`.

Shapes: B images, S side of the model input in pixels.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NoReturn

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics.evaluator import Evaluator
from anomalib.models import AnomalibModule
from anomalib.visualization.base import Visualizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from feclip.building import build_model
from feclip.bundle import CONFIG_FILE, write_bundle
from feclip.config import DataConfig, FinetuneConfig, LossConfig, ModelConfig, OptimConfig, plain
from feclip.data import absolute_uri, exists, join_uri
from feclip.errors import ConfigError, RunError
from feclip.integrations.anomalib.checkpoint import put_into, take_from
from feclip.integrations.anomalib.components import FeClipEvaluator, FeClipVisualizer
from feclip.integrations.anomalib.images_used import SELECTED, TRAINED, ImagesUsed
from feclip.integrations.anomalib.labelled import LabelledMVTec
from feclip.integrations.anomalib.post_processor import FeClipPostProcessor
from feclip.integrations.anomalib.pre_processor import FeClipPreProcessor, valid_pixels_of
from feclip.integrations.anomalib.settings import (
    bank_group,
    config_of,
    input_options,
    model_config,
    optim_config,
    read_given,
    with_root,
)
from feclip.integrations.anomalib.torch_model import FeClipInference
from feclip.training import loss_sums, mean_loss, mean_terms

__all__ = ["FeClip"]

logger = logging.getLogger(__name__)


class FeClip(AnomalibModule):  # type: ignore[misc] # anomalib is not typed
    """FE-CLIP in an `Engine`: adapters that train on defects with masks, or a bundle that is scored as it is.

    Scores are those of `Predictor` and of a scoring job, logits, and so are maps and thresholds.

    Args:
        bundle: A bundle to start from, local or ``s3://``; it says the model and how images become inputs, and its
            thresholds are the post-processor's. Nothing trains then, unless ``optim`` is given.
        model: The model, where there is no bundle.
        data: How images become inputs (``resize``, ``padding_color``, ``valid_region``), where there is no bundle.
        loss: The loss.
        optim: The optimiser. Its ``epochs`` are those of ``Engine.fit``; its ``batch_size`` is the data module's
            matter.
        seed: Seed of the adapters.
        precision: Number format of the trunk: ``auto``, ``float32`` or ``bfloat16``; None for ``optim.precision``.
        group: Whose noun, thresholds and normal images, where the bundle has some for each group.
        pre_processor: anomalib's component; True for ours, as for the following ones.
        post_processor: anomalib's component, or False for none.
        evaluator: anomalib's component, or False for none.
        visualizer: anomalib's component, or False for none.

    Raises:
        BundleError: If there is no such bundle, or its backbone does not fit.
        ConfigError: If arguments contradict each other, or ask for what the bridge does not do.
        DataError: If the bundle has no thresholds for the group.

    Example:
        ::

            model = FeClip(bundle="/runs/calibrated")
            for batch in Engine().predict(model, data_path="image.png"):
                print(batch.pred_score, batch.pred_label)
    """

    def __init__(
        self,
        bundle: str | PurePath | None = None,
        *,
        model: ModelConfig | Mapping[str, Any] | None = None,
        data: DataConfig | Mapping[str, Any] | None = None,
        loss: LossConfig | Mapping[str, Any] | None = None,
        optim: OptimConfig | Mapping[str, Any] | None = None,
        seed: int = 0,
        precision: str | None = None,
        group: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        read = read_given(bundle, model=model, data=data, group=group)
        self.model_config = model_config(read.model if read else model)
        self.data_config = config_of(DataConfig, read.input if read else data)
        self.loss_config = config_of(LossConfig, loss)
        self.optim_config = optim_config(optim, precision=precision, trains=read is None)
        self.seed = seed
        options = input_options(self.model_config, self.data_config)
        calibration = read.calibration if read else None
        super().__init__(
            pre_processor=FeClipPreProcessor(options) if pre_processor is True else pre_processor,
            post_processor=FeClipPostProcessor(calibration, group=group) if post_processor is True else post_processor,
            evaluator=FeClipEvaluator() if evaluator is True else evaluator,
            visualizer=FeClipVisualizer(options) if visualizer is True else visualizer,
        )
        self.images_used = ImagesUsed(read.images if read else None)
        self.epoch_metrics: list[dict[str, float]] = list(read.metrics) if read else []
        """One record per epoch, as a bundle has them."""
        self.model = FeClipInference(
            read.build() if read else build_model(self.model_config, seed=seed),
            precision=str(self.optim_config.precision),
            smoothing_sigma=calibration.statistic_options.smoothing_sigma if calibration else 0.0,
            group_index=bank_group(read, group, trains=self.optim_config.epochs > 0),
        )
        self.model.feclip.gradient_checkpointing = self.optim_config.gradient_checkpointing
        self._totals = torch.zeros(5, dtype=torch.float64)
        self._keep_configs()

    @classmethod
    def from_bundle(cls, uri: str | PurePath, **options: Any) -> "FeClip":  # noqa: ANN401 - those of the class
        """Load a bundle; ``FeClip(bundle=uri)`` is the same.

        Args:
            uri: Folder or ``s3://`` prefix.
            **options: As for the class.
        """
        return cls(uri, **options)

    def save_bundle(self, uri: str | PurePath) -> str:
        """Write what was trained as a bundle, with the images that made it, and return its ``model_id``.

        It has no thresholds: `jobs/calibrate.py` finds them on normal images.

        Args:
            uri: Folder or ``s3://`` prefix that holds no bundle.

        Raises:
            DataError: If an image that trained cannot be read any more.
            RunError: If there is a bundle, or the model has a memory bank.
            StorageError: If storage fails.
        """
        where = absolute_uri(str(uri))
        if exists(join_uri(where, CONFIG_FILE)):
            msg = f"{where} holds a bundle; choose another place."
            raise RunError(msg)
        if self.model.feclip.memory_bank is not None:
            msg = "A memory bank is not written by anomalib's bridge; copy the bundle, which nothing here has changed."
            raise RunError(msg)
        images = self.images_used.table()
        configs = self._configs() | {
            "data": with_root(self.data_config, uris=self.images_used.trained),
            "optim": dataclasses.replace(self.optim_config, epochs=len(self.epoch_metrics)),
        }
        config = FinetuneConfig(output=where, seed=self.seed, **configs)
        return write_bundle(where, model=self.model.feclip, config=config, images=images, metrics=self.epoch_metrics)

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:  # noqa: ANN401 - anomalib's
        """Score images outside of an `Engine`.

        Args:
            batch: RGB ``(B, 3, h, w)``, float32, 0..1.
            *args: Without effect.
            **kwargs: Without effect.
        """
        del args, kwargs
        images = batch if self.pre_processor is None else self.pre_processor(batch)
        scored: InferenceBatch = self.model(images)
        if isinstance(self.post_processor, FeClipPostProcessor):
            return self.post_processor(scored, valid_pixels_of(images))
        return scored if self.post_processor is None else self.post_processor(scored)

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401 - Lightning's
        """Return the loss of a batch; one without gt masks trains by its labels alone.

        Raises:
            ConfigError: If the batch has no labels.
            RunError: If the loss is not finite.
        """
        del args, kwargs
        if batch.gt_label is None:
            msg = "FeClip trains on labelled images, and these have no gt_label; take LabelledMVTec, or anomalib's own."
            raise ConfigError(msg)
        scored = self.model.score(batch.image)
        labels, valid = batch.gt_label.float(), scored.valid_pixels
        known = batch.gt_mask is not None
        sums = loss_sums(
            scored.output,
            labels=labels,
            gt_masks=batch.gt_mask.as_subclass(torch.Tensor) & valid if known else torch.zeros_like(valid),
            has_mask=torch.full_like(labels, known, dtype=torch.bool),
            valid_pixels=valid,
            loss=self.loss_config,
        )
        if not bool(sums.isfinite().all()):
            msg = (
                f"The loss became {float(sums[:3].detach().sum())} in epoch {self.current_epoch + 1}; lower "
                "optim.learning_rate, set optim.grad_clip, or set precision to float32."
            )
            raise RunError(msg)
        self._totals += sums.detach().double().cpu()
        self.images_used.add(batch.image_path or [], role=TRAINED)
        return mean_loss(sums, sums.detach(), loss=self.loss_config)

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:  # noqa: ANN401 - Lightning's
        """Return the batch with its scores; during ``Engine.fit`` its images count as those that chose."""
        del args, kwargs
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.images_used.add(batch.image_path or [], role=SELECTED)
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over adapters and patch head."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optim = self.optim_config
        return torch.optim.Adam(trained, lr=optim.learning_rate, weight_decay=optim.weight_decay)

    def on_fit_start(self) -> None:
        """Keep which images these are, for the bundle."""
        datamodule = self.trainer.datamodule
        if isinstance(datamodule, LabelledMVTec):
            chosen = ("root", "categories", "protocol", "fractions")
            fields = {name: getattr(datamodule.data_config, name) for name in chosen}
            self.data_config = dataclasses.replace(self.data_config, **fields)
        batch_size = getattr(datamodule, "train_batch_size", None) or self.optim_config.batch_size
        self.optim_config = dataclasses.replace(self.optim_config, batch_size=batch_size)
        self._keep_configs()

    def on_train_epoch_start(self) -> None:
        """Begin the sums of an epoch."""
        self._totals.zero_()

    def on_train_epoch_end(self) -> None:
        """Record what an epoch measured, validation included."""
        found = {name: float(value) for name, value in self.trainer.callback_metrics.items() if value is not None}
        validated = {name: value for name, value in found.items() if math.isfinite(value)}
        means = mean_terms(self._totals, loss=self.loss_config)
        self.epoch_metrics.append({"epoch": len(self.epoch_metrics) + 1, **means, **validated})
        logger.info("epoch %d: %s", len(self.epoch_metrics), self.epoch_metrics[-1])

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """What the optimiser's settings mean to the trainer, and one device, on which all images are recorded."""
        clip = {} if self.optim_config.grad_clip is None else {"gradient_clip_val": self.optim_config.grad_clip}
        return {"max_epochs": self.optim_config.epochs, "num_sanity_val_steps": 0, "devices": 1, **clip}

    @property
    def learning_type(self) -> LearningType:
        """The only kind that ``Engine.fit`` trains; anomalib has no word for training on defects."""
        return LearningType.ONE_CLASS

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen CLIP out of a Lightning checkpoint, and put in what a bundle needs."""
        super().on_save_checkpoint(checkpoint)
        put_into(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` kept.

        Raises:
            BundleError: If the checkpoint is of no `FeClip`, or was trained on another backbone.
        """
        super().on_load_checkpoint(checkpoint)
        take_from(checkpoint, self)

    def to_torch(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401 - anomalib's
        """Refuse: a letterbox is no part of a graph, and we write no pickle; `save_bundle` keeps the model."""
        del args, kwargs
        msg = "FeClip is not exported by anomalib: it would leave the letterbox out; keep the model by save_bundle."
        raise RunError(msg)

    to_onnx = to_openvino = to_torch

    def _keep_configs(self) -> None:
        """Keep what a Lightning checkpoint builds the module from: plain data, no bundle that may be gone then."""
        self.hparams.clear()
        self.hparams.update({name: plain(config) for name, config in self._configs().items()} | {"seed": self.seed})

    def _configs(self) -> dict[str, Any]:
        return {
            "model": self.model_config,
            "data": self.data_config,
            "loss": self.loss_config,
            "optim": self.optim_config,
        }
