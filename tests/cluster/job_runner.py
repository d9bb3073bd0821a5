"""Start the jobs of this repository as a user would, and end what was started by handle."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import ray

from feclip import config
from feclip.cli import run_job
from feclip.cluster.calibrate import calibrate
from feclip.cluster.decide import decide
from feclip.cluster.demo import demo
from feclip.cluster.evaluate import evaluate
from feclip.cluster.finetune import finetune
from feclip.cluster.reproduce import reproduce
from feclip.cluster.score import score
from feclip.cluster.tune import tune
from feclip.report import report

REPOSITORY = Path(__file__).parents[2]
JOBS = {
    "calibrate.py": (config.CalibrateConfig, calibrate),
    "decide.py": (config.DecideConfig, decide),
    "demo.py": (config.DemoConfig, demo),
    "evaluate.py": (config.EvaluateConfig, evaluate),
    "finetune.py": (config.FinetuneConfig, finetune),
    "reproduce.py": (config.ReproduceConfig, reproduce),
    "report.py": (config.ReportConfig, report),
    "score.py": (config.ScoreConfig, score),
    "tune.py": (config.TuneConfig, tune),
}
SMALL_RUN = (
    "--model.backbone", "ViT-S-16-alt",
    "--model.pretrained", "none",
    "--model.image_size", "64",
    "--optim.batch_size", "4",
    "--optim.precision", "float32",
    "--data.num_workers", "2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job that ended."""

    returncode: int
    output: str
    """Standard output and error together."""

    @property
    def error_line(self) -> str:
        """The one line that the job says its error in."""
        lines = [line for line in self.output.splitlines() if line.partition(": error: ")[0] in JOBS]
        assert len(lines) == 1, self.output
        return lines[0]


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A fresh bucket of a running S3 server."""

    uri: str
    path: Path
    """Where the server keeps its objects as files."""
    env: dict[str, str]
    """What leads a client to it."""


@dataclass(frozen=True, kw_only=True)
class JobRunner:
    """Starts jobs of this repository as a user would."""

    env: dict[str, str]
    cwd: Path

    def start(self, *flags: str, job: str = "finetune.py") -> "subprocess.Popen[str]":
        """Start a job in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "jobs" / job), *flags],
            env=self.env,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *flags: str, job: str = "finetune.py", timeout: float = 300) -> Finished:
        """Run a job to its end."""
        with self.start(*flags, job=job) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return Finished(returncode=process.returncode, output=output)


def ray_environment() -> dict[str, str]:
    """Return an environment in which Ray keeps to itself: this process's token, no address, patience when busy."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    return env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",  # `python` of a job is this environment's
        **{key: os.environ[key] for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")},
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }


def run_here(*flags: str, job: str = "finetune.py") -> Finished:
    """Run a job in this process: on the cluster that it holds, else a command that asks Ray for nothing."""
    output = io.StringIO()
    connected, handler = ray.is_initialized(), signal.getsignal(signal.SIGINT)
    with (
        mock.patch.object(sys, "argv", [job, *flags]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            code = run_job(*JOBS[job], prog=job, about="About the job.")
        except SystemExit as stop:
            code = int(str(stop.code))
    assert ray.is_initialized() == connected
    assert signal.getsignal(signal.SIGINT) is handler  # Ray Train would leave its own
    return Finished(returncode=code, output=output.getvalue())


def members(mark: str) -> Iterator[tuple[int, str]]:
    """Yield pid and title of every process whose environment holds a mark."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue


def wait_for(process: "subprocess.Popen[str]", text: str, *, times: int = 1) -> str:
    """Read a job's output until ``text`` has appeared in as many lines, and return what was read."""
    assert process.stdout is not None
    seen = ""
    found = 0
    for line in process.stdout:
        seen += line
        found += text in line
        if found == times:
            return seen
    msg = f"the job ended with {found} lines of {text!r} and not {times}:\n{seen}"
    raise AssertionError(msg)
