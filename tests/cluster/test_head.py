"""What a driver says of a head that goes away and comes back; tests/chaos kills a real one."""

import socket
import threading
import time

import pytest

from feclip.cluster import head


def listening(port: int = 0) -> socket.socket:
    server = socket.create_server(("127.0.0.1", port))
    server.settimeout(5)
    return server


def wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    give_up = time.monotonic() + 10
    while text not in caplog.text:
        assert time.monotonic() < give_up, caplog.text
        time.sleep(0.01)


def test_a_head_that_goes_and_comes_is_one_line_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(head, "LOOK_SECONDS", 0.05)
    server = listening()
    port = server.getsockname()[1]
    ended = threading.Event()
    thread = threading.Thread(target=head._watch, args=(f"127.0.0.1:{port}", ended))  # noqa: SLF001
    thread.start()
    try:
        server.accept()[0].close()
        assert not caplog.text
        server.close()
        wait_for("does not answer. Unless it comes back, Ray ends this job", caplog)
        time.sleep(0.3)  # several looks more
        with listening(port):
            wait_for("answers again", caplog)
    finally:
        ended.set()
        thread.join()
    assert len(caplog.records) == 2
