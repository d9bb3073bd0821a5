"""Score an archive on a Ray cluster: slices stream through decoding tasks and a pool of actors that hold the model.

driver                                workers
hold the output
claim it for this run, or adopt it ->  list the archive (tasks), once
slices without a file             ->  fetch, decode (tasks)  ->  score, write (actors)      Ray Data, a row is a slice
                                  ->  decide on slices scored before (tasks)
count every row                   <-  read back what was written (tasks)
"""

import dataclasses
import functools
import json
import logging
import queue
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray.data

from feclip.archive import (
    SUMMARY_FILE,
    FetchedSlice,
    Run,
    Source,
    Tally,
    check_slices,
    decode_jpegs,
    fetch_slice,
    find_run,
    finished_summary,
    forget_decisions,
    listed_values,
    log_start_up,
    log_summary,
    publish_slice,
    require_few_errors,
    score_slice,
    scored_options,
    slices_with_errors,
    write_summary,
)
from feclip.bundle import Bundle, InputOverride, read_bundle
from feclip.calibration import Calibration
from feclip.cluster.listing import freeze_listing
from feclip.cluster.monitoring import RunTags, SliceGauge, count_slice, show_slices_left
from feclip.cluster.paths import absolute_path
from feclip.cluster.session import require_actors, session, use_endpoint
from feclip.cluster.slices import decide_slices, mapped
from feclip.config import JpegDecoder, ModelConfig, ScoreConfig, ScoringConfig
from feclip.data import (
    GpuDecoder,
    GuardedDecoder,
    InputOptions,
    check_writable,
    delete,
    join_uri,
    require_gpu_decoding,
)
from feclip.errors import DataError, FeclipError, RunError, StorageError
from feclip.holding import holding
from feclip.logs import context
from feclip.progress import Progress

__all__ = ["score"]

logger = logging.getLogger(__name__)

MAX_BLOCKS = 2000
"""Blocks of slice numbers that Ray Data schedules; with more slices than that a block holds several."""
DECODE_CPUS = 0.99
"""CPUs of a decoding task; not the 1 of an actor, because Ray Data fuses stages that ask for the same."""
MAX_OPEN_SLICES = 8
"""Slices left open by failing storage after which the job gives up at once."""


def score(config: ScoreConfig, *, decides: bool = True, override: InputOverride | None = None) -> str:
    """Run one scoring job and return the URI of its output.

    A finished run does nothing; a broken one does what is missing and only that. A plan is printed and nothing done.

    Args:
        config: The job.
        decides: Whether the thresholds of a calibrated bundle are applied; not to the normals of its next calibration.
        override: Another way to bring images to the model, as a protocol may ask; another model, therefore.

    Raises:
        FeclipError: One line that says what is wrong. What was written is whole; submitted again, the job goes on.
    """
    use_endpoint(config.cluster)
    config = dataclasses.replace(
        config,
        bundle=absolute_path("bundle", config.bundle),
        output=absolute_path("output", config.output),
        archive=None if config.archive is None else absolute_path("archive", config.archive),
        manifest=None if config.manifest is None else absolute_path("manifest", config.manifest),
    )
    bundle = read_bundle(config.bundle)
    if override is not None:
        bundle = bundle.with_input(override)
    if not decides:
        bundle = dataclasses.replace(bundle, calibration=None)
    if bundle.calibration is not None:
        bundle.calibration.require_statistics(config.score.statistic_options)
    if config.score.jpeg_decoder is JpegDecoder.nvjpeg:
        require_gpu_decoding(bundle.input_options)
    if config.plan:
        from feclip.cluster.plan import plan  # noqa: PLC0415 - see docs/adr/0020

        sys.stdout.write(plan(bundle, config=config))
        return config.output
    check_writable(config.output)
    with holding(config.output):
        return _score(config, bundle=bundle, override=override)


def _score(config: ScoreConfig, *, bundle: Bundle, override: InputOverride | None) -> str:
    """Do what is missing in an output that is held."""
    source = Source(archive=config.archive, manifest=config.manifest, listing=config.listing).identified()
    run = find_run(config.output)
    if run is not None:
        run.require_same(
            model_id=bundle.model_id,
            options=scored_options(config.score),
            source=source.identity(),
            slice_size=config.score.slice_size,
        )
        summary = finished_summary(run, calibration=bundle.calibration)
        if summary is not None and not config.retry_errors:
            logger.info("%s is finished: %d images, nothing to do.", run.output, summary["num_images"])
            require_few_errors(summary, output=config.output, max_error_rate=config.score.max_error_rate)
            return config.output
    with session(config.cluster):
        require_actors(num_actors=config.score.num_actors, gpus_per_actor=config.score.gpus_per_actor)
        run = run or _claimed(source, bundle=bundle, config=config)
        summary = _work(run, bundle=bundle, config=config, override=override)
    log_summary(summary, output=config.output)
    require_few_errors(summary, output=config.output, max_error_rate=config.score.max_error_rate)
    return config.output


def _claimed(source: Source, *, bundle: Bundle, config: ScoreConfig) -> Run:
    """Freeze the listing and claim the output."""
    files, ignored = freeze_listing(source, output=config.output)
    assert bundle.model.image_size is not None
    run = Run.frozen(
        config.output,
        model_id=bundle.model_id,
        config=config.score,
        source=source,
        files=files,
        ignored=ignored,
        image_size=bundle.model.image_size,
    )
    run.publish()
    return run


def _work(run: Run, *, bundle: Bundle, config: ScoreConfig, override: InputOverride | None) -> dict[str, Any]:
    """Do what is missing, prove that nothing is, and write the summary."""
    started = time.monotonic()
    delete(join_uri(run.output, SUMMARY_FILE))
    missing = run.missing(run.scores_folder)
    if config.retry_errors:
        there = sorted(set(range(run.num_slices)) - set(missing))
        again = [index for part in mapped(slices_with_errors, run, there, task="Finding errors") for index in part]
        logger.info("%d slices hold images with errors; they are scored once more.", len(again))
        missing = sorted([*missing, *again])
    forget_decisions(run, missing)
    _tell_nouns(run, missing, model=bundle.model)
    calibration = bundle.calibration
    actors: list[dict[str, Any]] = []
    open_slices: list[str] = []
    if missing:
        num_images = sum(len(run.rows_of(index)) for index in missing)
        logger.info("Scoring %d of %d images, in %d slices", num_images, run.num_rows, len(missing))
        tags, num_left = RunTags.of("score"), len(missing)
        show_slices_left(tags, num_left)
        with Progress("Scoring", num_images, unit="images") as progress:
            for row in _scored(run, missing, bundle=bundle, config=config.score, override=override, tags=tags):
                if row["start_up"]:
                    actors.append(json.loads(row["start_up"]))
                    log_start_up(actors)
                if row["failure"]:
                    open_slices.append(row["failure"])
                    if len(open_slices) >= MAX_OPEN_SLICES:
                        break
                count_slice(tags, num_images=row["num_images"], errors=row["errors"], seconds=row["seconds"])
                num_left -= row["num_images"] > 0
                show_slices_left(tags, num_left)
                progress.advance(row["num_images"], errors=sum(row["errors"].values()))
    seconds = time.monotonic() - started
    if open_slices:
        msg = (
            f"{len(open_slices)} slices of {run.output} stay open since storage fails: {open_slices[0]} "
            "Submit the same command again when it works; what is written stays."
        )
        raise StorageError(msg)
    if calibration is not None:
        decide_slices(run, calibration)
    tally = _checked(run, calibration_id=None if calibration is None else calibration.calibration_id)
    scored_now = sum(len(run.rows_of(index)) for index in missing)
    return write_summary(run, tally, calibration=calibration, seconds=seconds, scored_now=scored_now, actors=actors)


def _tell_nouns(run: Run, indices: list[int], *, model: ModelConfig) -> None:
    """Say once what images are called, where groups have nouns of their own."""
    if model.nouns is None or not indices:
        return
    groups = set[str | None]()
    for found in mapped(listed_values, run, indices, task="Reading groups", column=model.noun_column):
        groups = model.groups_to_tell(groups | found)
    logger.info(model.tell_nouns(groups))


def _scored(
    run: Run,
    indices: list[int],
    *,
    bundle: Bundle,
    config: ScoringConfig,
    override: InputOverride | None,
    tags: RunTags,
) -> Iterator[dict[str, Any]]:
    """Stream slices through the cluster; yield one small row for each as it is done.

    Raises:
        RunError: If a slice cannot be scored for a reason that another try would meet again.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it reports as an error it also raises
    dataset = ray.data.from_items(
        [{"index": index} for index in indices], override_num_blocks=min(len(indices), MAX_BLOCKS)
    )
    dataset = dataset.map(
        _fetch,
        fn_kwargs={
            "run": run,
            "options": bundle.input_options,
            "num_readers": config.num_readers,
            "leaves_jpegs": config.jpeg_decoder is JpegDecoder.nvjpeg,
            "tags": tags,
        },
        num_cpus=DECODE_CPUS,
    )
    dataset = dataset.map_batches(
        _ScoringActor,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            size=config.num_actors, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
        ),
        fn_constructor_kwargs={
            "run": run,
            "bundle_uri": bundle.uri,
            "override": override,
            "config": config,
            "calibration": bundle.calibration,
            "tags": tags,
        },
        num_cpus=1,
        num_gpus=config.gpus_per_actor,
    )
    for row in dataset.iter_rows():
        if row["fatal"]:
            raise RunError(str(row["fatal"]))
        yield row | {name: json.loads(row[name]) for name in ("errors", "seconds")}


@functools.lru_cache(maxsize=1)
def _decoder(options: InputOptions) -> GuardedDecoder:
    """Return this worker's decoder, whose child lives as long as the worker."""
    return GuardedDecoder(options)


@functools.lru_cache(maxsize=1)
def _fetching(tags: RunTags) -> SliceGauge:
    """Return what shows that this worker fetches."""
    return SliceGauge(tags, stage="fetch")


def _fetch(
    row: dict[str, Any], *, run: Run, options: InputOptions, num_readers: int, leaves_jpegs: bool, tags: RunTags
) -> dict[str, Any]:
    """Read and decode the slice that a row names."""
    index, decoder = int(row["index"]), _decoder(options)
    done = {"index": index, "rows": b"", "pixels": b"", "failure": "", "fatal": ""}
    with _fetching(tags).busy(index), context(slice=index):
        try:
            fetched = fetch_slice(run, index, decoder=decoder, num_readers=num_readers, leaves_jpegs=leaves_jpegs)
            done |= {"rows": fetched.pack_rows(), "pixels": fetched.pixels}
        except StorageError as error:
            done["failure"] = str(error)
        except FeclipError as error:
            done["fatal"] = str(error)
    return done | {"seconds": json.dumps(decoder.stopwatch.take())}


class _ScoringActor:
    """Holds the model and the thresholds; scores a slice and writes it.

    Calls overlap: while one has the model, another prepares its slice or writes it.
    """

    def __init__(
        self,
        *,
        run: Run,
        bundle_uri: str,
        override: InputOverride | None,
        config: ScoringConfig,
        calibration: Calibration | None,
        tags: RunTags,
    ) -> None:
        import torch  # noqa: PLC0415 - see docs/adr/0020

        from feclip.scoring import Scorer  # noqa: PLC0415 - see docs/adr/0020

        torch.set_num_threads(config.threads_per_actor)
        self._run = run
        self._gauge = SliceGauge(tags, stage="score")
        self._calibration = calibration
        self._scorer: Scorer | None = None
        self._gpu: GpuDecoder | None = None
        self._fatal = ""
        self._start_up = queue.SimpleQueue[str]()  # what the first row tells, whichever thread makes it
        try:
            bundle = read_bundle(bundle_uri)
            self._scorer = Scorer.configured(
                bundle if override is None else bundle.with_input(override),
                config,
                on_gpu=config.gpus_per_actor > 0,
                max_batch_size=run.slice_size,
            )
            self._start_up.put(json.dumps(dataclasses.asdict(self._scorer.start_up)))
            if config.jpeg_decoder is JpegDecoder.nvjpeg:
                self._gpu = GpuDecoder(bundle.input_options, device=self._scorer.device)
        except FeclipError as error:  # raised here, it would only be the last line of Ray's own story
            self._fatal = str(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        row = {name: values[0] for name, values in batch.items()}
        index = int(row["index"])
        with self._gauge.busy(index), context(slice=index):
            done = self._do(row)
        seconds = Counter(json.loads(str(row["seconds"])))
        if self._scorer is not None:
            seconds.update(self._scorer.stopwatch.take())
        return {name: [value] for name, value in (done | {"seconds": json.dumps(seconds)}).items()}

    def _do(self, row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["index"])
        done = {"index": index, "failure": str(row["failure"]), "fatal": str(row["fatal"]) or self._fatal}
        done |= {"num_images": 0, "errors": "{}", "start_up": self._told_once()}
        if done["failure"] or done["fatal"] or self._scorer is None:
            return done
        fetched = FetchedSlice.unpack(index, rows=row["rows"], pixels=row["pixels"])
        try:
            if self._gpu is not None:
                with self._scorer.stopwatch.time("decode"):
                    fetched = decode_jpegs(self._run, fetched, gpu=self._gpu, decoder=_decoder(self._gpu.options))
            table = score_slice(self._run, fetched, scorer=self._scorer)
            with self._scorer.stopwatch.time("write"):
                tally = publish_slice(self._run, index, table, calibration=self._calibration)
        except StorageError as error:
            return done | {"failure": str(error)}
        except DataError as error:  # no thresholds for it; the scores stand, and the end of the job names this
            logger.warning("Slice %d is scored but not decided: %s", index, error)
            tally = Tally.of_scores(table)
        except FeclipError as error:
            return done | {"fatal": str(error)}
        return done | {"num_images": tally.num_images, "errors": json.dumps(tally.errors)}

    def _told_once(self) -> str:
        """Return how the model was made ready, and nothing from then on."""
        try:
            return self._start_up.get_nowait()
        except queue.Empty:
            return ""


def _checked(run: Run, *, calibration_id: str | None) -> Tally:
    """Read everything back; every row of the listing must be there once."""
    total = Tally()
    for tally in mapped(check_slices, run, range(run.num_slices), task="Reading back", calibration_id=calibration_id):
        total += tally
    if total.num_images != run.num_rows:
        msg = f"{run.output} holds {total.num_images} rows for {run.num_rows} images; submit the job again."
        raise RunError(msg)
    return total
