"""The table: every number beside the paper's, what is missing is named, and generated pictures mark all of it."""

import csv
import io
import json
from typing import Any

import pytest

from feclip.config import (
    Indices,
    ModelConfig,
    OptimConfig,
    PrefixCache,
    ReproduceConfig,
    ReproductionDataConfig,
    Resize,
)
from feclip.evaluation import PAPER
from feclip.reproduction import Reproduction, SeedResult


def result(shift: float, *, categories: frozenset[str]) -> SeedResult:
    metrics = {"image_auroc": 90.0, "image_ap": 91.0, "pixel_auroc": 95.0, "aupro_community": 80.0, "aupro": 88.0}
    return SeedResult(
        metrics={name: value + shift for name, value in metrics.items()},
        categories=categories,
        num_images=741,
        num_anomalous=290,
    )


def made(**fields: Any) -> Reproduction:  # noqa: ANN401 - of ReproduceConfig
    config = ReproduceConfig(output="/runs/paper", **fields)
    results = {("btad", seed): result(seed - 2.0, categories=PAPER["btad"].categories) for seed in range(5)}
    failures = {"fine-tune seed 3 on VisA": "The cluster lost `its` work."}
    return Reproduction(config=config, results=results, failures=failures)


@pytest.fixture
def real() -> Reproduction:
    data = ReproductionDataConfig(mvtec="/data/mvtec", btad="/data/btad", mpdd="/data/mpdd")
    return made(data=data)


def test_each_metric_stands_beside_the_papers_with_its_interval(real: Reproduction) -> None:
    text = real.markdown()
    assert "| BTAD | image AUROC | 90.0 | 1.6 | 88.0 to 92.0 | 90.3 | -0.3 | yes |" in text
    assert "| BTAD | pixel AUROC | 95.0 | 1.6 | 93.0 to 97.0 | 95.6 | -0.6 | yes |" in text
    assert "| BTAD | PRO (community) | 80.0 | 1.6 | 78.0 to 82.0 | 80.4 | -0.4 | yes |" in text
    assert "| BTAD | PRO (exact) | 88.0 | 1.6 | 86.0 to 90.0 | - | - | - |" in text
    assert "trained on the test images of MVTec AD, seeds 0, 1, 2, 3, 4; 451 normal and 290 anomalous images" in text
    assert "not the" not in text
    assert "‡" not in text


def test_what_is_missing_is_named(real: Reproduction) -> None:
    text = real.markdown()
    assert "- absent: MVTec AD, data.visa, which trains for it, is not given" in text
    assert "- absent: VisA, data.visa is not given" in text
    assert "- absent: MPDD, not judged yet" in text
    assert "- absent: BTAD" not in text
    assert "- failed: fine-tune seed 3 on VisA: `The cluster lost 'its' work.`" in text
    assert list(json.loads(real.json())["absent"]) == ["mvtec", "visa", "mpdd", "dagm", "dtd"]


def test_categories_that_are_absent_and_another_recipe_are_named() -> None:
    data = ReproductionDataConfig(mvtec="/m", btad="/b", resize=Resize.letterbox)
    found = made(
        data=data,
        model=ModelConfig(backbone="ViT-B-16", image_size=224),
        seeds=Indices((0, 1)),
        optim=OptimConfig(prefix_cache=PrefixCache.memory),
    )
    results = {("btad", 0): result(0.0, categories=frozenset({"01"}))}
    text = Reproduction(config=found.config, results=results).markdown()
    assert "**absent: 02, 03**" in text
    assert "- not the default recipe: model.backbone is `ViT-B-16` and not `ViT-L-14-336`" in text
    assert "- not the default recipe: model.image_size is `224` and not `336`" in text
    assert "- not the default recipe: data.resize is `letterbox` and not `squash`" in text
    assert "- not the paper's 5 runs: 2 seeds" in text
    assert "prefix_cache" not in text
    assert "| BTAD | image AUROC | 90.0 | - | - | 90.3 | -0.3 | - |" in text


def test_every_number_of_generated_pictures_is_marked() -> None:
    found = made(dry_run=True)
    lines = [line for line in found.markdown().splitlines() if line.startswith("| BTAD")]
    assert len(lines) == 5
    for line in lines:
        ours = [cell.strip() for number, cell in enumerate(line.strip("|").split("|")) if number in {2, 3, 4, 6, 7}]
        assert all(cell.endswith("‡") or cell == "-" for cell in ours), line
    for text in (found.markdown(), found.screen()):
        assert "GENERATED PICTURES" in text
        assert "means nothing" in text
    assert json.loads(found.json())["generated"] is True
    assert {row["generated"] for row in csv.DictReader(io.StringIO(found.csv()))} == {"True"}


def test_programs_read_the_same_numbers_and_those_of_each_seed(real: Reproduction) -> None:
    rows = list(csv.DictReader(io.StringIO(real.csv())))
    record = json.loads(real.json())
    assert len(rows) == len(record["rows"]) == 5
    for row, other in zip(rows, record["rows"], strict=True):
        assert float(row["mean"]) == other["mean"] == sum(other["values"].values()) / 5
        assert row["paper_inside"] == {True: "True", False: "False", None: ""}[other["paper_inside"]]
    assert rows[0]["data_set"] == "btad"
    assert list(record["rows"][0]["values"]) == ["0", "1", "2", "3", "4"]
    assert record["failures"] == {"fine-tune seed 3 on VisA": "The cluster lost `its` work."}


def test_the_screen_has_aligned_columns(real: Reproduction) -> None:
    heading, first, *_ = real.screen().splitlines()
    assert first.index("90.3") == heading.index("paper")
    assert "|" not in heading
