"""Make a memory bank: choose normal images in tasks, bring them through the model in one task, write the bundle.

driver                                    workers
merge what was chosen                  <- choose among the images of a part (tasks)
the bundle with the bank, by its name  <- decode, run the model, thin, write (one task, with the GPU of an actor)
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from feclip.archive import Part, Shot, ShotRequest, Source, choose_shots, merge_shots, plan_parts
from feclip.archive.shots import Shots
from feclip.bundle import Bundle, read_bundle, write_banked
from feclip.cluster.paths import absolute_path
from feclip.config import ALL_SHOTS, CalibrateConfig, is_manifest
from feclip.data import GuardedDecoder, PreparedImage, exists, fetch_and_decode, join_uri
from feclip.errors import BundleError, DataError, FeclipError

__all__ = ["BANK_FOLDER", "banked"]

logger = logging.getLogger(__name__)

BANK_FOLDER = "_bank"
"""Below a calibrated bundle: the bundle with its memory bank and without thresholds, which scored the normals."""
CPU_BATCH = 16  # images


def banked(bundle: Bundle, config: CalibrateConfig) -> Bundle:
    """Return the bundle with the memory bank that a calibration asks for; made once, found again afterwards.

    Raises:
        BundleError: If the bundle has a bank already, or another one was begun with in this output.
        DataError: If the normal images are not what they must be.
        StorageError: If storage fails.
    """
    if bundle.memory_bank is not None:
        msg = f"{bundle.uri} has a memory bank already; give the bundle that it was made of."
        raise BundleError(msg)
    place = join_uri(config.output, BANK_FOLDER)
    source = _source(config)
    request = _identity(config, source=source)
    if exists(join_uri(place, "config.json")):
        found = read_bundle(place)
        bank = found.memory_bank
        if bank is None or (bank.parent_model_id, bank.request) != (bundle.model_id, request):
            msg = f"{config.output} was begun with another memory bank; choose another output."
            raise BundleError(msg)
        return found
    shots = _chosen(source, config)
    num_images = sum(map(len, shots.values()))
    logger.info("Making a memory bank of %d normal images%s", num_images, _by_group(shots, config))
    task = ray.remote(num_cpus=1, num_gpus=config.score.gpus_per_actor)(_make)
    failure = ray.get(task.remote(config, bundle_uri=bundle.uri, place=place, shots=dict(shots), request=request))
    if failure is not None:
        raise failure
    found = read_bundle(place)
    assert found.memory_bank is not None
    _log(found)
    return found


def _source(config: CalibrateConfig) -> Source:
    """Return where the bank's images are named."""
    if config.bank.images is None:
        uri, root = config.normals, config.root
    else:
        uri, root = absolute_path("bank.images", config.bank.images), None
    if is_manifest(uri):
        return Source(archive=root, manifest=uri, listing=config.listing).identified()
    return Source(archive=uri, manifest=None, listing=config.listing)


def _identity(config: CalibrateConfig, *, source: Source) -> dict[str, Any]:
    """Return as JSON what makes another submission ask for another bank."""
    asked = {name: value for name, value in dataclasses.asdict(config.bank).items() if name != "images"}
    return {
        "memory_bank": config.memory_bank,
        **asked,
        "source": source.identity(),
        "precision": str(config.score.precision),
    }


def _chosen(source: Source, config: CalibrateConfig) -> Shots:
    """Choose the images, in tasks over the parts of the listing."""
    number = None if config.memory_bank == ALL_SHOTS else int(config.memory_bank or 0)
    request = ShotRequest(shots=number, group_column=config.bank.group_column, seed=config.bank.seed)
    task = ray.remote(num_cpus=1)(_choose)
    references = [task.remote(part, source, request) for part in plan_parts(source)]

    def found() -> Iterator[Shots]:
        for reference in references:
            result = ray.get(reference)
            if isinstance(result, FeclipError):
                raise result
            yield result

    shots = functools.reduce(lambda first, second: merge_shots([first, second], request), found())
    if not shots:
        msg = f"{source.manifest or source.archive} holds no images for a memory bank."
        raise DataError(msg)
    short = {group: len(of) for group, of in shots.items() if number is not None and len(of) < number}
    if short:
        group, count = next(iter(short.items()))
        where = f" of {config.bank.group_column}={group}" if config.bank.group_column else ""
        msg = f"memory_bank is {number}, but {source.manifest or source.archive} holds {count} normal images{where}."
        raise DataError(msg)
    return shots


def _choose(part: Part, source: Source, request: ShotRequest) -> Shots | FeclipError:
    try:
        return choose_shots(part, source, request)
    except FeclipError as error:
        return error


def _make(
    config: CalibrateConfig, *, bundle_uri: str, place: str, shots: Mapping[str, list[Shot]], request: dict[str, Any]
) -> FeclipError | None:
    """Make the bank and write the bundle with it; return what went wrong, as it is written for users."""
    import torch  # noqa: PLC0415 - see docs/adr/0020

    from feclip.scoring import build_bank  # noqa: PLC0415 - see docs/adr/0020

    torch.set_num_threads(config.score.threads_per_actor)
    try:
        bundle = read_bundle(bundle_uri)
        digests: dict[str, str] = {}
        with GuardedDecoder(bundle.input_options) as decoder:
            known = set() if config.allow_trained_images else {*bundle.images["sha256"].to_pylist()}
            groups = {
                group: _prepared(
                    of, decoder=decoder, digests=digests, known=known, num_readers=config.score.num_readers
                )
                for group, of in shots.items()
            }
            bank = build_bank(
                bundle,
                groups,
                group_column=config.bank.group_column,
                request=request,
                coreset_fraction=config.bank.coreset_fraction,
                device="cuda" if config.score.gpus_per_actor > 0 else "cpu",
                precision=str(config.score.precision),
            )
        images = pa.table({"uri": [*digests], "sha256": [*digests.values()]})
        write_banked(place, bundle=bundle, bank=bank, images=images)
    except FeclipError as error:
        return error
    return None


def _prepared(
    shots: list[Shot], *, decoder: GuardedDecoder, digests: dict[str, str], known: set[str], num_readers: int
) -> Iterator[Any]:
    """Read and decode images of a group, some at a time, and note their digests.

    Yields:
        Batches of `BankImages`.

    Raises:
        DataError: If one cannot be read or decoded, or trained the bundle.
    """
    from feclip.scoring import BankImages  # noqa: PLC0415 - see docs/adr/0020

    def fetch(shot: Shot) -> PreparedImage:
        found = fetch_and_decode(shot.uri, decoder=decoder, size=shot.size, valid_mask_uri=shot.valid_mask_uri)
        if not isinstance(found.image, PreparedImage) or found.sha256 is None:
            msg = f"{found.error} A memory bank is made of images that can be read; choose another bank.seed or images."
            raise DataError(msg)
        if found.sha256 in known:
            msg = (
                f"{shot.uri} trained, selected or calibrated this bundle; give other images for the memory bank, or "
                "set allow_trained_images."
            )
            raise DataError(msg)
        digests[shot.uri] = found.sha256
        return found.image

    remaining = iter(shots)
    with ThreadPoolExecutor(num_readers) as pool:
        while batch := list(itertools.islice(remaining, CPU_BATCH)):
            images = list(pool.map(fetch, batch))
            yield BankImages(
                pixels=np.stack([image.pixels for image in images]),
                valid_pixels=np.stack([image.valid_pixels() for image in images]),
            )


def _by_group(shots: Shots, config: CalibrateConfig) -> str:
    column = config.bank.group_column
    return "" if column is None else f" in {len(shots)} groups by {column}"


def _log(bundle: Bundle) -> None:
    bank = bundle.memory_bank
    assert bank is not None
    rows = sum(len(part) for part in bank.rows.values())
    logger.info(
        "Memory bank: %d images, %d tokens, %.1f MB (model_id %s)",
        bank.num_images,
        rows,
        bank.num_bytes / 1e6,
        bundle.model_id[:12],
    )
    if bank.max_distance:
        logger.info(
            "A coreset stands for all tokens: 1 - cosine to it is %.4f on average and %.4f at most",
            bank.mean_distance,
            bank.max_distance,
        )
