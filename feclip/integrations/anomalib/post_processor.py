"""anomalib's post-processor on our scale: scores and maps stay logits, and thresholds are logits too.

Shapes: B images, S side of the model input in pixels.
"""

import math
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer

from feclip.calibration import Calibration, Rule, Statistic
from feclip.integrations.anomalib.pre_processor import valid_pixels_of
from feclip.model import num_top_pixels

__all__ = ["FeClipPostProcessor"]


class FeClipPostProcessor(PostProcessor):  # type: ignore[misc] # anomalib is not typed
    """Labels by the thresholds of a calibration, or else by anomalib's own F1-adaptive ones, which validation finds.

    An image is anomalous where its logit exceeds the threshold, ``score > t``. Without any threshold there are no
    labels and no masks. Where ``enable_normalization`` is set, scores and maps become anomalib's 0..1, with the
    threshold at 0.5; labels stay what they are. Sensitivities are without effect: a threshold is what it is.

    Args:
        calibration: Thresholds of a bundle; they are not found anew by validation.
        group: Whose thresholds, where groups have their own.
        enable_normalization: Whether scores become 0..1.

    Raises:
        DataError: If calibration never saw the group, or it has no threshold.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        *,
        group: str | None = None,
        enable_normalization: bool = False,
    ) -> None:
        super().__init__(enable_normalization=enable_normalization)
        self.calibrated = calibration is not None
        self.rule, self.statistic, self.topk_fraction = str(Rule.image), str(Statistic.map_max), 1.0
        self.register_buffer("_statistic_threshold", torch.tensor(math.nan))
        if calibration is None:
            return
        decision = calibration.decision
        self.rule, self.statistic = str(decision.rule), str(decision.pixel_statistic)
        self.topk_fraction = calibration.statistic_options.topk_fraction
        for statistic in decision.statistics:
            buffer = self._image_threshold if statistic is Statistic.image_logit else self._statistic_threshold
            buffer.fill_(calibration.threshold(statistic, group))
        level = (decision.threshold_percentile, decision.variant)
        of_pixels = calibration.group(group).statistics[Statistic.map_max].find(*level)
        if of_pixels is not None:
            self._pixel_threshold.fill_(of_pixels.value)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "calibrated", "rule", "statistic", "topk_fraction")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch,
        *args: Any,  # noqa: ANN401 - anomalib's signature
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Give a batch to what finds thresholds, unless a calibration has them; pixels on padding don't count."""
        del trainer, pl_module, args, kwargs
        valid = valid_pixels_of(outputs.image)
        if self.enable_thresholding and not self.calibrated:
            self._image_threshold_metric.update(outputs)
            if outputs.gt_mask is not None:
                self._pixel_threshold_metric.update(_Pixels(outputs.anomaly_map[valid], outputs.gt_mask[valid]))
        if self.enable_normalization:
            self._image_min_max_metric.update(outputs)
            self._pixel_min_max_metric.update(_Pixels(outputs.anomaly_map[valid], None))

    def post_process_batch(self, batch: Batch) -> None:
        """Label a batch, then bring its scores to 0..1 where that is wanted."""
        if self.enable_thresholding:
            label, mask = self._decided(batch.pred_score, batch.anomaly_map, valid_pixels_of(batch.image))
            batch.pred_label = batch.pred_label if batch.pred_label is not None else label
            batch.pred_mask = batch.pred_mask if batch.pred_mask is not None else mask
        if self.enable_normalization:
            self.normalize_batch(batch)

    def forward(self, predictions: InferenceBatch, valid_pixels: torch.Tensor | None = None) -> InferenceBatch:
        """Do the same for images outside of an `Engine`.

        Args:
            predictions: What the model returned.
            valid_pixels: Bool ``(B, S, S)``, false on padding; none means all valid.
        """
        score, maps = predictions.pred_score, predictions.anomaly_map
        valid = torch.ones_like(maps, dtype=torch.bool) if valid_pixels is None else valid_pixels
        label, mask = self._decided(score, maps, valid) if self.enable_thresholding else (None, None)
        if self.enable_normalization:
            score = self._normalize(score, self.image_min, self.image_max, self.image_threshold)
            maps = self._normalize(maps, self.pixel_min, self.pixel_max, self.pixel_threshold)
        return InferenceBatch(pred_score=score, pred_label=label, anomaly_map=maps, pred_mask=mask)

    def _decided(
        self, scores: torch.Tensor, maps: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return labels ``(B,)`` and masks ``(B, S, S)`` of logits, bool; None where there is no threshold."""
        mask = None if self._pixel_threshold.isnan() else (maps > self._pixel_threshold) & valid
        of_image, of_map = scores > self._image_threshold, torch.zeros_like(scores, dtype=torch.bool)
        needed = [] if self.rule == Rule.pixel else [self._image_threshold]
        if self.rule != Rule.image:
            needed.append(self._statistic_threshold)
            of_map = self._map_statistic(maps, valid) > self._statistic_threshold
        if any(bool(threshold.isnan()) for threshold in needed):
            return None, mask
        labels = {Rule.image: of_image, Rule.pixel: of_map, Rule.either: of_image | of_map}
        return labels.get(Rule(self.rule), of_image & of_map), mask

    def _map_statistic(self, maps: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return what the rules read of maps, ``(B,)``: the highest valid pixel, or the mean of the highest ones."""
        if self.statistic == Statistic.map_max:
            return maps.masked_fill(~valid, -math.inf).flatten(1).amax(dim=1)
        pairs = zip(maps, valid, strict=True)
        found = [values[inside] for values, inside in pairs]
        counts = [num_top_pixels(len(values), topk_fraction=self.topk_fraction) for values in found]
        tops = zip(found, counts, strict=True)
        return torch.stack([values.double().topk(count).values.mean().float() for values, count in tops])


class _Pixels:
    """What a pixel metric reads of a batch."""

    def __init__(self, anomaly_map: torch.Tensor, gt_mask: torch.Tensor | None) -> None:
        self.anomaly_map = anomaly_map
        self.gt_mask = gt_mask
