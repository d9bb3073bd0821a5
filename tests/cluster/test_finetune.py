"""The fine-tuning job as users run it: what it leaves, what it resumes, and what it refuses."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from job_runner import Bucket, Finished, JobRunner, run_here, wait_for

from feclip.bundle import read_bundle
from feclip.data import read_bytes

pytestmark = pytest.mark.cluster

BUNDLE_FILES = {"config.json", "adapters.safetensors", "images.parquet", "metrics.json"}


def epochs_of(output: str | Path) -> list[dict[str, float]]:
    epochs: list[dict[str, float]] = json.loads(read_bytes(f"{output}/metrics.json"))["epochs"]
    return epochs


def test_a_run_leaves_a_bundle_that_loads(unbroken: tuple[Path, Finished], small_mvtec: Path) -> None:
    output, done = unbroken
    assert {entry.name for entry in output.iterdir()} == BUNDLE_FILES | {"_run"}
    bundle = read_bundle(str(output))
    model = bundle.build()
    assert set(bundle.adapters) == set(model.trainable_state_dict())
    assert [record["epoch"] for record in bundle.metrics] == [1, 2]
    assert bundle.metrics[1]["loss"] < bundle.metrics[0]["loss"]
    assert {"image_auroc", "image_ap", "pixel_auroc"} <= bundle.metrics[-1].keys()
    images = bundle.images.to_pylist()
    assert {(row["role"], row["split"]) for row in images} == {("trained", "train"), ("selected", "held_out")}
    assert all(row["uri"].startswith(str(small_mvtec)) and len(row["sha256"]) == 64 for row in images)
    with torch.no_grad():
        assert bool(model(torch.zeros(1, 3, 64, 64)).image_logit.isfinite().all())
    assert done.output.count("epoch 1/2: loss") == 1
    assert done.output.count("epoch 2/2: loss") == 1


def test_json_lines_of_driver_and_workers_name_one_run(unbroken: tuple[Path, Finished]) -> None:
    lines = [json.loads(line) for line in unbroken[1].output.splitlines()]
    assert {line["run"] for line in lines} == {lines[0]["run"]}
    assert {line["job"] for line in lines} == {"finetune"}
    epochs = [line for line in lines if line["logger"] == "feclip.cluster.train"]
    assert [(line["epoch"], line["rank"]) for line in epochs] == [(1, 0), (2, 0)]
    assert epochs[0]["pid"] != lines[0]["pid"]
    assert epochs[0]["loss"] > epochs[1]["loss"] > 0
    progress = {line["task"]: line for line in lines if line["logger"] == "feclip.progress"}
    assert progress.keys() == {"Checking", "Training"}
    for line in progress.values():
        assert line["done"] == line["total"] > 0
        assert line["rate"] > 0
        assert line["seconds_left"] == 0
    assert progress["Training"]["rank"] == 0


def test_a_finished_run_does_nothing_and_says_so(
    unbroken: tuple[Path, Finished], small_run: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    output, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    done = run_here(*small_run, "--data.protocol", "b", "--output", str(output))
    assert done.returncode == 0
    assert "nothing to do" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*")}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--optim.learning_rate", "0.1"], "optim.learning_rate was 0.0005, now 0.1"),
        (["--optim.epochs", "1"], "run of 2 epochs"),
        (["--model.noun", "screw", "--seed", "3"], "model.noun was 'object', now 'screw'; seed was 0, now 3"),
    ],
)
def test_another_config_on_the_same_output_is_refused_and_named(
    flags: list[str], named: str, unbroken: tuple[Path, Finished], small_run: tuple[str, ...]
) -> None:
    output, _ = unbroken
    done = run_here(*small_run, "--data.protocol", "b", "--output", str(output), *flags)
    assert done.returncode == 1
    assert named in done.error_line


@pytest.fixture
def copied(unbroken: tuple[Path, Finished], tmp_path: Path) -> Path:
    """A copy of the unbroken run that takes itself for the original."""
    output = Path(shutil.copytree(unbroken[0], tmp_path / "longer"))
    claim = output / "_run" / "run.json"
    claim.write_text(claim.read_text().replace(str(unbroken[0]), str(output)))
    return output


def test_more_epochs_go_on_from_the_last_one(
    unbroken: tuple[Path, Finished], copied: Path, run_job: JobRunner, small_run: tuple[str, ...]
) -> None:
    done = run_job(*small_run, "--data.protocol", "b", "--output", str(copied), "--optim.epochs", "3")
    assert done.returncode == 0, done.output
    assert "epoch 1/3" not in done.output
    assert epochs_of(copied)[:2] == epochs_of(unbroken[0])
    assert [record["epoch"] for record in epochs_of(copied)] == [1, 2, 3]


def test_a_run_killed_in_epoch_2_and_submitted_again_equals_an_unbroken_one(
    unbroken: tuple[Path, Finished],
    ray_env: dict[str, str],
    small_run: tuple[str, ...],
    bucket: Bucket,
    tmp_path: Path,
    saw: Callable[..., None],
) -> None:
    """On object storage; the run is killed as a whole once its first epoch stands."""
    runner = JobRunner(env=ray_env | bucket.env, cwd=tmp_path)
    flags = (*small_run, "--data.protocol", "b", "--output", f"{bucket.uri}/killed")
    with runner.start(*flags) as process:
        wait_for(process, "epoch 1/2: loss")
        wait_for(process, "")  # a moment into what follows
        os.killpg(process.pid, signal.SIGKILL)
    folder = bucket.path / "killed"
    assert not (folder / "config.json").exists()
    done = runner(*flags)
    assert done.returncode == 0, done.output
    for resumed, whole in zip(epochs_of(f"{bucket.uri}/killed"), epochs_of(unbroken[0]), strict=True):
        assert resumed == pytest.approx(whole, rel=1e-4)
    assert {path.name for path in folder.iterdir()} == BUNDLE_FILES | {"_run"}
    saw("train: job", "after 1 of 2 epochs")


def test_zero_epochs_write_a_zero_shot_bundle_without_data_or_cluster(tmp_path: Path) -> None:
    done = run_here(
        "--optim.epochs", "0",
        "--model.backbone", "ViT-S-16-alt",
        "--model.pretrained", "none",
        "--model.image_size", "64",
        "--output", str(tmp_path / "zero"),
    )  # fmt: skip
    assert done.returncode == 0, done.output
    bundle = read_bundle(str(tmp_path / "zero"))
    assert bundle.metrics == []
    assert pq.read_table(tmp_path / "zero" / "images.parquet").num_rows == 0
    assert bundle.build().image_size == 64


@pytest.mark.slow
def test_the_first_run_on_real_photographs(run_job: JobRunner, shared_data: Path, tmp_path: Path) -> None:
    """The run of configs/first.yaml, as docs/experiments.md reports it."""
    done = run_job(
        "--data.root", str(shared_data / "mvtec"), "--data.categories", "screw,toothbrush",
        "--model.backbone", "ViT-B-32", "--model.pretrained", "none", "--model.image_size", "224",
        "--optim.epochs", "2", "--cluster.num_workers", "2", "--output", "first", timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.output
    first, second = epochs_of(tmp_path / "first")
    assert second["loss"] < first["loss"]
    assert read_bundle(str(tmp_path / "first")).images.num_rows == 83


@pytest.mark.usefixtures("local_ray")
def test_changed_images_are_refused_where_a_run_goes_on(
    copied: Path, small_run: tuple[str, ...], small_mvtec: Path
) -> None:
    image = next((small_mvtec).glob("*/test/good/*.png"))
    original = image.read_bytes()
    try:
        image.write_bytes(original + b"\0")
        changed = run_here(*small_run, "--data.protocol", "b", "--output", str(copied), "--optim.epochs", "3")
    finally:
        image.write_bytes(original)
    assert changed.returncode == 1
    assert f"1 images differ from those the run began with, first {image}" in changed.error_line
