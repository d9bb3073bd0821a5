"""What jobs say: the same lines as ever for people, JSON with the run for machines, little where quiet."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feclip import logs
from feclip.logs import LogConfig, LogFormat, LogLevel

REPOSITORY = Path(__file__).parents[1]
COMMON = {"time", "level", "logger", "message", "run", "job", "host", "pid"}
logger = logging.getLogger("feclip.test")


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings and handlers that end with the test."""
    monkeypatch.setenv(logs.LOG_VARIABLE, "")
    monkeypatch.delenv(logs.LOG_VARIABLE)
    root, ours = logging.getLogger(), logging.getLogger("feclip")
    levels = root.level, ours.level
    yield
    logging.captureWarnings(False)
    logs.configure_worker()  # forgets what a worker's lines say
    root.handlers[:] = []
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def configure(config: LogConfig, *, job: str = "score") -> None:
    """Settle how lines look in a program without handlers of its own, which pytest's would be taken for."""
    logging.getLogger().handlers[:] = []
    logs.configure(config, job=job)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """Return the JSON lines on standard error."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_json_line_says_what_happened_in_which_run_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig(format=LogFormat.json))
    with logs.context(slice=3):
        logger.info("%d images", 7, extra=logs.fields(done=7, path=Path("a")))
    logger.debug("not said")
    logging.getLogger("another").info("not said")
    (line,) = said(capsys)
    assert line.keys() == {*COMMON, "slice", "done", "path"}
    assert (line["level"], line["logger"], line["message"], line["job"]) == ("info", "feclip.test", "7 images", "score")
    assert (line["slice"], line["done"], line["path"], line["pid"]) == (3, 7, "a", os.getpid())
    assert line["run"] == logs.settings().run
    assert str(line["time"]).endswith("+00:00")


def test_a_json_line_stays_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig(format=LogFormat.json))
    try:
        raise OSError("first\nsecond")  # noqa: EM101, TRY003, TRY301
    except OSError:
        logger.exception("two\nlines and \udce9 that is no text")
    (line,) = said(capsys)
    assert line["message"] == "two\nlines and \udce9 that is no text"
    assert str(line["traceback"]).endswith("OSError: first\nsecond")


def test_text_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig())
    logger.info("said", extra=logs.fields(done=7))
    text = capsys.readouterr().err
    assert text.endswith(" INFO feclip.test: said\n")
    assert text.count("\n") == 1


def test_quiet_is_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig(level=LogLevel.warning))
    logger.info("not said")
    logger.warning("said")
    assert capsys.readouterr().err.count("\n") == 1
    configure(LogConfig(level=LogLevel.error))
    logger.warning("not said")
    assert capsys.readouterr().err == ""


def test_a_second_configuration_takes_the_place_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig())
    logs.configure(LogConfig(format=LogFormat.json), job="score")
    logger.info("said")
    assert len(said(capsys)) == 1


def test_handlers_of_another_program_are_left_alone() -> None:
    handler = logging.NullHandler()
    logging.getLogger().handlers[:] = [handler]
    logs.configure(LogConfig(format=LogFormat.json), job="score")
    assert logging.getLogger().handlers == [handler]


def test_a_worker_speaks_as_the_driver_settled(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig(format=LogFormat.json), job="tune")
    run = logs.settings().run
    logs.configure_worker(trial=4)
    logger.info("not said")
    with logs.context(slices="0-3"), ThreadPoolExecutor(1, initializer=logs.bind, initargs=(logs.bound(),)) as pool:
        pool.submit(logger.warning, "said in a thread").result()
    logs.configure_worker(speaks=True, rank=0)
    logger.info("said")
    first, second = said(capsys)
    assert (first["run"], first["trial"], first["slices"]) == (run, 4, "0-3")
    assert (second["run"], second["job"], second["rank"]) == (run, "tune", 0)
    assert "trial" not in second


def test_a_worker_s_text_is_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogConfig(), job="tune")
    logs.configure_worker()
    logger.warning("said")
    logs.configure_worker(trial=4)
    logger.warning("said")
    assert capsys.readouterr().err == "said\ntrial 4: said\n"


def test_who_starts_a_job_may_name_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(LogConfig())
    by_chance = logs.settings().run
    configure(LogConfig())
    assert logs.settings().run != by_chance
    monkeypatch.setenv("FECLIP_RUN_ID", "nightly-7")
    configure(LogConfig())
    assert logs.settings().run == "nightly-7"


def job(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(REPOSITORY / "jobs" / "score.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--log.format=json"], 2, "archive or manifest is required"),
        (["--archive", "/nowhere", "--log.format", "json", "--log.every", "-1"], 2, "log.every must be at least 0"),
        (["--archive", "/nowhere", "--log.format", "json", "--log.level", "loud"], 2, "log.level"),
        (["--archive", "/nowhere", "--config", "log.yaml"], 1, "/nowhere/bundle"),
        (["--archive", "/nowhere", "--log.format", "json", "--log.level", "error"], 1, "/nowhere/bundle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_json_line_too_and_the_exit_code_stays(
    flags: list[str], code: int, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.yaml"
    file.write_text("log:\n  format: json\n")
    flags = [str(file) if flag == "log.yaml" else flag for flag in flags]
    done = job("--bundle", "/nowhere/bundle", "--output", str(tmp_path / "scores"), *flags)
    assert done.returncode == code, done.stderr
    line = json.loads(done.stderr)
    assert line.keys() == {*COMMON, "prog"}
    assert (line["level"], line["job"], line["prog"]) == ("error", "score", "score.py")
    assert named in line["message"]
    assert not line["message"].startswith("error")
