"""What a sweep knows of each trial: one small JSON file, written whole, beside the trial's newest state.

<output>/_sweep/trials/0003/trial.json                    values, metrics of its epochs, how it ended
<output>/_sweep/trials/0003/state-0002/state.safetensors  the training state after two epochs, and state.json

The file is the trial: an epoch counts once its state is written and the file names it, and what the file calls ended
is never trained again, whoever was killed when. Nothing is pickled.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from feclip.data import (
    MAX_JSON_BYTES,
    FolderEntry,
    delete,
    exists,
    is_count,
    is_number,
    join_uri,
    list_children,
    list_files,
    parse_json,
    read_bytes,
    write_bytes,
)
from feclip.errors import RunError
from feclip.training import TrainState

__all__ = [
    "SWEEP_FOLDER",
    "TrialRecord",
    "TrialStatus",
    "drop_states",
    "read_trial",
    "read_trial_state",
    "read_trials",
    "write_trial",
    "write_trial_state",
]

SCHEMA = 1
SWEEP_FOLDER = "_sweep"
TRIALS_FOLDER = "trials"
TRIAL_FILE = "trial.json"
MAX_DIGITS = 9  # of a trial's number


class TrialStatus(StrEnum):
    """How far a trial is."""

    running = "running"
    """Begun, and not ended."""
    done = "done"
    """Trained to its last epoch."""
    stopped = "stopped"
    """Ended early, because it was behind."""
    failed = "failed"
    """Ended by an error."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial."""

    number: int
    """Its number in the sweep, from one."""
    values: Mapping[str, Any]
    """Searched fields and their values."""
    status: TrialStatus = TrialStatus.running
    """How far it is."""
    starts: tuple[int, ...] = ()
    """Finished epochs at each of its starts: (0, 1) is a trial that was broken in its second epoch and went on."""
    epochs: tuple[Mapping[str, float], ...] = ()
    """Metrics of its finished epochs."""
    seconds: float = 0.0
    """Time that its finished epochs took, building the model included."""
    error: str | None = None
    """What it failed by, in one line."""
    mendable: bool = False
    """Whether it failed by something that its values need not have caused, so that a resumed sweep tries again."""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.status is not TrialStatus.running

    def started(self) -> Self:
        """Return the record of a trial that a worker begins or goes on with."""
        return dataclasses.replace(self, starts=(*self.starts, len(self.epochs)))

    def advanced(self, metrics: Mapping[str, float], *, seconds: float, last: bool) -> Self:
        """Return the record after one more epoch; ``last`` ends the trial."""
        return dataclasses.replace(
            self,
            epochs=(*self.epochs, dict(metrics)),
            seconds=self.seconds + seconds,
            status=TrialStatus.done if last else TrialStatus.running,
        )

    def stopped(self) -> Self:
        """Return the record of a trial that was ended because it was behind."""
        return dataclasses.replace(self, status=TrialStatus.stopped)

    def failed(self, error: str, *, mendable: bool) -> Self:
        """Return the record of a trial that an error ended."""
        line = " ".join(error.split())
        return dataclasses.replace(self, status=TrialStatus.failed, error=line, mendable=mendable)

    def reopened(self) -> Self:
        """Return the record of a failed trial that is tried again."""
        return dataclasses.replace(self, status=TrialStatus.running, error=None, mendable=False)


def write_trial(output: str, record: TrialRecord) -> None:
    """Write a record whole, replacing the trial's former one.

    Raises:
        StorageError: If it cannot be written.
    """
    text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(record)}, indent=1, allow_nan=False)
    write_bytes(_file(output, record.number), (text + "\n").encode())


def read_trial(output: str, number: int) -> TrialRecord:
    """Read the record of one trial.

    Raises:
        RunError: If it is none of ours.
        StorageError: If it cannot be read.
    """
    where = _file(output, number)
    try:
        record: dict[str, Any] = parse_json(read_bytes(where, max_bytes=MAX_JSON_BYTES))
        if record.pop("schema") != SCHEMA:
            msg = f"{where} is not of schema {SCHEMA}; resume with the feclip that wrote it."
            raise RunError(msg)
        epochs, starts = tuple(record.pop("epochs")), tuple(record.pop("starts"))
        read = TrialRecord(**record | {"epochs": epochs, "starts": starts, "status": TrialStatus(record["status"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{where} is no record of a trial ({error!r})."
        raise RunError(msg) from error
    if not _is_sound(read, number=number):
        msg = f"{where} is no record of trial {number}: a field is not what it must be."
        raise RunError(msg)
    return read


def _is_sound(record: TrialRecord, *, number: int) -> bool:
    """Tell whether every field of a record that was read is of its type and in its range."""
    return (
        record.number == number
        and isinstance(record.values, dict)
        and all(isinstance(value, bool | int | float | str) for value in record.values.values())
        and all(is_count(start) for start in record.starts)
        and all(isinstance(epoch, dict) and all(map(is_number, epoch.values())) for epoch in record.epochs)
        and is_number(record.seconds)
        and isinstance(record.error, str | None)
        and isinstance(record.mendable, bool)
    )


def read_trials(output: str) -> list[TrialRecord]:
    """Read the records of all trials that have begun, by number."""
    folder = join_uri(output, SWEEP_FOLDER, TRIALS_FOLDER)
    names = [
        entry.uri.rstrip("/").rpartition("/")[2] for entry in list_children(folder) if isinstance(entry, FolderEntry)
    ]
    numbers = sorted(int(name) for name in names if name.isascii() and name.isdecimal() and len(name) <= MAX_DIGITS)
    return [read_trial(output, number) for number in numbers if exists(_file(output, number))]


def write_trial_state(output: str, number: int, state: TrainState) -> None:
    """Write the state of a trial after an epoch, beside the former ones."""
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            write_bytes(join_uri(_folder(output, number), _state_name(state.epoch), file.name), file.read_bytes())


def read_trial_state(output: str, record: TrialRecord) -> TrainState | None:
    """Read the state that a trial goes on from; None for one without a finished epoch.

    Raises:
        RunError: If it is damaged.
        StorageError: If it cannot be read.
    """
    if not record.epochs:
        return None
    where = join_uri(_folder(output, record.number), _state_name(len(record.epochs)))
    with tempfile.TemporaryDirectory() as folder:
        for entry in list_files(where):
            (Path(folder) / entry.uri.rpartition("/")[2]).write_bytes(read_bytes(entry.uri))
        return TrainState.load(Path(folder))


def drop_states(output: str, number: int, *, before: int) -> None:
    """Delete the states of a trial that are older than ``before`` finished epochs."""
    for entry in list_files(_folder(output, number)):
        name = entry.uri.split("/")[-2]
        if name.startswith("state-") and name < _state_name(before):
            delete(entry.uri)


def _file(output: str, number: int) -> str:
    return join_uri(_folder(output, number), TRIAL_FILE)


def _folder(output: str, number: int) -> str:
    return join_uri(output, SWEEP_FOLDER, TRIALS_FOLDER, f"{number:04d}")


def _state_name(epoch: int) -> str:
    return f"state-{epoch:04d}"
