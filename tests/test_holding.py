"""An output is held by one submission, in whatever order two of them write, list and look; the dead hold nothing."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from feclip import holding as room
from feclip.data import delete, exists, join_uri, list_children, read_bytes, write_bytes
from feclip.errors import RunError
from feclip.holding import holding

HELD = r"is held by another submission \(process \d+ on .*, since .*\); submit again when that one has ended"
STEPS = 4  # of one party alone: write, list, look at the other's claim, withdraw


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.storage)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder of either kind."""
    return str(tmp_path) if request.param == "local" else join_uri(request.getfixturevalue("s3_bucket"), "folder")


def claims(folder: str) -> list[str]:
    return [entry.uri for entry in list_children(folder) if "/_held-" in entry.uri and entry.uri.endswith(".json")]


def beat_of(claim: str) -> str:
    return claim.removesuffix(".json") + ".beat"


def test_an_output_is_held_by_one_and_nothing_stays(folder: str) -> None:
    with holding(folder):
        [own] = claims(folder)
        with pytest.raises(RunError, match=HELD) as error, holding(folder):
            pytest.fail("two submissions hold one output")
        assert "\n" not in str(error.value)
        assert claims(folder) == [own]
    assert claims(folder) == []
    with holding(folder):
        pass


def test_a_hold_ends_with_the_error_of_what_is_done_in_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), holding(str(tmp_path)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


class Turns:
    """Lets two threads touch storage in one given order; a thread that has its answer is free."""

    def __init__(self, order: tuple[str, ...]) -> None:
        self._order = list(order)
        self._changed = threading.Condition()
        self._answered: set[str] = set()

    def take(self, touch: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``touch`` with a wait for the thread's turn before it."""

        def in_turn(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            name = threading.current_thread().name
            with self._changed:
                if name in {"a", "b"}:
                    assert self._changed.wait_for(lambda: self._may(name), timeout=60)
                result = touch(*arguments, **options)
                result = list(result) if isinstance(result, Iterator) else result
                self._changed.notify_all()
                return result

        return in_turn

    def _may(self, name: str) -> bool:
        while self._order and self._order[0] in self._answered:
            self._order.pop(0)
        if name in self._answered or not self._order:
            return True
        if self._order[0] != name:
            return False
        self._order.pop(0)
        return True

    def answered(self, name: str) -> None:
        """Free a thread, once it is told whether it holds."""
        with self._changed:
            self._answered.add(name)
            self._changed.notify_all()


def orders() -> list[tuple[str, ...]]:
    """Return every way to put the steps of two parties in one row."""
    places = itertools.combinations(range(2 * STEPS), STEPS)
    return [tuple("a" if step in chosen else "b" for step in range(2 * STEPS)) for chosen in places]


def outcome(folder: str, order: tuple[str, ...]) -> dict[str, str]:
    """Let two parties begin in an order of their steps; whoever holds stays until the other is answered, too."""
    turns = Turns(order)
    answers: dict[str, str] = {}
    told = {"a": threading.Event(), "b": threading.Event()}

    def begin() -> None:
        name = threading.current_thread().name
        other = "b" if name == "a" else "a"
        try:
            with holding(folder):
                answers[name] = "holds"
                turns.answered(name)
                told[name].set()
                assert told[other].wait(60)
        except RunError as error:
            answers[name] = str(error)
        turns.answered(name)
        told[name].set()

    threads = [threading.Thread(target=begin, name=name) for name in ("a", "b")]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_bytes", "list_children", "read_bytes", "delete"):
            patch.setattr(room, name, turns.take(getattr(room, name)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    return answers


def test_of_two_that_begin_at_once_one_holds_or_both_stop(tmp_path: Path) -> None:
    """Every order of their steps: 70."""
    held = []
    for number, order in enumerate(orders()):
        folder = tmp_path / str(number)
        answers = outcome(str(folder), order)
        assert answers.keys() == {"a", "b"}, order
        refused = [text for text in answers.values() if text != "holds"]
        assert len(refused) >= 1, order
        assert all("is held by another submission" in text for text in refused), order
        assert list(folder.iterdir()) == [], order
        held.append(2 - len(refused))
    assert set(held) == {0, 1}  # both happen, so the orders are real ones


def test_both_stop_where_both_have_written_before_either_looks(folder: str) -> None:
    answers = outcome(folder, ("a", "b", "a", "b", "a", "b"))
    assert all("is held by another submission" in text for text in answers.values()), answers
    assert claims(folder) == []


HOLDER = """
import sys, time
from feclip.holding import holding
with holding(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the output."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_process_holds_until_it_dies_and_not_a_moment_longer(folder: str) -> None:
    with holder(folder) as process:
        with pytest.raises(RunError, match=rf"\(process {process.pid} on "), holding(folder):
            pytest.fail("two processes hold one output")
        process.send_signal(signal.SIGSTOP)  # whoever sleeps is not dead
        with pytest.raises(RunError, match=HELD), holding(folder):
            pytest.fail("two processes hold one output")
        process.kill()
        process.wait()
        [left] = claims(folder)
        with holding(folder):  # at once: a test would not wait for SILENT_SECONDS
            assert not exists(left)
            assert len(claims(folder)) == 1


@pytest.fixture
def far_claim(folder: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A claim of a process on another machine, with waits made short."""
    for name, seconds in {"SILENT_SECONDS": 0.5, "POLL_SECONDS": 0.02, "BEAT_SECONDS": 0.02}.items():
        monkeypatch.setattr(room, name, seconds)
    with holding(folder):
        [own] = claims(folder)
        record = json.loads(read_bytes(own))
    far = join_uri(folder, "_held-0123456789abcdef.json")
    write_bytes(far, json.dumps(record | {"machine": "another", "host": "far"}).encode())
    return far


def test_the_claim_of_another_machine_falls_when_it_is_silent(folder: str, far_claim: str) -> None:
    with holding(folder):
        assert not exists(far_claim)


def test_the_claim_of_another_machine_stands_while_it_changes(folder: str, far_claim: str) -> None:
    ended = threading.Event()

    def beat() -> None:
        for beats in itertools.count():
            if ended.wait(0.05):
                return
            write_bytes(beat_of(far_claim), str(beats).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RunError, match=r"held by another submission \(process \d+ on far, since "), holding(folder):
            pytest.fail("two machines hold one output")
    finally:
        ended.set()
        thread.join()
    assert exists(far_claim)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}", b'{"machine": 1, "process": 1e999}', b"[" * 100_000])
@pytest.mark.usefixtures("far_claim")
def test_a_claim_that_cannot_be_understood_falls_when_it_is_silent(content: bytes, folder: str) -> None:
    write_bytes(join_uri(folder, "_held-odd.json"), content)
    with holding(folder):
        assert len(claims(folder)) == 1


@pytest.mark.parametrize("moment", ["between two signs of life", "while one is on its way"])
def test_a_submission_that_was_taken_for_dead_stops_in_one_line(
    moment: str, folder: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(room, "BEAT_SECONDS", 0.02)
    begun, taken = threading.Event(), threading.Event()

    def write_later(uri: str, content: bytes) -> None:
        if uri.endswith(".beat") and begun.wait(60) and not taken.is_set():
            delete(*claims(folder))  # it was there when its owner looked
            taken.set()
        write_bytes(uri, content)

    def work() -> None:
        [own] = claims(folder)
        begun.set()
        while not exists(beat_of(own)):  # signs of life come
            time.sleep(0.01)
        if not taken.is_set():
            delete(own)
        time.sleep(60)
        pytest.fail("the work was not interrupted")

    if moment == "while one is on its way":
        monkeypatch.setattr(room, "write_bytes", write_later)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    with pytest.raises(RunError, match=r"was taken over by another submission.*; this one stops\.$"), holding(folder):
        work()
    assert not list(list_children(folder))
    assert signal.getsignal(room.LOST) is signal.SIG_DFL
