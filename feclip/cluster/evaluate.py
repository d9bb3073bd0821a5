"""Judge bundles on labelled images: look at the images, score them as an archive is scored, count what came of it.

driver                                    workers
read the layout, give splits          ->  look at every image, compare it with what the bundles know (tasks)
stop, or mark                         ->  score the images as a manifest (score.py), for each bundle
gather the image scores               <-  read the slices back (tasks)
mean, tables                          <-  count the pixels of a slice; judge a category (tasks)
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import ray

from feclip.archive import Run, find_run
from feclip.bundle import EVALUATION_METRICS_FILE, EVALUATION_SCORES_FOLDER, EVALUATIONS_FOLDER, Bundle, read_bundle
from feclip.cluster.paths import absolute_path
from feclip.cluster.score import score
from feclip.cluster.session import session, use_endpoint
from feclip.cluster.slices import by_category, counted_pixels, mapped
from feclip.config import EvaluateConfig, ScoreConfig
from feclip.data import (
    InputOptions,
    check_writable,
    encode_parquet,
    exists,
    join_uri,
    write_bytes,
)
from feclip.errors import FeclipError
from feclip.evaluation import (
    PRESETS,
    CategoryResult,
    Evaluation,
    Judgement,
    check_selection,
    data_digest,
    find_dataset,
    holds_result,
    identity_digest,
    identity_of,
    image_rows,
    judge_category,
    look,
    markdown,
    mean_result,
    override_of,
    preset_bundle,
    preset_scoring,
    read_images,
    require_sound,
    require_unknown,
    scored_manifest,
    screen,
    select_images,
    take_output,
)
from feclip.holding import holding
from feclip.metrics import PixelCounts
from feclip.progress import Progress

__all__ = ["evaluate", "is_evaluated"]

logger = logging.getLogger(__name__)

IMAGES_PER_TASK = 32
NUM_RESAMPLES = 1000
MANIFEST_FILE = "images.parquet"
REPORT_FILE = "metrics.md"


def evaluate(config: EvaluateConfig) -> str:
    """Run one evaluation and return the URI of its result.

    Raises:
        FeclipError: One line that says what is wrong. Images that were scored stay scored.
    """
    use_endpoint(config.cluster)
    config, bundles = _settled(config)
    for bundle in bundles:
        if bundle.calibration is not None:
            bundle.calibration.require_statistics(config.score.statistic_options)
    source = str(config.data.manifest or config.data.root)
    selections = _selected(bundles, config=config, source=source)
    categories = {name for images in selections for name in images["category"].to_pylist()}
    dataset = None if config.dataset is None else str(config.dataset)
    paper = find_dataset(dataset, categories=categories) if config.compare or dataset else None
    check_writable(config.output or config.bundle[0])
    with session(config.cluster):
        selections, known = _looked_at(selections, bundles=bundles, config=config)
        digests = [data_digest(images) for images in selections]
        identity = identity_of(config, bundles=bundles, digests=digests)
        output = config.output or join_uri(config.bundle[0], EVALUATIONS_FOLDER, identity_digest(identity))
        with holding(output):
            take_output(output, identity=identity)
            judgements = []
            for bundle, images, found, digest in zip(bundles, selections, known, digests, strict=True):
                folder = join_uri(output, EVALUATION_SCORES_FOLDER, f"{bundle.model_id[:12]}-{digest[:8]}")
                run = _scored(bundle, images, config=config, folder=folder)
                judgements.append(_judged(run, bundle, config=config, num_known=found.num_rows, digest=digest))
            split = None if config.split is None else str(config.split)
            evaluation = Evaluation(judgements=judgements, source=source, preset=config.preset, split=split)
            shown = paper if config.compare else None
            _write(evaluation, report=markdown(evaluation, paper=shown), output=output)
    logger.info("%s\n\n%s\n", source, screen(evaluation, paper=shown))
    logger.info("Evaluation written to %s", output)
    return output


def is_evaluated(config: EvaluateConfig) -> bool:
    """Tell whether the output holds the whole result of this evaluation, as far as that is seen without an image.

    Images that were changed since are not noticed; `evaluate` looks at them again.

    Args:
        config: With an output of its own.

    Raises:
        FeclipError: If a bundle cannot be read.
    """
    use_endpoint(config.cluster)
    config, bundles = _settled(config)
    assert config.output is not None
    return exists(join_uri(config.output, REPORT_FILE)) and holds_result(config.output, config=config, bundles=bundles)


def _settled(config: EvaluateConfig) -> tuple[EvaluateConfig, list[Bundle]]:
    """Return the config with absolute paths and all that its preset fixes, and the bundles as they are judged."""
    config = _absolute(config)
    preset = PRESETS[config.preset]
    config = dataclasses.replace(config, score=preset_scoring(config.score, preset))
    return config, [preset_bundle(read_bundle(uri), preset) for uri in config.bundle]


def _absolute(config: EvaluateConfig) -> EvaluateConfig:
    data = dataclasses.replace(
        config.data,
        root=None if config.data.root is None else absolute_path("data.root", config.data.root),
        manifest=None if config.data.manifest is None else absolute_path("data.manifest", config.data.manifest),
    )
    return dataclasses.replace(
        config,
        bundle=type(config.bundle)(absolute_path("bundle", uri).rstrip("/") for uri in config.bundle),
        data=data,
        output=None if config.output is None else absolute_path("output", config.output),
    )


def _selected(bundles: Sequence[Bundle], *, config: EvaluateConfig, source: str) -> list[pa.Table]:
    """Return the images that judge each bundle; they differ where a split does, with the seed of the bundle."""
    table = read_images(config.data)
    split = None if config.split is None else str(config.split)
    selections = [select_images(table, config.data, split=split, training=bundle.training) for bundle in bundles]
    for images in selections:
        check_selection(images, source=source)
    logger.info(
        "%s: %d of %d images judge (%s)", source, selections[0].num_rows, table.num_rows, split or "all test images"
    )
    return selections


def _looked_at(
    selections: Sequence[pa.Table], *, bundles: Sequence[Bundle], config: EvaluateConfig
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Return the selections with digests and sizes, and which of their images each bundle was made with.

    Raises:
        DataError: If an image cannot be used, or a bundle was made with one and that is not allowed.
    """
    everything = pa.concat_tables(selections)
    first = (
        pa.table({"uri": everything["uri"], "row": range(len(everything))}).group_by("uri").aggregate([("row", "min")])
    )
    wanted = everything.take(first["row_min"]).sort_by("path")
    references = [ray.put(bundle.images) for bundle in bundles]
    task = ray.remote(num_cpus=1)(_look)
    parts = [wanted.slice(start, IMAGES_PER_TASK) for start in range(0, wanted.num_rows, IMAGES_PER_TASK)]
    tasks = [task.remote(part, *references, num_threads=config.data.num_workers) for part in parts]
    looks = []
    with Progress("Looking", wanted.num_rows, unit="images") as progress:
        for part, reference in zip(parts, tasks, strict=True):
            found = ray.get(reference)
            if isinstance(found, FeclipError):
                raise found
            looks.append(found)
            progress.advance(part.num_rows)
    images = pa.concat_tables([found.images for found in looks])
    require_sound(images)
    logger.info("Looked at %d images", images.num_rows)
    selected = [images.take(pc.index_in(chosen["uri"], value_set=images["uri"])) for chosen in selections]
    known = [
        require_unknown(
            chosen,
            pa.concat_tables([found.known[number] for found in looks]),
            bundle=bundle.uri,
            allowed=config.allow_trained_images,
        )
        for number, (chosen, bundle) in enumerate(zip(selected, bundles, strict=True))
    ]
    return selected, known


def _look(rows: pa.Table, *known: pa.Table, num_threads: int) -> object:
    try:
        return look(rows, known, num_threads=num_threads)
    except FeclipError as error:
        return error


def _write(evaluation: Evaluation, *, report: str, output: str) -> None:
    """Write the metrics as a table and as a page."""
    write_bytes(join_uri(output, EVALUATION_METRICS_FILE), encode_parquet(evaluation.table()))
    write_bytes(join_uri(output, REPORT_FILE), report.encode())


def _scored(bundle: Bundle, images: pa.Table, *, config: EvaluateConfig, folder: str) -> Run:
    """Score the images of one bundle by the path that archives take, and return the finished run."""
    manifest = join_uri(folder, MANIFEST_FILE)
    write_bytes(manifest, encode_parquet(scored_manifest(images)))
    score(
        ScoreConfig(
            bundle=bundle.uri,
            output=folder,
            archive=config.data.root,
            manifest=manifest,
            score=config.score,
            cluster=config.cluster,
        ),
        override=override_of(PRESETS[config.preset], bundle),
    )
    run = find_run(folder)
    assert run is not None
    return run


def _judged(run: Run, bundle: Bundle, *, config: EvaluateConfig, num_known: int, digest: str) -> Judgement:
    """Gather the image scores, count the pixels and return the numbers."""
    calibration_id = None if bundle.calibration is None else bundle.calibration.calibration_id
    slices = range(run.num_slices)
    parts = mapped(_image_rows, run, slices, task="Gathering scores", calibration_id=calibration_id)
    images = pa.concat_tables(list(parts))
    results = _judged_categories(run, images, options=bundle.input_options, config=config)
    return Judgement(
        bundle=bundle.uri,
        model_id=bundle.model_id,
        calibration_id=calibration_id,
        preset_text=PRESETS[config.preset].text(bundle, config.score),
        data_digest=digest,
        num_trained_images=num_known,
        categories=results,
        mean=mean_result(images, results),
        recipe={
            "backbone": bundle.model.backbone,
            "image_size": bundle.model.image_size,
            "trained_on": bundle.training["data"]["manifest"] or bundle.training["data"]["root"],
        },
    )


def _image_rows(run: Run, indices: Sequence[int], *, calibration_id: str | None) -> pa.Table:
    return pa.concat_tables([image_rows(run, index, calibration_id=calibration_id) for index in indices])


def _judged_categories(
    run: Run, images: pa.Table, *, options: InputOptions, config: EvaluateConfig
) -> Mapping[str, CategoryResult]:
    """Judge each category in a task, on what tasks counted slice by slice; pixels never come to the driver."""
    counting, judging = ray.remote(num_cpus=1)(counted_pixels), ray.remote(num_cpus=1)(_judge_category)
    shared = ray.put(run)
    places = pa.table({"category": images["category"], "has_mask": images["has_mask"], "row": range(len(images))})
    num_resamples = NUM_RESAMPLES if len(config.bundle) == 1 else 0
    references = {}
    for category in sorted(set(images["category"].to_pylist())):
        rows = places.filter((pc.field("category") == category) & pc.field("has_mask"))["row"].to_pylist()
        counts = [
            counting.remote(
                shared, index, category=category, options=options, smoothing_sigma=config.score.smoothing_sigma
            )
            for index in sorted({row // run.slice_size for row in rows})
        ]
        chosen = images.filter(pc.field("category") == category)
        references[category] = judging.remote(chosen, *counts, category=category, num_resamples=num_resamples)
    return by_category(references, task="Judging")


def _judge_category(
    rows: pa.Table, *parts: dict[str, PixelCounts] | FeclipError, category: str, num_resamples: int
) -> CategoryResult | FeclipError:
    counts: dict[str, PixelCounts] = {}
    for part in parts:
        if isinstance(part, FeclipError):
            return part
        counts |= part
    return judge_category(rows, counts, category=category, num_resamples=num_resamples)
