"""The study of the demonstration: its tables are what its results say, and the recipe still learns."""

import importlib
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    yield importlib.import_module("accuracy")
    sys.path.remove(str(REPOSITORY / "benchmarks"))


def test_the_readme_shows_what_the_results_say(study: ModuleType) -> None:
    collected = json.loads(study.RESULTS.read_text(encoding="utf-8"))
    readme = study.README.read_text(encoding="utf-8")
    assert f"{study.MARKS[0]}\n{study.render(collected)}\n{study.MARKS[1]}" in readme


def test_every_result_is_of_the_frozen_backbone_and_pictures(study: ModuleType) -> None:
    frozen = json.loads(study.FROZEN.read_text(encoding="utf-8"))
    records = json.loads(study.RESULTS.read_text(encoding="utf-8"))["results"]
    assert records
    assert all(record["digests"] == frozen for record in records)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_recipe_still_learns(study: ModuleType, tmp_path: Path) -> None:
    """One seed, minutes: no metric falls further below the study's mean than its spread explains."""
    study.data(tmp_path)
    study.run(tmp_path, seeds="0", variants="both", num_threads=2)
    found = json.loads((tmp_path / "results" / "both-0.json").read_text())["metrics"]
    records = json.loads(study.RESULTS.read_text(encoding="utf-8"))["results"]
    runs = [record["metrics"] for record in records if record["variant"] == "both"]
    for name, metrics in found.items():
        for metric in study.METRICS:
            values = [run[name][metric] for run in runs]
            floor = statistics.mean(values) - max(0.02, 4 * statistics.stdev(values))
            assert metrics[metric] > floor, (name, metric)
