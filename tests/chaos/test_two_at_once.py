"""Two submissions on one output, of which neither has seen the other when both have written: no job mixes them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from job_runner import JOBS, SMALL_RUN
from small_archive import OPTIONS
from small_sweep import SMALL_SWEEP, write_space

from feclip import holding
from feclip.cli import parse_config
from feclip.data import list_children
from feclip.errors import RunError

pytestmark = pytest.mark.chaos


@pytest.fixture
def flags(request: pytest.FixtureRequest, small_mvtec: Path, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """The command line of each job, without its output."""
    bundle = request.getfixturevalue("bundle")
    space = write_space(tmp_path / "space.yaml", model__fusion_weight={"loguniform": [0.01, 1.0]})
    root = ("--data.root", str(small_mvtec))
    return {
        "score.py": ("--bundle", bundle, "--archive", str(small_mvtec), *OPTIONS),
        "calibrate.py": ("--bundle", bundle, "--normals", str(small_mvtec)),
        "finetune.py": (*root, *SMALL_RUN),
        "tune.py": ("--space", space, *root, *SMALL_SWEEP, "--num_trials", "2"),
    }


@pytest.fixture
def _both_write_before_either_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each of two threads list the claims when both have written theirs, and withdraw when both have read them."""
    meeting = threading.Barrier(2, timeout=120)
    living_owner = holding._living_owner  # noqa: SLF001 - no other place is between reading and withdrawing

    def list_later(uri: str) -> Iterator[Any]:
        meeting.wait()
        return list_children(uri)

    def read_and_wait(uri: str) -> str | None:
        owner = living_owner(uri)
        meeting.wait()
        return owner

    monkeypatch.setattr(holding, "list_children", list_later)
    monkeypatch.setattr(holding, "_living_owner", read_and_wait)


@pytest.mark.usefixtures("_both_write_before_either_looks")
@pytest.mark.parametrize(
    ("job", "fault"),
    [
        ("score.py", "score: two"),
        ("calibrate.py", "calibrate: two"),
        ("finetune.py", "train: two"),
        ("tune.py", "sweep: two"),
    ],
)
def test_both_stop_in_one_line_and_leave_nothing(
    job: str, fault: str, flags: dict[str, tuple[str, ...]], tmp_path: Path, saw: Callable[..., None]
) -> None:
    config_class, run = JOBS[job]
    output = tmp_path / "output"
    config = parse_config(config_class, (*flags[job], "--output", str(output)), prog=job, about="")
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            run(config)
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [RunError, RunError], errors
    assert all("is held by another submission" in str(error) for error in errors)
    assert list(output.iterdir()) == []
    saw(fault, "both have written their claim before either looks")
