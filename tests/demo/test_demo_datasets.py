"""Generated data sets stand for the real ones: same layouts, names of real categories, masks that fit."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feclip.config import Dataset
from feclip.data import find_layout, inspect_rows, read_layout
from feclip.demo import DATASETS, write_dataset
from feclip.errors import DataError
from feclip.evaluation import PAPER

SMALL = {"image_size": 48, "num_train": 1, "num_normal": 2, "num_anomalous": 1}


def test_there_is_one_for_each_of_the_papers_sets_and_no_family_stands_in_two() -> None:
    assert list(map(str, Dataset)) == list(PAPER)
    assert set(DATASETS) == set(PAPER)
    for name, places in DATASETS.items():
        assert places.families.keys() <= PAPER[name].categories
    families = Counter(family for places in DATASETS.values() for family in places.families.values())
    assert set(families.values()) == {1}


@pytest.mark.parametrize("name", DATASETS)
def test_a_generated_set_is_read_as_the_real_one_would_be(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    write_dataset(root, dataset=name, seed=3, **SMALL)
    assert find_layout(str(root)) == ("mvtec" if name in {"mpdd", "dtd"} else name)
    table = read_layout(str(root), layout=name, trains=True)
    told = zip(*(table[column].to_pylist() for column in ("category", "subset", "label")), strict=True)
    expected = {}
    for category in DATASETS[name].families:
        expected |= {(category, "train", 0): 1, (category, "test", 0): 2, (category, "test", 1): 1}
    assert Counter(told) == expected
    looked = inspect_rows(table, num_threads=2)
    assert looked["error"].to_pylist() == [None] * len(table)
    assert len(set(looked["pixel_digest"].to_pylist())) == len(table)
    for uri in filter(None, table["mask_uri"].to_pylist()):
        values = set(np.unique(np.asarray(Image.open(uri))))
        assert values == {0, DATASETS[name].mask_value}


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset must be one of mvtec, visa, mpdd, btad, dagm, dtd, got 'coco'"):
        write_dataset(tmp_path / "coco", dataset="coco", seed=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_dataset(tmp_path / "full", dataset="dtd", seed=0, **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "a.txt"]
