"""Metrics of images: exact on logits, and absent where they have no value."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from feclip.metrics import image_metrics, mean_over_categories

EVERY = {
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "image_tpr_at_fpr_0.01",
    "image_tpr_at_fpr_0.001",
    "image_fpr_at_tpr_0.95",
}


def literal_metrics(logits: torch.Tensor, labels: torch.Tensor, *, fpr: float, tpr: float) -> dict[str, float]:
    """Return them as their definitions read, in float64, threshold by threshold."""
    anomalous, normal = logits[labels].double(), logits[~labels].double()
    difference = anomalous[:, None] - normal[None, :]
    area, found, f1, tprs, fprs = 0.0, 0, [], [0.0], [1.0]
    for threshold in sorted(set(logits.tolist()), reverse=True):
        hits, alarms = int((anomalous >= threshold).sum()), int((normal >= threshold).sum())
        area += (hits - found) / len(anomalous) * hits / (hits + alarms)
        found = hits
        f1.append(2 * hits / (hits + alarms + len(anomalous)))
        if alarms / len(normal) <= fpr:
            tprs.append(hits / len(anomalous))
        if hits / len(anomalous) >= tpr:
            fprs.append(alarms / len(normal))
    return {
        "image_auroc": float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean()),
        "image_ap": area,
        "image_f1_max": max(f1),
        f"image_tpr_at_fpr_{fpr:g}": max(tprs),
        f"image_fpr_at_tpr_{tpr:g}": min(fprs),
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_metrics_equal_their_definitions(ties: bool, fpr: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, generator=generator)
    logits = (logits * 4).round() if ties else logits
    labels = torch.rand(200, generator=generator) < 0.3
    expected = literal_metrics(logits, labels, fpr=fpr, tpr=0.95)
    assert image_metrics(logits, labels, fprs=(fpr,)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_ap_are_those_of_torchmetrics(ties: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    labels = torch.rand(300, generator=generator) < 0.3
    logits = torch.randn(300, generator=generator) + labels
    logits = (logits * 4).round() if ties else logits
    # Given values outside [0, 1] it would apply a sigmoid in float32: ranks instead.
    distinct, inverse = torch.unique(logits, return_inverse=True)
    ranks = inverse.double() / len(distinct)
    found = image_metrics(logits, labels)
    assert found["image_auroc"] == pytest.approx(float(binary_auroc(ranks, labels.int())), abs=1e-6)
    assert found["image_ap"] == pytest.approx(float(binary_average_precision(ranks, labels.int())), abs=1e-6)


@pytest.mark.parametrize("num_images", [3, 20, 1000, 1001])
def test_a_perfect_ranking_is_one_to_the_last_bit(num_images: int) -> None:
    logits = torch.arange(float(num_images))
    for num_anomalous in (1, num_images // 3):
        found = image_metrics(logits, logits >= num_images - num_anomalous)
        assert (found["image_auroc"], found["image_ap"], found["image_f1_max"]) == (1.0, 1.0, 1.0)


def test_a_case_worked_by_hand() -> None:
    # From the top: A N A A N N. Pairs in the right order: 3 + 2 + 2 of 9. Precision at the hits: 1, 2/3, 3/4.
    logits, labels = np.arange(6.0)[::-1], np.array([1, 0, 1, 1, 0, 0])
    assert image_metrics(logits, labels) == pytest.approx(
        {
            "image_auroc": 7 / 9,
            "image_ap": (1 + 2 / 3 + 3 / 4) / 3,
            "image_f1_max": 2 * 3 / (4 + 3),  # four called anomalous, all three hit
            "image_tpr_at_fpr_0.01": 1 / 3,
            "image_tpr_at_fpr_0.001": 1 / 3,
            "image_fpr_at_tpr_0.95": 1 / 3,
        },
        abs=1e-15,
    )


@pytest.mark.parametrize(("num_normal", "fpr"), [(100, 0.01), (1000, 0.001), (1000, 0.01), (700, 0.01), (3000, 0.003)])
def test_the_stated_false_positive_rate_may_be_reached_but_not_passed(num_normal: int, fpr: float) -> None:
    allowed = round(num_normal * fpr)
    logits = torch.arange(num_normal + 1.0)
    labels = torch.zeros(num_normal + 1, dtype=torch.bool)
    labels[num_normal - allowed] = True  # so many normal images come first
    name = f"image_tpr_at_fpr_{fpr:g}"
    assert image_metrics(logits, labels, fprs=(fpr,))[name] == 1.0
    assert image_metrics(logits, labels.roll(-1), fprs=(fpr,))[name] == 0.0


def test_logits_that_a_float32_sigmoid_would_tie_are_ranked() -> None:
    logits = torch.tensor([17.0, 18.0, 20.0, 24.0, 25.0, 28.0])
    labels = torch.tensor([False, False, False, True, True, True])
    assert bool((logits.sigmoid()[1:] == 1.0).all())
    perfect = dict.fromkeys(EVERY, 1.0) | {"image_fpr_at_tpr_0.95": 0.0}
    assert image_metrics(logits, labels) == perfect


def test_neither_scale_nor_order_changes_a_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, generator=generator), torch.rand(500, generator=generator) < 0.5
    logits[::3] = logits[::3].round()
    found = image_metrics(logits, labels)
    assert found == image_metrics(logits.double().mul(1e-3).exp().sub(100), labels)
    order = torch.randperm(500, generator=generator)
    assert found == image_metrics(logits[order], labels[order])


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.ones(4)])
def test_one_class_alone_has_no_value(labels: torch.Tensor) -> None:
    assert image_metrics(torch.arange(4.0), labels) == {}
    assert image_metrics(torch.zeros(0), labels[:0]) == {}


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 image logits are NaN"):
        image_metrics(torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"one shape \(N,\), got \(2,\) and \(3,\)"):
        image_metrics(torch.zeros(2), torch.zeros(3))


def test_the_mean_over_categories_leaves_out_those_without_a_value_and_has_no_order() -> None:
    by_category = {"a": {"image_auroc": 0.1}, "b": {"image_auroc": 0.2, "aupro": 0.5}, "c": {"image_auroc": 0.3}}
    found = mean_over_categories(by_category)
    assert found == pytest.approx({"image_auroc": 0.2, "aupro": 0.5})
    assert found == mean_over_categories(dict(reversed(by_category.items())))
    assert mean_over_categories({}) == {}
