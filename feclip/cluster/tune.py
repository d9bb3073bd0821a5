"""A sweep on a Ray cluster: check space and images, run the trials, leave a table, a page, a config and a bundle.

driver                                        workers
read the space, check every end of it
hold the output, read whose it is
list the images, give them splits         ->  check the images that train and judge (tasks)
claim it for this sweep                   ->  one trial a worker (Ray Tune)
trials.parquet, sweep.html, best.yaml     ->  fine-tune the best config, where asked (Ray Train)
"""

import dataclasses
import logging

import pyarrow as pa
import yaml

from feclip.building import check_model, read_labelled
from feclip.cluster.finetune import finetune
from feclip.cluster.inspection import checked_images
from feclip.cluster.paths import absolute_path, absolute_paths
from feclip.cluster.session import require_resources, room_for_trials, session, use_endpoint
from feclip.cluster.trials import run_trials
from feclip.config import FinetuneConfig, TuneConfig, plain
from feclip.data import Split, check_writable, encode_parquet, exists, join_uri, write_bytes
from feclip.errors import RunError
from feclip.holding import holding
from feclip.tuning import (
    SearchSpace,
    SweepClaim,
    TrialRecord,
    best_trial,
    final_objective,
    fitted_space,
    read_space,
    read_trials,
    require_judgeable,
    resumed_config,
    sweep_page,
    trials_table,
    with_values,
)

__all__ = ["tune"]

logger = logging.getLogger(__name__)

TABLE_FILE = "trials.parquet"
PAGE_FILE = "sweep.html"
BEST_FILE = "best.yaml"


def tune(config: TuneConfig) -> str:
    """Run one sweep and return the URI of its output.

    A finished sweep does nothing; a broken one, or one that is asked for more trials, goes on: ended trials stay, and
    broken ones go on from their last epoch.

    Raises:
        FeclipError: One line that says what is wrong; where the sweep itself failed, its trials stay.
    """
    use_endpoint(config.cluster)
    config, space = _settled(config)
    check_writable(config.output)
    with holding(config.output):
        return _tune(config, space=space)


def _tune(config: TuneConfig, *, space: SearchSpace) -> str:
    """Run what is missing of a sweep in an output that is held."""
    claim = SweepClaim.of(config, space=space)
    if _finished(config):
        logger.info("%s is finished: %d trials, nothing to do.", config.output, config.num_trials)
        return config.output
    with session(config.cluster):
        at_once = room_for_trials(
            cpus=config.tune.cpus_per_trial, gpus=config.tune.gpus_per_trial, at_most=config.tune.max_concurrent
        )
        if config.refit:
            require_resources(config.cluster)
        claim.take(_images(config))
        logger.info("%d trials of %s, up to %d at once", config.num_trials, ", ".join(space.fields), at_once)
        records = run_trials(config, space=space, at_once=at_once)
        best = _write_results(config, space=space, records=records)
        if config.refit:
            finetune(best)
    return config.output


def _settled(config: TuneConfig) -> tuple[TuneConfig, SearchSpace]:
    """Return the config with absolute paths and the space that fits its backbone; from the record where resumed."""
    config = dataclasses.replace(config, output=absolute_path("output", config.output))
    if config.resume:
        config, space = resumed_config(config)
        logger.info("Going on with the sweep in %s as it was recorded.", config.output)
        return dataclasses.replace(config, optim=absolute_paths(config.finetune()).optim), space
    assert config.space is not None  # TuneConfig requires it
    space = read_space(config.space)
    run = absolute_paths(config.finetune())
    check_model(run.model)
    settled = dataclasses.replace(config, data=run.data, model=run.model, optim=run.optim)
    return settled, fitted_space(space, run, where=config.space)


def _finished(config: TuneConfig) -> bool:
    assert config.num_trials is not None
    records = read_trials(config.output)
    return (
        sum(record.ended and not record.mendable for record in records) >= config.num_trials
        and exists(join_uri(config.output, TABLE_FILE))
        and (not config.refit or exists(join_uri(config.finetune().output, "config.json")))
    )


def _images(config: TuneConfig) -> pa.Table:
    """Return the images that train and judge, found whole; images of the other splits are not opened."""
    manifest = read_labelled(config.data, seed=config.seed)
    metrics = require_judgeable(manifest, weights=config.tune)
    logger.info("The objective is %s of the held-out split%s", " and ".join(metrics), _why_alone(manifest, metrics))
    return checked_images(manifest, config=config.finetune())


def _why_alone(manifest: pa.Table, metrics: tuple[str, ...]) -> str:
    held_out = [row for row in manifest.select(["split", "has_mask"]).to_pylist() if row["split"] == Split.HELD_OUT]
    masks = any(row["has_mask"] for row in held_out)
    return "" if masks or "aupro" in metrics else " alone, since no held-out image has a gt mask"


def _write_results(config: TuneConfig, *, space: SearchSpace, records: list[TrialRecord]) -> FinetuneConfig:
    """Write the table, the page and the best config, and return the last.

    Raises:
        RunError: If no trial was trained to the end.
    """
    table = trials_table(space, records, options=config.tune)
    page = sweep_page(
        space,
        records,
        options=config.tune,
        title=f"Sweep of {space.name}",
        facts={
            "output": config.output,
            "images": config.data.manifest or config.data.root or "",
            "backbone": config.model.backbone,
            "epochs of a trial": str(config.optim.epochs),
            "objective": f"image AUROC x {config.tune.image_auroc_weight:g} + AUPRO x {config.tune.aupro_weight:g}, "
            "divided by the weights, on the held-out split after the last epoch",
            "search": f"{config.tune.search}, {config.tune.scheduler}, seed {config.seed}",
        },
    )
    write_bytes(join_uri(config.output, PAGE_FILE), page.encode())
    best = best_trial(records, options=config.tune)
    if best is None:
        write_bytes(join_uri(config.output, TABLE_FILE), encode_parquet(table))
        errors = [record.error for record in records if record.error is not None]
        msg = f"None of {len(records)} trials was trained to its end" + (
            f"; the first error: {errors[0]}" if errors else "."
        )
        raise RunError(msg)
    run = with_values(config.finetune(), best.values)
    text = f"# Trial {best.number} of the sweep in {config.output}\n" + yaml.safe_dump(plain(run), sort_keys=False)
    write_bytes(join_uri(config.output, BEST_FILE), text.encode())
    write_bytes(join_uri(config.output, TABLE_FILE), encode_parquet(table))
    logger.info(
        "Best: trial %d, objective %.4f; table, page and config are in %s",
        best.number,
        final_objective(best, options=config.tune),
        config.output,
    )
    return run
