"""Ctrl-C ends training and a sweep with the exit code of an interrupt and one line; no claim stays on the output."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from job_runner import SMALL_RUN, JobRunner, wait_for
from small_sweep import SMALL_SWEEP, write_space

pytestmark = pytest.mark.cluster


def interrupt(process: "subprocess.Popen[str]") -> str:
    """Send what a terminal sends on Ctrl-C, and return what the job says from then on."""
    os.kill(process.pid, signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return output


def said_by_the_job(output: str) -> str:
    """Leave out what Ray brings from its own actors: its controller may log what it could not tidy up in time."""
    return "\n".join(line for line in output.splitlines() if " pid=" not in line)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_training_says_how_to_go_on_and_holds_nothing(run_job: JobRunner, small_mvtec: Path) -> None:
    flags = ("--data.root", str(small_mvtec), *SMALL_RUN, "--output", "run", "--optim.epochs", "40")
    with run_job.start(*flags) as process:
        wait_for(process, "epoch 3/40: loss")  # the line of an epoch comes before its checkpoint stands
        said = interrupt(process)
    assert process.returncode == 130, said
    assert "finetune.py: interrupted; submit the same command again to go on" in said
    assert "Traceback" not in said_by_the_job(said)
    output = run_job.cwd / "run"
    assert not list(output.glob("_held-*"))
    assert list((output / "_run" / "train").glob("checkpoint_*"))  # from which the next submission goes on
    assert not (output / "config.json").exists()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_sweep_ends_as_interrupted_and_holds_nothing(run_job: JobRunner, small_mvtec: Path) -> None:
    space = write_space(run_job.cwd / "space.yaml", model__fusion_weight={"loguniform": [0.01, 1.0]})
    flags = ("--space", space, "--data.root", str(small_mvtec), *SMALL_SWEEP, "--num_trials", "20", "--output", "run")
    with run_job.start(*flags, job="tune.py") as process:
        wait_for(process, "Trial 1")
        said = interrupt(process)
    assert process.returncode == 130, said
    assert "tune.py: interrupted; submit the same command again to go on" in said
    assert "Traceback" not in said_by_the_job(said)
    assert not list((run_job.cwd / "run").glob("_held-*"))
