"""How far long work is: a bar for who watches, lines elsewhere, numbers in JSON, nothing where quiet."""

import json
import logging
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from feclip import logs
from feclip.logs import LogConfig, LogFormat, LogLevel
from feclip.progress import Progress, draws_bars

PROGRAM = """
import sys, time
from feclip.logs import LogConfig, configure
from feclip.progress import Progress
configure(LogConfig(format=sys.argv[1], level=sys.argv[2], every=0), job="score")
with Progress("Scoring", 8, unit="images") as progress:
    for number in range(4):
        time.sleep(0.4)
        progress.advance(2, errors=number % 2)
"""


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings that end with the test."""
    monkeypatch.setenv(logs.LOG_VARIABLE, "")
    monkeypatch.delenv(logs.LOG_VARIABLE)
    level = logging.getLogger("feclip").level
    yield
    logging.getLogger("feclip").setLevel(level)


def on_a_terminal(*arguments: str) -> str:
    """Return what a program writes on its standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def test_a_terminal_gets_one_bar_with_rate_and_time_left() -> None:
    seen = on_a_terminal("text", "info")
    last = seen.replace("\n", "\r").strip("\r").split("\r")[-1]
    assert "Scoring: 100%" in last
    assert "8/8" in last
    assert "images/s" in last
    assert "errors=2" in last
    assert "<" in last  # time gone < time left
    assert " INFO " not in seen


@pytest.mark.parametrize(("form", "level"), [("text", "warning"), ("json", "error")])
def test_quiet_draws_nothing_on_a_terminal(form: str, level: str) -> None:
    assert on_a_terminal(form, level) == ""


def test_json_on_a_terminal_is_lines() -> None:
    lines = [json.loads(line) for line in on_a_terminal("json", "info").splitlines()]
    assert [line["done"] for line in lines] == [2, 4, 6, 8]
    assert [line["errors"] for line in lines] == [0, 1, 1, 2]
    for line in lines:
        assert (line["task"], line["total"], line["unit"], line["job"]) == ("Scoring", 8, "images", "score")
        assert 0 < line["rate"] <= 8 / 1.6 + 0.1
        assert line["seconds_left"] == pytest.approx((8 - line["done"]) / line["rate"], abs=0.2)


def test_elsewhere_it_is_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(LogConfig(every=0), job="score")
    assert not draws_bars()
    with Progress("Sweep", 10, unit="trials", done=5) as progress:
        progress.advance(2)
        progress.advance(3)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert texts[0].startswith("Sweep: 7 of 10 trials (70 %), ")
    assert texts[1].endswith("trials/s, about 0 s left")
    assert capsys.readouterr().err == ""  # the lines are log records, and no bar is drawn


def test_short_work_says_nothing_and_longer_work_says_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure(LogConfig(every=30), job="score")
    clock = iter([0.0, 10.0, 20.0, 100.0, 140.0, 160.0, 180.0])
    monkeypatch.setattr("feclip.progress.time.monotonic", lambda: next(clock))
    with Progress("Checking", 2, unit="images") as progress:
        progress.advance()
        progress.advance()
    assert not caplog.records
    with Progress("Checking", 4, unit="images") as progress:
        progress.advance(2)  # 40 s after its beginning
        progress.advance(2)
    assert [record.getMessage() for record in caplog.records] == [
        "Checking: 2 of 4 images (50 %), 0.05 images/s, about 40 s left",
        "Checking: 4 of 4 images (100 %), 0.05 images/s, about 0 s left",
    ]


def test_the_rate_leaves_out_what_was_done_before_and_may_be_unknown() -> None:
    with Progress("Training", 100, unit="steps", done=90) as progress:
        assert progress.text(seconds=5).endswith("0 steps/s, time left unknown")
        progress.advance(5)
        assert progress.text(seconds=5).endswith("(95 %), 1.0 steps/s, about 5 s left")
    with Progress("Finding errors", 0, unit="images") as progress:
        assert progress.text(seconds=1).startswith("Finding errors: 0 of 0 images, ")


def test_quiet_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logs.configure(LogConfig(every=0, level=LogLevel.warning, format=LogFormat.text), job="score")
    with caplog.at_level(logging.DEBUG, logger="feclip"), Progress("Scoring", 2, unit="images") as progress:
        progress.advance(2)
    assert not caplog.records
