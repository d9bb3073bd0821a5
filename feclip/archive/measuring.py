"""How long each stage of scoring takes for one image, measured on a sample of the archive in this process.

Nothing is written. Images are decoded in the guarded process that the job has too; those that cannot be are left out.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from feclip.archive.listing import MASK_COLUMN, Source, list_part, plan_parts
from feclip.archive.slices import encode_table
from feclip.bundle import Bundle
from feclip.data import (
    MAX_FILE_BYTES,
    GuardedDecoder,
    ImageError,
    InputOptions,
    PreparedImage,
    StorageForbiddenError,
    StorageMissingError,
    StorageTooLargeError,
    decode_image,
    pack_valid_pixels,
    read_bytes,
    sha256,
)
from feclip.errors import DataError
from feclip.planning import StageTimes
from feclip.score_table import build_score_table
from feclip.scoring import Scorer, StartUp

__all__ = ["Measured", "measure_stages", "sample_of"]

MAX_PARTS = 16
"""Parts of the listing that a sample is taken from."""
MODEL_SECONDS = 20.0
"""After so long no further batch is begun."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a sample showed."""

    times: StageTimes
    model_images_per_second: float
    start_up: StartUp
    num_images: int
    """Images of the sample that every stage before the model took."""
    num_left_out: int
    """Images that could not be read or decoded."""


def sample_of(source: Source, *, num_images: int) -> pa.Table:
    """Return some images of an archive, evenly from parts that lie evenly over it.

    A part is listed up to its first block, so what is sampled are the first names of folders that are very large.

    Raises:
        DataError: If there is no image, or a manifest is not what it must be.
        StorageError: If storage cannot be listed or read.
    """
    parts = plan_parts(source)
    chosen = [parts[index] for index in _evenly(len(parts), MAX_PARTS)]
    tables = [block.table for part in chosen for block in islice(list_part(part, source), 1)]
    tables = [table for table in tables if len(table)]
    if not tables:
        msg = (
            f"{source.manifest or source.archive} shows no images to measure; set listing.extensions, listing.include."
        )
        raise DataError(msg)
    taken: list[pa.Table] = []
    for number, table in enumerate(sorted(tables, key=len)):  # what a small part lacks a larger one gives
        missing = num_images - sum(len(part) for part in taken)
        taken.append(table.take(_evenly(len(table), -(-missing // (len(tables) - number)))))
    columns = ["uri", "size", "etag", MASK_COLUMN]
    table = pa.concat_tables([table.select(columns) for table in taken])
    return table.add_column(0, "row_id", [np.arange(len(table))])


def measure_stages(
    bundle: Bundle,
    source: Source,
    *,
    num_images: int,
    num_readers: int,
    make_scorer: Callable[[Bundle], Scorer],
    batch_size: int | None = None,
) -> Measured:
    """Measure each stage on its own, one after another.

    Args:
        bundle: The bundle.
        source: The archive.
        num_images: Size of the sample, at least 1.
        num_readers: Threads that read.
        make_scorer: Loads the model on its device; a CPU's model runs on one thread, as that of an actor does.
        batch_size: Images that are scored in one call; None takes as many as the scorer does.

    Raises:
        DataError: If no image of the sample can be decoded.
        StorageError: If storage fails.
        BundleError, ConfigError, RunError: As the `Scorer`.
    """
    listing = sample_of(source, num_images=num_images)
    options = bundle.input_options
    images = [_Sampled(row=row) for row in listing.to_pylist()]
    fetch, fetch_cpu = _fetch(images, num_readers=num_readers, wants_masks=options.valid_region == "mask_uri")
    prepare, errors = _prepare(images, options=options)
    good = [image for image in images if image.prepared is not None]
    if not good:
        first = f": {errors[0]}" if errors else ", or be read."
        msg = f"None of the {len(images)} sampled images can be decoded{first}"
        raise DataError(msg)
    letterbox = _letterbox(good, options=options)
    model, write, start_up = _score(good, listing, bundle=bundle, make_scorer=make_scorer, batch_size=batch_size)
    return Measured(
        times=StageTimes(
            fetch=fetch / len(images),
            fetch_cpu=fetch_cpu / len(images),
            decode=max(prepare - letterbox, letterbox / 100) / len(good),  # two clocks: never below nothing
            letterbox=letterbox / len(good),
            write=write,
            num_bytes=sum(len(image.data or b"") for image in good) / len(good),
        ),
        model_images_per_second=1 / model,
        start_up=start_up,
        num_images=len(good),
        num_left_out=len(images) - len(good),
    )


@dataclass(kw_only=True, eq=False)
class _Sampled:
    row: dict[str, Any]
    data: bytes | None = None
    valid_mask: bytes | None = None
    prepared: PreparedImage | None = field(default=None)


def _fetch(images: list[_Sampled], *, num_readers: int, wants_masks: bool) -> tuple[float, float]:
    """Read all files; return wall seconds and processor seconds."""

    def read(image: _Sampled) -> None:
        try:
            image.data = read_bytes(image.row["uri"], max_bytes=MAX_FILE_BYTES)
            sha256(image.data)  # as the job does
            mask = image.row[MASK_COLUMN]
            image.valid_mask = read_bytes(mask, max_bytes=MAX_FILE_BYTES) if wants_masks and mask else None
        except (StorageMissingError, StorageForbiddenError, StorageTooLargeError):
            image.data = None

    with ThreadPoolExecutor(num_readers) as pool:
        started, cpu_started = time.perf_counter(), time.process_time()
        list(pool.map(read, images))
        return time.perf_counter() - started, time.process_time() - cpu_started


def _prepare(images: list[_Sampled], *, options: InputOptions) -> tuple[float, list[ImageError]]:
    """Decode what was read; return the seconds of those that could be, and the errors of the others."""
    seconds, errors = 0.0, []
    with GuardedDecoder(options) as decoder:
        _warm_up(decoder)
        for image in images:
            if image.data is None:
                continue
            started = time.perf_counter()
            try:
                image.prepared = decoder.decode(image.data, uri=image.row["uri"], valid_mask=image.valid_mask)
            except ImageError as error:
                errors.append(error)
            else:
                seconds += time.perf_counter() - started
    return seconds, errors


def _warm_up(decoder: GuardedDecoder) -> None:
    """Start the child before the clock."""
    try:
        decoder.decode(b"P5 1 1 255 a", uri="a.pgm")
    except ImageError:  # it has no valid mask
        return


def _letterbox(images: list[_Sampled], *, options: InputOptions) -> float:
    """Bring decoded images to the input once more, here, where it can be told from decoding; return the seconds."""
    seconds = 0.0
    for image in images:
        assert image.data is not None
        decoded = decode_image(image.data, uri=image.row["uri"])
        started = time.perf_counter()
        _, record = options.place(decoded)
        pack_valid_pixels(record.valid_pixels())
        seconds += time.perf_counter() - started
    return seconds


def _score(
    images: list[_Sampled],
    listing: pa.Table,
    *,
    bundle: Bundle,
    make_scorer: Callable[[Bundle], Scorer],
    batch_size: int | None,
) -> tuple[float, float, StartUp]:
    """Score batches and encode their rows; return seconds for one image of either, and how the model began."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scorer = make_scorer(bundle)
        batch_size = batch_size or scorer.batch_size
        first = images[: batch_size if scorer.device.type == "cuda" else 1]
        scorer.score(**_inputs(first, scorer))  # what the first call prepares is not its speed
        model = write = 0.0
        num_scored = 0
        for batch in _batches(images, batch_size):
            inputs = _inputs(batch, scorer)
            started = time.perf_counter()
            scores = scorer.score(**inputs)
            model += time.perf_counter() - started
            started = time.perf_counter()
            ids = [image.row["row_id"] for image in batch]
            rows = [
                {"row_id": row_id, "sha256": "0" * 64, **_columns(image), **columns}
                for row_id, image, columns in zip(ids, batch, scores.rows(), strict=True)
            ]
            part = listing.take(ids).drop_columns([MASK_COLUMN])
            encode_table(build_score_table(part, rows=rows, model_id=scorer.model_id))
            write += time.perf_counter() - started
            num_scored += len(batch)
            if model > MODEL_SECONDS:
                break
    finally:
        torch.set_num_threads(num_threads)
    return model / num_scored, write / num_scored, scorer.start_up


def _columns(image: _Sampled) -> dict[str, Any]:
    prepared = image.prepared
    assert prepared is not None
    return {
        "width": prepared.width,
        "height": prepared.height,
        "valid_box": list(prepared.valid_box),
        "valid_mask": prepared.valid_mask,
    }


def _inputs(images: list[_Sampled], scorer: Scorer) -> dict[str, Any]:
    """Return what `Scorer.score` takes of images."""
    decoded = [(image, image.prepared) for image in images if image.prepared is not None]
    columns = {"groups": scorer.group_column, "nouns": scorer.noun_column}
    return {
        "pixels": np.stack([prepared.pixels for _, prepared in decoded]),
        "valid_pixels": np.stack([prepared.valid_pixels() for _, prepared in decoded]),
        **{name: column and [image.row.get(column) for image, _ in decoded] for name, column in columns.items()},
    }


def _batches(images: list[_Sampled], size: int) -> Iterator[list[_Sampled]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _evenly(num: int, wanted: int) -> list[int]:
    """Return at most so many of the indices below ``num``, evenly spaced."""
    return np.linspace(0, num - 1, min(num, wanted)).round().astype(int).tolist() if num and wanted > 0 else []
