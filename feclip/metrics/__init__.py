"""Metrics of anomaly detection, ranked on logits; exact, and the same on any number of workers."""

from feclip.metrics.bootstrap import bootstrap_intervals, bootstrap_means, bootstrap_pairs, bootstrap_values
from feclip.metrics.pixel_counts import PixelCounts
from feclip.metrics.ranking import image_metrics
from feclip.metrics.table import mean_over_categories, pixel_metrics

__all__ = [
    "PixelCounts",
    "bootstrap_intervals",
    "bootstrap_means",
    "bootstrap_pairs",
    "bootstrap_values",
    "image_metrics",
    "mean_over_categories",
    "pixel_metrics",
]
