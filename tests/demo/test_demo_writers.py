"""Writers: layouts as documented, whole or absent, and a command line with clear errors."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feclip.demo import render, write_archive, write_mvtec
from feclip.demo.__main__ import main
from feclip.errors import DataError, StorageError

MVTEC = {
    "seed": 1,
    "families": ("capsule", "tile"),
    "image_size": 48,
    "num_train_good": 3,
    "num_test_good": 2,
    "num_per_defect": 2,
    "defect_types": ("scratch", "foreign_body"),
}
ARCHIVE = {"seed": 1, "families": ("tile", "wood"), "num_images": 40, "defect_fraction": 0.2, "image_size": 64}


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_mvtec_layout_is_complete_and_the_masks_fit(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "set", **MVTEC)
    expected = set()
    for family in MVTEC["families"]:
        expected |= {f"{family}/train/good/{i:03d}.png" for i in range(3)}
        expected |= {f"{family}/test/good/{i:03d}.png" for i in range(2)}
        for defect in MVTEC["defect_types"]:
            expected |= {f"{family}/test/{defect}/{i:03d}.png" for i in range(2)}
            expected |= {f"{family}/ground_truth/{defect}/{i:03d}_mask.png" for i in range(2)}
    assert set(tree(tmp_path / "set")) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    for path in (tmp_path / "set").glob("*/ground_truth/*/*.png"):
        mask = np.asarray(Image.open(path))
        assert mask.shape == (48, 48)
        assert set(np.unique(mask)) == {0, 255}


def test_mvtec_holds_the_rendered_pixels(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "set", **MVTEC)
    sample = render(
        seed=1, stream=("mvtec", "tile", "test/scratch", 1), family="tile", size=(48, 48), defect_type="scratch"
    )
    category = tmp_path / "set" / "tile"
    assert np.array_equal(np.asarray(Image.open(category / "test/scratch/001.png")), sample.image)
    mask = np.asarray(Image.open(category / "ground_truth/scratch/001_mask.png"))
    assert np.array_equal(mask > 0, sample.mask)


def test_a_larger_mvtec_set_holds_the_smaller_one_and_no_image_twice(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "small", **MVTEC)
    write_mvtec(tmp_path / "large", **{**MVTEC, "num_train_good": 5, "families": ("tile", "capsule")})
    small, large = tree(tmp_path / "small"), tree(tmp_path / "large")
    assert small.items() <= large.items()
    images = [content for path, content in large.items() if "ground_truth" not in path]
    assert len(set(images)) == len(images)


def test_archive_has_partitions_labels_and_strong_aspect_ratios(tmp_path: Path) -> None:
    write_archive(tmp_path / "field", num_months=14, **ARCHIVE)
    with (tmp_path / "field/labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {path for path in tree(tmp_path / "field") if path != "labels.csv"} == {
        f"images/{row['path']}" for row in rows
    }
    assert len(rows) == 40
    assert sum(row["label"] == "1" for row in rows) == 8
    assert {row["label"] for row in rows} == {"0", "1"}
    pattern = re.compile(r"line=[01]/date=202[45]-(0[1-9]|1[0-2])/part_\d{6}\.jpg")
    assert all(pattern.fullmatch(row["path"]) for row in rows)
    assert {row["path"].split("/")[0] for row in rows} == {"line=0", "line=1"}
    images = [np.asarray(Image.open(tmp_path / "field/images" / row["path"])) for row in rows]
    ratios = np.log2([image.shape[1] / image.shape[0] for image in images])
    assert ratios.min() < -1.2
    assert ratios.max() > 1.2
    assert np.abs(ratios).max() < 2.1
    padded = [image for image in images if (image[:4].min() > 240) or (image[:, :4].min() > 240)]
    assert 4 <= len(padded) <= 22
    assert all(image.shape[0] == image.shape[1] for image in padded)


def test_both_writers_give_the_same_bytes_again(tmp_path: Path) -> None:
    for folder in ("first", "again"):
        write_mvtec(tmp_path / folder / "mvtec", **{**MVTEC, "families": ("tile",)})
        write_archive(tmp_path / folder / "archive", **{**ARCHIVE, "num_images": 6})
    assert tree(tmp_path / "first") == tree(tmp_path / "again")


@pytest.mark.parametrize(("write", "arguments"), [(write_mvtec, MVTEC), (write_archive, ARCHIVE)])
def test_a_folder_in_use_is_refused_and_left_alone(
    tmp_path: Path, write: Callable[..., None], arguments: dict[str, object]
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty") as error:
        write(tmp_path / "set", **arguments)
    assert "\n" not in str(error.value)
    assert tree(tmp_path) == {"set/notes.txt": b"mine"}
    with pytest.raises(DataError, match="is a file"):
        write(tmp_path / "set/notes.txt", **arguments)
    with pytest.raises(StorageError, match="Cannot write"):
        write(tmp_path / "set/notes.txt/below", **arguments)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_mvtec(tmp_path / "set", **{**MVTEC, "families": ("tile",), "num_per_defect": 0})
    assert len(tree(tmp_path / "set")) == 5


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(**arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return render(**arguments)

    monkeypatch.setattr("feclip.demo.mvtec.render", failing)
    with pytest.raises(KeyboardInterrupt):
        write_mvtec(tmp_path / "set", **MVTEC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 16}, "at least 32 px"),
        ({"num_train_good": -1}, "num_train_good must be at least 0, got -1"),
        ({"families": ("rug",)}, "rug"),
        ({"defect_types": ("rust",)}, "rust"),
    ],
)
def test_wrong_counts_and_names_write_nothing(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_mvtec(tmp_path / "set", **{**MVTEC, **change})
    assert list(tmp_path.iterdir()) == []


def test_archive_refuses_sizes_that_cannot_hold_a_strong_aspect_ratio(tmp_path: Path) -> None:
    for change, message in (
        ({"image_size": 48}, "at least 64, got 48"),
        ({"num_months": 0}, "num_months must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            write_archive(tmp_path / "set", **{**ARCHIVE, **change})
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_and_reports_on_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feclip.demo", "mvtec", str(tmp_path / "set"), "--families", "tile"]
    counts = ["--num_train_good", "1", "--num_test_good", "1", "--num_per_defect", "1", "--image_size", "48"]
    done = subprocess.run(
        [*command, *counts, "--defect_types", "spot,bend"], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "1 of 1 families" in done.stderr
    assert len(tree(tmp_path / "set")) == 6


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--families", "rug"], 2, "rug"),
        (["--num_images", "many"], 2, "num_images"),
        (["--sead", "1"], 2, "--sead"),
        (["--defect_fraction", "7"], 2, "defect_fraction must lie in"),
        ([], 1, "is not empty"),
    ],
)
def test_the_command_line_tells_usage_from_failure(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    flags: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    try:
        got = main(["archive", str(tmp_path), *flags])
    except SystemExit as stop:
        got = stop.code
    assert got == code
    assert message in capfd.readouterr().err + caplog.text
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_archive_by_command_line_expands_roles(tmp_path: Path) -> None:
    assert (
        main(
            [
                "archive",
                str(tmp_path / "field"),
                "--families",
                "unseen,tile",
                "--num_images",
                "12",
                "--image_size",
                "64",
            ]
        )
        == 0
    )
    lines = {path.name for path in (tmp_path / "field/images").iterdir()}
    assert lines <= {"line=0", "line=1", "line=2", "line=3"}
    assert len(lines) > 1
