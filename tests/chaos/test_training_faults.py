"""Training and a sweep while machines die, a disk fills, storage fails: the same numbers in the end."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_proxy import FLAKY, FaultProxy
from job_runner import SMALL_RUN, run_here
from machines import TRAINER, TRIAL, Machines, Strike
from small_sweep import SMALL_SWEEP, none_ran_twice_to_the_end, write_space

from feclip.cli import parse_config
from feclip.cluster.finetune import finetune
from feclip.config import FinetuneConfig
from feclip.data import join_uri, read_bytes, write_bytes
from feclip.errors import RunError
from feclip.tuning import read_trials

pytestmark = [pytest.mark.cluster, pytest.mark.chaos]

Saw = Callable[..., None]
EPOCHS = 3
RELATIVE = 1e-4


def flags(root: str | Path, output: str | Path) -> tuple[str, ...]:
    """Return the flags of a run of seconds on two workers."""
    given = ("--data.root", str(root), "--output", str(output), "--optim.epochs", str(EPOCHS), *SMALL_RUN)
    return (*given, "--cluster.num_workers", "2", "--data.protocol", "b")


def epochs_of(output: str | Path) -> list[dict[str, float]]:
    epochs: list[dict[str, float]] = json.loads(read_bytes(f"{output}/metrics.json"))["epochs"]
    return epochs


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Machines, small_mvtec: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, float]]:
    """Metrics by epoch of a run that nothing disturbed."""
    cluster.bring()
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run_here(*flags(small_mvtec, output))
    assert done.returncode == 0, done.output
    return epochs_of(output)


def compared(output: str | Path, undisturbed: list[dict[str, float]]) -> dict[str, int]:
    """Hold the metrics of a run against undisturbed ones; returns how many epochs are missing and doubled."""
    found = epochs_of(output)
    numbers = [record["epoch"] for record in found]
    counts = {"lost": EPOCHS - len(set(numbers)), "twice": len(numbers) - len(set(numbers))}
    assert counts == {"lost": 0, "twice": 0}
    for epoch, wanted in zip(found, undisturbed, strict=True):
        assert epoch == pytest.approx(wanted, rel=RELATIVE)
    return counts


class Checkpoints:
    """Counts the checkpoints that a run has written so far, of which it keeps the newest."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "_run" / "train"
        self._seen: set[str] = set()

    def __call__(self) -> int:
        """Return how many were seen until now."""
        self._seen |= {path.name for path in self._folder.glob("checkpoint_*")}
        return len(self._seen)


@pytest.mark.parametrize(
    ("seed", "moment"),
    [
        pytest.param(
            seed,
            random.Random(f"train {seed}").randrange(1, EPOCHS),  # noqa: S311
            marks=[pytest.mark.slow] if seed else [],
            id=f"seed{seed}",
        )
        for seed in range(4)
    ],
)
def test_training_goes_on_from_its_last_epoch_when_a_node_dies(
    seed: int,
    moment: int,
    machines: Machines,
    small_mvtec: Path,
    undisturbed: list[dict[str, float]],
    tmp_path: Path,
    saw: Saw,
) -> None:
    """The machine that trains dies once a checkpoint stands; the other one takes over."""
    output = tmp_path / "run"
    written = Checkpoints(output)
    with Strike(
        when=lambda: written() >= moment, do=lambda: machines.kill(machines.running(TRAINER)), written=written
    ) as strike:
        done = run_here(*flags(small_mvtec, output))
    assert done.returncode == 0, done.output
    counts = compared(output, undisturbed)
    saw("train: node", f"after {moment} of {EPOCHS} epochs", seconds=strike.seconds, seed=seed, **counts)


@pytest.mark.slow
def test_a_second_run_on_an_output_stops_and_the_first_is_not_disturbed(
    machines: Machines, small_mvtec: Path, undisturbed: list[dict[str, float]], tmp_path: Path, saw: Saw
) -> None:
    assert machines
    output = tmp_path / "run"
    written = Checkpoints(output)
    config = parse_config(FinetuneConfig, flags(small_mvtec, output), prog="finetune.py", about="")

    def start_another() -> None:
        with pytest.raises(RunError, match=r"is held by another submission \(process \d+ on "):
            finetune(config)

    with Strike(when=lambda: written() >= 1, do=start_another, written=written):
        done = run_here(*flags(small_mvtec, output))
    assert done.returncode == 0, done.output
    saw("train: second", f"after 1 of {EPOCHS} epochs", **compared(output, undisturbed))


def test_a_full_disk_ends_training_in_one_line_and_more_room_lets_it_go_on(
    machines: Machines,
    small_mvtec: Path,
    undisturbed: list[dict[str, float]],
    small_disk: Callable[[str], Path],
    saw: Saw,
) -> None:
    assert machines
    disk = small_disk("1m")
    output = disk / "run"
    full = run_here(*flags(small_mvtec, output), "--cluster.max_failures", "0")
    assert full.returncode == 1, full.output
    assert "No space left on device" in full.error_line
    assert not (output / "config.json").exists()
    subprocess.run(["mount", "-o", "remount,size=512m", str(disk)], check=True)
    done = run_here(*flags(small_mvtec, output), "--cluster.max_failures", "0")
    assert done.returncode == 0, done.output
    saw("train: disk", "at the first checkpoint", **compared(output, undisturbed))


@pytest.mark.storage
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_training_on_flaky_storage_ends_with_the_same_metrics(
    seed: int,
    machines: Machines,
    proxy: FaultProxy,
    small_mvtec: Path,
    undisturbed: list[dict[str, float]],
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    saw: Saw,
) -> None:
    assert machines
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    for path in sorted(path for path in small_mvtec.rglob("*") if path.is_file()):
        write_bytes(join_uri(s3_bucket, "mvtec", str(path.relative_to(small_mvtec))), path.read_bytes())
    output = f"{s3_bucket}/run"
    with proxy.faults(FLAKY, seed=seed):
        done = run_here(*flags(f"{s3_bucket}/mvtec", output))
    assert done.returncode == 0, done.output
    assert all(proxy.counts[kind] for kind in FLAKY), proxy.counts
    struck = proxy.counts.total() - proxy.counts["none"]
    saw("train: flaky", f"{struck} of {proxy.counts.total()} requests", seed=seed, **compared(output, undisturbed))


@pytest.mark.parametrize(
    ("seed", "moment"),
    [(0, 1), *(pytest.param(seed, moment, marks=pytest.mark.slow) for seed, moment in ((1, 0), (2, 2), (3, 3)))],
)
def test_a_sweep_brings_every_trial_to_its_end_when_a_node_dies(
    seed: int, moment: int, machines: Machines, small_mvtec: Path, tmp_path: Path, saw: Saw
) -> None:
    output, number = str(tmp_path / "sweep"), 4
    space = write_space(tmp_path / "space.yaml", model__fusion_weight={"loguniform": [0.01, 1.0]})

    def ended() -> int:
        return sum(record.ended for record in read_trials(output))

    def trains() -> bool:
        return any(record.epochs and not record.ended for record in read_trials(output))

    with Strike(
        when=lambda: ended() >= moment and trains() and machines.running(TRIAL) is not None,
        do=lambda: machines.kill(machines.running(TRIAL)),
        written=lambda: sum(len(record.epochs) for record in read_trials(output)),
    ) as strike:
        done = run_here(
            "--space", space, "--data.root", str(small_mvtec), *SMALL_SWEEP, "--num_trials", str(number),
            "--tune.scheduler", "none", "--tune.search", "random", "--tune.max_concurrent", "2", "--seed", str(seed),
            "--output", output,
            job="tune.py",
        )  # fmt: skip
    assert done.returncode == 0, done.output
    records = read_trials(output)
    assert [record.number for record in records] == list(range(1, number + 1))
    assert all(record.ended and record.error is None for record in records)
    none_ran_twice_to_the_end(output)
    saw("sweep: node", f"after {moment} of {number} trials", seconds=strike.seconds, seed=seed)
