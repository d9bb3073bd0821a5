"""What tests of several rooms share: photographs, an S3 server on loopback, a browser, and the record of faults."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_page import browser_program
from reliability import FAULTS, Seen, add
from s3_server import NUM_BUCKETS, S3Server, serving
from small_bundle import write_small_bundle
from xdist.scheduler import LoadFileScheduling

from feclip.demo import write_mvtec

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Of every cluster of a run, and of this process, which reads both when ray is imported and never again. Where they
differ, a cluster cannot ask its driver whether an actor is still wanted, and gives it up before it starts."""

LONGEST = (  # files that start clusters of their own; a run by two processes ends sooner if these begin it
    "test_scoring_faults.py",
    "test_tune.py",
    "test_score.py",
    "test_training_faults.py",
    "test_finetune.py",
    "test_field_tuning.py",
    "test_monitoring.py",
    "test_submit.py",
    "test_secrets.py",
    "test_evaluate.py",
    "test_two_at_once.py",
)

SHARED = dict.fromkeys(  # files that read what one job left
    ("test_score.py", "test_predict.py", "test_report.py", "test_calibrate.py"), "scored"
)


class _ByFile(LoadFileScheduling):
    """Gives each file to one process, and together those that share a run."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return SHARED.get(Path(path).name, path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:  # noqa: ANN401 - xdist's
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability-table",
        metavar="JSON",
        help="file that tests of faults add what they saw to (docs/reliability.json)",
    )


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Record what a test saw of a fault, once all that was promised held; fields are those of `Seen`."""

    def record(fault: str, moment: str, *, seconds: float | None = None, **fields: Any) -> None:  # noqa: ANN401
        assert fault in FAULTS
        seconds = None if seconds is None else round(seconds, 1)
        test = f"{request.path.parent.name}/{request.path.name}::{request.node.originalname}"
        seen = Seen(fault=fault, moment=moment, seconds=seconds, test=test, **fields)
        path = request.config.getoption("--reliability-table")
        if path is not None:
            add(Path(path), seen)

    return record


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler, here and in what is started: whatever a shell has in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photographs, which the repository must not hold."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FECLIP_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}; set FECLIP_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def small_mvtec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set in MVTec layout: two families, 28 test images of 96 px with masks."""
    root = tmp_path_factory.mktemp("small") / "mvtec"
    write_mvtec(
        root,
        seed=5,
        families=("tile", "capsule"),
        image_size=96,
        num_train_good=3,
        num_test_good=6,
        num_per_defect=2,
        defect_types=("scratch", "stain", "missing_piece", "spot"),
    )
    return root


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle with a small random trunk, 64 px, and no thresholds."""
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for all tests."""
    home = tmp_path_factory.mktemp("s3")
    for number in range(NUM_BUCKETS):
        (home / "buckets" / f"bucket-{number}").mkdir(parents=True)
    with serving(home) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh bucket, with the environment set to reach it."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{next(s3_server.unused_buckets)}"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's chromium; what needs it skips where there is none. While it is open this thread has an event loop."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - tests without a browser do without

    program = browser_program()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
