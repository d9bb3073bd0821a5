"""The same promises for a local folder and for a real S3 server; and what storage that fails looks like."""

import http.server
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from feclip.data import (
    STORAGE_PATIENCE_VARIABLE,
    StorageForbiddenError,
    StorageMissingError,
    _object_store,
    absolute_uri,
    check_writable,
    delete,
    exists,
    is_dir,
    is_local,
    join_uri,
    list_files,
    read_bytes,
    write_bytes,
)
from feclip.errors import StorageError

NAME = "line=1/a b#c?%41ü.bin"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.storage)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder of either kind."""
    return str(tmp_path) if request.param == "local" else join_uri(request.getfixturevalue("s3_bucket"), "folder")


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "feclip-test-secret" not in text
    return text


def test_written_bytes_are_read_back_whatever_the_name(folder: str) -> None:
    uri = join_uri(folder, NAME)
    assert not exists(uri)
    write_bytes(uri, b"first")
    write_bytes(uri, b"second")
    assert exists(uri)
    assert not exists(join_uri(folder, "line=1"))
    assert is_dir(join_uri(folder, "line=1"))
    assert not is_dir(join_uri(folder, "line"))
    assert read_bytes(uri) == b"second"
    write_bytes(uri, b"")
    assert not read_bytes(uri)


def test_a_large_file_is_whole(folder: str) -> None:
    write_bytes(join_uri(folder, "large"), bytes(range(256)) * 40_000)
    assert read_bytes(join_uri(folder, "large")) == bytes(range(256)) * 40_000


def test_deleted_file_is_gone_and_deleting_again_is_fine(folder: str) -> None:
    uri = join_uri(folder, NAME)
    write_bytes(uri, b"x")
    delete(uri)
    delete(uri)
    assert not exists(uri)
    with pytest.raises(StorageMissingError, match="does not exist") as error:
        read_bytes(uri)
    assert NAME in one_line(error)


def test_listing_is_recursive_sorted_alike_and_paged(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_object_store, "PAGE_SIZE", 2)
    names = ["a-b/x", "a.txt", "a/b/c", "a/b.c", "a/z", "a0", NAME]
    for name in reversed(names):
        write_bytes(join_uri(folder, name), name.encode())
    entries = list(list_files(folder))
    assert [entry.uri for entry in entries] == [join_uri(folder, name) for name in sorted(names)]
    assert [entry.size for entry in entries] == [len(name.encode()) for name in sorted(names)]
    assert all((entry.etag is None) == is_local(folder) for entry in entries)
    assert [entry.uri for entry in list_files(folder + "/a")] == [
        join_uri(folder, f"a/{n}") for n in ("b.c", "b/c", "z")
    ]


def test_missing_folder_holds_nothing_and_a_file_is_no_folder(folder: str) -> None:
    assert list(list_files(join_uri(folder, "none"))) == []
    write_bytes(join_uri(folder, "file"), b"x")
    with pytest.raises(StorageError, match="a folder is expected"):
        list(list_files(join_uri(folder, "file")))


def test_writable_folder_passes_and_stays_empty(folder: str) -> None:
    check_writable(join_uri(folder, "runs/first"))
    assert list(list_files(folder)) == []


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_output_under_a_file_is_refused(folder: str, below: str) -> None:
    uri = join_uri(folder, "taken")
    write_bytes(uri, b"x")
    with pytest.raises(StorageError, match=r"taken is a file, and a file cannot hold others\.$") as error:
        check_writable(uri + below)
    one_line(error)
    assert read_bytes(uri) == b"x"


def test_a_failed_local_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(StorageError):
        write_bytes(str(tmp_path / "folder"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="links back"):
        list(list_files(str(tmp_path)))


def test_threads_share_one_client(folder: str) -> None:
    uris = [join_uri(folder, f"{number}") for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: write_bytes(uri, uri.encode()), uris))
        assert list(pool.map(read_bytes, uris)) == [uri.encode() for uri in uris]


@pytest.mark.storage
def test_a_forked_child_reads_with_a_client_of_its_own(s3_bucket: str) -> None:
    uri = join_uri(s3_bucket, "shared")
    write_bytes(uri, b"content")
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=lambda: results.put(read_bytes(uri)))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert results.get() == b"content"


@pytest.mark.storage
def test_wrong_keys_are_named_but_not_shown(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(join_uri(s3_bucket, "a"), b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
    with pytest.raises(StorageError, match=r"credentials.*AWS_SECRET_ACCESS_KEY") as error:
        read_bytes(join_uri(s3_bucket, "a"))
    assert "wrong-secret-value" not in one_line(error)
    with pytest.raises(StorageForbiddenError, match="403"):
        exists(join_uri(s3_bucket, "a"))
    with pytest.raises(StorageError, match="Cannot write"):
        check_writable(join_uri(s3_bucket, "runs"))


@pytest.mark.storage
def test_missing_bucket_and_missing_keys_have_their_own_words(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for action in (read_bytes, check_writable, lambda uri: list(list_files(uri))):
        with pytest.raises(StorageError, match="there is no bucket 'nowhere'") as error:
            action("s3://nowhere/a")
        one_line(error)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no complete credentials"):
        read_bytes(join_uri(s3_bucket, "a"))


@pytest.mark.storage
def test_unreachable_storage_is_one_line_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        set_keys(monkeypatch, endpoint)
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"no connection; check AWS_ENDPOINT_URL") as error:
            check_writable("s3://plant/runs")
    assert time.monotonic() - started < 30
    text = one_line(error)
    assert endpoint in text
    assert "s3://plant/runs" in text


@pytest.mark.storage
def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_object_store, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(_object_store, "NUM_ATTEMPTS", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        set_keys(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match="no answer in time"):
            write_bytes("s3://plant/a", b"x")
        with pytest.raises(StorageError, match="no answer in time"):
            read_bytes("s3://plant/a")


@pytest.mark.storage
def test_transient_failures_are_retried_and_refusals_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(500, "cut", 503, 200) as (endpoint, requests):
        set_keys(monkeypatch, endpoint)
        assert read_bytes("s3://plant/a") == b"whole body"
        assert len(requests) == 4
    with answering(403) as (endpoint, requests):
        set_keys(monkeypatch, endpoint)
        with pytest.raises(StorageForbiddenError, match="403"):
            read_bytes("s3://plant/a")
        assert len(requests) == 1
    with answering(503) as (endpoint, requests):
        set_keys(monkeypatch, endpoint)
        with pytest.raises(StorageError, match="HTTP 503"):
            read_bytes("s3://plant/a")
        assert len(requests) == _object_store.NUM_ATTEMPTS


@pytest.mark.storage
def test_a_running_job_has_the_patience_that_its_config_gives(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_object_store, "_next_warning", 0.0)
    failures = _object_store.NUM_ATTEMPTS + 1  # one more than a job's first look bears
    with answering(*[503] * failures, 200) as (endpoint, requests):
        set_keys(monkeypatch, endpoint)
        monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, "60")
        assert read_bytes("s3://plant/a") == b"whole body"
        assert len(requests) == failures + 1
    assert caplog.text.count("Storage keeps failing (HTTP 503)") == 1
    with answering(503) as (endpoint, requests):
        set_keys(monkeypatch, endpoint)
        monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, "0")
        with pytest.raises(StorageError, match="HTTP 503"):
            read_bytes("s3://plant/a")
        assert len(requests) == 1


@pytest.mark.storage
def test_an_endpoint_that_is_no_url_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    set_keys(monkeypatch, "localhost:9000")
    with pytest.raises(StorageError, match="is no URL"):
        read_bytes("s3://plant/a")


@pytest.mark.storage
def test_credentials_in_the_endpoint_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_object_store, "NUM_ATTEMPTS", 1)
    set_keys(monkeypatch, "http://user:hidden@127.0.0.1:9")
    with pytest.raises(StorageError, match=r"storage at http://127.0.0.1:9 keeps failing") as error:
        read_bytes("s3://plant/a")
    assert "hidden" not in one_line(error)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://plant/a", "kind gs://"),
        ("s3:///a", "no bucket"),
        ("s3://key:secret@plant/a", "must not hold credentials"),
        ("/data/\0", "no path"),
        ("", "no path"),
    ],
)
def test_other_uris_are_refused(uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as error:
        absolute_uri(uri)
    assert "secret" not in one_line(error)


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("runs/../first") == str(tmp_path / "first")
    assert absolute_uri("file:///data/a%20b") == "/data/a b"
    write_bytes((tmp_path / "a b").as_uri(), b"x")
    assert (tmp_path / "a b").read_bytes() == b"x"


@pytest.mark.parametrize("part", ["../a", "/a", "a/../../b"])
def test_joined_parts_stay_below_their_base(part: str) -> None:
    with pytest.raises(StorageError, match="does not stay below"):
        join_uri("s3://plant/images", part)


def set_keys(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "feclip-test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "feclip-test-secret")


@contextmanager
def answering(*answers: int | str) -> Iterator[tuple[str, list[str]]]:
    """Serve these answers in turn, the last one for ever; "cut" announces more bytes than it sends."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[min(len(requests), len(answers) - 1)]
            requests.append(self.path)
            body = b"whole body"
            self.send_response(200 if answer == "cut" else int(answer))
            self.send_header("Content-Length", str(len(body) if answer in {200, "cut"} else 0))
            self.end_headers()
            if answer in {200, "cut"}:
                self.wfile.write(body if answer == 200 else body[:4])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
