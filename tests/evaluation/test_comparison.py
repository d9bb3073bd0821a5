"""Before and after: a drop that chance does not explain is called one, and chance is not called a drop."""

import numpy as np
import pyarrow as pa
import pytest

from feclip.bundle import Lineage, read_lineage
from feclip.errors import BundleError
from feclip.evaluation import Pair, compare_category, compare_domain
from feclip.metrics import PixelCounts


def rows(logits: np.ndarray, labels: np.ndarray, *, has_mask: bool = False) -> pa.Table:
    number = len(labels)
    return pa.table(
        {
            "uri": [f"/{index:03d}.png" for index in range(number)],
            "category": ["all"] * number,
            "label": labels,
            "has_mask": [has_mask] * number,
            "image_logit": logits.astype(np.float32),
            "pred_label": pa.nulls(number, pa.bool_()),
        }
    )


def compared(*, loss: float, num_images: int = 200, noise: float = 0.05) -> Pair:
    """Return a category of which a share of the contrast was lost, on top of noise that both models share."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % 2 == 0
    shared = rng.normal(size=num_images)
    before = shared + 1.5 * labels
    after = shared + 1.5 * (1 - loss) * labels + noise * rng.normal(size=num_images)
    shuffled = rows(after, labels).take(rng.permutation(num_images))
    return compare_category((rows(before, labels), shuffled), ({}, {}), category="all", num_resamples=200)


def test_a_real_drop_is_called_worse_and_said_in_one_line() -> None:
    pair = compared(loss=0.5)
    domain = compare_domain({"all": pair}, name="old", source="/data/mvtec")
    (change,) = domain.changes
    assert (change.before, change.after) == tuple(result.metrics["image_auroc"] for result in pair)
    assert change.low < change.after - change.before < change.high < 0
    assert domain.is_worse
    assert str(domain) == (
        f"the old domain got worse: image AUROC {change.before:.3f} -> {change.after:.3f} "
        f"(95 % of the difference {change.low:+.3f}..{change.high:+.3f})"
    )
    assert (domain.num_images, domain.num_anomalous) == (200, 100)


@pytest.mark.parametrize("loss", [0.0, -0.5])
def test_noise_and_a_gain_are_not_called_worse(loss: float) -> None:
    domain = compare_domain({"all": compared(loss=loss)}, name="field", source="/data")
    assert not domain.is_worse
    assert str(domain).startswith("the field domain was not shown to get worse: image AUROC 0.")


def test_the_interval_is_of_pairs_and_not_of_two_models_apart() -> None:
    """Two models that are near each other differ by far less than either would move on other images."""
    before, after = compared(loss=0.02)
    paired = np.ptp(np.quantile(after.resampled["image_auroc"] - before.resampled["image_auroc"], [0.025, 0.975]))
    alone = np.ptp(np.quantile(before.resampled["image_auroc"], [0.025, 0.975]))
    assert paired < alone / 4


def test_equal_models_do_not_differ_in_any_resample_on_pixels_either() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(12) % 2 == 0
    counts = {}
    for index, label in enumerate(labels):
        mask = np.zeros((1, 8, 8), np.bool_)
        mask[:, :3, :3] = label
        counts[f"/{index:03d}.png"] = PixelCounts.of((rng.normal(size=mask.shape) + mask).astype(np.float32), mask)
    table = rows(rng.normal(size=12), labels, has_mask=True)
    pair = compare_category((table, table), (counts, counts), category="all", num_resamples=20)
    domain = compare_domain({"all": pair}, name="old", source="/data")
    assert [change.metric for change in domain.changes] == ["image_auroc", "pixel_auroc"]
    assert all((change.low, change.high) == (0, 0) for change in domain.changes)
    assert domain.num_images == pair[0].num_masked == 12


def test_categories_count_alike_in_the_change() -> None:
    worse, same = compared(loss=0.5), compared(loss=0.0, noise=0.0)
    (alone,) = compare_domain({"a": worse}, name="old", source="/data").changes
    (both,) = compare_domain({"a": worse, "b": same}, name="old", source="/data").changes
    assert both.after - both.before == pytest.approx((alone.after - alone.before) / 2)


def test_a_lineage_is_read_as_it_was_written_and_any_other_is_refused() -> None:
    domain = compare_domain({"all": compared(loss=0.5)}, name="old", source="/data/mvtec")
    before = {"image_auroc": 0.8}
    lineage = Lineage(parent="/runs/first", parent_id="a" * 64, epoch=2, before=before, domains=(domain,))
    record = lineage.to_json()
    assert read_lineage(record, where="-") == lineage
    change = record["domains"][0]["changes"][0]
    for damage, named in (
        ({"schema": 2}, "has schema 2; this feclip reads schema 1"),
        ({"parent_id": "../x"}, "parent_id must be a sha256"),
        ({"epoch": -1}, "epoch must be a whole number"),
        ({"before": {"image_auroc": "high"}}, "before must be numbers by name"),
        ({"domains": [{**record["domains"][0], "num_images": True}]}, "num_images must be a whole number"),
        ({"domains": [{**record["domains"][0], "changes": [{**change, "low": None}]}]}, "changes[0].low must be"),
        ({"domains": None}, "domains must be a list"),
        ({"parent": ""}, "parent must be a text"),
        ({"more": 1}, "unknown fields ['more']"),
    ):
        with pytest.raises(BundleError) as caught:
            read_lineage(record | damage, where="lineage.json")
        assert named in str(caught.value)
