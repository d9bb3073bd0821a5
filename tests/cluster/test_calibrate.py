"""Thresholds and decisions from a score table, and images scored once more, on one cluster in this process."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from job_runner import Finished, run_here
from odd_files import GOOD
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from small_archive import BAD_FILES, KINDS, NUM_IMAGES, NUM_OBJECTS, OPTIONS, table_of

from feclip.bundle import read_bundle

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_normals_give_thresholds_and_decisions_need_no_image(
    scored: tuple[str, Finished], bundle: str, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, _ = scored
    flags = ("--bundle", bundle, "--normals", output, "--output", "calibrated", "--calibrate.percentiles", "90,80")
    done = run_here(*flags, "--calibrate.threshold_by", "line", job="calibrate.py")
    assert done.returncode == 0, done.output
    calibrated = read_bundle(str(tmp_path / "calibrated"))
    calibration = calibrated.calibration
    assert calibration is not None
    assert calibrated.model_id == read_bundle(bundle).model_id
    table = table_of(output)
    for line in ("0", "1"):
        scores = table.filter(pa.compute.field("line") == line)["image_logit"].drop_null().to_numpy()
        assert calibration.threshold("image_logit", line) == np.quantile(scores, 0.9, method="inverted_cdf")
        assert f"line={line}: image_logit > " in caplog.text
    roles = calibrated.images["role"].to_pylist()
    assert roles.count("calibrated") == NUM_OBJECTS - len(BAD_FILES)
    assert f"{len(BAD_FILES)} normals have no score" in caplog.text

    copy = shutil.copytree(output, tmp_path / "copy")
    claim = next((copy / "_run").glob("*.json"))
    moved = archive.rename(archive.with_name("away"))  # so that no image can be read
    try:
        decided = run_here("--bundle", "calibrated", "--scores", "copy", "--rule", "both", job="decide.py")
    finally:
        moved.rename(archive)
    assert decided.returncode == 0, decided.output
    folder = next((copy / "decisions").iterdir())
    decisions = ds.dataset(folder, format="parquet").to_table().sort_by("row_id")
    assert decisions["row_id"].to_pylist() == table["row_id"].to_pylist()
    labels = decisions["pred_label"]
    assert labels.null_count == len(BAD_FILES)
    assert f"{pa.compute.sum(labels).as_py()} anomalous" in caplog.text
    assert claim.exists()


def test_images_that_the_bundle_knows_do_not_calibrate_it(
    scored: tuple[str, Finished], bundle: str, tmp_path: Path
) -> None:
    """Calibrating twice on the same normals: the second time they stand in the bundle."""
    output, _ = scored
    few = ("--calibrate.percentiles", "90")
    first = run_here("--bundle", bundle, "--normals", output, "--output", "one", *few, job="calibrate.py")
    assert first.returncode == 0, first.output
    second = run_here("--bundle", "one", "--normals", output, "--output", "two", *few, job="calibrate.py")
    assert second.returncode == 1
    num_scored = NUM_OBJECTS - len(BAD_FILES)
    assert f"{num_scored} of {num_scored} normals trained, selected or calibrated" in second.error_line
    assert not (tmp_path / "two" / "config.json").exists()
    scarce = run_here("--bundle", bundle, "--normals", output, "--output", "three", job="calibrate.py")
    assert scarce.returncode == 1
    assert f"{num_scored} normal images, and percentile 99.5 (percentile) needs 200" in scarce.error_line


def test_images_with_errors_are_scored_once_more_when_asked(
    scored: tuple[str, Finished], bundle: str, archive: Path, tmp_path: Path
) -> None:
    shutil.copytree(scored[0], tmp_path / "run")
    mended = next(name for name, kind in KINDS.items() if kind == "empty")
    (archive / mended).write_bytes(GOOD["png"][0])
    try:
        flags = ("--bundle", bundle, "--archive", str(archive), "--output", "run", *OPTIONS)
        done = run_here(*flags, "--retry_errors", "true", job="score.py")
    finally:
        (archive / mended).write_bytes(BAD_FILES[mended])
    assert done.returncode == 0, done.output
    before, after = (table_of(output).to_pylist() for output in (scored[0], str(tmp_path / "run")))
    changed = [now for old, now in zip(before, after, strict=True) if old["error_kind"] != now["error_kind"]]
    assert [row["uri"] for row in changed] == [f"{archive}/{mended}"]
    assert changed[0]["error"] is None
    assert changed[0]["image_logit"] is not None
    for old, now in zip(before, after, strict=True):
        if old["image_logit"] is not None:
            assert now["image_logit"] == pytest.approx(old["image_logit"], abs=1e-5)


def test_a_memory_bank_of_each_line_scores_and_its_images_fit_no_threshold(
    bundle: str, archive: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ("--listing.exclude", "*é*,*of 100%*")  # all images but the odd ones
    flags = ("--bundle", bundle, "--normals", str(archive), *good, "--score.precision", "float32")
    bank = ("--memory_bank", "3", "--bank.group_column", "line", "--calibrate.percentiles", "90")
    done = run_here(*flags, *bank, "--output", "banked", job="calibrate.py")
    assert done.returncode == 0, done.output
    calibrated = read_bundle("banked")
    assert calibrated.memory_bank is not None
    assert calibrated.memory_bank.groups == {"0": 3, "1": 3}
    assert calibrated.model_id != read_bundle(bundle).model_id
    assert calibrated.calibration is not None
    roles = calibrated.images["role"].to_pylist()
    assert roles.count("memory_bank") == 6
    assert roles.count("calibrated") == NUM_IMAGES - 6
    assert "6 normals are in the memory bank and fit no threshold" in caplog.text
    table = table_of("banked/_normals")
    banked = set(calibrated.images.filter(pa.compute.field("role") == "memory_bank")["sha256"].to_pylist())
    others = [row["image_logit"] for row in table.to_pylist() if row["sha256"] not in banked]
    assert calibrated.calibration.threshold("image_logit") == np.quantile(others, 0.9, method="inverted_cdf")

    again = run_here(*flags, *bank, "--output", "banked", job="calibrate.py")
    assert again.returncode == 0, again.output
    other = run_here(*flags, *bank, "--bank.seed", "1", "--output", "banked", job="calibrate.py")
    assert other.returncode == 1
    assert "was begun with another memory bank; choose another output" in other.error_line
    twice = run_here("--bundle", "banked", *flags[2:], *bank, "--output", "twice", job="calibrate.py")
    assert twice.returncode == 1
    assert "has a memory bank already" in twice.error_line

    run = StreamingExecutor.run
    monkeypatch.setattr(StreamingExecutor, "run", lambda self: (run(self), time.sleep(4)))
    elsewhere = run_here("--bundle", "banked", "--archive", f"{archive}/line=0", "--output", "plain", job="score.py")
    assert elsewhere.returncode == 1
    assert "have no column line, by which the bundle's memory bank is divided" in elsewhere.error_line
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]
    assert not left  # one that outlives its cluster ends this process with no word
