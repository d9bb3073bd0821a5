"""Pixel AUROC, AP, F1-max and exact AUPRO: worked by hand, against their definitions and against other libraries."""

import numpy as np
import pytest
import torch
from random_maps import Case, draw_case
from scipy import ndimage
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from feclip.metrics import PixelCounts, pixel_metrics
from feclip.metrics.pixel_curve import PixelCurve, aupro_of


def aupro(logits: np.ndarray, masks: np.ndarray, *, max_fpr: float = 0.3) -> float:
    """Return the exact value, which must be there."""
    curve = PixelCurve.of(PixelCounts.of(logits.astype(np.float32), masks))
    assert curve is not None
    return aupro_of(curve, max_fpr=max_fpr)


def literal_aupro(logits: np.ndarray, masks: np.ndarray, *, max_fpr: float) -> float:
    """Return it as its definition reads: every threshold, every region, one after the other."""
    counted = ~np.isnan(logits)
    regions = []
    for index, mask in enumerate(masks):
        numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
        parts = [logits[index][(numbered == number) & counted[index]] for number in range(1, count + 1)]
        regions += [part for part in parts if part.size]
    normal = logits[~masks & counted]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(logits[counted].tolist()), reverse=True):
        fpr = float((normal >= threshold).mean())
        points.append((fpr, float(np.mean([(part >= threshold).mean() for part in regions]))))
    x, y = (np.array(values) for values in zip(*points, strict=True))
    kept = x < max_fpr
    beyond = int(kept.sum())  # the first point at or beyond the limit
    share = (max_fpr - x[beyond - 1]) / (x[beyond] - x[beyond - 1])
    end = y[beyond - 1] + share * (y[beyond] - y[beyond - 1])
    return float(np.trapezoid(np.append(y[kept], end), np.append(x[kept], max_fpr)) / max_fpr)


@pytest.mark.parametrize("seed", range(60))
def test_aupro_equals_its_definition_with_ties_padding_and_regions_at_borders(seed: int) -> None:
    logits, masks = draw_case(seed)
    for max_fpr in (0.05, 0.3, 1.0):
        expected = literal_aupro(logits, masks, max_fpr=max_fpr)
        assert aupro(logits, masks, max_fpr=max_fpr) == pytest.approx(expected, abs=1e-9)


def test_aupro_worked_by_hand() -> None:
    # From the top: A1, N, A2 | N (tied), N, N; two regions, of one pixel and of one. FPR 0: 1/2. Level to FPR 1/4, then
    # straight to (2/4, 1). Up to 0.3: 1/2 x 1/4, and from 1/4 to 0.3 a mean height of (0.5 + 0.6) / 2.
    logits = np.array([[[9.0, 8.0, 7.0, 7.0, 6.0, 5.0]]])
    masks = np.array([[[True, False, True, False, False, False]]])
    assert aupro(logits, masks) == pytest.approx((0.125 + 0.05 * 0.55) / 0.3, abs=1e-15)


def test_the_other_metrics_worked_by_hand() -> None:
    # The same pixels. Pairs in the right order: 4 of A1, 2 and a tie of A2, of 8. Precision at the hits: 1 and 2/4.
    # F1: 2 x 1 / (1 + 2) at A1, 2 x 2 / (4 + 2) at A2.
    logits = np.array([[[9.0, 8.0, 7.0, 7.0, 6.0, 5.0]]], np.float32)
    masks = np.array([[[True, False, True, False, False, False]]])
    found = pixel_metrics(PixelCounts.of(logits, masks))
    assert found["pixel_auroc"] == 6.5 / 8
    assert found["pixel_ap"] == 0.75
    assert found["pixel_f1_max"] == pytest.approx(2 / 3, abs=1e-15)


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    logits, masks = np.zeros((1, 10, 10)), np.zeros((1, 10, 10), np.bool_)
    masks[0, :5, :5] = masks[0, 8, 8] = True
    logits[0, 8, 8] = 2.0  # found at no false alarm; the large one ties with everything normal
    assert aupro(logits, masks) == pytest.approx((0.5 + 0.65) / 2)
    logits[0, :5, :5], logits[0, 8, 8] = 2.0, 0.0
    assert aupro(logits, masks) == pytest.approx((0.5 + 0.65) / 2)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    logits, masks = np.zeros((2, 3, 3)), np.zeros((2, 3, 3), np.bool_)
    masks[0], masks[1, 0, 0] = np.eye(3), True
    logits[0, 0, 0] = logits[0, 2, 2] = logits[1, 0, 0] = 9.0
    logits[0, 1, 1] = -9.0
    # Two regions: two thirds of one and all of the other before any false alarm. As four regions it would be 3/4.
    assert aupro(logits, masks, max_fpr=1e-6) == pytest.approx((2 / 3 + 1) / 2)


def test_normal_images_are_in_the_false_positive_rate() -> None:
    logits, masks = np.zeros((2, 1, 4)), np.zeros((2, 1, 4), np.bool_)
    masks[0, 0, 0], logits[0, 0, 0] = True, 1.0
    assert aupro(logits, masks) == 1.0
    logits[1] = 2.0
    assert aupro(logits, masks) == 0.0  # four of seven normal pixels come first


def test_auroc_and_ap_are_those_of_torchmetrics(case: Case) -> None:
    logits, masks = case
    counted = ~np.isnan(logits)
    _, ranks = torch.unique(torch.from_numpy(logits[counted]), return_inverse=True)
    scores, target = ranks.double() / max(1, int(ranks.max())), torch.from_numpy(masks[counted]).int()
    found = pixel_metrics(PixelCounts.of(logits, masks))
    assert found["pixel_auroc"] == pytest.approx(float(binary_auroc(scores, target)), abs=1e-6)
    assert found["pixel_ap"] == pytest.approx(float(binary_average_precision(scores, target)), abs=1e-6)


def test_f1_max_is_the_highest_of_all_thresholds(case: Case) -> None:
    logits, masks = case
    counted = ~np.isnan(logits)
    scores, target = logits[counted], masks[counted]
    called = [scores >= threshold for threshold in set(scores.tolist())]
    f1 = [2 * (mask & target).sum() / (mask.sum() + target.sum()) for mask in called]
    assert pixel_metrics(PixelCounts.of(logits, masks))["pixel_f1_max"] == pytest.approx(max(f1), abs=1e-12)


@pytest.mark.parametrize("scale", ["times 100", "exp", "cube", "twice less 64"])
def test_no_strictly_monotone_scale_changes_a_bit(case: Case, scale: str) -> None:
    logits, masks = case
    changed = {
        "times 100": logits * 100,
        "exp": np.exp(logits.astype(np.float64) / 4),
        "cube": logits.astype(np.float64) ** 3,
        "twice less 64": logits.astype(np.float64) * 2 - 64,
    }[scale].astype(np.float32)
    assert len(np.unique(changed)) == len(np.unique(logits)), "float32 tied what was not"
    expected, found = (pixel_metrics(PixelCounts.of(scores, masks)) for scores in (logits, changed))
    names = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
    assert [found[name] for name in names] == [expected[name] for name in names]


@pytest.mark.parametrize(
    ("seed", "levels", "divisor", "expected"),
    [(0, 5, 4, 0.1627771258354187), (1, 100, 128, 0.09621814638376236), (2, 1000, 1024, 0.22259196639060974)],
)
def test_aupro_is_what_anomalib_returns(seed: int, levels: int, divisor: int, expected: float) -> None:
    # Values of anomalib 2.7.0: the arrays below saved as FOLDER/scores.npy and masks.npy, then, with the interpreter of
    # its own environment, `python benchmarks/aupro_once.py anomalib FOLDER`.
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(3, 12, 14)).astype(np.float32) / np.float32(divisor)
    masks = rng.random((3, 12, 14)) < 0.12
    masks[0] = False
    masks[1, 0, 0] = masks[2, 2:6, 3:9] = True
    assert aupro(scores, masks) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1])
def test_a_limit_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"max_fpr must lie in \(0, 1\]"):
        aupro(np.zeros((1, 1, 2)), np.array([[[True, False]]]), max_fpr=limit)
