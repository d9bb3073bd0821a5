"""Lines of workers at the driver, where lines are JSON."""

import json
import logging

import pytest
from ray._private.ray_logging import global_worker_stdstream_dispatcher

from feclip.cluster.forwarding import forward_json
from feclip.logs import JsonFormatter


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> logging.Handler:
    """Ray's dispatcher as `ray.init` leaves it, then as we do, and as it was at the end; gives a handler of Ray's."""
    handler = logging.NullHandler()
    monkeypatch.setattr(global_worker_stdstream_dispatcher, "handlers", [("ray_print_logs", print)])
    monkeypatch.setattr(logging.getLogger("ray"), "handlers", [handler])
    forward_json()
    return handler


@pytest.mark.usefixtures("forwarded")
def test_lines_of_ours_go_through_and_others_become_messages(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("feclip.data", logging.WARNING, "", 0, "said", None, None)
    ours = JsonFormatter().format(record)
    lines = [ours, "plain text", " ", '"logger"', '{"half": ']
    batch = {"lines": lines, "pid": 7, "ip": "10.0.0.1", "actor_name": None, "task_name": "list", "is_err": True}
    global_worker_stdstream_dispatcher.emit(batch)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *others = captured.err.splitlines()
    assert first == ours
    told = [json.loads(line) for line in others]
    assert [line["message"] for line in told] == ["plain text", '"logger"', '{"half": ']
    assert {(line["logger"], line["pid"], line["host"]) for line in told} == {("ray.list", 7, "10.0.0.1")}
    assert {line["run"] for line in told} == {json.loads(ours)["run"]}


def test_ray_s_own_lines_are_json(forwarded: logging.Handler) -> None:
    assert isinstance(forwarded.formatter, JsonFormatter)
