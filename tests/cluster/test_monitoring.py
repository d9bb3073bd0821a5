"""What Ray's Prometheus endpoint shows of a job: true numbers of its run."""

import os
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pyarrow as pa
import pytest
import ray
from head_node import free_port
from job_runner import run_here
from prometheus_client.parser import text_string_to_metric_families
from small_archive import NUM_SLICES, OPTIONS, table_of

from feclip import logs
from feclip.bundle import read_bundle
from feclip.cluster.monitoring import METRICS, RunTags
from feclip.cluster.trial_hooks import Watch
from feclip.config import DataConfig, Protocol, TuneConfig
from feclip.progress import Progress
from feclip.tuning import TrialRecord, write_trial

pytestmark = pytest.mark.cluster

REPORT_MILLISECONDS = 1000
DEADLINE_SECONDS = 90.0
Samples = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A cluster in this process that reports each second; yields the URL of its node's metrics."""
    settings = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port(above=8600)
    with mock.patch.dict(os.environ, settings):
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            logging_level="WARNING",
            _node_ip_address="127.0.0.1",
            _metrics_export_port=port,
            _system_config={"metrics_report_interval_ms": REPORT_MILLISECONDS},
        )
        yield f"http://127.0.0.1:{port}/metrics"
        ray.shutdown()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the run that the test starts."""
    name = "test-" + os.urandom(4).hex()
    monkeypatch.setenv("FECLIP_RUN_ID", name)
    monkeypatch.setenv(logs.LOG_VARIABLE, "")
    monkeypatch.delenv(logs.LOG_VARIABLE)
    return name


def scraped(endpoint: str, *, run: str) -> Samples:
    """Return what the endpoint shows of a run: the sum over processes by name and the value of its own tag."""
    with urllib.request.urlopen(endpoint, timeout=10) as answer:  # noqa: S310 - on loopback
        text = answer.read().decode()
    found: Samples = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("ray_")
            if name in METRICS and sample.labels["run"] == run:
                tags = METRICS[name].tags
                found[name, sample.labels[tags[0]] if tags else ""] += sample.value
    return dict(found)


def wait_for(endpoint: str, *, run: str, holds: Callable[[Samples], bool]) -> Samples:
    """Scrape until a condition holds: processes report now and then."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            found = scraped(endpoint, run=run)
        except OSError as error:
            found = {("endpoint", str(error)): 0}
        if holds(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_counts_of_a_scoring_job_are_those_of_its_table(
    endpoint: str, bundle: str, archive: Path, run: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    during: set[tuple[str, str]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.3):
            during.update(wait_for(endpoint, run=run, holds=lambda found: ("endpoint", "") not in found))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run_here("--bundle", bundle, "--archive", str(archive), "--output", output, *OPTIONS, job="score.py")
    finally:
        ended.set()
        watcher.join()
    assert done.returncode == 0, done.output
    table = table_of(output)
    errors = Counter(kind for kind in table["error_kind"].to_pylist() if kind)
    expected = {("feclip_images_scored_total", ""): len(table) - errors.total()} | {
        ("feclip_image_errors_total", kind): number for kind, number in errors.items()
    }
    assert errors.total() > 3
    shown = expected | {("feclip_slices_left", ""): 0}  # a report takes effect name by name
    found = wait_for(endpoint, run=run, holds=lambda found: shown.items() <= found.items())
    assert {name for name in found if name[0] == "feclip_image_errors_total"} <= expected.keys()
    seconds = {stage: spent for (name, stage), spent in found.items() if name == "feclip_stage_seconds_total"}
    assert seconds.keys() == {"fetch", "decode", "letterbox", "model", "write"}
    assert all(spent > 0 for spent in seconds.values())
    assert {("feclip_slices_in_progress", "fetch"), ("feclip_slices_in_progress", "score")} <= during | found.keys()

    again = run_here("--bundle", bundle, "--archive", str(archive), "--output", output, *OPTIONS, job="score.py")
    assert again.returncode == 0
    assert expected.items() <= scraped(endpoint, run=run).items()  # a finished run scores nothing, and counts nothing
    assert NUM_SLICES > 1


def test_trials_are_shown_by_status(endpoint: str, run: str, small_mvtec: Path, tmp_path: Path) -> None:
    data = DataConfig(root=str(small_mvtec), protocol=Protocol.b)
    config = TuneConfig(output=str(tmp_path), space="space.yaml", num_trials=3, data=data)
    records = [TrialRecord(number=number, values={"optim.learning_rate": 0.1}) for number in (1, 2, 3)]
    for record in records:
        write_trial(config.output, record.started())
    with Progress("Sweep", 3, unit="trials") as progress:
        watch = Watch(config, tags=RunTags.of("tune"), progress=progress)
        watch.on_trial_start(0, [], None)
        shown = {("feclip_trials", "running"): 3, ("feclip_trials", "done"): 0, ("feclip_trials", "stopped"): 0}
        wait_for(endpoint, run=run, holds=lambda found: shown.items() <= found.items())
        write_trial(config.output, records[0].failed("It broke.", mendable=False))
        watch.on_trial_complete(0, [], SimpleNamespace(config={"number": 1}))
        watch.on_trial_complete(0, [], SimpleNamespace(config={"number": 2}))  # ASHA ended it
        shown = {("feclip_trials", name): 1 for name in ("running", "stopped", "failed")}
        wait_for(endpoint, run=run, holds=lambda found: shown.items() <= found.items())
        assert progress.text(seconds=4).startswith("Sweep: 2 of 3 trials")


def test_training_is_shown_while_it_runs(endpoint: str, run: str, small_run: tuple[str, ...], tmp_path: Path) -> None:
    output = str(tmp_path / "bundle")
    last: Samples = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.3):
            last.update(scraped(endpoint, run=run))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run_here(*small_run, "--output", output)
    finally:
        ended.set()
        watcher.join()
    assert done.returncode == 0, done.output
    bundle = read_bundle(output)
    num_images = pa.compute.sum(pa.compute.equal(bundle.images["role"], "trained")).as_py()
    num_steps = -(-num_images // 4)
    found = last | scraped(endpoint, run=run)
    assert found["feclip_training_images_total", ""] <= 2 * num_images
    assert found["feclip_training_steps_total", ""] <= 2 * num_steps
    assert found["feclip_training_step_seconds_total", ""] > 0
    assert found["feclip_training_epochs", ""] in {1, 2}
    assert found["feclip_training_loss", ""] > 0
