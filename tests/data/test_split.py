"""Splits: stratified, whole groups, from one seed alone; and the check that no picture plays two roles."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feclip.data import Split, assign_splits, build_manifest, overlap_check, read_manifest, read_mvtec
from feclip.errors import DataError

FRACTIONS = (0.6, 0.2, 0.2)
ORDER = (Split.TRAIN, Split.HELD_OUT, Split.REPORT)


def manifest(rows: list[dict[str, Any]], root: str = "s3://plant") -> pa.Table:
    return build_manifest(rows, root=root, source="test")


def images(category: str, defect_type: str, number: int, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    label = int(defect_type != "good")
    return [
        {
            "path": f"{category}/{defect_type}/{i:03}.png",
            "label": label,
            "category": category,
            "defect_type": defect_type,
        }
        | more
        for i in range(number)
    ]


def divided(rows: list[dict[str, Any]], *, seed: int = 0, root: str = "s3://plant", **options: Any) -> dict[str, Split]:  # noqa: ANN401
    table = assign_splits(manifest(rows, root), **({"protocol": "b", "fractions": FRACTIONS} | options), seed=seed)
    return {row["path"]: Split(row["split"]) for row in table.to_pylist()}


CELLS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["good", "cut", "hole", "stain"]), st.integers(1, 23)),
    min_size=1,
    max_size=12,
    unique_by=lambda cell: cell[:2],
)


@settings(max_examples=60, deadline=None)
@given(cells=CELLS, seed=st.integers(0, 2**31), shuffle=st.randoms(use_true_random=False))
def test_any_table_is_divided_evenly_and_from_the_seed_alone(
    cells: list[tuple[str, str, int]], seed: int, shuffle: random.Random
) -> None:
    rows = [row for cell in cells for row in images(*cell)]
    splits = divided(rows, seed=seed)
    shuffle.shuffle(rows)
    assert divided(rows, seed=seed, root="/mnt/elsewhere") == splits  # neither order nor place matters

    by_cell: dict[tuple[str, int], Counter[Split]] = {}
    for row in rows:
        by_cell.setdefault((row["category"], row["label"]), Counter())[splits[row["path"]]] += 1
    for counts in by_cell.values():
        if counts.total() >= len(ORDER):
            assert all(counts[split] >= 1 for split in ORDER)
        for split, share in zip(ORDER, FRACTIONS, strict=True):
            assert abs(counts[split] - share * counts.total()) < 3
    for category, defect_type, number in cells:
        counts = Counter(splits[row["path"]] for row in images(category, defect_type, number))
        cell = by_cell[category, int(defect_type != "good")]
        for split in ORDER:
            assert abs(counts[split] - cell[split] * number / cell.total()) < 2.7


def test_many_tiny_strata_keep_the_shares() -> None:
    rows = [
        row for i in range(100) for row in images(f"category{i:03}", "cut", 1) + images(f"category{i:03}", "good", 2)
    ]
    counts = Counter(divided(rows).values())
    assert counts.total() == 300
    for split, share in zip(ORDER, FRACTIONS, strict=True):
        assert abs(counts[split] - 300 * share) <= 2


def test_seed_changes_the_choice_but_not_the_counts() -> None:
    rows = images("screw", "cut", 20) + images("screw", "hole", 7) + images("screw", "good", 11)
    first, second = divided(rows, seed=0), divided(rows, seed=1)
    assert first != second
    assert Counter(first.values()) == Counter(second.values())
    assert divided(rows, seed=0) == first


def test_without_a_report_share_nothing_is_reported() -> None:
    splits = divided(images("screw", "cut", 10) + images("screw", "good", 3), fractions=(0.7, 0.3, 0))
    assert Counter(splits.values()) == {Split.TRAIN: 9, Split.HELD_OUT: 4}


def test_train_good_calibrates_under_both_protocols() -> None:
    rows = images("screw", "good", 4, subset="train")
    rows += [row | {"path": f"test/{row['path']}", "subset": "test"} for row in images("screw", "cut", 9)]
    for protocol, expected in (("a", {Split.TRAIN}), ("b", set(ORDER))):
        splits = divided(rows, protocol=protocol)
        assert {split for path, split in splits.items() if not path.startswith("test")} == {Split.CALIBRATION}
        assert {split for path, split in splits.items() if path.startswith("test")} == expected


def test_a_manifest_without_subsets_trains_whole_under_protocol_a() -> None:
    assert set(divided(images("tile", "good", 5), protocol="a").values()) == {Split.TRAIN}


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(st.integers(0, 12), min_size=3, max_size=60), seed=st.integers(0, 99))
def test_no_group_is_divided(groups: list[int], seed: int) -> None:
    rows = [
        row | {"lot": group}
        for group, row in zip(groups, images("a", "cut", 30) + images("a", "good", 30), strict=False)
    ]
    splits = divided(rows, seed=seed, group_column="lot")
    sides: dict[int, set[Split]] = {}
    for row in rows:
        sides.setdefault(row["lot"], set()).add(splits[row["path"]])
    assert all(len(side) == 1 for side in sides.values())
    shuffled = rows[::-1]
    assert divided(shuffled, seed=seed, group_column="lot") == splits


def test_groups_keep_the_shares_as_far_as_their_sizes_allow() -> None:
    rows = [row | {"group": i // 4} for i, row in enumerate(images("a", "good", 400))]
    counts = Counter(divided(rows).values())
    for split, share in zip(ORDER, FRACTIONS, strict=True):
        assert abs(counts[split] - 400 * share) <= 4


def test_three_groups_fill_three_splits_even_if_one_is_large() -> None:
    rows = [row | {"group": min(i, 2)} for i, row in enumerate(images("a", "good", 12))]
    for seed in range(10):
        assert set(divided(rows, seed=seed).values()) == set(ORDER)


def test_given_splits_win_whole_or_not_at_all() -> None:
    rows = images("a", "good", 3)
    for row, split in zip(rows, ("report", "train", "calibration"), strict=True):
        row["split"] = split
    assert list(divided(rows, protocol="a").values()) == [Split.REPORT, Split.TRAIN, Split.CALIBRATION]
    rows[1]["split"] = None
    with pytest.raises(DataError, match="Row 2 of the manifest has no split although others have"):
        divided(rows)
    rows[1]["split"] = "test"
    with pytest.raises(DataError, match="Row 2 of the manifest has the unknown split 'test'"):
        divided(rows)


def test_contradictions_are_errors() -> None:
    with pytest.raises(DataError, match="cannot be in the calibration split"):
        divided(images("a", "cut", 2, split="calibration"))
    with pytest.raises(DataError, match="cannot be in the calibration split"):
        divided(images("a", "cut", 2, subset="train"))
    both = images("a", "good", 2, group="lot7")
    both[0]["subset"] = "train"
    with pytest.raises(DataError, match="Group 'lot7' stands in subset train and outside of it"):
        divided(both)
    both = images("a", "good", 2, group="lot7", split="train")
    both[0]["split"] = "report"
    with pytest.raises(DataError, match="Group 'lot7' is divided between the splits report and train"):
        divided(both)
    with pytest.raises(DataError, match="subset must hold train or test, got 'val'"):
        divided(images("a", "good", 2, subset="val"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "c"}, "protocol must be a"),
        ({"fractions": (0.5, 0.5)}, "fractions must be three shares"),
        ({"fractions": (0.5, 0.2, 0.2)}, "sum to 1"),
        ({"fractions": (1.2, -0.2, 0)}, "sum to 1"),
        ({"fractions": (0, 0.5, 0.5)}, "train > 0"),
        ({"group_column": "lot"}, "no group column 'lot'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        divided(images("a", "good", 3), **options)


def test_the_real_data_sets_divide(shared_data: Path) -> None:
    mvtec = assign_splits(read_mvtec(str(shared_data / "mvtec")), protocol="b", fractions=FRACTIONS, seed=0)
    counts = Counter((row["category"], row["label"], row["split"]) for row in mvtec.to_pylist())
    for category in ("screw", "toothbrush", "grid", "hazelnut_toy"):
        assert all(counts[category, label, split.value] for label in (0, 1) for split in ORDER)
        assert counts[category, 1, "calibration"] == 0 < counts[category, 0, "calibration"]
    tiles = shared_data / "field" / "magnetic_tile"
    table = read_manifest(str(tiles / "labels.csv"), root=str(tiles / "images"))
    counts = Counter(assign_splits(table, protocol="b", fractions=FRACTIONS, seed=0)["split"].to_pylist())
    assert counts == {"train": 276, "held_out": 92, "report": 92}


def test_overlap_is_found_by_file_and_by_pixels() -> None:
    schema = {"uri": pa.string(), "sha256": pa.string(), "pixel_digest": pa.string()}

    def rows(*values: tuple[str, str | None, str | None]) -> pa.Table:
        return pa.Table.from_pylist(
            [dict(zip(schema, value, strict=True)) for value in values], schema=pa.schema(schema)
        )

    first = rows(("a", "1", "p"), ("b", "2", "q"), ("c", None, None), ("d", "4", "s"))
    second = rows(("x", "1", "p"), ("y", "9", "q"), ("z", None, None))
    assert overlap_check(first, second).to_pylist() == [
        {"uri": "a", "other_uri": "x", "reason": "sha256"},
        {"uri": "b", "other_uri": "y", "reason": "pixel_digest"},
    ]
    assert overlap_check(second.slice(2), first).num_rows == 0
