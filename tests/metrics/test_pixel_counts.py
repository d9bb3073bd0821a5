"""The counts of pixels: the same bits in whatever order and division the images come."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feclip.metrics import PixelCounts, pixel_metrics
from feclip.score_keys import scores_of


def arrays(counts: PixelCounts) -> list[tuple[str, bytes]]:
    """Return every array, as its type and bytes."""
    columns = [getattr(counts, field.name) for field in dataclasses.fields(counts)]
    return [(str(column.dtype), column.tobytes()) for column in columns]


def draw_images(seed: int, *, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits with ties and NaN, and masks, ``(N, 6, 7)``."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-5, 30, size=(num_images, 6, 7)).astype(np.float32) / 4
    logits[rng.random(logits.shape) < 0.1] = np.nan
    return logits, rng.random(logits.shape) < 0.2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_workers=st.integers(1, 5), shuffled=st.randoms(use_true_random=False))
def test_any_order_and_division_gives_the_same_bits(seed: int, num_workers: int, shuffled) -> None:  # noqa: ANN001
    logits, masks = draw_images(seed, num_images=12)
    whole = PixelCounts.of(logits, masks)
    order = list(range(12))
    shuffled.shuffle(order)
    parts = [
        PixelCounts.of(logits[order[start::num_workers]], masks[order[start::num_workers]])
        for start in range(num_workers)
    ]
    assert arrays(PixelCounts.merge_all(parts)) == arrays(whole)
    assert arrays(functools.reduce(PixelCounts.merge, reversed(parts))) == arrays(whole)
    assert pixel_metrics(PixelCounts.merge_all(parts)) == pixel_metrics(whole)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_merging_is_associative_and_commutative_and_has_a_neutral_element(seed: int) -> None:
    a, b, c = (PixelCounts.of(*draw_images(seed + number, num_images=number)) for number in range(3))
    assert arrays(a.merge(b).merge(c)) == arrays(a.merge(b.merge(c)))
    assert arrays(b.merge(c)) == arrays(c.merge(b))
    assert arrays(b.merge(PixelCounts.empty())) == arrays(PixelCounts.empty().merge(b)) == arrays(b)


def test_a_region_is_counted_without_what_does_not_count() -> None:
    # One region of five pixels around a corner, of which the middle one is padding; a second of one; a third unseen.
    masks = np.array([[[1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 1]]], np.bool_)
    logits = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    logits[0, 1, 2] = logits[0, 3, 3:] = np.nan
    counts = PixelCounts.of(logits, masks)
    assert scores_of(counts.anomalous_keys).tolist() == [0, 1, 4, 11, 16]
    assert counts.region_sizes.tolist() == [4, 4, 1, 4, 4]
    assert counts.num_regions == 2
    assert len(counts.normal_keys) == 20 - 5 - 3


def test_regions_of_two_images_are_two() -> None:
    masks = np.ones((2, 2, 2), np.bool_)
    assert PixelCounts.of(np.zeros((2, 2, 2), np.float32), masks).num_regions == 2


def test_tensors_and_arrays_of_any_kind_of_mask_are_taken_alike() -> None:
    logits, masks = draw_images(0, num_images=3)
    found = arrays(PixelCounts.of(logits, masks))
    assert found == arrays(PixelCounts.of(torch.from_numpy(logits), torch.from_numpy(masks)))
    assert found == arrays(PixelCounts.of(logits, masks.astype(np.uint8)))
    logits.setflags(write=False)
    assert found == arrays(PixelCounts.of(logits[::-1], masks[::-1]))


def test_both_zeros_are_one_score_and_infinite_scores_have_their_place() -> None:
    logits = np.array([[[-np.inf, -0.0, 0.0, np.inf]]], np.float32)
    counts = PixelCounts.of(logits, np.array([[[False, True, False, True]]]))
    # Pairs: (inf, -inf) and (inf, 0) right, (0, -inf) right, (0, 0) tied.
    assert pixel_metrics(counts)["pixel_auroc"] == 3.5 / 4


def test_the_memory_is_what_is_stated() -> None:
    logits, masks = draw_images(1, num_images=9)
    counts = PixelCounts.of(logits, masks)
    counted = ~np.isnan(logits)
    size = sum(len(content) for _, content in arrays(counts))
    assert size == 4 * int((counted & ~masks).sum()) + 8 * int((counted & masks).sum())


def test_what_has_no_pixel_has_no_metric() -> None:
    nothing = np.zeros((0, 3, 3))
    normal, anomalous = np.zeros((1, 2, 2), np.bool_), np.ones((1, 2, 2), np.bool_)
    logits = np.zeros((1, 2, 2), np.float32)
    assert arrays(PixelCounts.of(nothing.astype(np.float32), nothing)) == arrays(PixelCounts.empty())
    for counts in (
        PixelCounts.empty(),
        PixelCounts.of(logits, normal),
        PixelCounts.of(logits, anomalous),
        PixelCounts.of(np.full_like(logits, np.nan), anomalous),
    ):
        assert pixel_metrics(counts) == {}
        assert counts.merge(PixelCounts.empty()).num_regions == counts.num_regions


def test_what_cannot_be_counted_is_refused() -> None:
    logits = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(ValueError, match=r"one shape \(N, H, W\), got \(1, 2, 2\) and \(2, 2\)"):
        PixelCounts.of(logits, np.zeros((2, 2), np.bool_))
    with pytest.raises(ValueError, match="must be float32, got float64"):
        PixelCounts.of(logits.astype(np.float64), logits > 0)
