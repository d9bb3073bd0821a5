"""The guard: score held-out images of both domains with a parent and its tuned bundle, and compare by category.

driver                                    workers
read the old domain                   ->  check every image (tasks)
leave out what trained                ->  score both domains as an archive is scored, once by each bundle (score.py)
gather the image scores               <-  read the slices back (tasks)
means, intervals of the differences   <-  count the pixels of a slice; compare a category (tasks)

What was scored stays scored, so that a broken run goes on. Images of the old domain that judge here have chosen the
bundle, if only by letting it pass, and stand in its images with the role ``guarded``.
"""

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import ray

from feclip.archive import Run, finished_run
from feclip.bundle import IMAGE_COLUMNS, Bundle, Domain
from feclip.cluster.inspection import inspected
from feclip.cluster.score import score
from feclip.cluster.slices import by_category, counted_pixels, mapped
from feclip.config import EvaluationDataConfig, FinetuneConfig, ScoreConfig, ScoringConfig
from feclip.data import InputOptions, Split, encode_parquet, find_known, join_uri, write_bytes
from feclip.errors import DataError, FeclipError
from feclip.evaluation import (
    WHOLE,
    Pair,
    check_selection,
    compare_category,
    compare_domain,
    image_rows,
    read_images,
    select_images,
)
from feclip.metrics import PixelCounts
from feclip.training import RUN_FOLDER, trained_images

__all__ = ["compared", "guard_scoring", "old_domain"]

logger = logging.getLogger(__name__)

FOLDER = "guard"
MANIFEST_FILE = "images.parquet"
ROLE = "guarded"
SCORED_COLUMNS = ("uri", "label", "category", "has_mask", "mask_uri", "valid_mask_uri")


def guard_scoring(config: FinetuneConfig) -> ScoringConfig:
    """Return how the guard scores: with what the run has, each image without fail."""
    workers, gpu = config.cluster.num_workers, config.cluster.use_gpu
    return ScoringConfig(
        precision=config.optim.precision,
        num_actors=workers if gpu else max(1, workers - 1),  # on CPUs decoding wants a core of its own
        gpus_per_actor=1.0 if gpu else 0.0,
        max_error_rate=0.0,
    )


def old_domain(parent: Bundle, *, config: FinetuneConfig, own: pa.Table) -> pa.Table | None:
    """Return the images of the old domain that nothing learned from, inspected; None where there is none.

    Args:
        parent: The bundle that is tuned.
        config: The run.
        own: Its field images, inspected: none of them judges the old domain.

    Raises:
        DataError: If no image is left, one cannot be used, or they do not hold both kinds.
        StorageError: If they cannot be read.
    """
    guard = config.guard
    if not guard.is_given:
        logger.warning(
            "There are no images of the old domain (guard.root, guard.manifest): nothing will say whether it got worse."
        )
        return None
    source = str(guard.manifest or guard.root)
    data = EvaluationDataConfig(
        root=guard.root, manifest=guard.manifest, layout=guard.layout, categories=guard.categories
    )
    split = None if guard.split is None else str(guard.split)
    chosen = select_images(read_images(data), data, split=split, training=parent.training)
    held_out = pa.array([Split.HELD_OUT.value] * chosen.num_rows, pa.string())
    chosen = chosen.set_column(chosen.schema.get_field_index("split"), "split", held_out)
    checked = inspected(chosen, config=config)
    learned = pa.concat_tables([trained_images(parent), own.select(IMAGE_COLUMNS.names).cast(IMAGE_COLUMNS)])
    known = find_known(checked, learned)
    kept = checked.filter(pc.invert(pc.is_in(checked["uri"], value_set=known["uri"].combine_chunks())))
    if known.num_rows:
        logger.info(
            "%d of %d images of %s trained the parent, or are this run's own, and do not judge",
            known.num_rows,
            checked.num_rows,
            source,
        )
    if not kept.num_rows:
        msg = (
            f"All {checked.num_rows} images of {source} trained the parent {parent.uri}, or are this run's own: give "
            "the guard images of the old domain that nothing learned from."
        )
        raise DataError(msg)
    check_selection(kept, source=source)
    return kept.append_column("role", pa.array([ROLE] * kept.num_rows, pa.string()))


def compared(
    parent: Bundle, tuned: Bundle, *, config: FinetuneConfig, field: pa.Table, old: pa.Table | None
) -> tuple[Domain, ...]:
    """Score the images of both domains with both bundles and return how these compare.

    Args:
        parent: The bundle that was tuned.
        tuned: The bundle that came of it.
        config: The run.
        field: Held-out field images.
        old: Images of the old domain, as `old_domain` returns them.

    Raises:
        FeclipError: One line that says what is wrong. Images that were scored stay scored.
    """
    named = {"field": field} if old is None else {"field": field, "old": old}
    named = {name: _scorable(images) for name, images in named.items()}
    folder = join_uri(config.output, RUN_FOLDER, FOLDER)
    manifest = join_uri(folder, MANIFEST_FILE)
    write_bytes(manifest, encode_parquet(pa.concat_tables(named.values())))
    runs = [_scored(bundle, config=config, manifest=manifest, folder=folder) for bundle in (parent, tuned)]
    rows = [pa.concat_tables(mapped(_rows, run, range(run.num_slices), task="Gathering scores")) for run in runs]
    sources = {"field": config.data.manifest or config.data.root, "old": config.guard.manifest or config.guard.root}
    domains = []
    for name, images in named.items():
        own = [table.append_column("row", pa.array(range(len(table)))) for table in rows]
        own = [table.filter(pc.is_in(table["uri"], value_set=images["uri"].combine_chunks())) for table in own]
        pairs = _compared_categories(runs, own, options=tuned.input_options, domain=name)
        domains.append(compare_domain(pairs, name=name, source=str(sources[name])))
    return tuple(domains)


def _scorable(images: pa.Table) -> pa.Table:
    """Return what scoring and the metrics need of some images."""
    category = pc.fill_null(images["category"], WHOLE)
    return images.set_column(images.schema.get_field_index("category"), "category", category).select(SCORED_COLUMNS)


def _scored(bundle: Bundle, *, config: FinetuneConfig, manifest: str, folder: str) -> Run:
    """Score the images by the path that archives take, and return the finished run; equal models share one."""
    output = join_uri(folder, bundle.model_id[:12])
    score(
        ScoreConfig(
            bundle=bundle.uri, output=output, manifest=manifest, score=guard_scoring(config), cluster=config.cluster
        ),
        decides=False,
    )
    return finished_run(output, model_id=bundle.model_id)


def _rows(run: Run, indices: Sequence[int]) -> pa.Table:
    return pa.concat_tables([image_rows(run, index, calibration_id=None) for index in indices])


def _compared_categories(
    runs: Sequence[Run], rows: Sequence[pa.Table], *, options: InputOptions, domain: str
) -> dict[str, Pair]:
    """Compare each category in a task, on what tasks counted slice by slice; pixels never come to the driver."""
    counting, comparing = ray.remote(num_cpus=1)(counted_pixels), ray.remote(num_cpus=1)(_compare_category)
    shared = [ray.put(run) for run in runs]
    references = {}
    for category in sorted(set(rows[0]["category"].to_pylist())):
        chosen = [table.filter(pc.field("category") == category) for table in rows]
        counts = [
            [
                counting.remote(reference, index, category=category, options=options, smoothing_sigma=0.0)
                for index in sorted(
                    {row // run.slice_size for row in table.filter(pc.field("has_mask"))["row"].to_pylist()}
                )
            ]
            for run, reference, table in zip(runs, shared, chosen, strict=True)
        ]
        references[category] = comparing.remote(
            *chosen, *counts[0], *counts[1], num_before=len(counts[0]), category=category
        )
    return by_category(references, task=f"Comparing ({domain})")


def _compare_category(
    before: pa.Table,
    after: pa.Table,
    *parts: dict[str, PixelCounts] | FeclipError,
    num_before: int,
    category: str,
) -> Pair | FeclipError:
    counts: tuple[dict[str, PixelCounts], dict[str, PixelCounts]] = ({}, {})
    for number, part in enumerate(parts):
        if isinstance(part, FeclipError):
            return part
        counts[number >= num_before].update(part)
    return compare_category((before, after), counts, category=category)
