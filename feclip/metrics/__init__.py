"""Metrics of anomaly detection, ranked on logits."""

from feclip.metrics.ranking import auroc, average_precision
from feclip.metrics.regions import aupro
from feclip.metrics.table import ScoredImages, image_and_pixel_metrics

__all__ = ["ScoredImages", "aupro", "auroc", "average_precision", "image_and_pixel_metrics"]
