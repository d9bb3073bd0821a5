"""Whose run an output is, and how its images are divided in slices: what makes scoring exactly once.

    <output>/_run/listing/rows-000000000000.parquet      the frozen listing
    <output>/_run/<digest>.json                          the claim; written last, so the listing is whole
    <output>/scores/<digest>/slice-00000042.parquet      rows [k S, (k + 1) S); there or not, never in part
    <output>/decisions/<calibration_id>/slice-....parquet
    <output>/_SUMMARY.json                               written when every slice was counted

The digest is over the model, the options that change a score, and the listing, so a retried task, an orphan of a
killed job and a second run write the same names with the same rows.
"""

import bisect
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from feclip import __version__
from feclip.archive.listing import LISTING_SCHEMA, ROWS_PER_FILE, ListedFile, Source
from feclip.calibration import StatisticOptions
from feclip.config import OPTIONAL_COLUMNS, ScoringConfig, changed_fields
from feclip.data import (
    MAX_JSON_BYTES,
    FolderEntry,
    is_count,
    join_uri,
    list_children,
    parse_json,
    parse_parquet,
    read_bytes,
    write_bytes,
)
from feclip.errors import DataError, RunError

__all__ = [
    "LISTING_FOLDER",
    "NORMALS_FOLDER",
    "SUMMARY_FILE",
    "Run",
    "find_run",
    "finished_run",
    "scored_options",
    "slice_name",
]

SCHEMA = 1
RUN_FOLDER = "_run"
LISTING_FOLDER = f"{RUN_FOLDER}/listing"
SCORES_FOLDER = "scores"
DECISIONS_FOLDER = "decisions"
SUMMARY_FILE = "_SUMMARY.json"
NORMALS_FOLDER = "_normals"
"""Below a calibrated bundle: the score table of the normals that were scored for it."""
SLICE_BYTES = 64_000_000
"""Most bytes of uint8 pixels that one slice holds."""
MAX_SLICE_SIZE = 512
MIN_SLICE_SIZE = 16
MAX_SLICES = 10**8  # their names have eight digits
SLICES_WANTED = 64
"""A small archive is divided in about so many slices, so that all of a cluster works on it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One archive, one model, one set of options: what stands in the claim."""

    output: str
    """Folder or ``s3://`` prefix."""
    model_id: str
    options: Mapping[str, Any]
    """What changes a score or a row, as JSON values."""
    source: Mapping[str, Any]
    """What was listed, as JSON values."""
    files: tuple[ListedFile, ...]
    """The frozen listing, in the order of its rows."""
    ignored: Mapping[str, int]
    """Objects of the archive that are no images, by the end of their names."""
    slice_size: int
    """Rows of each slice but the last."""

    @property
    def num_rows(self) -> int:
        """Images of the archive."""
        return self.files[-1].first_row_id + self.files[-1].num_rows if self.files else 0

    @property
    def num_slices(self) -> int:
        """Slices, numbered from zero."""
        return -(-self.num_rows // self.slice_size)

    @functools.cached_property
    def listing_digest(self) -> str:
        """Digest of the frozen listing."""
        return _digest([asdict(file) for file in self.files])

    @functools.cached_property
    def digest(self) -> str:
        """Digest of model, options, source and listing; 16 hexadecimal digits."""
        return _digest(
            {
                "model_id": self.model_id,
                "options": self.options,
                "source": self.source,
                "listing": self.listing_digest,
                "slice_size": self.slice_size,
            }
        )[:16]

    @property
    def statistic_options(self) -> StatisticOptions:
        """What the statistics of the maps are computed with."""
        return StatisticOptions(
            topk_fraction=self.options["topk_fraction"], smoothing_sigma=self.options["smoothing_sigma"]
        )

    @property
    def scores_folder(self) -> str:
        """Where the slices of the score table lie."""
        return join_uri(self.output, SCORES_FOLDER, self.digest)

    def decisions_folder(self, calibration_id: str) -> str:
        """Return where the slices of the decisions of one calibration lie."""
        return join_uri(self.output, DECISIONS_FOLDER, calibration_id)

    def all_decisions(self) -> list[str]:
        """Return the folders of all calibrations that decided on this output.

        Raises:
            StorageError: If storage cannot be listed.
        """
        found = list_children(join_uri(self.output, DECISIONS_FOLDER))
        return [entry.uri.rstrip("/") for entry in found if isinstance(entry, FolderEntry)]

    def rows_of(self, index: int) -> range:
        """Return the row ids of a slice."""
        return range(index * self.slice_size, min((index + 1) * self.slice_size, self.num_rows))

    def read_listing(self, index: int) -> pa.Table:
        """Return the images of a slice.

        Raises:
            RunError: If the frozen listing does not hold them.
            StorageError: If it cannot be read.
        """
        if not 0 <= index < self.num_slices:
            msg = f"{self.output} has slices 0 to {self.num_slices - 1}, not {index}."
            raise RunError(msg)
        wanted = self.rows_of(index)
        first = bisect.bisect_right(self.files, wanted.start, key=lambda file: file.first_row_id) - 1
        tables = []
        for file in self.files[first:]:
            if file.first_row_id >= wanted.stop:
                break
            table = _read_listed(join_uri(self.output, LISTING_FOLDER, file.name), file.sha256, file.num_rows)
            start = max(wanted.start - file.first_row_id, 0)
            tables.append(table.slice(start, wanted.stop - file.first_row_id - start))
        listing = pa.concat_tables(tables)
        if listing["row_id"].to_pylist() != list(wanted):
            msg = f"{self.output}: the frozen listing lacks rows of slice {index}; choose another output."
            raise RunError(msg)
        return listing

    def missing(self, folder: str, indices: Iterable[int] | None = None) -> list[int]:
        """Return the slices, zero-based, that have no file in a folder of slices.

        Args:
            folder: Of `scores_folder` or `decisions_folder`.
            indices: Slices to look for; None for all.

        Raises:
            StorageError: If the folder cannot be listed.
        """
        names = {entry.uri.rpartition("/")[2] for entry in list_children(folder)}
        wanted = range(self.num_slices) if indices is None else indices
        return [index for index in wanted if slice_name(index) not in names]

    def publish(self) -> None:
        """Write the claim into an output that is held and belongs to nobody.

        Raises:
            StorageError: If it cannot be written.
        """
        record = {
            "schema": SCHEMA,
            "feclip_version": __version__,
            **{name: value for name, value in asdict(self).items() if name != "output"},
            "listing_digest": self.listing_digest,
            "num_rows": self.num_rows,
        }
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write_bytes(join_uri(self.output, RUN_FOLDER, f"{self.digest}.json"), text.encode())

    def require_same(
        self,
        *,
        model_id: str,
        options: Mapping[str, Any],
        source: Mapping[str, Any] | None,
        slice_size: int | None = None,
    ) -> None:
        """Refuse another submission on this run's output.

        Args:
            model_id: Of the bundle that is submitted now.
            options: What changes a score or a row, now.
            source: What is to be listed now; None where that is not asked.
            slice_size: As it is asked for now; None where it is not.

        Raises:
            RunError: If anything differs; each difference is named.
        """
        now = {
            "model_id": model_id,
            "options": dict(options),
            "source": dict(source or self.source),
            "slice_size": slice_size or self.slice_size,
        }
        before = {name: _as_dict(getattr(self, name)) for name in now}
        changes = changed_fields(before, now)
        if changes:
            listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items())
            msg = f"{self.output} belongs to another scoring run: {listed}. Choose another output."
            raise RunError(msg)

    @classmethod
    def frozen(
        cls,
        output: str,
        *,
        model_id: str,
        config: ScoringConfig,
        source: Source,
        files: Sequence[ListedFile],
        ignored: Mapping[str, int],
        image_size: int,
    ) -> Self:
        """Return a new run over a listing that was just frozen.

        Raises:
            DataError: If the listing holds no image.
        """
        num_rows = sum(file.num_rows for file in files)
        if not num_rows:
            left_out = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
            msg = (
                f"{source.manifest or source.archive} holds no images"
                + (f" (left out: {left_out}); set listing.extensions, listing.include" if left_out else "")
                + "."
            )
            raise DataError(msg)
        largest = max(1, min(MAX_SLICE_SIZE, SLICE_BYTES // (3 * image_size * image_size)))
        usual = min(largest, max(MIN_SLICE_SIZE, -(-num_rows // SLICES_WANTED)))
        return cls(
            output=output,
            model_id=model_id,
            options=scored_options(config),
            source=source.identity(),
            files=tuple(files),
            ignored=dict(ignored),
            slice_size=config.slice_size or usual,
        )


def _as_dict(value: object) -> object:
    """Return a mapping as a dictionary, and anything else as it is."""
    return dict(value) if isinstance(value, Mapping) else value


def scored_options(config: ScoringConfig) -> dict[str, Any]:
    """Return the options that change a score or a row of the table, as JSON values."""
    return {
        "topk_fraction": float(config.topk_fraction),
        "smoothing_sigma": float(config.smoothing_sigma),
        "precision": str(config.precision),
        "compile": config.compile,
        "jpeg_decoder": str(config.jpeg_decoder),
        "columns": None if config.columns is None else sorted(config.columns),
    }


def slice_name(index: int) -> str:
    """Return the name of a slice's file; slices count from zero.

    Example:
        >>> slice_name(42)
        'slice-00000042.parquet'
    """
    return f"slice-{index:08d}.parquet"


def find_run(output: str) -> Run | None:
    """Return the run that an output belongs to, if any.

    Raises:
        RunError: If two runs claim it, or the claim cannot be understood.
        StorageError: If storage cannot be asked.
    """
    claims = _claims(output)
    if len(claims) > 1:
        msg = (
            f"{output} is claimed by {len(claims)} runs ({', '.join(claims)}), as if copied together; "
            "choose another output."
        )
        raise RunError(msg)
    return _read(claims[0], output=output) if claims else None


def finished_run(output: str, *, model_id: str) -> Run:
    """Return the run of an output that was scored to its end by one model.

    Raises:
        DataError: If another model scored it.
        RunError: If there is none, or a slice is missing.
        StorageError: If storage cannot be asked.
    """
    run = find_run(output)
    if run is None:
        msg = f"{output} holds no score table; give the output of jobs/score.py."
        raise RunError(msg)
    if run.model_id != model_id:
        msg = (
            f"{output} was scored by model {run.model_id[:12]}, the bundle is model {model_id[:12]}; "
            "give the bundle that scored it, or its calibrated one."
        )
        raise DataError(msg)
    missing = run.missing(run.scores_folder)
    if missing:
        msg = (
            f"{output} is not finished: {len(missing)} of {run.num_slices} slices are missing; submit its scoring job "
            "again first."
        )
        raise RunError(msg)
    return run


def _claims(output: str) -> list[str]:
    return [entry.uri for entry in list_children(join_uri(output, RUN_FOLDER)) if entry.uri.endswith(".json")]


def _read(uri: str, *, output: str) -> Run:
    try:
        record = parse_json(read_bytes(uri, max_bytes=MAX_JSON_BYTES))
        schema = record["schema"]
        if schema != SCHEMA:
            msg = f"{uri} is of schema {schema!r}, this feclip reads {SCHEMA}; choose another output."
            raise RunError(msg)
        run = Run(
            output=output,
            files=tuple(ListedFile(**file) for file in record["files"]),
            **{name: record[name] for name in ("model_id", "options", "source", "ignored", "slice_size")},
        )
        is_whole = uri.endswith(f"/{run.digest}.json")
        is_sound = not is_whole or _is_sound(run)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{uri} is no record of a scoring run ({error!r}); choose another output."
        raise RunError(msg) from error
    if not is_sound:
        msg = f"{uri} is no record of a scoring run: a field is not what it must be; choose another output."
        raise RunError(msg)
    if not is_whole:
        msg = f"{uri} was changed: its digest is {run.digest}; choose another output."
        raise RunError(msg)
    return run


def _is_sound(run: Run) -> bool:
    """Tell whether every field of a run that was read is of its type and in its range."""
    ends = [0]
    for file in run.files:
        sound = (
            is_count(file.num_rows)
            and file.num_rows <= ROWS_PER_FILE
            and is_count(file.first_row_id)
            and file.first_row_id == ends[-1]
            and _is_plain_name(file.name)
        )
        if not sound or not isinstance(file.sha256, str):
            return False
        ends.append(ends[-1] + file.num_rows)
    StatisticOptions(**{name: run.options[name] for name in ("topk_fraction", "smoothing_sigma")})
    columns = run.options["columns"]
    return (
        isinstance(run.model_id, str)
        and isinstance(run.source, dict)
        and isinstance(run.ignored, dict)
        and is_count(run.slice_size)
        and run.slice_size > 0
        and run.num_slices <= MAX_SLICES
        and (columns is None or (isinstance(columns, list) and {*columns} <= {*OPTIONAL_COLUMNS}))
    )


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and "/" not in name and name.startswith("rows-")


@functools.lru_cache(maxsize=2)  # slices of one process follow one another, some to a file
def _read_listed(uri: str, sha256: str, num_rows: int) -> pa.Table:
    content = read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != sha256:
        msg = f"{uri} is not the file that the run was begun with (sha256 differs); choose another output."
        raise RunError(msg)
    try:
        table = parse_parquet(content, max_rows=num_rows)
    except ValueError as error:
        msg = f"{uri}: {error}; choose another output."
        raise RunError(msg) from error
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    if len(table) != num_rows or any(types.get(field.name) != field.type for field in LISTING_SCHEMA):
        msg = f"{uri} is no listing of {num_rows} images; choose another output."
        raise RunError(msg)
    return table


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
