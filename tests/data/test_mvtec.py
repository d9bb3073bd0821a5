"""The MVTec layout, on generated trees locally and in object storage, and on the real photographs."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from feclip.data import inspect_rows, join_uri, list_files, read_mvtec, storage, write_bytes
from feclip.errors import DataError

PLAIN = [
    "screw/train/good/000.png",
    "screw/test/good/000.png",
    "screw/test/scratch/000.png",
    "screw/test/scratch/001.JPG",
    "screw/ground_truth/scratch/000_mask.png",
    "screw/ground_truth/scratch/001.png",
    "grid/train/good/000.png",
]
Tree = Callable[..., str]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.storage)])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """Make a root of empty files by their names."""

    def make(*names: str, without: str | None = None) -> str:
        root = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket")
        root = join_uri(root, "set")
        for name in names:
            if name != without:
                write_bytes(join_uri(root, name), b"x")
        return root

    return make


def test_both_namings_of_masks_are_read_with_one_listing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(*PLAIN)
    calls = []
    monkeypatch.setattr(
        "feclip.data.mvtec.list_files", lambda uri, **options: calls.append(uri) or list_files(uri, **options)
    )
    monkeypatch.setattr(storage, "exists", lambda _: pytest.fail("asks for a single file"))
    table = read_mvtec(root)
    assert calls == [root]
    rows = {row["path"]: row for row in table.to_pylist()}
    assert sorted(rows) == [name for name in sorted(PLAIN) if "ground_truth" not in name]
    scratch = rows["screw/test/scratch/000.png"]
    assert scratch["mask_uri"] == join_uri(root, "screw/ground_truth/scratch/000_mask.png")
    assert rows["screw/test/scratch/001.JPG"]["mask_uri"] == join_uri(root, "screw/ground_truth/scratch/001.png")
    assert (scratch["label"], scratch["category"], scratch["defect_type"], scratch["subset"]) == (
        1,
        "screw",
        "scratch",
        "test",
    )
    good = rows["screw/train/good/000.png"]
    assert (good["label"], good["defect_type"], good["subset"], good["mask_uri"]) == (0, "good", "train", None)
    assert good["has_mask"]


def test_missing_mask_names_the_image_and_the_mask(tree: Tree) -> None:
    root = tree(*PLAIN, without="screw/ground_truth/scratch/001.png")
    with pytest.raises(
        DataError, match=r"screw/test/scratch/001\.JPG is anomalous but has no mask; expected .*001_mask"
    ):
        read_mvtec(root)
    assert read_mvtec(root, categories=["grid"]).num_rows == 1


def test_categories_are_chosen_and_missing_ones_named(tree: Tree) -> None:
    root = tree(*PLAIN)
    assert set(read_mvtec(root, categories=["screw"])["category"].to_pylist()) == {"screw"}
    with pytest.raises(DataError, match="no images of category bottle; available: grid, screw"):
        read_mvtec(root, categories=["screw", "bottle"])


def test_category_without_defects_is_an_error_for_training(tree: Tree) -> None:
    root = tree(*PLAIN)
    with pytest.raises(DataError, match="category grid has no anomalous images"):
        read_mvtec(root, require_defects=True)
    assert read_mvtec(root, categories=["screw"], require_defects=True).num_rows == 4


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["screw/a.png"]])
def test_a_root_without_images_is_an_error(tree: Tree, names: list[str]) -> None:
    root = tree(*names)
    with pytest.raises(DataError, match=r"holds no images in MVTec layout|does not exist"):
        read_mvtec(root)


def test_a_category_given_as_root_is_recognised(tree: Tree) -> None:
    root = join_uri(tree(*PLAIN), "screw")
    with pytest.raises(DataError, match="looks like one category"):
        read_mvtec(root)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("screw/ground_truth/scratch/000.png", "has two masks"),
        ("screw/ground_truth/scratch/000_mask.bmp", "masks of the same image"),
        ("screw/test/scratch/000.bmp", "share the mask"),
    ],
)
def test_ambiguous_pairs_are_errors(tree: Tree, extra: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_mvtec(tree(*PLAIN, extra))


def test_what_is_left_out_is_said(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    stray = ["license.txt", "screw/test/good/Thumbs.db", "screw/test/good/._000.png"]
    misplaced = ["screw/test/000.png", "screw/train/bad/000.png"]
    orphan = "screw/ground_truth/scratch/007_mask.png"
    with caplog.at_level(logging.INFO, logger="feclip"):
        table = read_mvtec(tree(*PLAIN, *stray, *misplaced, orphan))
    assert table.num_rows == 5
    assert "3 files are no images" in caplog.text
    assert "2 images stand outside of the layout" in caplog.text
    assert "1 masks belong to no image, e.g. screw/ground_truth/scratch/007_mask.png" in caplog.text


def test_the_real_photographs(shared_data: Path) -> None:
    table = read_mvtec(str(shared_data / "mvtec"), require_defects=True)
    counts = Counter((row["category"], row["subset"], row["label"]) for row in table.to_pylist())
    assert counts == {
        ("grid", "test", 0): 3,
        ("grid", "test", 1): 11,
        ("grid", "train", 0): 7,
        ("hazelnut_toy", "test", 0): 6,
        ("hazelnut_toy", "test", 1): 17,
        ("hazelnut_toy", "train", 0): 28,
        ("screw", "test", 0): 20,
        ("screw", "test", 1): 40,
        ("screw", "train", 0): 10,
        ("toothbrush", "test", 0): 8,
        ("toothbrush", "test", 1): 15,
        ("toothbrush", "train", 0): 6,
    }
    assert all(row["has_mask"] and (row["mask_uri"] is not None) == row["label"] for row in table.to_pylist())


def test_the_toy_category_decodes_whole_with_its_odd_image(shared_data: Path) -> None:
    table = read_mvtec(str(shared_data / "mvtec"), categories=["hazelnut_toy"])
    checked = inspect_rows(table, num_threads=2)
    sizes = Counter(zip(checked["width"].to_pylist(), checked["height"].to_pylist(), strict=True))
    assert sizes == {(512, 512): 50, (512, 522): 1}
    assert [error for error in checked["error"].to_pylist() if error] == []
