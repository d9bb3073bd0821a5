"""Every reader of ours, on any bytes and on any change of a whole record: a value, or the one error of its room."""

import contextlib
import io
import json
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mutating import changed, damaged
from safetensors.torch import save
from specimens import MODEL_ID, calibration_of

from feclip.archive import ListedFile, Run, Source, finished_summary, list_part, plan_parts
from feclip.archive import listing as listing_module
from feclip.archive import manifest as archive_manifest
from feclip.archive import run as run_module
from feclip.archive import summary as summary_module
from feclip.bundle import Change, Domain, Lineage, read_lineage
from feclip.bundle.memory_bank import StoredBank, read_bank
from feclip.bundle.record import INPUT_FIELDS, check_record, encode_json, parse_object, read_epochs, sealed
from feclip.calibration import read_calibration
from feclip.cli import parse_config
from feclip.config import (
    DataConfig,
    EvaluateConfig,
    EvaluationDataConfig,
    FinetuneConfig,
    Names,
    OptimConfig,
    Protocol,
    ScoringConfig,
    TuneConfig,
    load_yaml,
    plain,
)
from feclip.data import _frames as frames
from feclip.data import is_local, local_path, pack_valid_pixels, parse_json, read_manifest, unpack_valid_pixels
from feclip.data import manifest as manifest_module
from feclip.data import visa as visa_module
from feclip.errors import BundleError, ConfigError, DataError, RunError, StorageError
from feclip.evaluation import RESULT_SCHEMA, identity_of
from feclip.evaluation import claim as evaluation_claim_module
from feclip.reproduction import numbers as numbers_module
from feclip.reproduction import read_result
from feclip.score_keys import keys_of, scores_of
from feclip.training import Claim, TrainState
from feclip.training import claim as training_claim
from feclip.tuning import TrialRecord, read_space, read_trial, resumed_config
from feclip.tuning import claim as tuning_claim
from feclip.tuning import record as trial_record
from feclip.tuning import space as space_module

FINETUNE = FinetuneConfig(output="/runs/first", optim=OptimConfig(epochs=0))
SWEEP = TuneConfig(output="/runs/sweep", space="space.yaml", data=DataConfig(root="/data", protocol=Protocol.b))
RUN = Run.frozen(
    "/scores", model_id=MODEL_ID, config=ScoringConfig(slice_size=8), source=Source(archive="/plant", manifest=None),
    files=[ListedFile(name="rows-0.parquet", first_row_id=0, num_rows=20, sha256="0" * 64)],
    ignored={".txt": 2}, image_size=16,
)  # fmt: skip


@contextlib.contextmanager
def holding(module: Any, content: bytes) -> Iterator[None]:  # noqa: ANN401 - a module
    """Let a module read this content whatever it asks for."""
    with (
        mock.patch.object(module, "read_bytes", return_value=content),
        mock.patch.object(module, "exists", return_value=True, create=True),
    ):
        yield


class Reader(NamedTuple):
    """A reader, what it may raise, and a file that it takes."""

    read: Callable[[bytes], object]
    errors: type[Exception] | tuple[type[Exception], ...]
    whole: bytes


def of(module: Any, read: Callable[[], object]) -> Callable[[bytes], object]:  # noqa: ANN401 - a module
    """Return a reader of what a module's storage holds."""

    def reader(content: bytes) -> object:
        with holding(module, content):
            return read()

    return reader


def archive_rows(content: bytes) -> object:
    with holding(archive_manifest, content), holding(listing_module, content):
        source = Source(archive=None, manifest="/data/images.csv").identified()
        return [
            row for part in plan_parts(source) for block in list_part(part, source) for row in block.table.to_pylist()
        ]


def checkpoint(content: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        state = TrainState(
            epoch=0, trained={"a": torch.zeros(2)}, moments={}, generators={}, metrics=[], backbone_digest="0"
        )
        state.save(Path(folder))
        (Path(folder) / "state.json").write_bytes(content)
        return TrainState.load(Path(folder))


def config_file(content: bytes) -> object:
    """Read a file as --config does; its only error is exit code 2 after one line on standard error."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        path = Path(folder) / "config.yaml"
        path.write_bytes(content)
        code = 0
        try:
            return parse_config(FinetuneConfig, ["--config", str(path)], prog="job", about="")
        except SystemExit as stop:
            code = int(str(stop.code))
    assert code == 2
    raise ConfigError(said.getvalue().removesuffix("\n"))


def frame(content: bytes) -> object:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(content)
        theirs.close()
        return frames.receive_frame(ours, max_body_bytes=1 << 10, deadline=None)


def record_of_a_bundle() -> dict[str, Any]:
    training = plain(FINETUNE)
    return sealed(
        {
            "schema": 5, "feclip_version": "0.1.0", "backbone_digest": "a" * 64, "model": training.pop("model"),
            "tap_blocks": [5, 11], "prompts": ["A photo of a normal object", "A photo of a damaged object"],
            "input": {name: training["data"][name] for name in INPUT_FIELDS},
            "training": training, "files": dict.fromkeys(FILES, "b" * 64), "model_id": "c" * 64,
        }
    )  # fmt: skip


def bundle_record(content: bytes) -> object:
    """Read config.json as whoever forged it would have it: with its digest made right."""
    record = parse_object(content, where="config.json")
    return check_record(sealed(record), files=FILES, optional_files=("calibration.json",), where="config.json")


FILES = ("adapters.safetensors", "images.parquet", "metrics.json")
SPACE = {"model.num_taps": {"int": [1, 8], "bounded_by": "blocks"}, "model.padding": {"choice": ["ignore", "masked"]}}
TRIAL = TrialRecord(
    number=1, values={"loss.dice_weight": 0.5}, starts=(0,), epochs=({"image_auroc": 0.5},), seconds=1.0
)
CHANGE = Change(metric="image_auroc", before=0.9, after=0.8, low=-0.15, high=-0.05)
LINEAGE = Lineage(
    parent="/runs/first", parent_id=MODEL_ID, epoch=1, before={"image_auroc": 0.9},
    domains=(Domain(name="old", source="/data", num_images=40, num_anomalous=20, changes=(CHANGE,)),),
)  # fmt: skip
BANK = StoredBank.of(
    [[torch.eye(2, 4).half()]], parent_model_id=MODEL_ID, request={"memory_bank": 1}, group_column=None, groups={"": 1},
    mean_distance=0.0, max_distance=0.0,
)  # fmt: skip
MASK = pack_valid_pixels(np.eye(8, dtype=np.bool_))[1] or b""

EVALUATION = EvaluateConfig(bundle=Names(("/runs/first",)), data=EvaluationDataConfig(root="/data"))


def evaluation_claim(content: bytes) -> object:
    with holding(evaluation_claim_module, content):
        if not evaluation_claim_module.holds_result("/results", config=EVALUATION, bundles=[]):
            message = "another evaluation"
            raise RunError(message)
    return content


def result_of_an_evaluation() -> bytes:
    row = {"metric": "image_auroc", "value": 0.5, "num_images": 9, "num_anomalous": 4, "preset": "feclip"}
    sink = io.BytesIO()
    whole = row | {"trained_images": False, "num_trained_images": 0}
    pq.write_table(pa.Table.from_pylist([whole], schema=RESULT_SCHEMA), sink, write_page_checksum=True)
    return sink.getvalue()


RECORDS: dict[str, Reader] = {
    "bundle": Reader(bundle_record, BundleError, encode_json(record_of_a_bundle())),
    "calibration": Reader(
        lambda content: read_calibration(parse_object(content, where="-")).calibration_id,
        BundleError,
        encode_json(calibration_of(MODEL_ID).to_json()),
    ),
    "lineage": Reader(
        lambda content: str(read_lineage(parse_object(content, where="-"), where="-").domains[-1:]),
        BundleError,
        encode_json(LINEAGE.to_json()),
    ),
    "record of a memory bank": Reader(
        lambda content: read_bank(parse_object(content, where="-"), save(BANK.rows), num_taps=1, where="-"),
        BundleError,
        encode_json(BANK.record()),
    ),
    "metrics": Reader(
        lambda content: read_epochs(parse_object(content, where="-"), where="-"),
        BundleError,
        encode_json({"epochs": [{"epoch": 1, "loss": 0.5}]}),
    ),
    "claim of a scoring run": Reader(
        of(run_module, lambda: run_module._read(f"/scores/_run/{RUN.digest}.json", output="/scores")),  # noqa: SLF001
        RunError,
        json.dumps(
            {
                "schema": 1,
                "model_id": MODEL_ID,
                "options": dict(RUN.options),
                "source": dict(RUN.source),
                "files": [RUN.files[0].__dict__],
                "ignored": {},
                "slice_size": 8,
            }
        ).encode(),
    ),
    "summary": Reader(
        of(summary_module, lambda: finished_summary(RUN, calibration=None)),
        (),
        json.dumps({"schema": 1, "digest": RUN.digest}).encode(),
    ),
    "claim of a fine-tuning": Reader(
        of(training_claim, lambda: Claim.of(FINETUNE)),
        RunError,
        json.dumps({"schema": 2, "config": plain(FINETUNE)}).encode(),
    ),
    "claim of an evaluation": Reader(
        evaluation_claim, RunError, json.dumps(identity_of(EVALUATION, bundles=[], digests=["d"])).encode()
    ),
    "claim of a sweep": Reader(
        of(tuning_claim, lambda: resumed_config(TuneConfig(output="/runs/sweep", resume=True))),
        (RunError, ConfigError),
        json.dumps({"schema": 2, "config": plain(SWEEP), "space": {"name": "s", "fields": SPACE}}).encode(),
    ),
    "record of a trial": Reader(
        of(trial_record, lambda: read_trial("/runs/sweep", 1)),
        RunError,
        json.dumps({"schema": 1, **{name: getattr(TRIAL, name) for name in TRIAL.__dataclass_fields__}}).encode(),
    ),
    "checkpoint": Reader(
        checkpoint,
        RunError,
        json.dumps({"schema": 1, "epoch": 1, "metrics": [{"loss": 1.0}], "backbone_digest": "0"}).encode(),
    ),
    "search space": Reader(
        of(space_module, lambda: read_space("space.yaml")), ConfigError, yaml.safe_dump(SPACE).encode()
    ),
    "config file": Reader(config_file, ConfigError, yaml.safe_dump(plain(FINETUNE)).encode()),
}
READERS = RECORDS | {
    "tokens of a memory bank": Reader(
        lambda content: read_bank(BANK.record(), content, num_taps=1, where="-"), BundleError, save(BANK.rows)
    ),
    "JSON": Reader(parse_json, ValueError, b'{"a": [1, "\\u00e9"]}'),
    "YAML": Reader(load_yaml, yaml.YAMLError, b"a: {b: [1, 2.5, x]}\n"),
    "manifest": Reader(
        of(manifest_module, lambda: read_manifest("/data/m.csv").to_pylist()),
        DataError,
        b"path,label\na.png,0\nb.png,1\n",
    ),
    "manifest of an archive": Reader(archive_rows, DataError, b"uri,size,line\na.png,7,1\ns3://b/c.png,8,\n"),
    "table of VisA": Reader(
        of(visa_module, lambda: visa_module.read_visa("/data").to_pylist()),
        DataError,
        b"object,split,label,image,mask\ncandle,test,anomaly,candle/a.JPG,candle/a.png\n",
    ),
    "result of an evaluation": Reader(
        of(numbers_module, lambda: read_result("/results")), RunError, result_of_an_evaluation()
    ),
    "valid pixels": Reader(lambda bits: unpack_valid_pixels((0, 0, 8, 8), bits, image_size=8), ValueError, MASK),
    "frame": Reader(frame, (frames.FrameError, ConnectionError), b"\0\0\0\2\0\0\0\0\0\0\0\1{}x"),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
CONTENT = st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode())
SEEDS = st.integers(min_value=0, max_value=2**32)
EXAMPLES = settings(max_examples=40, deadline=None)


def takes(reader: Reader, content: bytes) -> bool:
    """Read; a refusal is one line of the reader's own kind, and anything else is raised."""
    said = None
    try:
        reader.read(content)
    except reader.errors as error:
        said = str(error)
    assert said is None or said.strip()
    assert said is None or "\n" not in said or reader.errors is yaml.YAMLError  # whose readers make it one line
    return said is None


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name: str) -> None:
    """So that what follows is refused for what was changed."""
    assert takes(READERS[name], READERS[name].whole)


@pytest.mark.parametrize("name", READERS)
@EXAMPLES
@given(content=CONTENT)
def test_any_bytes(name: str, content: bytes) -> None:
    takes(READERS[name], content)


@pytest.mark.parametrize("name", READERS)
@EXAMPLES
@given(seed=SEEDS)
def test_any_damage(name: str, seed: int) -> None:
    takes(READERS[name], damaged(Random(seed), READERS[name].whole)[1])  # noqa: S311


@pytest.mark.parametrize("name", RECORDS)
@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, times=st.integers(1, 3))
def test_any_change_of_a_record(name: str, seed: int, times: int) -> None:
    is_yaml = name in {"search space", "config file"}
    value = yaml.safe_load(RECORDS[name].whole) if is_yaml else json.loads(RECORDS[name].whole)
    chance = Random(seed)  # noqa: S311
    for _ in range(times):
        if isinstance(value, dict | list):
            value = changed(chance, value)[1]
    content = yaml.safe_dump(value) if is_yaml else json.dumps(value)
    takes(RECORDS[name], content.encode())


NESTED = b"[" * 100_000
HOSTILE = {
    "deep": NESTED,
    "deep mapping": b'{"a":' * 100_000,
    "huge whole number": b'{"epochs": [{"loss": 1' + b"0" * 400 + b"}]}",
    "longest whole number": b"9" * 10_000,
    "infinity": b'{"epochs": [{"loss": Infinity}]}',
    "not a number": b'{"epochs": [{"loss": NaN}]}',
    "beyond a float": b'{"epochs": [{"loss": 1e999}]}',
    "said twice": b'{"epochs": [], "epochs": [{}]}',
    "half a surrogate": b'{"epochs": [{"\\ud800": 1}]}',
    "no UTF-8": b'{"epochs": [{"\xff": 1}]}',
}


@pytest.mark.parametrize("name", [name for name in RECORDS if name not in {"summary", "search space", "config file"}])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_json_that_only_a_stranger_writes(name: str, content: bytes) -> None:
    assert not takes(RECORDS[name], content)


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n".encode()
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("name", ["YAML", "search space", "config file"])
@pytest.mark.parametrize(
    "content",
    [
        BOMB, NESTED, b"{a: " * 100_000, b"a: 1\na: 2\n", b"a: !!python/object/apply:os.system [id]\n", b"- &x [*x]\n",
        b"a: !!timestamp 2026-99-99\n", b"a: !!int x\n", b"? [1]\n: 2\n", b"a: \xff\n", b"x" * (2 << 20),
    ],
)  # fmt: skip
def test_yaml_that_only_a_stranger_writes(name: str, content: bytes) -> None:
    assert not takes(READERS[name], content)


ENDLESS = "{a: &a [x,x,x,x,x,x,x,x,x]," + ",".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
) + "}"  # fmt: skip


@pytest.mark.parametrize("text", [ENDLESS, NESTED.decode()], ids=["references", "deep"])
@pytest.mark.parametrize("name", ["bundle", "claim of a sweep", "config file"])
def test_a_text_that_jsonargparse_would_read_as_endless_yaml(name: str, text: str) -> None:
    """It reads the text of a field that takes a number as YAML, and repeats what it read."""
    record = yaml.safe_load(RECORDS[name].whole)
    config = {"bundle": lambda: record["training"], "claim of a sweep": lambda: record["config"]}.get(
        name, lambda: record
    )()
    config["optim"]["grad_clip"] = text
    assert not takes(RECORDS[name], json.dumps(record).encode())


def test_endless_yaml_on_the_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(FinetuneConfig, ["--output", "out", "--optim.grad_clip", ENDLESS], prog="job", about="")
    assert "--optim.grad_clip: a text must not be nested deeply or hold references" in capsys.readouterr().err


@EXAMPLES
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_keys_bring_their_scores_back(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    np.testing.assert_array_equal(scores_of(keys_of(scores)), scores + np.float32(0))


@EXAMPLES
@given(st.text(max_size=40) | st.text(max_size=40).map(lambda rest: f"file://{rest}"))
def test_any_name_is_a_path_or_refused(name: str) -> None:
    with contextlib.suppress(StorageError):
        if is_local(name):
            assert "\0" not in local_path(name)


def test_a_small_mask_that_claims_a_gigabyte_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    with pytest.raises(ValueError, match="does not hold the 8 x 8 bits"):
        unpack_valid_pixels((0, 0, 8, 8), bomb, image_size=8)
