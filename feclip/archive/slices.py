"""What happens to one slice of an archive: fetched, scored, published, decided, checked. Each step runs anywhere.

    fetched = fetch_slice(run, index, decoder=...)        uint8 pixels and what is known of each image
    fetched = decode_jpegs(run, fetched, gpu=...)         only where a GPU decodes: pixels of what came as a file
    table = score_slice(run, fetched, scorer=...)         the slice of the score table
    publish_slice(run, index, table, calibration=...)     one file that is there or not

Where storage fails, the slice stays without a file.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feclip.archive.listing import MASK_COLUMN
from feclip.archive.reading import NAMES_KEY, names_digest, read_decisions, read_scores
from feclip.archive.run import Run, slice_name
from feclip.calibration import Calibration, decide
from feclip.config import OPTIONAL_COLUMNS
from feclip.data import (
    FetchedImage,
    GpuDecoder,
    GuardedDecoder,
    PreparedImage,
    SourceSize,
    UndecodedJpeg,
    decode_fetched,
    delete,
    encode_parquet,
    fetch_and_decode,
    join_uri,
    unpack_valid_pixels,
    write_bytes,
)
from feclip.errors import RunError
from feclip.logs import bind, bound
from feclip.score_table import SCORE_SCHEMA, build_score_table

if TYPE_CHECKING:  # listing and decoding do without torch: docs/adr/0020
    from feclip.scoring import Scorer

__all__ = [
    "FetchedSlice",
    "Tally",
    "check_slices",
    "decide_slice",
    "decode_jpegs",
    "encode_table",
    "fetch_slice",
    "forget_decisions",
    "publish_slice",
    "score_slice",
    "slices_with_errors",
]

_FETCHED = pa.schema(
    [
        pa.field("row_id", pa.int64()),
        *(SCORE_SCHEMA.field(name) for name in ("sha256", "width", "height", "valid_box", "valid_mask")),
        *(SCORE_SCHEMA.field(name) for name in ("error", "error_kind")),
        pa.field("jpeg", pa.large_binary()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FetchedSlice:
    """The images of one slice, M of its N rows decoded; others have an error, or their file under ``jpeg``."""

    index: int
    """Number of the slice, from zero."""
    rows: list[dict[str, Any]]
    """For each of the N images its ``row_id`` and what is known before the model sees it."""
    pixels: bytes
    """uint8, shape ``(M, S, S, 3)``, those that are decoded in the order of the rows."""

    def pack_rows(self) -> bytes:
        """Return the rows as an Arrow stream, for a way between processes."""
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(self.rows, schema=_FETCHED)
        with pa.ipc.new_stream(sink, _FETCHED) as writer:
            writer.write_table(table)
        packed: bytes = sink.getvalue().to_pybytes()
        return packed

    @classmethod
    def unpack(cls, index: int, *, rows: bytes, pixels: bytes) -> Self:
        """Bring back a slice from its packed rows and its pixels."""
        found = pa.ipc.open_stream(rows).read_all().to_pylist()
        known = [{name: value for name, value in row.items() if value is not None} for row in found]
        return cls(index=index, rows=known, pixels=pixels)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a set of slices holds; tallies add up."""

    num_images: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Images without a score, by kind."""
    labels: Counter[str] = field(default_factory=Counter)
    """Decided images: normal, anomalous."""

    def __add__(self, other: Self) -> Self:
        return type(self)(
            num_images=self.num_images + other.num_images,
            errors=self.errors + other.errors,
            labels=self.labels + other.labels,
        )

    @classmethod
    def of_scores(cls, table: pa.Table) -> Self:
        """Count the rows of a score table, or of its column ``error_kind`` alone."""
        return cls(num_images=len(table), errors=_count(table["error_kind"]))


def fetch_slice(
    run: Run, index: int, *, decoder: GuardedDecoder, num_readers: int = 8, leaves_jpegs: bool = False
) -> FetchedSlice:
    """Read and decode the images of a slice.

    Args:
        run: The run.
        index: Number of the slice, from zero.
        decoder: Where the images are decoded.
        num_readers: Images that are read at the same time.
        leaves_jpegs: Whether plain JPEGs are left to `decode_jpegs`.

    Raises:
        StorageError: If storage keeps failing; nothing is known of the slice then.
        RunError: If the listing lacks the slice, or no decoder can be started.
    """
    listing = run.read_listing(index)
    images = listing.select(["uri", "size", MASK_COLUMN]).to_pylist()

    def fetch(image: dict[str, Any]) -> FetchedImage:
        return fetch_and_decode(
            image["uri"],
            decoder=decoder,
            size=image["size"],
            valid_mask_uri=image[MASK_COLUMN],
            leaves_jpegs=leaves_jpegs,
        )

    pool = ThreadPoolExecutor(num_readers, initializer=bind, initargs=(bound(),))
    try:
        fetched = list(pool.map(fetch, images))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    rows = [
        {"row_id": row_id, **found.columns()}
        for row_id, found in zip(listing["row_id"].to_pylist(), fetched, strict=True)
    ]
    for row, found in zip(rows, fetched, strict=True):
        if isinstance(found.image, UndecodedJpeg):
            row["jpeg"] = found.image.data
    pixels = b"".join(found.image.pixels.tobytes() for found in fetched if isinstance(found.image, PreparedImage))
    return FetchedSlice(index=index, rows=rows, pixels=pixels)


def decode_jpegs(run: Run, fetched: FetchedSlice, *, gpu: GpuDecoder, decoder: GuardedDecoder) -> FetchedSlice:
    """Decode on a GPU what a slice holds as files.

    Args:
        run: The run.
        fetched: The slice, as `fetch_slice` left it.
        gpu: What decodes.
        decoder: Decodes what the GPU cannot, or tells what is wrong with it.

    Returns:
        The slice without files.

    Raises:
        StorageError: If the listing cannot be read.
        RunError: If no decoder can be started.
    """
    files = [row for row in fetched.rows if "jpeg" in row]
    sizes = [SourceSize(height=row["height"], width=row["width"]) for row in files]
    decoded = dict(
        zip((row["row_id"] for row in files), gpu.decode([row["jpeg"] for row in files], sizes), strict=True)
    )
    lost = [row for row in files if decoded[row["row_id"]] is None]
    again = _decoded_again(run, fetched.index, lost=lost, decoder=decoder)
    size = gpu.options.image_size
    others = iter(np.frombuffer(fetched.pixels, np.uint8).reshape(-1, size, size, 3))
    rows: list[dict[str, Any]] = []
    pixels: list[bytes] = []
    for row in fetched.rows:
        row_id = row["row_id"]
        image = next(others) if "jpeg" not in row and row.get("error") is None else decoded.get(row_id)
        if row_id in again:
            prepared = again[row_id].image
            assert not isinstance(prepared, UndecodedJpeg)
            image = None if prepared is None else prepared.pixels
            row = {"row_id": row_id, **again[row_id].columns()}  # noqa: PLW2901 - told anew
        rows.append({name: value for name, value in row.items() if name != "jpeg"})
        pixels += [] if image is None else [image.tobytes()]
    return FetchedSlice(index=fetched.index, rows=rows, pixels=b"".join(pixels))


def _decoded_again(
    run: Run, index: int, *, lost: Sequence[dict[str, Any]], decoder: GuardedDecoder
) -> dict[int, FetchedImage]:
    """Decode, or learn the error of, rows whose file a GPU could not decode."""
    if not lost:
        return {}
    listing = run.read_listing(index)
    uris = dict(zip(listing["row_id"].to_pylist(), listing["uri"].to_pylist(), strict=True))
    return {
        row["row_id"]: decode_fetched(row["jpeg"], uri=uris[row["row_id"]], digest=row["sha256"], decoder=decoder)
        for row in lost
    }


def score_slice(run: Run, fetched: FetchedSlice, *, scorer: "Scorer") -> pa.Table:
    """Score a fetched slice.

    Returns:
        Its score table, with the columns that the run wants.

    Raises:
        RunError: If the scores are not finite, the rows are not those of the slice, or the memory bank of the bundle
            has no normal images of an image's group.
        StorageError: If the listing cannot be read.
    """
    size = scorer.image_size
    decoded = [row for row in fetched.rows if row.get("error") is None]
    pixels = np.frombuffer(fetched.pixels, np.uint8).reshape(len(decoded), size, size, 3)
    valid = np.zeros((len(decoded), size, size), np.bool_)
    for mask, row in zip(valid, decoded, strict=True):
        mask[:] = unpack_valid_pixels(tuple(row["valid_box"]), row.get("valid_mask"), image_size=size)
    groups = None if scorer.group_column is None else _groups(run, fetched, column=scorer.group_column)
    nouns = None if scorer.noun_column is None else _values(run, fetched, column=scorer.noun_column)
    for row, scores in zip(decoded, scorer.score(pixels, valid, groups, nouns=nouns).rows(), strict=True):
        row.update(scores)
    with scorer.stopwatch.time("write"):
        return _built(run, fetched, model_id=scorer.model_id)


def _groups(run: Run, fetched: FetchedSlice, *, column: str) -> list[str | None]:
    """Return the groups of the decoded images of a slice in the memory bank."""
    values = _values(run, fetched, column=column)
    if values is None:
        msg = (
            f"{run.output}: the images have no column {column}, by which the bundle's memory bank is divided; name it "
            f"in the path, as in {column}=<value>/image.jpg, or in a manifest."
        )
        raise RunError(msg)
    return values


def listed_values(run: Run, indices: Iterable[int], *, column: str) -> set[str | None]:
    """Return the values of a column of the listing in some slices; None alone where there is no such column.

    Raises:
        StorageError: If the listing cannot be read.
    """
    listings = (run.read_listing(index) for index in indices)
    return {
        value
        for listing in listings
        for value in (listing[column].unique().to_pylist() if column in listing.column_names else [None])
    }


def _values(run: Run, fetched: FetchedSlice, *, column: str) -> list[str | None] | None:
    """Return what a column of the listing says of the decoded images of a slice; None where there is no such column."""
    listing = run.read_listing(fetched.index)
    if column not in listing.column_names:
        return None
    values = dict(zip(listing["row_id"].to_pylist(), listing[column].to_pylist(), strict=True))
    return [values[row["row_id"]] for row in fetched.rows if row.get("error") is None]


def _built(run: Run, fetched: FetchedSlice, *, model_id: str) -> pa.Table:
    listing = run.read_listing(fetched.index)
    table = build_score_table(listing.drop_columns([MASK_COLUMN]), rows=fetched.rows, model_id=model_id)
    wanted = run.options["columns"]
    unwanted = [] if wanted is None else [name for name in OPTIONAL_COLUMNS if name not in wanted]
    return table.drop_columns(unwanted)


def publish_slice(run: Run, index: int, table: pa.Table, *, calibration: Calibration | None = None) -> Tally:
    """Write a slice of the score table all at once, then its decisions.

    Where scores are replaced, `forget_decisions` comes first, so that no decision is older than its scores.

    Returns:
        What the slice holds.

    Raises:
        DataError: If the thresholds do not fit the scores; the scores stand then.
        RunError: If the rows are not those of the slice, or of another model.
        StorageError: If storage keeps failing.
    """
    if table["row_id"].to_pylist() != list(run.rows_of(index)) or {*table["model_id"].to_pylist()} != {run.model_id}:
        msg = f"What was scored for slice {index} of {run.output} is not that slice; nothing is written."
        raise RunError(msg)
    _write(join_uri(run.scores_folder, slice_name(index)), table)
    tally = Tally.of_scores(table)
    if calibration is None:
        return tally
    where = join_uri(run.decisions_folder(calibration.calibration_id), slice_name(index))
    return tally + _decide(run, table, where=where, calibration=calibration)


def forget_decisions(run: Run, indices: Iterable[int]) -> None:
    """Delete what every calibration decided on slices that are about to be scored, again or for the first time.

    Raises:
        StorageError: If storage fails.
    """
    for folder in run.all_decisions():
        undecided = set(run.missing(folder))
        for index in set(indices) - undecided:
            delete(join_uri(folder, slice_name(index)))


def decide_slice(run: Run, index: int, *, calibration: Calibration) -> Tally:
    """Decide on a slice whose scores stand, and write the decisions all at once.

    Raises:
        DataError: If the thresholds do not fit the scores.
        StorageError: If storage keeps failing.
    """
    table = read_scores(run, index)
    where = join_uri(run.decisions_folder(calibration.calibration_id), slice_name(index))
    return _decide(run, table, where=where, calibration=calibration)


def check_slices(run: Run, indices: Iterable[int], *, calibration_id: str | None = None) -> Tally:
    """Read published slices back and prove that they hold each row once.

    Args:
        run: The run.
        indices: Slices to check, from zero.
        calibration_id: Whose decisions are checked too; None for none.

    Raises:
        RunError: If a slice holds other rows than its own.
        StorageError: If a slice is absent or storage fails.
    """
    total = Tally()
    for index in indices:
        table = read_scores(run, index, columns=["row_id", "error_kind"])
        total += Tally.of_scores(table)
        if calibration_id is not None:
            decided = read_decisions(run, index, calibration_id=calibration_id, columns=["pred_label"])
            if decided["pred_label"].is_null().to_pylist() != table["error_kind"].is_valid().to_pylist():
                folder = run.decisions_folder(calibration_id)
                msg = f"The decisions of slice {index} in {folder} are not of its scores; delete them and decide again."
                raise RunError(msg)
            total += Tally(labels=_count_labels(decided))
    return total


def slices_with_errors(run: Run, indices: Iterable[int]) -> list[int]:
    """Return which of some published slices hold an image without a score.

    Raises:
        StorageError: If a slice cannot be read.
    """
    return [index for index in indices if check_slices(run, [index]).errors]


def _decide(run: Run, table: pa.Table, *, where: str, calibration: Calibration) -> Tally:
    decided = decide(table, calibration, statistic_options=run.statistic_options)
    _write(where, decided)
    return Tally(labels=_count_labels(decided))


def encode_table(table: pa.Table) -> bytes:
    """Return a slice as the bytes of its Parquet file."""
    named = table.replace_schema_metadata({NAMES_KEY: names_digest(table.schema)})
    return encode_parquet(named, compression="zstd")


def _write(uri: str, table: pa.Table) -> None:
    write_bytes(uri, encode_table(table))


def _count(column: pa.ChunkedArray) -> Counter[str]:
    return Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(column.drop_null()).to_pylist()})


def _count_labels(decided: pa.Table) -> Counter[str]:
    labels = decided["pred_label"]
    anomalous = int(pc.sum(labels).as_py() or 0)
    return +Counter({"anomalous": anomalous, "normal": len(labels) - labels.null_count - anomalous})
