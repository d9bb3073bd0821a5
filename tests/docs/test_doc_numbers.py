"""Numbers of the field guide: those that the library computes, and those that stand where they were measured."""

import re
from pathlib import Path

import pytest
from doc_pages import REPOSITORY

from feclip.calibration import Variant, num_needed, rank_of, rate_interval
from feclip.calibration.levels import split_percentile

DOCS = REPOSITORY / "docs"
languages = pytest.mark.parametrize(
    "page", [DOCS / "field-guide.md", DOCS / "field-guide.ko.md"], ids=lambda page: page.name
)


@languages
@pytest.mark.parametrize("percentile", ["99.5", "99.7", "99.9"])
def test_normals_that_a_percentile_needs(page: Path, percentile: str) -> None:
    needed = num_needed(percentile, Variant.percentile)
    halved = num_needed(split_percentile(percentile), Variant.percentile)
    (row,) = re.findall(rf"^\| {percentile} \|.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert f"| {needed:,} | {halved:,} |" in row


@languages
def test_intervals_of_the_false_alarm_rate(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    said = re.findall(r"([\d.]+) %\D{1,6}([\d.]+) %", text[text.index("0.12 %") :])[:3]
    ends = [rate_interval(num, rank_of(num, "99.5", Variant.percentile)) for num in (200, 1000, 10_000)]
    assert [(float(low), float(high)) for low, high in said] == [
        (float(f"{100 * low:.2g}"), float(f"{100 * high:.2g}")) for low, high in ends
    ]


@languages
def test_what_padding_does_stands_in_the_experiments(page: Path) -> None:
    measured = {
        (images, padding): (deviation, median)
        for images, padding, median, deviation in re.findall(
            r"^\| (generated|magnetic tile) \| (\w+) \| image_logit \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|$",
            (DOCS / "experiments.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page.read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) == 3
    for padding, *numbers in rows:
        deviation, median = measured["generated", padding]
        tile_deviation, tile_median = measured["magnetic tile", padding]
        assert numbers == [median, deviation, tile_median, tile_deviation]
