"""Which images judge: exactly what a bundle has not seen of its own data, and one line for what cannot judge."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from feclip.building import read_labelled
from feclip.config import DataConfig, EvaluationDataConfig, Names, Protocol, plain
from feclip.data import build_manifest
from feclip.errors import DataError
from feclip.evaluation import check_selection, data_digest, look, read_images, scored_manifest, select_images
from feclip.score_table import SCORE_SCHEMA


def trained(data: DataConfig, *, seed: int) -> dict[str, Any]:
    """Return what a bundle records of its training."""
    record: dict[str, Any] = json.loads(json.dumps({"data": plain(data), "seed": seed}))
    return record


@pytest.mark.parametrize("categories", [None, ("tile",)])
def test_the_report_split_is_what_training_under_protocol_b_left_out(
    small_mvtec: Path, categories: tuple[str, ...] | None
) -> None:
    data = DataConfig(root=str(small_mvtec), protocol=Protocol.b, categories=categories and Names(categories))
    table = read_labelled(data, seed=7)
    config = EvaluationDataConfig(root=str(small_mvtec))
    chosen = select_images(read_images(config), config, split="report", training=trained(data, seed=7))
    left_out = table.filter(pc.field("split") == "report")["path"].to_pylist()
    own = [path for path in chosen["path"].to_pylist() if categories is None or path.startswith(categories)]
    assert sorted(own) == sorted(left_out)
    assert set(chosen["category"].to_pylist()) == {"tile", "capsule"}  # what it never saw is divided on its own


def test_no_split_takes_the_test_images_and_fields_override_the_training(small_mvtec: Path) -> None:
    config = EvaluationDataConfig(root=str(small_mvtec), categories=Names(("tile",)))
    table = read_images(config)
    record = trained(DataConfig(root=str(small_mvtec), protocol=Protocol.b), seed=0)
    chosen = select_images(table, config, split=None, training=record)
    assert chosen.num_rows == 14
    assert not any("/train/" in path for path in chosen["path"].to_pylist())
    assert chosen["path"].to_pylist() == sorted(chosen["path"].to_pylist())
    report = select_images(table, config, split="report", training=record)["path"].to_pylist()
    other = EvaluationDataConfig(root=str(small_mvtec), categories=Names(("tile",)), seed=9)
    assert select_images(table, other, split="report", training=record)["path"].to_pylist() != report
    assert select_images(table, config, split="report", training={})["path"].to_pylist() == report


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((0, 0, 0), r"set\.csv cannot judge: all 3 images are normal; AUROC needs"),
        ((1, 1, 1), r"all 3 images are anomalous"),
        ((0, 1, None), r"1 of 3 images of set\.csv have no label, first /data/2\.png"),
    ],
)
def test_images_that_cannot_judge_are_one_line(labels: tuple[int | None, ...], message: str) -> None:
    rows = [{"path": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    with pytest.raises(DataError, match=message) as raised:
        check_selection(build_manifest(rows, root="/data", source="set.csv"), source="set.csv")
    assert "\n" not in str(raised.value)


def test_categories_of_one_kind_each_cannot_judge_either() -> None:
    rows = [{"path": f"{label}.png", "label": label, "category": str(label)} for label in (0, 1)]
    with pytest.raises(DataError, match="each category has one kind alone"):
        check_selection(build_manifest(rows, root="/data", source="set.csv"), source="set.csv")


def test_a_category_that_is_not_there_is_named_with_those_that_are(small_mvtec: Path) -> None:
    with pytest.raises(DataError, match="has no images of category screw; available: capsule, tile"):
        read_images(EvaluationDataConfig(root=str(small_mvtec), categories=Names(("tile", "screw"))))


def test_the_scored_manifest_brings_no_column_of_a_score_table(small_mvtec: Path) -> None:
    table = read_images(EvaluationDataConfig(root=str(small_mvtec)))
    table = table.append_column("width", pa.array([1] * len(table))).append_column("line", table["category"])
    names = scored_manifest(table).column_names
    assert not {*names} & {*SCORE_SCHEMA.names} - {"uri"}
    assert {"uri", "label", "category", "mask_uri", "has_mask", "line"} <= {*names}


def test_a_digest_of_what_judges_changes_with_a_mask(small_mvtec: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(small_mvtec, tmp_path / "mvtec"))

    def digest() -> str:
        table = read_images(EvaluationDataConfig(root=str(root), categories=Names(("tile",))))
        return data_digest(look(table, [], num_threads=2).images)

    before = digest()
    assert digest() == before
    mask = min(root.glob("tile/ground_truth/*/*.png"))
    marked = np.asarray(Image.open(mask)).copy()
    marked[0, 0] = 255 - marked[0, 0]
    Image.fromarray(marked).save(mask)
    assert digest() != before
