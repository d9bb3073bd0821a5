"""The community's AUPRO: its recipe, read literally."""

import numpy as np
import pytest
from random_maps import Case
from scipy import ndimage
from scipy.special import expit

from feclip.metrics import PixelCounts, pixel_metrics


def literal_recipe(logits: np.ndarray, masks: np.ndarray) -> float:
    """Return what the recipe says, step by step, on probabilities in float64; NaN where it divides by zero."""
    counted = ~np.isnan(logits)
    probabilities = expit(logits.astype(np.float64))
    low, high = probabilities[counted].min(), probabilities[counted].max()
    overlaps, rates = [], []
    for threshold in np.arange(low, high, (high - low) / 200):
        called = counted & (probabilities > threshold)
        shares = []
        for index, mask in enumerate(masks):
            numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
            for number in range(1, count + 1):
                region = (numbered == number) & counted[index]
                if region.any():
                    shares.append((called[index] & region).sum() / region.sum())
        overlaps.append(np.mean(shares))
        rates.append((called & ~masks).sum() / (counted & ~masks).sum())
    x, y = np.array(rates), np.array(overlaps)
    x, y = x[x < 0.3], y[x < 0.3]
    if len(set(x.tolist())) < 2:
        return float("nan")
    x = (x - x.min()) / (x.max() - x.min())
    return float(abs(np.trapezoid(y, x)))


def test_the_recipe_read_literally_gives_the_same(case: Case) -> None:
    logits, masks = case
    found = pixel_metrics(PixelCounts.of(logits, masks)).get("aupro_community", float("nan"))
    assert found == pytest.approx(literal_recipe(logits, masks), abs=1e-6, nan_ok=True)


def test_a_case_worked_by_hand() -> None:
    # Probabilities: 0 (ten normal pixels), 1/4 (a normal one), 1/2 (one half of the region), 3/4 (a normal one), 1 (the
    # other half). The points (FPR, overlap) as the threshold rises: (2/12, 1), (1/12, 1), (1/12, 1/2), (0, 1/2); all
    # are kept and stretched to 1, 1/2, 1/2, 0. Area: 1/2 x 1 on the right, 1/2 x 1/2 on the left.
    probabilities = np.array([1e-9] * 10 + [0.25, 0.5, 0.75, 1 - 1e-9])
    logits = np.log(probabilities / (1 - probabilities)).astype(np.float32).reshape(1, 1, 14)
    masks = np.zeros((1, 1, 14), np.bool_)
    masks[0, 0, [11, 13]] = True
    logits = np.concatenate([logits, np.full((1, 2, 14), np.nan, np.float32)], axis=1)
    masks = np.concatenate([masks, np.zeros((1, 2, 14), np.bool_)], axis=1)
    masks[0, 1, 12] = True  # joins the two by corners; does not count itself
    assert pixel_metrics(PixelCounts.of(logits, masks))["aupro_community"] == pytest.approx(0.75, abs=1e-9)


def test_it_depends_on_the_sharpness_of_the_scores_and_the_exact_value_does_not() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 40, 40), np.bool_)
    masks[1:, 10:20, 10:20] = True
    logits = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    soft, sharp = (pixel_metrics(PixelCounts.of(logits * factor, masks)) for factor in (np.float32(1), np.float32(4)))
    assert soft["aupro"] == sharp["aupro"]
    assert abs(soft["aupro_community"] - soft["aupro"]) < 0.05
    assert abs(sharp["aupro_community"] - sharp["aupro"]) > 0.05


def test_where_the_recipe_divides_by_zero_there_is_no_value() -> None:
    masks = np.array([[[True, False, False, False]]])
    equal = pixel_metrics(PixelCounts.of(np.zeros((1, 1, 4), np.float32), masks))
    assert "aupro_community" not in equal
    assert equal["aupro"] == pytest.approx(0.15)
    perfect = pixel_metrics(PixelCounts.of(np.array([[[5.0, 1.0, 1.0, 1.0]]], np.float32), masks))
    assert "aupro_community" not in perfect  # no threshold between the lowest and the highest gives a false alarm
