"""Means, deviations and intervals against values worked out by hand, and results read from their files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feclip.errors import RunError
from feclip.evaluation import PAPER, RESULT_SCHEMA
from feclip.reproduction import Estimate, SeedResult, estimates, read_result


def estimate(*values: float, paper: float | None = None) -> Estimate:
    return Estimate(dataset="btad", metric="image_auroc", values=dict(enumerate(values)), paper=paper)


def test_five_seeds_by_hand() -> None:
    row = estimate(88.0, 89.0, 90.0, 91.0, 92.0, paper=91.9)
    assert row.mean == 90
    assert row.deviation == pytest.approx(2.5**0.5)
    half = 2.776445 * 2.5**0.5 / 5**0.5  # t(0.975, 4) of any printed table
    assert row.interval == pytest.approx((90 - half, 90 + half), abs=1e-4)
    assert row.difference == pytest.approx(-1.9)
    assert row.holds_paper is True
    assert estimate(88.0, 89.0, 90.0, 91.0, 92.0, paper=92.0).holds_paper is False


def test_one_seed_has_no_spread_and_equal_seeds_an_interval_of_no_width() -> None:
    row = estimate(90.0, paper=90.0)
    assert (row.deviation, row.interval, row.holds_paper, row.difference) == (None, None, None, 0)
    row = estimate(90.0, 90.0, paper=90.0)
    assert (row.interval, row.holds_paper) == ((90, 90), True)
    assert estimate(90.0, 91.0).holds_paper is None


def found(**metrics: float) -> SeedResult:
    return SeedResult(metrics=metrics, categories=frozenset({"01"}), num_images=4, num_anomalous=2)


def test_rows_are_in_the_papers_order_over_the_seeds_that_are_there() -> None:
    results = {
        ("btad", 1): found(image_auroc=80.0, aupro=70.0),
        ("visa", 0): found(image_auroc=60.0),
        ("btad", 0): found(image_auroc=90.0),
    }
    rows = estimates(results)
    assert [(row.dataset, row.metric, dict(row.values), row.paper) for row in rows] == [
        ("visa", "image_auroc", {0: 60.0}, PAPER["visa"].image_auroc),
        ("btad", "image_auroc", {0: 90.0, 1: 80.0}, PAPER["btad"].image_auroc),
        ("btad", "aupro", {1: 70.0}, None),
    ]


def rows(*, num_trained: int = 0) -> list[dict[str, object]]:
    common = {
        "bundle": "/b", "model_id": "m", "preset": "feclip", "trained_images": num_trained > 0,
        "num_trained_images": num_trained,
    }  # fmt: skip
    values = [("01", "image_auroc", 0.5), ("03", "image_auroc", 1.0), (None, "image_auroc", 0.75), (None, "aupro", 0.4)]
    return [
        common
        | {"category": category, "metric": metric, "value": value, "num_images": 9, "num_anomalous": 4}
        for category, metric, value in values
    ]  # fmt: skip


def write(folder: Path, records: list[dict[str, object]]) -> str:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(records, schema=RESULT_SCHEMA), folder / "metrics.parquet")
    return str(folder)


def test_a_result_is_the_mean_over_the_categories_in_per_cent(tmp_path: Path) -> None:
    result = read_result(write(tmp_path / "whole", rows()))
    assert result.metrics == pytest.approx({"image_auroc": 75.0, "aupro": 40.0})
    assert (result.categories, result.num_images, result.num_anomalous) == ({"01", "03"}, 9, 4)


def test_a_damaged_or_leaking_result_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is judged by images that made the bundle; delete its folder"):
        read_result(write(tmp_path / "leaking", rows(num_trained=2)))
    with pytest.raises(RunError, match="is not the result of one bundle"):
        read_result(write(tmp_path / "several", rows() + rows()))
    beyond = [row | {"value": 75.0} for row in rows()]
    with pytest.raises(RunError, match=r"a metric is 75\.0, not in \[0, 1\]"):
        read_result(write(tmp_path / "beyond", beyond))
    for content in (b"PAR1", b""):
        (tmp_path / "leaking" / "metrics.parquet").write_bytes(content)
        with pytest.raises(RunError, match="is not the result of one bundle"):
            read_result(str(tmp_path / "leaking"))
    pq.write_table(pa.table({"value": [1.0]}), tmp_path / "leaking" / "metrics.parquet")
    with pytest.raises(RunError, match="is not the result of one bundle"):
        read_result(str(tmp_path / "leaking"))
