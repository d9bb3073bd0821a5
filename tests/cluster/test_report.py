"""From an archive with odd and bad files through the scoring job to pages."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from job_runner import Finished, run_here
from PIL import Image
from small_archive import KINDS, NUM_OBJECTS, table_of

pytestmark = pytest.mark.cluster


def test_a_report_of_a_scored_archive(scored: tuple[str, Finished], bundle: str, tmp_path: Path) -> None:
    """Every kind of error is told with its number, every shown image is there in its own aspect ratio."""
    scores, _ = scored
    flags = ("--bundle", bundle, "--scores", scores)
    done = run_here(*flags, "--output", str(tmp_path / "page"), "--num_shown", "1000", job="report.py")
    assert done.returncode == 0, done.output
    page = (tmp_path / "page" / "index.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    told = re.findall(r'<th scope="row">(\w+)</th><td class="number">(\d+)</td>', page)
    assert {kind: int(num) for kind, num in told} == Counter(KINDS.values())
    table = {row["row_id"]: row for row in table_of(scores).to_pylist()}
    assert len(table) == NUM_OBJECTS
    assert {card["id"] for card in data["cards"]} == {row_id for row_id, row in table.items() if row["error"] is None}
    for card in data["cards"]:
        row = table[card["id"]]
        with Image.open(tmp_path / "page" / card["photo"]) as photo:
            assert max(photo.size) <= 640
            assert (
                photo.width / photo.height == pytest.approx(row["width"] / row["height"], rel=0.05)
                or min(photo.size) < 8
            )
        with Image.open(tmp_path / "page" / card["overlay"]) as overlay:
            assert overlay.mode == "RGBA"

    done = run_here(*flags, "--find", "of 100%", job="report.py")
    rows = list(csv.DictReader(done.output.splitlines()))
    assert Counter(row["error_kind"] for row in rows) == Counter(KINDS.values())


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--output", "page", "--find", "x"), 2, "give output for a page, or find for rows on the terminal"),
        ((), 2, "give output for a page, or find for rows on the terminal"),
        (("--output", "page", "--num_shown", "-1"), 2, "num_shown must be in 0..1000, got -1"),
        (("--output", "page", "--rule", "either"), 1, "has no thresholds to choose among"),
        (("--output", "page", "--normals", "n"), 2, "normals are compared with thresholds"),
    ],
)
def test_wrong_flags_are_one_line(
    scored: tuple[str, Finished], bundle: str, flags: tuple[str, ...], code: int, message: str
) -> None:
    done = run_here("--bundle", bundle, "--scores", scored[0], *flags, job="report.py")
    assert done.returncode == code
    assert message in done.error_line
