"""AUPRO: exact, by order alone, region by region."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from feclip.metrics import aupro


def literal_aupro(logits: np.ndarray, masks: np.ndarray, *, max_fpr: float) -> float:
    """Return it as its definition reads: every threshold, every region, one after the other."""
    regions = []
    for index, mask in enumerate(masks):
        numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, numbered == number) for number in range(1, count + 1)]
    normal = logits[~masks]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(logits.ravel()), reverse=True):
        fpr = float((normal >= threshold).mean())
        points.append((fpr, float(np.mean([(logits[index][part] >= threshold).mean() for index, part in regions]))))
    x, y = (np.array(values) for values in zip(*points, strict=True))
    kept = x < max_fpr
    beyond = int(kept.sum())  # the first point at or beyond the limit
    share = (max_fpr - x[beyond - 1]) / (x[beyond] - x[beyond - 1])
    end = y[beyond - 1] + share * (y[beyond] - y[beyond - 1])
    return float(np.trapezoid(np.append(y[kept], end), np.append(x[kept], max_fpr)) / max_fpr)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 5, 1000]), max_fpr=st.sampled_from([0.05, 0.3, 1.0]))
def test_it_equals_the_definition_with_and_without_ties(seed: int, levels: int, max_fpr: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(levels, size=(3, 6, 7)).astype(np.float32)
    masks = rng.random((3, 6, 7)) < 0.2
    masks[0] = False
    masks[1, 0, 0] = True
    masks[2, 5, 6] = False
    found = aupro(torch.from_numpy(logits), torch.from_numpy(masks), max_fpr=max_fpr)
    assert found == pytest.approx(literal_aupro(logits, masks, max_fpr=max_fpr), abs=1e-12)


def test_the_sharpness_of_the_scores_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 16, 16, generator=generator)
    masks = torch.rand(4, 16, 16, generator=generator) < 0.1
    assert aupro(logits * 100, masks) == aupro(logits, masks) == aupro(logits.double().exp(), masks)


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    logits, masks = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10, dtype=torch.bool)
    masks[0, :5, :5] = masks[0, 8, 8] = True
    logits[0, 8, 8] = 2.0  # found at no false alarm; the large one ties with everything normal
    assert aupro(logits, masks, max_fpr=0.3) == pytest.approx((0.5 + 0.65) / 2)
    logits[0, :5, :5], logits[0, 8, 8] = 2.0, 0.0
    assert aupro(logits, masks, max_fpr=0.3) == pytest.approx((0.5 + 0.65) / 2)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, -9.0, 0.0], [0.0, 0.0, 9.0]]])
    masks = torch.eye(3, dtype=torch.bool)[None]
    # One region, two thirds found at once: 2/3 at no false alarm. As three regions it would be the same, so a fourth:
    more = torch.zeros(2, 3, 3)
    more[0] = logits[0]
    both = torch.zeros(2, 3, 3, dtype=torch.bool)
    both[0], both[1, 0, 0] = masks[0], True
    more[1, 0, 0] = 9.0
    assert aupro(more, both, max_fpr=1e-6) == pytest.approx((2 / 3 + 1) / 2)


def test_what_does_not_count_leaves_both_rates() -> None:
    logits = torch.tensor([[[3.0, torch.nan, 1.0, torch.nan]]])
    masks = torch.tensor([[[True, True, False, False]]])
    assert aupro(logits, masks) == 1.0
    masks[0, 0, 0] = False
    assert aupro(logits, masks) is None


def test_normal_images_are_in_the_false_positive_rate() -> None:
    logits, masks = torch.zeros(2, 1, 4), torch.zeros(2, 1, 4, dtype=torch.bool)
    masks[0, 0, 0], logits[0, 0, 0] = True, 1.0
    assert aupro(logits, masks) == 1.0
    logits[1] = 2.0
    assert aupro(logits, masks) == 0.0  # four of seven normal pixels come first


def test_without_a_region_or_without_normal_pixels_there_is_no_value() -> None:
    assert aupro(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool)) is None
    assert aupro(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)) is None
    assert aupro(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2, dtype=torch.bool)) is None


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1])
def test_a_limit_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="max_fpr"):
        aupro(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), max_fpr=limit)
    with pytest.raises(ValueError, match="shape"):
        aupro(torch.zeros(1, 2, 2), torch.zeros(2, 2, dtype=torch.bool))
