"""anomalib's evaluator and visualizer on our scale: logits, of which those on padding mean nothing.

Shapes: S side of the model input in pixels.
"""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.metrics import AUROC, F1Score
from anomalib.metrics.evaluator import Evaluator
from anomalib.utils.path import generate_output_filename
from anomalib.visualization.base import Visualizer
from lightning import LightningModule, Trainer
from PIL import Image

from feclip.data import InputOptions
from feclip.integrations.anomalib.pre_processor import unmarked, valid_pixels_of
from feclip.overlay import draw_overlay

__all__ = ["FeClipEvaluator", "FeClipVisualizer"]

SHOWN_LOGITS = 6.0
"""Range of logits that has colours, up to the threshold of the map's pixels."""
USUAL_HIGH = 3.0
"""End of the colours where there is no threshold, logit: P(abnormal) 0.95."""
_PIXEL_FIELDS = ("anomaly_map", "pred_mask", "gt_mask")


class _Counted:
    """Gives a metric of anomalib what counts: pixels that are not padding, and scores within 0..1 in their order.

    torchmetrics takes scores beyond 0..1 for logits and applies a sigmoid, batch by batch: one batch whose logits all
    lie within 0..1 would be ranked against the probabilities of the others. A sigmoid in float32 makes ties, too.
    """

    def update(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - anomalib's signature
        """Add a batch."""
        found: dict[str, torch.Tensor | None] = {}
        for name in self.fields:  # type: ignore[attr-defined] # of the metric
            value = getattr(batch, name)
            if value is not None and name in _PIXEL_FIELDS:
                value = value[valid_pixels_of(batch.image)]
            found[name] = _within(value) if name in {"pred_score", "anomaly_map"} else value
        super().update(SimpleNamespace(**found), *args, **kwargs)  # type: ignore[misc]


class _CountedAUROC(_Counted, AUROC):  # type: ignore[misc] # anomalib is not typed
    pass


class _CountedF1Score(_Counted, F1Score):  # type: ignore[misc]
    pass


class FeClipEvaluator(Evaluator):  # type: ignore[misc]
    """anomalib's evaluator with its usual metrics under their usual names, on logits and valid pixels.

    AUROC and F1 of images and of pixels in ``Engine.test``, AUROC of both in validation. F1 is left out where there
    are no thresholds, and what is of pixels where there are no masks.
    """

    def __init__(self) -> None:
        decided = [
            _named(_CountedF1Score(fields=["pred_label", "gt_label"], prefix="image_", strict=False)),
            _named(_CountedF1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False)),
        ]
        super().__init__(val_metrics=_ranked(), test_metrics=[*_ranked(), *decided])


class FeClipVisualizer(Visualizer):  # type: ignore[misc] # anomalib is not typed
    """Saves for each image the image, its gt mask where it is known, and our overlay, side by side.

    The letterbox is undone, so that the map lies where it belongs whatever the aspect ratio.

    Args:
        options: How images became inputs.
        output_dir: Where the pictures go; the engine's ``images`` folder where absent.
    """

    def __init__(self, options: InputOptions, *, output_dir: str | Path | None = None) -> None:
        super().__init__()
        self.options = options
        self.output_dir = output_dir

    def visualize(
        self,
        item: ImageItem,
        *,
        low: float = USUAL_HIGH - SHOWN_LOGITS,
        high: float = USUAL_HIGH,
        threshold: float | None = None,
    ) -> Image.Image:
        """Return the picture of one image.

        Args:
            item: An image with its anomaly map, as `Engine.predict` returns it in a batch.
            low: Value of the map that is transparent.
            high: Value that has the last colour.
            threshold: What exceeds it is outlined; None for none.
        """
        valid = valid_pixels_of(item.image).cpu().numpy()
        if item.image_path is None:
            pixels = unmarked(item.image)[0].permute(1, 2, 0).cpu().numpy()
            source, placed = Image.fromarray(pixels), self.options.geometry(*valid.shape)
        else:
            with Image.open(item.image_path) as opened:
                source = opened.convert("RGB")
            placed = self.options.geometry(source.height, source.width)
        panels = [source]
        if item.gt_mask is not None:
            shares = placed.undo(item.gt_mask.cpu().numpy().astype(np.float32))
            panels.append(Image.fromarray(shares > 0.5).convert("RGB"))  # noqa: PLR2004 - half covered
        panels.append(
            draw_overlay(
                source,
                item.anomaly_map.cpu().numpy(),
                placed=placed,
                low=low,
                high=high,
                valid_pixels=valid,
                threshold=threshold,
            )
        )
        picture = Image.new("RGB", (source.width * len(panels), source.height))
        for index, panel in enumerate(panels):
            picture.paste(panel, (index * source.width, 0))
        return picture

    def on_test_batch_end(  # noqa: PLR0917 - Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save the pictures of a batch."""
        del outputs, batch_idx, dataloader_idx
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        scale = _Scale.of(pl_module)
        for item in batch:
            target = _picture_path(
                item.image_path or "", folder=folder, datamodule=getattr(trainer, "datamodule", None)
            )
            self.visualize(item, **scale._asdict()).save(target)

    def on_predict_batch_end(  # noqa: PLR0917 - Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save the pictures of a batch."""
        self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)


class _Scale(NamedTuple):
    """How the values of a map become colours."""

    low: float
    high: float
    threshold: float | None

    @classmethod
    def of(cls, module: LightningModule) -> "_Scale":
        """Return that of the maps that a module's post-processor leaves."""
        post_processor = getattr(module, "post_processor", None)
        if post_processor is not None and post_processor.enable_normalization:
            return cls(0.0, 1.0, 0.5)
        threshold = math.nan if post_processor is None else float(post_processor.pixel_threshold)
        if math.isnan(threshold):
            return cls(USUAL_HIGH - SHOWN_LOGITS, USUAL_HIGH, None)
        return cls(threshold - SHOWN_LOGITS, threshold, threshold)


def _picture_path(image_path: str, *, folder: Path, datamodule: object) -> Path:
    """Return where a picture goes: below the folder as its image lies below the root of the data, or as anomalib says.

    anomalib keeps the last folder alone where it knows no category, so that ``good/000.png`` of two would be one file.
    """
    root = getattr(datamodule, "root", None)
    if root is None or not Path(image_path).is_relative_to(root):
        name = getattr(datamodule, "name", None)
        return Path(generate_output_filename(input_path=image_path, output_path=folder, dataset_name=name))
    target = folder / Path(image_path).relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _ranked() -> list[AUROC]:
    return [
        _named(_CountedAUROC(fields=["pred_score", "gt_label"], prefix="image_", strict=False)),
        _named(_CountedAUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)),
    ]


def _within(scores: torch.Tensor | None) -> torch.Tensor | None:
    """Return scores within 0..1, float64; a rising function that makes no ties of float32 logits."""
    if scores is None:
        return None
    values = scores.double()
    return 0.5 + 0.5 * values / (1 + values.abs())


def _named(metric: AUROC | F1Score) -> AUROC | F1Score:
    """Give a metric the name that anomalib's own has."""
    metric.name = metric.name.replace("_Counted", "")
    return metric
