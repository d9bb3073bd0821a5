"""A proxy between an S3 client and an S3 server that does to requests what networks and busy servers do.

What befalls a request depends on the seed, the request and how often it came before, not on the order of threads: the
same seed brings the same faults.
"""

import http.client
import http.server
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

FLAKY = {"500": 0.04, "503": 0.04, "reset": 0.04, "reset after it was done": 0.04, "truncated": 0.04, "latency": 0.1}
"""Share of requests that each fault befalls, 0..1."""
SLOW = {"latency": 1.0}
DOWN = {"reset": 1.0}
LATENCY_S = (0.03, 0.3)
_CODES = {"500": "InternalError", "503": "SlowDown"}
_HOP = {"connection", "expect", "transfer-encoding", "keep-alive"}


class FaultProxy:
    """A running proxy; without faults it hands on what comes.

    Args:
        upstream: URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        self._server = _Server(upstream)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def counts(self) -> Counter[str]:
        """Requests by what befell them, since `faults` was entered."""
        return self._server.counts

    @contextmanager
    def faults(self, shares: Mapping[str, float], *, seed: int) -> Iterator[None]:
        """Let faults befall requests within a ``with`` block."""
        self._server.set(shares, seed=seed)
        try:
            yield
        finally:
            self._server.set({}, seed=seed)

    @contextmanager
    def serving(self) -> Iterator["FaultProxy"]:
        """Serve within a ``with`` block."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._shares: Mapping[str, float] = {}
        self._seed = 0
        self._seen = Counter[str]()
        self.counts = Counter[str]()

    def set(self, shares: Mapping[str, float], *, seed: int) -> None:
        """Let these faults befall requests from now on."""
        with self._lock:
            self._shares, self._seed = shares, seed
            if shares:
                self._seen.clear()
                self.counts.clear()

    def draw(self, request: str) -> tuple[str, random.Random]:
        """Return what befalls a request, and where its further chances come from."""
        with self._lock:
            chance = random.Random(f"{self._seed} {request} {self._seen[request]}")  # noqa: S311
            self._seen[request] += 1
            drawn = chance.random()
            for fault, share in self._shares.items():
                drawn -= share
                if drawn < 0:
                    self.counts[fault] += 1
                    return fault, chance
            self.counts["none"] += 1
            return "none", chance

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are part of the play."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, chance = self.server.draw(f"{self.command} {self.path}")
        if fault == "latency":
            time.sleep(chance.uniform(*LATENCY_S))
        if fault == "reset":
            self._reset()
        elif fault in _CODES:
            text = f'<?xml version="1.0"?><Error><Code>{_CODES[fault]}</Code><Message>no</Message></Error>'.encode()
            self._answer(int(fault), [("Content-Type", "application/xml")], text, length=len(text))
        else:
            self._hand_on(body, fault=fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - names that the base class looks for

    def _hand_on(self, body: bytes, *, fault: str) -> None:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            self._reset()
            return
        finally:
            connection.close()
        if fault == "reset after it was done":
            self._reset()
            return
        headers = [
            (name, value) for name, value in answer.getheaders() if name.lower() not in _HOP | {"content-length"}
        ]
        length = int(answer.headers.get("Content-Length", 0)) if self.command == "HEAD" else len(content)
        cut = fault == "truncated" and len(content) > 1
        self._answer(answer.status, headers, content[: len(content) // 2] if cut else content, length=length)
        if cut:
            self._reset()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.wfile.flush()

    def _reset(self) -> None:
        """End the connection with a reset instead of an end."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
