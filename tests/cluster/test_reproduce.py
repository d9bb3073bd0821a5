"""The reproduction job on generated data sets: what is whole is not done again, and a step that fails is named."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from job_runner import JobRunner, run_here

from feclip.cluster.reproduce import reproduce
from feclip.config import Indices, ModelConfig, OptimConfig, ReproduceConfig, ReproductionDataConfig
from feclip.demo import DATASETS, write_dataset
from feclip.errors import RunError
from feclip.reproduction import TRAINED_ON

pytestmark = pytest.mark.cluster

MODEL = ModelConfig(backbone="feclip-demo", num_taps=2)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """MVTec AD and VisA, generated: twelve test images each, of 64 px."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("mvtec", "visa")):
        write_dataset(folder / name, dataset=name, seed=seed, image_size=64, num_normal=3, num_anomalous=3)
    return {name: str(folder / name) for name in ("mvtec", "visa")}


def config(output: Path, sets: dict[str, str], *, seeds: tuple[int, ...]) -> ReproduceConfig:
    """Zero epochs: each bundle is its seed's first adapters, written without a worker."""
    data: dict[str, Any] = dict(sets)
    return ReproduceConfig(
        output=str(output),
        data=ReproductionDataConfig(**data, num_workers=2),
        seeds=Indices(seeds),
        model=MODEL,
        optim=OptimConfig(epochs=0),
    )


def table(output: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (output / "table.csv").open() as file:
        return {(row["data_set"], row["metric"]): row for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_step_that_fails_is_named_and_the_next_submission_does_it_alone(sets: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    damaged = next(Path(sets["visa"]).glob("pcb1/Data/Images/Anomaly/*.JPG"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    with pytest.raises(RunError, match=r"A step failed: .*seed 3 on VisA: 1 of 12 images .*submit the same"):
        reproduce(config(output, sets, seeds=(3,)))
    damaged.write_bytes(whole)
    first = table(output)
    assert {name for name, _ in first} == {"mvtec"}
    record = json.loads((output / "table.json").read_text())
    assert list(record["failures"]) == ["evaluate seed 3 on VisA"]
    assert "- failed: evaluate seed 3 on VisA: `1 of 12 images cannot be judged on" in (output / "table.md").read_text()

    done = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.parent != output}
    reproduce(config(output, sets, seeds=(3,)))
    second = table(output)
    assert {name for name, _ in second} == {"mvtec", "visa"}
    assert first.items() <= second.items()
    assert done.items() <= {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}.items()
    assert not json.loads((output / "table.json").read_text())["failures"]
    assert not list(output.rglob("_held-*"))
    for name in sets:
        metrics = pq.read_table(output / "evaluations" / name / f"{TRAINED_ON[name]}-seed-3" / "metrics.parquet")
        means = metrics.filter(pc.field("category").is_null())
        assert len(metrics.filter(pc.field("metric") == "image_auroc")) == 3  # two categories and their mean
        for metric, value in zip(means["metric"].to_pylist(), means["value"].to_pylist(), strict=True):
            if (name, metric) in second:
                assert float(second[name, metric]["mean"]) == pytest.approx(100 * value)
    assert second["visa", "image_auroc"]["paper"] == "84.6"


def test_what_is_asked_for_wrongly_is_one_line_with_its_exit_code(sets: dict[str, str], tmp_path: Path) -> None:
    mvtec, visa = ("--data.mvtec", sets["mvtec"]), ("--data.visa", sets["visa"])
    for flags, code, message in (
        ((*mvtec, "--data.visa", str(tmp_path / "nowhere")), 1, "has no split_csv/1cls.csv"),
        ((*mvtec, "--data.btad", sets["visa"]), 1, "holds no images in MVTec layout"),
        ((*mvtec, *visa, "--model.pretrained", "no-such-weights"), 2, "model"),
        (("--data.mvtec", sets["visa"], *visa), 1, "holds no images in MVTec layout"),
        (mvtec, 2, "data.mvtec and at least one other data set are required"),
    ):
        done = run_here(*flags, "--output", str(tmp_path / "out"), job="reproduce.py")
        assert (done.returncode, message in done.error_line) == (code, True), done.output
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_dry_run_takes_every_step_and_a_second_one_does_nothing(run_job: JobRunner, tmp_path: Path) -> None:
    done = run_job("--dry_run", "--output", "dry", job="reproduce.py", timeout=3000)
    assert done.returncode == 0, done.output
    assert "GENERATED PICTURES" in done.output
    rows = table(tmp_path / "dry")
    assert {name for name, _ in rows} == set(DATASETS)
    assert len(rows) == 6 * 5
    assert {(row["num_seeds"], row["generated"]) for row in rows.values()} == {("2", "True")}
    assert len(list((tmp_path / "dry" / "bundles").glob("*/adapters.safetensors"))) == 4
    losses = json.loads((tmp_path / "dry" / "bundles" / "visa-seed-1" / "metrics.json").read_text())
    assert len(losses) >= 1
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "dry").rglob("*.parquet")}
    again = run_job("--dry_run", "--output", "dry", job="reproduce.py", timeout=600)
    assert again.returncode == 0, again.output
    assert table(tmp_path / "dry") == rows
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "dry").rglob("*.parquet")}
