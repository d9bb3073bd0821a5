"""Fit thresholds on normal images: score them where they are not scored yet, then three passes over their scores.

driver                              workers
the bundle with its memory bank  <- choose normal images, run the model (tasks), where one is asked for
refuse images the bundle knows   <- look at the digests of the normals (tasks)
plan what to count               <- survey the scores (tasks)
fit thresholds                   <- count around the wanted ranks (tasks)
write the calibrated bundle      <- count what the rules call anomalous among the normals (tasks)
"""

import dataclasses
import functools
import logging
import operator
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import ray

from feclip.archive import NORMALS_FOLDER, Run, find_run, finished_run, read_scores
from feclip.bundle import BANK_ROLE, Bundle, read_bundle, write_calibrated
from feclip.calibration import (
    AlarmKey,
    Calibration,
    CalibrationOptions,
    Detail,
    Query,
    Survey,
    count_detail,
    count_observed,
    fit,
    plan_query,
    score_columns,
    survey_scores,
    with_observed,
)
from feclip.cluster.bank import banked
from feclip.cluster.paths import absolute_path
from feclip.cluster.score import score
from feclip.cluster.session import session, use_endpoint
from feclip.cluster.slices import mapped
from feclip.config import CalibrateConfig, ScoreConfig
from feclip.data import check_writable, exists, join_uri
from feclip.errors import BundleError, ConfigError, DataError
from feclip.holding import holding
from feclip.score_table import ANOMALOUS_LABELS

__all__ = ["calibrate"]

logger = logging.getLogger(__name__)

SHOWN_GROUPS = 20


def calibrate(config: CalibrateConfig) -> str:
    """Run one calibration job and return the URI of the calibrated bundle.

    Raises:
        FeclipError: One line that says what is wrong; no bundle is left behind then.
    """
    use_endpoint(config.cluster)
    config = dataclasses.replace(
        config,
        bundle=absolute_path("bundle", config.bundle),
        normals=absolute_path("normals", config.normals),
        output=absolute_path("output", config.output),
        root=None if config.root is None else absolute_path("root", config.root),
    )
    if config.output.rstrip("/") == config.bundle.rstrip("/"):
        msg = f"output must be another place than the bundle {config.bundle}, which stays as it is."
        raise ConfigError(msg)
    bundle = read_bundle(config.bundle)
    check_writable(config.output)
    with holding(config.output):
        return _calibrate(config, bundle=bundle)


def _calibrate(config: CalibrateConfig, *, bundle: Bundle) -> str:
    """Fit thresholds for an output that is held."""
    if config.memory_bank is not None and find_run(config.normals) is not None:
        msg = f"normals is {config.normals}, scored without a memory bank; give the images themselves with memory_bank."
        raise ConfigError(msg)
    with session(config.cluster):
        if config.memory_bank is not None:
            bundle = banked(bundle, config)
        run = _scored_normals(bundle, config=config)
        calibrated_by = _known_and_new(run, bundle=bundle, allow=config.allow_trained_images)
        try:
            calibration = _fitted(run, options=config.calibrate, left_out=_banked_images(bundle))
        except DataError as error:
            if run.output == config.normals:
                raise
            msg = f"{error} Their scores stay in {run.output}; more normals need another output."
            raise DataError(msg) from error
    _write(calibration, bundle=bundle, images=calibrated_by, output=config.output)
    _log(calibration)
    return config.output


def _scored_normals(bundle: Bundle, *, config: CalibrateConfig) -> Run:
    """Return the finished scores of the normals, after scoring them if they are images."""
    output = config.normals
    if find_run(output) is None:
        output = join_uri(config.output, NORMALS_FOLDER)
        if find_run(output) is not None:
            logger.info("The normals are those listed before; choose another output to list %s anew.", config.normals)
        is_manifest = config.normals_are_manifest
        score(
            ScoreConfig(
                bundle=bundle.uri,
                output=output,
                archive=config.root if is_manifest else config.normals,
                manifest=config.normals if is_manifest else None,
                listing=config.listing,
                score=config.score,
                cluster=config.cluster,
            ),
            decides=False,
        )
    return finished_run(output, model_id=bundle.model_id)


def _known_and_new(run: Run, *, bundle: Bundle, allow: bool) -> pa.Table:
    """Return the images that calibrate, after refusing those that the bundle was made with or that are anomalous."""
    left_out = _banked_images(bundle)
    known = pa.array(sorted({value for value in bundle.images["sha256"].to_pylist() if value}), pa.string())
    known = known.filter(pc.invert(pc.is_in(known, value_set=left_out)))
    images = pa.concat_tables(mapped(_images, run, range(run.num_slices), task="Reading digests"))
    in_bank = pc.is_in(images["sha256"], value_set=left_out)
    if pc.any(in_bank).as_py():
        logger.info("%d normals are in the memory bank and fit no threshold", pc.sum(in_bank).as_py())
        images = images.filter(pc.invert(in_bank))
    num_anomalous = int(pc.sum(images["is_anomalous"]).as_py() or 0)
    if num_anomalous:
        msg = (
            f"{num_anomalous} of {images.num_rows} normals are labelled anomalous; calibrate with normal images alone."
        )
        raise DataError(msg)
    repeated = images.filter(pc.is_in(images["sha256"], value_set=known))
    if repeated.num_rows and not allow:
        msg = (
            f"{repeated.num_rows} of {images.num_rows} normals trained, selected or calibrated this bundle, first "
            f"{repeated['uri'][0].as_py()}; their scores are too low for honest thresholds. Give other images, or set "
            "allow_trained_images."
        )
        raise DataError(msg)
    if repeated.num_rows:
        logger.warning("%d normals are images the bundle was made with: thresholds are too low", repeated.num_rows)
    return images.drop_columns(["is_anomalous"])


def _banked_images(bundle: Bundle) -> pa.Array:
    """Return the sha256 of the images of a bundle's memory bank, whose distance to it is none."""
    images = bundle.images
    return images.filter(pc.equal(images["role"], BANK_ROLE))["sha256"].combine_chunks().drop_null()


def _images(run: Run, indices: Iterable[int]) -> pa.Table:
    """Return uri and sha256 of the scored images of some slices, and whether a label calls them anomalous."""
    tables = []
    for index in indices:
        table = read_scores(run, index, columns=["uri", "sha256", "label", "image_logit"])
        table = table.filter(pc.is_valid(table["image_logit"]))
        if "sha256" not in table.column_names:
            msg = f"{run.output} has no column sha256, by which known images are told; score with it."
            raise DataError(msg)
        labels = table["label"].to_pylist() if "label" in table.column_names else [None] * len(table)
        flags = pa.array([str(label).lower() in ANOMALOUS_LABELS for label in labels], pa.bool_())
        tables.append(table.select(["uri", "sha256"]).append_column("is_anomalous", flags))
    return pa.concat_tables(tables)


def _fitted(run: Run, *, options: CalibrationOptions, left_out: pa.Array) -> Calibration:
    """Fit in three passes over the normals that are not left out; each is the same for any division of the scores."""
    slices = range(run.num_slices)
    shared = ray.put(left_out)
    surveys = mapped(_survey, run, slices, task="Surveying scores", threshold_by=options.threshold_by, left_out=shared)
    survey = functools.reduce(Survey.merge, surveys)
    query = ray.put(plan_query(survey, options))
    details = mapped(_detail, run, slices, task="Counting scores", query=query, left_out=shared)
    detail = functools.reduce(Detail.merge, details)
    calibration = fit(survey, detail, options=options, statistic_options=run.statistic_options)
    alarms = mapped(_observed, run, slices, task="Counting alarms", calibration=calibration, left_out=shared)
    counted = functools.reduce(operator.add, alarms)
    return with_observed(calibration, counted)


def _survey(
    run: Run, indices: Iterable[int], *, threshold_by: str | None, left_out: "ray.ObjectRef[pa.Array]"
) -> Survey:
    parts = _parts(run, indices, threshold_by=threshold_by, left_out=left_out)
    surveys = (survey_scores(part, model_id=run.model_id, threshold_by=threshold_by) for part in parts)
    return functools.reduce(Survey.merge, surveys)


def _detail(
    run: Run, indices: Iterable[int], *, query: "ray.ObjectRef[Query]", left_out: "ray.ObjectRef[pa.Array]"
) -> Detail:
    planned: Query = ray.get(query)
    parts = _parts(run, indices, threshold_by=planned.threshold_by, left_out=left_out)
    return functools.reduce(Detail.merge, (count_detail(part, planned) for part in parts))


def _observed(
    run: Run, indices: Iterable[int], *, calibration: Calibration, left_out: "ray.ObjectRef[pa.Array]"
) -> Counter[AlarmKey]:
    parts = _parts(run, indices, threshold_by=calibration.threshold_by, left_out=left_out)
    return functools.reduce(operator.add, (count_observed(part, calibration) for part in parts))


def _parts(
    run: Run, indices: Iterable[int], *, threshold_by: str | None, left_out: "ray.ObjectRef[pa.Array]"
) -> Iterator[pa.Table]:
    """Yield the scores of some slices without those of images that are left out, by sha256."""
    digests: pa.Array = ray.get(left_out)
    columns = score_columns(threshold_by)
    for index in indices:
        if len(digests):
            part = read_scores(run, index, columns=[*columns, "sha256"])
            yield part.filter(pc.invert(pc.is_in(part["sha256"], value_set=digests)))
        else:
            yield read_scores(run, index, columns=columns)


def _write(calibration: Calibration, *, bundle: Bundle, images: pa.Table, output: str) -> None:
    """Write the calibrated bundle, unless it stands there already."""
    if exists(join_uri(output, "config.json")):
        before = read_bundle(output)
        same = before.calibration is not None and before.calibration.calibration_id == calibration.calibration_id
        if not same or before.model_id != bundle.model_id:
            msg = f"{output} holds a bundle with another calibration; choose another output."
            raise BundleError(msg)
        logger.info("%s holds this calibration already, nothing to do.", output)
        return
    write_calibrated(output, bundle=bundle, calibration=calibration, images=images)
    logger.info("Calibrated bundle written to %s (calibration_id %s)", output, calibration.calibration_id[:12])


def _log(calibration: Calibration) -> None:
    """Say what decides, with its uncertainty, group by group."""
    decision = calibration.decision
    names: list[str | None] = [*calibration.groups] if calibration.threshold_by else [None]
    if calibration.num_unscored:
        logger.warning("%d normals have no score and are left out; see the column error", calibration.num_unscored)
    for name in names[:SHOWN_GROUPS]:
        group = calibration.group(name)
        observed = calibration.observed(name)
        for statistic in decision.statistics:
            found = group.statistics[statistic].find(decision.threshold_percentile, decision.variant)
            assert found is not None
            low, high = found.rate_interval
            logger.info(
                "%s: %s > %.6g (percentile %s, %s, N %d%s); false-positive rate %.3g to %.3g %% (95 %%)",
                "all normals" if name is None else f"{calibration.threshold_by}={name}",
                statistic,
                found.value,
                decision.threshold_percentile,
                decision.variant,
                group.num_kept,
                ", too few: forced" if found.short else "",
                100 * low,
                100 * high,
            )
        if observed is not None:
            logger.info(
                "rule %s calls %d of %d normals anomalous", decision.rule, observed.num_alarms, group.num_normals
            )
    if len(names) > SHOWN_GROUPS:
        logger.info("and %d more groups, see calibration.json", len(names) - SHOWN_GROUPS)
