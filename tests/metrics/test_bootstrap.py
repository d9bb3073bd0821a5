"""Bootstrap intervals: resamples that are what they claim, and an approximation of pixels that is as good as stated."""

import numpy as np
import pytest
from scipy import ndimage

from feclip.metrics import (
    PixelCounts,
    bootstrap_intervals,
    bootstrap_means,
    bootstrap_pairs,
    bootstrap_values,
    image_metrics,
    mean_over_categories,
    pixel_metrics,
)
from feclip.metrics.binned_pixels import BinnedPixels

PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_community")


def draw_images(*, num_images: int, overlap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of images, a third of them anomalous."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % 3 == 0
    return (rng.normal(size=num_images) + overlap * labels).astype(np.float32), labels


def draw_maps(*, num_images: int, size: int) -> list[PixelCounts]:
    """Return the counts of smooth maps, one by one; every fourth image is normal."""
    rng = np.random.default_rng(1)
    counts = []
    for index in range(num_images):
        mask = np.zeros((size, size), np.bool_)
        for _ in range(int(rng.integers(1, 4)) if index % 4 else 0):
            top, left = rng.integers(size - size // 8, size=2)
            mask[top : top + size // 8, left : left + size // 10] = True
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4)
        logits = 2 * noise / noise.std() + 3 * ndimage.gaussian_filter(mask.astype(float), 4) + rng.normal() - 3
        counts.append(PixelCounts.of(logits[None].astype(np.float32), mask[None]))
    return counts


def test_the_interval_of_auroc_is_that_of_its_known_variance() -> None:
    logits, labels = draw_images(num_images=600)
    low, high = bootstrap_intervals(bootstrap_values(logits, labels, seed=0, num_resamples=400))["image_auroc"]
    auroc = image_metrics(logits, labels)["image_auroc"]
    # Hanley and McNeil 1982, for 200 anomalous and 400 normal images.
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = (auroc * (1 - auroc) + 199 * (q1 - auroc**2) + 399 * (q2 - auroc**2)) / (200 * 400)
    assert low < auroc < high
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.15)


def test_every_metric_has_an_interval_around_its_value() -> None:
    logits, labels = draw_images(num_images=90)
    intervals = bootstrap_intervals(bootstrap_values(logits, labels, seed=0, num_resamples=200))
    found = image_metrics(logits, labels)
    assert intervals.keys() == found.keys()
    assert all(0 <= intervals[name][0] <= found[name] <= intervals[name][1] <= 1 for name in found)


def test_one_seed_gives_one_result_in_whatever_order_the_images_stand() -> None:
    logits, labels = draw_images(num_images=30)
    maps = draw_maps(num_images=30, size=16)
    order = np.random.default_rng(5).permutation(30)
    first = bootstrap_values(logits, labels, pixels=maps, seed=3, num_resamples=20)
    again = bootstrap_values(logits[order], labels[order], pixels=[maps[i] for i in order], seed=3, num_resamples=20)
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    for other in ({"seed": 4}, {"seed": 3, "category": "screw"}):
        changed = bootstrap_values(logits, labels, num_resamples=20, **other)  # type: ignore[arg-type]
        assert not np.array_equal(first["image_auroc"], changed["image_auroc"])


def test_pairs_are_drawn_alike_for_both_and_so_is_their_order() -> None:
    logits, labels = draw_images(num_images=40)
    other = logits[::-1].copy()
    one, two = bootstrap_pairs(logits, other, labels, seed=0, num_resamples=30)
    again, same = bootstrap_pairs(other, other, labels, seed=0, num_resamples=30)
    assert np.array_equal(two["image_auroc"], again["image_auroc"])
    assert np.array_equal(again["image_auroc"], same["image_auroc"])
    assert not np.array_equal(one["image_auroc"], two["image_auroc"])
    with pytest.raises(ValueError, match="a score of each of the 40 images"):
        bootstrap_pairs(logits, other[:3], labels, seed=0)


def test_each_resample_keeps_the_number_of_both_classes() -> None:
    # One anomalous image above all others: AUROC and AP are 1 in every resample, since it is always drawn.
    found = bootstrap_values(np.arange(20.0), np.arange(20) == 19, seed=0, num_resamples=50)
    assert bootstrap_intervals(found)["image_auroc"] == (1.0, 1.0)
    assert np.ptp(found["image_ap"]) == 0
    assert bootstrap_values(np.arange(3.0), np.zeros(3), seed=0) == {}


def test_pixel_resamples_are_those_of_images_drawn_as_often() -> None:
    maps = draw_maps(num_images=16, size=64)
    rng = np.random.default_rng(2)
    weights = np.stack([np.bincount(rng.integers(16, size=16), minlength=16) for _ in range(25)])
    binned = list(BinnedPixels.of(maps).metrics(weights))
    for row, found in zip(weights, binned, strict=True):
        exact = pixel_metrics(PixelCounts.merge_all(maps[i] for i in np.repeat(np.arange(16), row)))
        for name in PIXEL[:4]:
            assert found[name] == pytest.approx(exact[name], abs=5e-4)
        assert found["aupro_community"] == pytest.approx(exact["aupro_community"], abs=0.02)  # its thresholds stay


def test_the_whole_and_few_distinct_scores_are_exact() -> None:
    maps = draw_maps(num_images=8, size=16)  # 2,048 pixels in all
    once, twice = np.ones((1, 8), np.int64), np.array([[2, 0, 1, 1, 3, 0, 0, 1]])
    for weights in (once, twice):
        exact = pixel_metrics(PixelCounts.merge_all(maps[i] for i in np.repeat(np.arange(8), weights[0])))
        (found,) = BinnedPixels.of(maps).metrics(weights)
        assert [found[name] for name in PIXEL[:4]] == pytest.approx([exact[name] for name in PIXEL[:4]], abs=1e-12)
    whole = draw_maps(num_images=16, size=64)
    (found,) = BinnedPixels.of(whole).metrics(np.ones((1, 16), np.int64))
    exact = pixel_metrics(PixelCounts.merge_all(whole))
    assert found["aupro_community"] == pytest.approx(exact["aupro_community"], abs=1e-12)


def test_pixel_intervals_stand_around_the_values_and_lacking_masks_leave_gaps() -> None:
    logits, labels = draw_images(num_images=24)
    maps = [
        PixelCounts.empty() if labels[i] and i else image for i, image in enumerate(draw_maps(num_images=24, size=32))
    ]
    intervals = bootstrap_intervals(bootstrap_values(logits, labels, pixels=maps, seed=0, num_resamples=100))
    found = pixel_metrics(PixelCounts.merge_all(maps))
    assert intervals.keys() == image_metrics(logits, labels).keys() | found.keys()
    assert all(intervals[name][0] <= found[name] <= intervals[name][1] for name in found)
    normal = [PixelCounts.of(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2)))] * 24
    assert (
        bootstrap_values(logits, labels, pixels=normal, seed=0, num_resamples=3).keys()
        == image_metrics(logits, labels).keys()
    )


def test_the_mean_over_categories_is_taken_in_each_resample() -> None:
    logits, labels = draw_images(num_images=60)
    by_category = {
        name: bootstrap_values(logits, labels, seed=0, category=name, num_resamples=200)
        for name in ("a", "b", "c", "d")
    }
    means = bootstrap_means(by_category)
    fifth = {name: float(values["image_ap"][5]) for name, values in by_category.items()}
    expected = mean_over_categories({name: {"image_ap": value} for name, value in fifth.items()})
    assert means["image_ap"][5] == pytest.approx(expected["image_ap"], abs=1e-12)
    # Four independent categories: half the spread of one.
    ratio = means["image_auroc"].std() / by_category["a"]["image_auroc"].std()
    assert ratio == pytest.approx(0.5, abs=0.12)
    gaps = {"a": {"aupro": np.array([0.2, np.nan, np.nan])}, "b": {"aupro": np.array([0.4, 0.6, np.nan])}}
    assert bootstrap_means(gaps)["aupro"] == pytest.approx([0.3, 0.6, np.nan], nan_ok=True)


def test_what_does_not_fit_is_refused() -> None:
    logits, labels = draw_images(num_images=6)
    with pytest.raises(ValueError, match="each of the 6 images on its own, got 1"):
        bootstrap_values(logits, labels, pixels=[PixelCounts.empty()], seed=0)
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        bootstrap_intervals({}, confidence=1.0)
