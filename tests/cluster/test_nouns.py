"""Nouns of groups on a cluster: trained by category, scored by what the paths say, calibrated and evaluated."""

import shutil
from pathlib import Path

import pytest
from job_runner import run_here
from small_archive import table_of

from feclip.bundle import read_bundle
from feclip.data import decode_image, letterbox
from feclip.scoring import Scorer

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

MODEL = ("--model.backbone", "feclip-demo", "--model.num_taps", "2", "--model.nouns", "tile=wood,capsule=circuit board")
EXACT = ("--score.precision", "float32")


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def archive_of(mvtec: Path, root: Path) -> Path:
    """Copy normal images of two categories, and some as of a third, which has no noun of its own."""
    for category, source in (("tile", "tile"), ("capsule", "capsule"), ("washer", "tile")):
        shutil.copytree(mvtec / source / "test" / "good", root / f"category={category}")
    return root


def test_groups_with_nouns_of_their_own_from_training_to_thresholds(
    small_mvtec: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = ("--data.root", str(small_mvtec), "--optim.epochs", "1", "--optim.precision", "float32")
    trained = run_here(*MODEL, *data, "--output", "bundle", job="finetune.py")
    assert trained.returncode == 0, trained.output
    assert "Prompts by category: 'circuit board' for capsule; 'wood' for tile." in caplog.text
    other = run_here(*MODEL[:-1], "tile=wood", *data, "--output", "bundle", job="finetune.py")
    assert other.returncode == 1
    assert "model.nouns was ['capsule=circuit board', 'tile=wood'], now ['tile=wood']" in other.error_line

    archive = archive_of(small_mvtec, tmp_path / "archive")
    scored = run_here("--bundle", "bundle", "--archive", str(archive), "--output", "scores", *EXACT, job="score.py")
    assert scored.returncode == 0, scored.output
    told = "'circuit board' for capsule; 'wood' for tile; 'object', for want of a noun of their own, for washer."
    assert f"Prompts by category: {told}" in caplog.text
    bundle = read_bundle("bundle")
    scorers = {name: Scorer(bundle.of_group(name, field="-"), precision="float32") for name in ("tile", "capsule", "-")}
    rows = table_of("scores").to_pylist()
    assert len(rows) == 18
    logits = []
    for row in rows:
        image = decode_image(Path(row["uri"]).read_bytes(), uri=row["uri"])
        pixels, record = letterbox(image, image_size=112, padding_color="white")
        inputs = pixels[None], record.valid_pixels()[None]
        own = scorers.get(row["category"], scorers["-"]).score(*inputs)
        assert row["image_logit"] == pytest.approx(own.image_logit[0], abs=1e-5)
        logits.append(abs(row["image_logit"] - scorers["capsule"].score(*inputs).image_logit[0]))
    assert sum(difference > 1e-3 for difference in logits) == 12

    planned = run_here("--bundle", "bundle", "--archive", str(archive), "--output", "scores", "--plan", job="score.py")
    assert planned.returncode == 0, planned.output
    limits = ("--calibrate.threshold_by", "category", "--calibrate.percentiles", "80", "--allow_trained_images", "true")
    calibrated = run_here(
        "--bundle", "bundle", "--normals", "scores", "--output", "calibrated", *limits, job="calibrate.py"
    )
    assert calibrated.returncode == 0, calibrated.output
    assert read_bundle("calibrated").model == bundle.model

    evaluation = ("--bundle", "bundle", "--data.root", str(small_mvtec), "--allow_trained_images", "true")
    judged = run_here(*evaluation, *EXACT, "--output", "judged", job="evaluate.py")
    assert judged.returncode == 0, judged.output
