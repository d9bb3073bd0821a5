"""The way of a plant's archive, on real photographs: thresholds from its normals, scores from and to object storage."""

import csv
import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from job_runner import Bucket, JobRunner

from feclip.archive import find_run
from feclip.bundle import read_bundle
from feclip.data import write_bytes
from feclip.prediction import Predictor

pytestmark = [pytest.mark.cluster, pytest.mark.storage, pytest.mark.slow]

NUM_IMAGES, NUM_NORMALS = 460, 360
NUM_PREDICTED = 12  # in this process, one by one


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("resize", ["letterbox", "rectangle"])
def test_thresholds_and_scores_of_magnetic_tiles(
    resize: str, ray_env: dict[str, str], bucket: Bucket, shared_data: Path, tmp_path: Path
) -> None:
    """Photographs of many shapes: as rectangles a slice holds batches of each, and rows keep their order."""
    images = shared_data / "field" / "magnetic_tile" / "images"
    labels = list(csv.DictReader((images.parent / "labels.csv").read_text().splitlines()))
    normals = tmp_path / "normals.csv"
    with normals.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["path", "label"])
        writer.writeheader()
        writer.writerows(row for row in labels if row["label"] == "0")
    run_job = JobRunner(env=ray_env | bucket.env, cwd=tmp_path)
    model = ("--optim.epochs", "0", "--model.backbone", "feclip-demo", "--data.resize", resize)
    zero = run_job(*model, "--output", "demo", job="finetune.py")
    assert zero.returncode == 0, zero.output

    in_float = ("--score.precision", "float32")  # so that a score does not depend on its batch beyond the last digits
    flags = ("--bundle", "demo", *in_float, "--normals", str(normals), "--root", str(images), "--calibrate.percentiles")
    scarce = run_job(*flags, "99.9", "--output", "refused", job="calibrate.py", timeout=600)
    assert scarce.returncode == 1
    assert f"{NUM_NORMALS} normal images, and percentile 99.9 (percentile) needs 1000" in scarce.error_line
    done = run_job(*flags, "99.5", "--output", "calibrated", job="calibrate.py", timeout=600)
    assert done.returncode == 0, done.output
    calibration = read_bundle(str(tmp_path / "calibrated")).calibration
    assert calibration is not None

    for path in sorted(images.rglob("*.jpg")):
        write_bytes(f"{bucket.uri}/magnetic_tile/{path.relative_to(images)}", path.read_bytes())
    places = ("--archive", f"{bucket.uri}/magnetic_tile", "--output", f"{bucket.uri}/run-1")
    scored = run_job("--bundle", "calibrated", *places, *in_float, job="score.py", timeout=600)
    assert scored.returncode == 0, scored.output
    summary = json.loads((bucket.path / "run-1" / "_SUMMARY.json").read_text())
    assert (summary["num_images"], summary["num_scored"]) == (NUM_IMAGES, NUM_IMAGES)
    run = find_run(str(bucket.path / "run-1"))
    assert run is not None
    table = ds.dataset(run.scores_folder, format="parquet").to_table().sort_by("row_id")
    known = {f"{bucket.uri}/magnetic_tile/{row['path']}": row["label"] == "1" for row in labels}
    assert set(table["uri"].to_pylist()) == set(known)
    threshold = calibration.threshold("image_logit")
    called = [logit > threshold for logit in table["image_logit"].to_pylist()]
    assert summary["labels"]["anomalous"] == sum(called)
    false = sum(alarm for uri, alarm in zip(table["uri"].to_pylist(), called, strict=True) if not known[uri])
    assert (
        false == NUM_NORMALS * 5 // 1000
    )  # what lies above rank ceil(0.995 N), the normals being those it was fitted on
    with Predictor.load(tmp_path / "calibrated", precision="float32", batch_size=1) as predictor:
        for row in table.slice(0, NUM_PREDICTED).to_pylist():
            alone = predictor.predict(row["uri"])
            assert row["image_logit"] == pytest.approx(alone.image_logit, abs=1e-3)
            assert row["map_max"] == pytest.approx(alone.map_max, abs=2e-2)
            assert (row["width"], row["height"]) == alone.anomaly_map.shape[::-1]
