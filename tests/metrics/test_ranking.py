"""Ranking metrics: exact on logits, and absent where they have no value."""

import pytest
import torch

from feclip.metrics import ScoredImages, auroc, average_precision, image_and_pixel_metrics


def mann_whitney(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of (anomalous, normal) pairs in the right order, ties counted half, in float64."""
    anomalous, normal = logits[labels].double(), logits[~labels].double()
    difference = anomalous[:, None] - normal[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def stepwise(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the sum of precision times the gain in recall over the distinct thresholds, in float64."""
    area, found = 0.0, 0
    for threshold in sorted(set(logits.tolist()), reverse=True):
        chosen = logits >= threshold
        hits = int((chosen & labels).sum())
        area += (hits - found) / int(labels.sum()) * hits / int(chosen.sum())
        found = hits
    return area


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_their_definitions(ties: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, generator=generator)
    logits = (logits * 4).round() if ties else logits
    labels = torch.rand(200, generator=generator) < 0.3
    assert auroc(logits, labels) == pytest.approx(mann_whitney(logits, labels), abs=1e-6)
    assert average_precision(logits, labels) == pytest.approx(stepwise(logits, labels), abs=1e-6)


def test_logits_that_a_float32_sigmoid_would_tie_are_ranked() -> None:
    logits = torch.tensor([17.0, 18.0, 20.0, 24.0, 25.0, 28.0])
    labels = torch.tensor([False, False, False, True, True, True])
    assert bool((logits.sigmoid()[1:] == 1.0).all())
    assert auroc(logits, labels) == 1.0
    assert average_precision(logits, labels) == 1.0


def test_any_monotone_scale_gives_the_same_result() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, generator=generator), torch.rand(500, generator=generator) < 0.5
    assert auroc(logits, labels) == auroc(logits.double().mul(1e-3).exp().sub(100), labels)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.ones(4)])
def test_one_class_alone_has_no_value(labels: torch.Tensor) -> None:
    assert auroc(torch.arange(4.0), labels.bool()) is None
    assert average_precision(torch.arange(4.0), labels.bool()) is None


def scored(*, categories: list[int]) -> ScoredImages:
    """Return four images of 2 x 2 pixels: two categories, each ranked without a fault on a scale of its own."""
    masks = torch.zeros(4, 2, 2, dtype=torch.bool)
    masks[1, 0, 0] = masks[3, 0, 0] = True
    pixels = torch.tensor([[[0.0, 0], [0, 0]], [[9.0, 1], [1, 1]], [[50.0, 50], [50, 50]], [[60.0, 51], [51, 51]]])
    return ScoredImages(
        image_logits=torch.tensor([1.0, 2.0, 50.0, 60.0]),
        labels=torch.tensor([False, True, False, True]),
        category_index=torch.tensor(categories),
        pixel_logits=pixels,
        gt_masks=masks,
    )


def test_categories_are_averaged_not_pooled() -> None:
    assert image_and_pixel_metrics(scored(categories=[0, 0, 1, 1])) == {
        "image_auroc": 1.0,
        "image_ap": 1.0,
        "pixel_auroc": 1.0,
        "aupro": 1.0,
    }
    pooled = image_and_pixel_metrics(scored(categories=[0, 0, 0, 0]))
    assert pooled["image_auroc"] == pytest.approx(0.75)
    assert pooled["pixel_auroc"] == pytest.approx((7 + 14) / 28)


def test_pixels_that_do_not_count_are_left_out_and_absent_classes_have_no_metric() -> None:
    images = scored(categories=[0, 0, 0, 0])
    images.pixel_logits[1, 0, 0] = torch.nan  # the anomalous pixel that was ranked too low
    assert image_and_pixel_metrics(images)["pixel_auroc"] == 1.0
    images.labels[:] = False
    assert set(image_and_pixel_metrics(images)) == {"pixel_auroc", "aupro"}
