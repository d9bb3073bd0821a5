"""Pages that people look at, from a score table or a bundle: static, without a network, a server or a GPU; no ray.

score table -> one pass (counts on a grid, errors, rows to show) -> shown images and heatmaps -> index.html, last
"""

from feclip.report.making import report

__all__ = ["report"]
