"""The command: what it prints, where overlays go, and how it ends."""

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from feclip.__main__ import main

FLAGS = ("--device", "cpu", "--precision", "float32")


def test_one_image_is_a_line_and_a_picture(
    bundle: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = pictures / "line=1" / "part 0.png", tmp_path / "out.png"
    assert main(["predict", str(image), "--bundle", bundle, "--save", str(out), *FLAGS]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no threshold  P(abnormal) 0.")
    assert line.endswith(f"{image} -> {out}")
    with Image.open(out) as picture:
        assert picture.size == (90, 40)


def test_a_folder_gives_a_row_for_each_image_and_names_the_bad_ones(
    bundle: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "overlays"
    argv = ["predict", str(pictures), "--bundle", bundle, "--save", str(out), "--format", "json", *FLAGS]
    assert main(argv) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    names = [row["image"].removeprefix(f"{pictures}/") for row in rows]
    assert names == [
        "line=1/empty.png", "line=1/part 0.png", "line=1/part 2.png", "line=1/part 4.png",
        "line=2/broken.jpg", "line=2/part 1.png", "line=2/part 3.png",
    ]  # fmt: skip
    bad = {name for name, row in zip(names, rows, strict=True) if row["error"]}
    assert bad == {"line=1/empty.png", "line=2/broken.jpg"}
    *errors, end = [line for line in captured.err.splitlines() if "INFO" not in line]
    assert [name for name in sorted(bad) if any(name in line for line in errors)] == sorted(bad)
    assert len(errors) == 2
    assert end == "feclip predict: error: 2 of 7 images could not be predicted; each is named above."
    saved = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert saved == sorted(f"{name}.png" for name in set(names) - bad)
    assert all(
        row["overlay"] == str(out / f"{name}.png") for name, row in zip(names, rows, strict=True) if name not in bad
    )


def test_a_table_has_labels_and_thresholds_and_an_unknown_group_is_an_error(
    calibrated_bundle: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", str(pictures / "line=1" / "part 2.png"), str(pictures / "line=2" / "part 1.png")]
    assert main([*argv, "--bundle", calibrated_bundle, "--format", "csv", *FLAGS]) == 1
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert first["label"] in {"normal", "anomalous"}
    assert float(first["threshold_image_logit"]) == pytest.approx(float(first["threshold_map_max"]))
    assert first["error"] == ""
    assert second["error"].startswith(f"Cannot decide on {argv[2]}: calibration never saw line '2'")
    assert main([*argv[:2], "--bundle", calibrated_bundle, *FLAGS]) == 0
    assert " > " in (line := capsys.readouterr().out) or " <= " in line


@pytest.mark.parametrize(
    ("images", "save", "message"),
    [
        (("line=1/part 0.png",), "out.txt", "save must end in .png, .jpg, .jpeg, .webp, or in a slash for a folder"),
        (("line=1/part 0.png",), "archive/line=1/part 0.png", "where the images are"),
        (("",), "archive", "where the images are"),
        (("line=1",), "archive/line=1/overlays", "where the images are"),
        (("line=1/part 0.png", "line=1/part 0.png"), "out", "have one name"),
        (("line=1/notes", "line=2/notes"), "out", "have one name"),
    ],
)
def test_overlays_that_would_meet_are_refused_before_the_model_is_loaded(
    images: tuple[str, ...], save: str, message: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(pictures / image) for image in images]
    argv = ["predict", *places, "--bundle", "/no/bundle", "--save", str(pictures.parent / save), *FLAGS]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_several_places_have_folders_of_their_own(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "few" / "x.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    argv = ["predict", str(tmp_path / "few"), str(tmp_path / "x.png"), "--bundle", bundle, *FLAGS]
    assert main([*argv, "--save", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    saved = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert saved == ["few/x.png.png", "x.png.png"]


def test_names_that_no_table_can_hold_have_overlays_too(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path / "odd") + b"/\xe9t.png")  # noqa: PTH104 - bytes
    argv = ["predict", str(tmp_path / "odd"), "--bundle", bundle, "--save", str(tmp_path / "out"), *FLAGS]
    assert main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["%E9t.png.png"]


def test_a_folder_without_images_and_a_missing_bundle_are_one_line(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tmp_path), "--bundle", bundle, *FLAGS]) == 1
    assert f"{tmp_path} holds no image (listing.extensions are .bmp" in capsys.readouterr().err
    assert main(["predict", "a.png", "--bundle", str(tmp_path), *FLAGS]) == 1
    assert "holds no bundle" in capsys.readouterr().err


@pytest.mark.storage
def test_images_and_overlays_may_lie_in_object_storage(
    s3_bucket: str, bundle: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from feclip.data import exists, write_bytes  # noqa: PLC0415 - after the fixture set the environment

    for name in ("line=1/part 0.png", "line=2/part 1.png"):
        write_bytes(f"{s3_bucket}/in/{name}", (pictures / name).read_bytes())
    argv = ["predict", f"{s3_bucket}/in", "--bundle", bundle, "--save", f"{s3_bucket}/out", *FLAGS]
    assert main(argv) == 0
    assert exists(f"{s3_bucket}/out/line=1/part 0.png.png")
    one = ["predict", f"{s3_bucket}/in/line=1/part 0.png", "--bundle", bundle, *FLAGS, "--format", "json"]
    capsys.readouterr()
    assert main(one) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["width"], row["error"]) == (90, None)
