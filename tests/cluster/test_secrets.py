"""Every job is run once with marked keys; then all that it left and said is searched, for the keys and for pickles.

One cluster in this process, and one bucket behind keys that occur nowhere else.
"""

import io
import logging
import os
import pickle
import pickletools
import secrets
import stat
import struct
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from job_runner import SMALL_RUN, Finished, run_here
from ray._private.worker import global_worker  # where its session lies is said nowhere else
from s3_server import S3Server, serving

from feclip.cluster import trials
from feclip.demo import FAMILIES, write_archive, write_mvtec

pytestmark = [pytest.mark.cluster, pytest.mark.storage]

KEYS = {
    name: f"{name.title().replace('_', '')}{secrets.token_hex(12)}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
}
ENDPOINT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
DEMO = ("--model.backbone", "feclip-demo", "--model.num_taps", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that takes the marked keys only, with labelled images and an archive in its bucket."""
    home = tmp_path_factory.mktemp("secret-s3")
    bucket = home / "buckets" / "plant"
    write_mvtec(
        bucket / "mvtec", seed=5, families=("tile",), image_size=64, num_train_good=2, num_test_good=6,
        num_per_defect=3, defect_types=("scratch", "spot"),
    )  # fmt: skip
    write_archive(bucket / "normals", seed=4, families=FAMILIES["unseen"][:1], num_images=24, defect_fraction=0)
    with serving(home, keys=(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])) as running:
        yield running


def leaks(*places: Path, texts: dict[str, str]) -> list[str]:
    """Return where a key stands, in whole or by its last characters, which no other text has."""
    marks = {name: key[-16:].encode() for name, key in KEYS.items()}
    found = [
        f"{name} in {where}" for where, text in texts.items() for name, mark in marks.items() if mark in text.encode()
    ]
    for path in (path for place in places for path in place.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{name} in {path}" for name, mark in marks.items() if mark in content]
    return found


@dataclass(frozen=True, kw_only=True)
class Left:
    """What six jobs left."""

    session: Path
    """Ray's session folder."""
    objects: Path
    """The bucket, as files."""
    said: dict[str, str]
    """What they said, by where."""
    tune_state: dict[str, bytes]
    """What Ray Tune kept while the sweep ran, by path; read when the sweep let go of it."""
    tune_folder: Path
    """Where that was."""


class _WatchedFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that is looked at before it goes."""

    seen: ClassVar[dict[str, dict[str, bytes]]] = {}

    def cleanup(self) -> None:
        assert stat.S_IMODE(Path(self.name).stat().st_mode) == stat.S_IRWXU
        self.seen[self.name] = {str(path): path.read_bytes() for path in Path(self.name).rglob("*") if path.is_file()}
        super().cleanup()

    def __exit__(self, *_: object) -> None:
        self.cleanup()


@pytest.fixture(scope="module")
def left(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """Run the six jobs on a cluster in whose environment the keys are, as on a node that has them."""
    folder = tmp_path_factory.mktemp("jobs")
    settings = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    with (
        mock.patch.dict(os.environ, settings | server.env | KEYS),
        mock.patch.object(trials.tempfile, "TemporaryDirectory", _WatchedFolder),
    ):
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, logging_level="INFO", _node_ip_address="127.0.0.1"
        )
        try:
            said = {}
            for job, flags in commands(server.endpoint, folder).items():
                for more in ((), ("--print_config",)):
                    done = run_here(*flags, *more, job=job)
                    assert done.returncode == 0, f"{job}: {done.output}\n{log.getvalue()[-3000:]}"
                    said[" ".join((job, *more))] = done.output
            ((tune_folder, tune_state),) = (
                (Path(name), state) for name, state in _WatchedFolder.seen.items() if "feclip-sweep-" in name
            )
            session = Path(global_worker.node.get_session_dir_path())
            said["log"] = log.getvalue()
            yield Left(
                session=session, objects=server.directory, said=said, tune_state=tune_state, tune_folder=tune_folder
            )
        finally:
            ray.shutdown()
            logging.getLogger().removeHandler(handler)


def commands(endpoint: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the flags of each job, in an order in which one finds what the others wrote."""
    (folder / "space.yaml").write_text("loss.dice_weight: {uniform: [0.5, 1.0]}\n")
    plant, at = "s3://plant", ("--cluster.storage_endpoint", endpoint)
    data = ("--data.root", f"{plant}/mvtec", "--data.protocol", "b", "--data.num_workers", "2", *at)
    tiny = ("--optim.epochs", "1", "--optim.batch_size", "4", "--optim.precision", "float32", *DEMO)
    score = ("--score.precision", "float32", "--score.slice_size", "8", *at)
    return {
        "finetune.py": (*data, *tiny, "--output", f"{plant}/runs/first"),
        "tune.py": (
            *data, *tiny, "--space", str(folder / "space.yaml"), "--num_trials", "1", "--output", f"{plant}/runs/sweep",
        ),
        "calibrate.py": (
            "--bundle", f"{plant}/runs/first", "--normals", f"{plant}/normals/images", "--calibrate.percentiles", "90",
            "--output", f"{plant}/runs/calibrated", *score,
        ),
        "score.py": (
            "--bundle", f"{plant}/runs/calibrated", "--archive", f"{plant}/normals/images",
            "--output", f"{plant}/scores", *score,
        ),
        "decide.py": ("--bundle", f"{plant}/runs/calibrated", "--scores", f"{plant}/scores", *at),
        "evaluate.py": (
            "--bundle", f"{plant}/runs/first", "--data.root", f"{plant}/mvtec", "--split", "report",
            "--output", f"{plant}/judged", *score,
        ),
    }  # fmt: skip


def test_no_job_leaves_or_says_a_key(left: Left) -> None:
    assert "Best: trial 1" in left.said["log"]
    assert len(list(left.session.rglob("*.log"))) > 3  # what is searched is there
    assert len(list(left.objects.rglob("*.parquet"))) > 8
    state = {path: content.decode("latin-1") for path, content in left.tune_state.items()}
    assert leaks(left.session, left.objects, texts=left.said | state) == []
    assert leaks(texts={"x": KEYS["AWS_SESSION_TOKEN"]}) == ["AWS_SESSION_TOKEN in x"]


def test_nothing_that_a_job_leaves_is_pickled(left: Left) -> None:
    files = [path for path in left.objects.rglob("*") if path.is_file() and path.suffix not in {".png", ".jpg", ".csv"}]
    kinds = Counter(path.suffix for path in files)
    assert {".json", ".safetensors", ".parquet", ".html", ".yaml", ".md"} <= kinds.keys()
    assert [str(path) for path in files if holds_pickle(path.read_bytes())] == []
    assert "cloudpickle" not in "".join(path.read_text(errors="replace") for path in files if path.suffix != ".html")
    cells = [cell for path in files if path.suffix == ".parquet" for cell in binary_cells(path)]
    assert len(cells) > 20
    assert not any(map(holds_pickle, cells))


def test_the_pickled_state_of_ray_tune_lies_in_a_folder_of_its_own_and_goes_with_it(left: Left) -> None:
    assert any(holds_pickle(content) for content in left.tune_state.values())  # so this is what has to be kept apart
    assert not left.tune_folder.exists()
    assert not left.tune_folder.is_relative_to(left.objects)


def holds_pickle(content: bytes) -> bool:
    """Tell whether bytes are a pickle from their first to their last, or an archive that holds one, as torch saves."""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in texts that are none of a pickle
            *_, (last, _, place) = pickletools.genops(content)
    except (ValueError, UnicodeError, IndexError, struct.error):
        return False
    return last.name == "STOP" and place == len(content) - 1


def binary_cells(path: Path) -> list[bytes]:
    """Return the values of the binary columns of a Parquet file."""
    table = pq.read_table(path)
    names = [field.name for field in table.schema if pa.types.is_binary(field.type) or "binary" in str(field.type)]
    return [cell for name in names for cell in table[name].to_pylist() if cell is not None]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_known_when_seen(protocol: int) -> None:
    assert holds_pickle(pickle.dumps({"a": [1, 2.5, "x"]}, protocol=protocol))
    assert not holds_pickle(b'{"a": 1}')


def wrong_secret(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["AWS_SECRET_ACCESS_KEY"][::-1])
    return ("--output", "s3://plant/out")


def unknown_key(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"other-{KEYS['AWS_ACCESS_KEY_ID']}")
    return ("--output", "s3://plant/out")


def nobody_there(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    for name in ENDPOINT:
        monkeypatch.setenv(name, f"http://user:{KEYS['AWS_SECRET_ACCESS_KEY']}@127.0.0.1:9")
    return ("--output", "s3://plant/out")


def no_such_bucket(_: pytest.MonkeyPatch) -> tuple[str, ...]:
    return ("--output", "s3://no-such-bucket/out")


SECRET = KEYS["AWS_SECRET_ACCESS_KEY"]
TYPED = {
    "endpoint": ("--cluster.storage_endpoint", f"http://user:{SECRET}@host", "--output", "out"),
    "endpoint with a query": ("--cluster.storage_endpoint", f"http://host/?secret={SECRET}", "--output", "out"),
    "endpoint without a scheme": ("--cluster.storage_endpoint", f"user:{SECRET}@host", "--output", "out"),
    "output": ("--output", f"s3://key:{SECRET}@plant/out"),
    "output after an equals sign": (f"--output=s3://key:{SECRET}@plant/out",),
    "key alone": ("--output", f"s3://{SECRET}@plant/out"),
    "data": ("--data.root", f"s3://key:{SECRET}@plant/a", "--output", "out"),
    "weights": ("--model.pretrained", f"s3://key:{SECRET}@plant/a.pt", "--output", "out"),
}


@pytest.mark.parametrize("fault", [wrong_secret, unknown_key, nobody_there, no_such_bucket])
def test_no_error_says_a_key(
    fault: Callable[[pytest.MonkeyPatch], tuple[str, ...]],
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in (server.env | KEYS).items():
        monkeypatch.setenv(name, value)
    flags = fault(monkeypatch)
    done = run_here("--data.root", str(tmp_path), *SMALL_RUN, *flags)
    is_refused(done, code=1)
    assert leaks(texts={"output": done.output, "log": caplog.text}) == []
    assert KEYS["AWS_SECRET_ACCESS_KEY"][::-1][:16] not in done.output


@pytest.mark.parametrize("flags", TYPED.values(), ids=TYPED)
@pytest.mark.parametrize("more", [(), ("--print_config",)])
def test_keys_that_are_typed_are_refused_unsaid(flags: tuple[str, ...], more: tuple[str, ...]) -> None:
    done = run_here(*flags, *more, "--optim.epochs", "0")
    if more and flags[0] == "--cluster.storage_endpoint" and "://user" not in flags[1]:
        return  # what is no URI of a key is told when the config is made, which --print_config does not
    is_refused(done, code=2)
    assert leaks(texts={"output": done.output}) == []
    assert flags[0].partition("=")[0].removeprefix("--") in done.error_line


def test_keys_in_a_config_file_are_refused_unsaid(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"output: s3://key:{SECRET}@plant/out\n")
    for more in ((), ("--print_config",)):
        done = run_here("--config", str(path), *more)
        is_refused(done, code=2)
        assert leaks(texts={"output": done.output}) == []


def is_refused(done: Finished, *, code: int) -> None:
    assert done.returncode == code, done.output
    assert done.error_line
    assert "Traceback" not in done.output
