"""From a score table to numbers: per category, on image labels and, where masks are known, on pixels.

    image_rows(run, index)              tasks: what the image metrics need of a slice
    count_pixels(run, index, ...)       tasks: counts of one category's pixels, image by image
    judge_category(rows, pixels)        a task for each category: a few numbers
    mean_result(images, results)        driver

Maps are drawn from the stored token maps by the function that the scores' statistics come from, and gt masks are
placed as their images were, so what is judged is what was scored.

Shapes: N images, S side of the model input in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from feclip.archive import Run, read_decisions, read_scores
from feclip.data import InputOptions, read_image_mask
from feclip.errors import RunError
from feclip.metrics import (
    PixelCounts,
    bootstrap_intervals,
    bootstrap_means,
    bootstrap_values,
    image_metrics,
    mean_over_categories,
    pixel_metrics,
)
from feclip.model import pixel_maps
from feclip.score_table import unpack_token_maps, unpack_valid_regions

__all__ = ["CategoryResult", "count_pixels", "image_rows", "judge_category", "mean_result"]

FPRS = (0.01, 0.001)
"""False-positive rates at which a field asks for the true-positive rate: one and a tenth of a per cent."""
SEED = 0  # of the resamples: the same evaluation states the same intervals
_BATCH_SIZE = 16  # maps at a time, which bounds the memory and changes nothing
_IMAGE_COLUMNS = ("uri", "category", "label", "has_mask", "image_logit")


@dataclass(frozen=True, kw_only=True)
class CategoryResult:
    """The numbers of one category, or of all of them together."""

    metrics: Mapping[str, float]
    """By their names, in 0..1, counts of decisions aside; those without a value are absent."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals over images, for some of the metrics."""
    resampled: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict, repr=False)
    """The metrics of each resample, behind the intervals."""
    num_images: int
    num_anomalous: int
    num_masked: int
    """Images whose pixels count: their mask is known, be it empty."""
    num_masked_anomalous: int
    """Anomalous ones among them."""


def image_rows(run: Run, index: int, *, calibration_id: str | None) -> pa.Table:
    """Return what the image metrics need of one slice.

    Args:
        run: A finished run over the manifest of an evaluation.
        index: Slice, zero-based.
        calibration_id: Whose decisions are read too; None for none.

    Returns:
        ``uri``, ``category``, ``label`` and ``has_mask`` (bool), ``image_logit``, ``pred_label`` (bool or null).

    Raises:
        RunError: If an image has no score.
        StorageError: If the slice cannot be read.
    """
    table = read_scores(run, index, columns=_IMAGE_COLUMNS)
    if table["image_logit"].null_count:
        msg = f"{table['image_logit'].null_count} images of {run.output} have no score; see its column error."
        raise RunError(msg)
    decided: pa.ChunkedArray | pa.Array = pa.nulls(len(table), pa.bool_())
    if calibration_id is not None:
        decided = read_decisions(run, index, calibration_id=calibration_id, columns=["pred_label"])["pred_label"]
    return pa.table(
        {
            "uri": table["uri"],
            "category": table["category"],
            "label": pc.equal(table["label"], "1"),
            "has_mask": pc.equal(table["has_mask"], "True"),
            "image_logit": table["image_logit"],
            "pred_label": decided,
        }
    )


def count_pixels(
    run: Run, index: int, *, category: str, options: InputOptions, smoothing_sigma: float
) -> dict[str, PixelCounts]:
    """Count the pixels of one category's images in one slice.

    Args:
        run: A finished run over the manifest of an evaluation.
        index: Slice, zero-based.
        category: Whose images count, those whose mask is known.
        options: How the images became inputs.
        smoothing_sigma: Of the maps, pixels of the model input.

    Returns:
        The counts of each image on its own, by its URI.

    Raises:
        DataError: If a mask cannot be decoded or does not fit its image.
        StorageError: If a slice or a mask cannot be read.
    """
    columns = ["uri", "category", "has_mask", "mask_uri", "width", "height", "token_map", "valid_box", "valid_mask"]
    table = read_scores(run, index, columns=columns)
    table = table.filter((pc.field("category") == category) & (pc.field("has_mask") == "True"))
    counted = {}
    for start in range(0, len(table), _BATCH_SIZE):
        part = table.slice(start, _BATCH_SIZE)
        maps = pixel_maps(
            torch.from_numpy(unpack_token_maps(part)), image_size=options.image_size, smoothing_sigma=smoothing_sigma
        ).numpy()
        maps[~unpack_valid_regions(part, image_size=options.image_size)] = np.nan
        masks = _placed_masks(part, options)
        for number, uri in enumerate(part["uri"].to_pylist()):
            counted[uri] = PixelCounts.of(maps[number : number + 1], masks[number : number + 1])
    return counted


def _placed_masks(table: pa.Table, options: InputOptions) -> npt.NDArray[np.bool_]:
    """Return the gt masks as their images lie on the model's input, shape ``(N, S, S)``; all false where none is."""
    placed = np.zeros((len(table), options.image_size, options.image_size), np.bool_)
    for target, row in zip(placed, table.select(["uri", "mask_uri", "width", "height"]).to_pylist(), strict=True):
        if row["mask_uri"] is not None:
            shape = (row["height"], row["width"])
            mask = read_image_mask(row["mask_uri"], image_uri=row["uri"], image_shape=shape, label=None)
            target[:] = options.geometry(*shape).place(mask)
    return placed


def judge_category(
    rows: pa.Table, pixels: Mapping[str, PixelCounts], *, category: str, num_resamples: int
) -> CategoryResult:
    """Return the numbers of one category.

    Args:
        rows: Its rows of `image_rows`, of all slices.
        pixels: What `count_pixels` returned for its slices.
        category: Its name, by which it draws its resamples.
        num_resamples: Resamples behind the intervals; 0 for no intervals.
    """
    logits, labels = np.asarray(rows["image_logit"]), np.asarray(rows["label"])
    has_mask = np.asarray(rows["has_mask"])
    metrics = image_metrics(logits, labels, fprs=FPRS)
    by_image = [pixels.get(uri, PixelCounts.empty()) for uri in rows["uri"].to_pylist()] if pixels else []
    metrics |= pixel_metrics(PixelCounts.merge_all(by_image))
    resampled = {}
    if num_resamples:
        resampled = bootstrap_values(
            logits, labels, pixels=by_image, seed=SEED, category=category, num_resamples=num_resamples, fprs=FPRS
        )
    return CategoryResult(
        metrics=metrics | _decided(rows),
        intervals=bootstrap_intervals(resampled),
        resampled=resampled,
        num_images=len(rows),
        num_anomalous=int(labels.sum()),
        num_masked=int(has_mask.sum()),
        num_masked_anomalous=int((has_mask & labels).sum()),
    )


def mean_result(images: pa.Table, results: Mapping[str, CategoryResult]) -> CategoryResult:
    """Return the mean of each metric over the categories that have it; decisions are counted over all images.

    Args:
        images: Rows of `image_rows`, of all categories.
        results: What `judge_category` returned for each category.
    """
    parts: Sequence[CategoryResult] = list(results.values())
    means = mean_over_categories({name: result.metrics for name, result in results.items()})
    resampled = bootstrap_means({name: result.resampled for name, result in results.items()})
    return CategoryResult(
        metrics=means | _decided(images),
        intervals=bootstrap_intervals(resampled),
        resampled=resampled,
        num_images=sum(part.num_images for part in parts),
        num_anomalous=sum(part.num_anomalous for part in parts),
        num_masked=sum(part.num_masked for part in parts),
        num_masked_anomalous=sum(part.num_masked_anomalous for part in parts),
    )


def _decided(images: pa.Table) -> dict[str, float]:
    """Return the confusion at the bundle's thresholds; nothing where no decision was made."""
    if images["pred_label"].null_count:
        return {}
    labels, called = np.asarray(images["label"]), np.asarray(images["pred_label"])
    counts = {
        "decided_tp": int((labels & called).sum()),
        "decided_fp": int((~labels & called).sum()),
        "decided_tn": int((~labels & ~called).sum()),
        "decided_fn": int((labels & ~called).sum()),
    }
    rates = {}
    if labels.any():
        rates["decided_tpr"] = counts["decided_tp"] / int(labels.sum())
    if not labels.all():
        rates["decided_fpr"] = counts["decided_fp"] / int((~labels).sum())
    return {name: float(count) for name, count in counts.items()} | rates
