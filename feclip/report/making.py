"""One report, from its config to the page that stands.

What is written, in this order; the page that stood there is deleted first, so a broken report is not taken for whole:

    <output>/images/<row_id>.jpg, <row_id>-map.webp    what is shown, and the heatmap that lies on it
    <output>/plotly.min.js                             the library of plots
    <output>/index.html                                the page
"""

import dataclasses
import logging
import sys
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feclip.bundle import EVALUATIONS_FOLDER, read_bundle
from feclip.config import ReportConfig
from feclip.data import absolute_uri, check_writable, delete, join_uri, write_bytes
from feclip.errors import ConfigError, DataError
from feclip.pages import PLOTLY_FILE, plotly_script, render_page
from feclip.report.comparisons import Comparison, TailPoint, compare_parts, compare_tail, tail_measures
from feclip.report.content import card_rows, chart_values, decision_values, distribution_values, heat_values
from feclip.report.counting import MAX_GROUPS, NO_VALUE, OTHER_GROUPS, Cube
from feclip.report.finding import print_found
from feclip.report.opened import ScoredTable, partition_values
from feclip.report.overlays import HeatScale
from feclip.report.overview import error_rows, facts, totals
from feclip.report.pictures import Picture, has_maps, map_threshold, write_pictures
from feclip.report.survey import Survey, count_normals, survey_table
from feclip.report.training import read_evaluations, training_content
from feclip.score_table import unpack_token_maps

__all__ = ["report"]

logger = logging.getLogger(__name__)

PAGE_FILE = "index.html"


def report(config: ReportConfig) -> str | None:
    """Make one report, or print what was looked for.

    Returns:
        URI of the page; None where rows were printed.

    Raises:
        FeclipError: One line that says what is wrong; no page is left behind then.
    """
    if config.find is not None:
        print_found(ScoredTable.opened(config), text=config.find, to=sys.stdout)
        return None
    assert config.output is not None
    output = absolute_uri(config.output)
    for name in ("scores", "bundle", "normals"):
        uri = getattr(config, name)
        if uri is not None and absolute_uri(uri).rstrip("/") == output.rstrip("/"):
            msg = f"output must be another place than {name} {uri}, which stays as it is."
            raise ConfigError(msg)
    if config.scores is None:
        return _training_page(config, output=output)
    return _scores_page(ScoredTable.opened(config), config=config, output=output)


def _scores_page(table: ScoredTable, *, config: ReportConfig, output: str) -> str:
    normals = table.normals(config)
    page = _begun(output)
    content = _content(table, normals, config=config, output=output)
    _finish(page, "report.html.jinja", output=output, content=content)
    logger.info("Report of %d images written to %s", table.run.num_rows, page)
    return page


def _training_page(config: ReportConfig, *, output: str) -> str:
    bundle = read_bundle(absolute_uri(config.bundle))
    evaluations = read_evaluations(bundle)
    page = _begun(output)
    for index, evaluation in enumerate(evaluations):
        if evaluation.scores is None:
            continue
        scored = dataclasses.replace(config, scores=evaluation.scores)
        where = join_uri(output, EVALUATIONS_FOLDER, evaluation.name)
        try:
            _scores_page(ScoredTable.opened(scored), config=scored, output=where)
        except DataError as error:  # such as groups without thresholds; its numbers are shown all the same
            logger.warning("No page of the images of evaluation %s: %s", evaluation.name, error)
            evaluations[index] = dataclasses.replace(evaluation, scores=None)
    content = training_content(bundle, evaluations=evaluations)
    _finish(page, "training.html.jinja", output=output, content=content)
    logger.info("Report of %d epochs and %d evaluations written to %s", len(bundle.metrics), len(evaluations), page)
    return page


def _begun(output: str) -> str:
    """Prove that a folder can be written and take away the page that may stand there; return where the new one goes."""
    check_writable(output)
    page = join_uri(output, PAGE_FILE)
    delete(page)
    return page


def _finish(page: str, template: str, *, output: str, content: Mapping[str, Any]) -> None:
    write_bytes(join_uri(output, PLOTLY_FILE), plotly_script().encode())
    html = render_page(template, package="feclip.report", plotly_file=PLOTLY_FILE, **content)
    write_bytes(page, html.encode(errors="backslashreplace"))


def _content(table: ScoredTable, normals: ScoredTable | None, *, config: ReportConfig, output: str) -> dict[str, Any]:
    """Read the table and write its pictures; return what the template names."""
    group_column = table.group_column(config.group_by, date_column=config.date_column)
    calibration = table.calibration
    survey = survey_table(table, config=config, group_column=group_column, count_alarms=normals is None)
    reference, normal_counts = (None, None) if normals is None else count_normals(normals, survey)
    chart = chart_values(survey, reference=reference, is_calibrated=calibration is not None)
    gallery = _gallery(table, survey, config=config, output=output, group_column=group_column, chart=chart)
    comparisons, tail = _comparisons(table, survey, reference=reference, group_column=group_column)
    decision = decision_values(table)
    data = {
        "chart": chart,
        "decision": decision,
        "statistics": distribution_values(survey, reference=normal_counts, calibration=calibration),
        "names": {"group": group_column, "date": config.date_column},
        **gallery,
        "drift": [
            {"name": item.name, "psi": item.drift.psi, "ks": item.drift.ks, "verdict": item.drift.verdict.name}
            for item in comparisons
            if item.kind == "date"
        ],
    }
    return {
        "title": f"Scores of {table.run.source.get('archive') or table.run.source.get('manifest')}",
        "facts": facts(table, seed=config.seed),
        "totals": totals(survey),
        "decision": decision,
        "errors": error_rows(table, survey),
        "comparisons": comparisons,
        "tail": tail,
        "tail_measures": tail_measures(tail) if len({point.group for point in tail}) == 1 else None,
        "num_normals": None if reference is None else int(reference.total().sum()),
        "group_column": group_column,
        "has_dates": len(chart["dates"]) > 1,
        "has_groups": len(chart["groups"]) > 1,
        "joined_groups": MAX_GROUPS if OTHER_GROUPS in chart["groups"] else None,
        "has_maps": gallery["heat"] is not None,
        "with_images": config.with_images,
        "seed": config.seed,
        "data": data,
    }


def _gallery(
    table: ScoredTable,
    survey: Survey,
    *,
    config: ReportConfig,
    output: str,
    group_column: str | None,
    chart: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the pictures of the rows to show; return their cards, which gallery shows which, and the colours."""
    shown = table.rows(row_id for rows in survey.galleries.values() for row_id in rows)
    scales = _scales(table, survey, shown=shown)
    pictures: Mapping[int, Picture] = {}
    if config.with_images:
        logger.info("Fetching %d images", len(shown))
        pictures = write_pictures(table, shown, scales=scales, output=output, image_side=config.image_side)
    cards = card_rows(
        table,
        shown,
        pictures=pictures,
        group_column=group_column,
        date_column=config.date_column,
        chart=chart,
        dates=survey.cube,
    )
    places = {card["id"]: index for index, card in enumerate(cards)}
    galleries = {name: [places[row_id] for row_id in rows] for name, rows in survey.galleries.items()}
    return {"cards": cards, "galleries": galleries, "heat": heat_values(_common(scales))}


def _comparisons(
    table: ScoredTable, survey: Survey, *, reference: Cube | None, group_column: str | None
) -> tuple[list[Comparison], list[TailPoint]]:
    """Return whether thresholds still hold: by the scores of the normals, or else by what the record holds."""
    calibration = table.calibration
    if calibration is None:
        return [], []
    if reference is None:
        return [], compare_tail(calibration, survey.alarms)
    by = calibration.threshold_by
    return compare_parts(survey.cube, reference, group_column=group_column, threshold_by=by), []


def _scales(table: ScoredTable, survey: Survey, *, shown: pa.Table) -> dict[int, HeatScale]:
    """Return the colours of each shown map: one scale for all, with the outline of its own group's threshold."""
    if not has_maps(shown) or not len(shown):
        return {}
    by = None if table.calibration is None else table.calibration.threshold_by
    groups = partition_values(shown, by, missing=NO_VALUE).tolist()
    outlines = {group: map_threshold(table, None if by is None else group) for group in {*groups}}
    known = [value for value in outlines.values() if value is not None]
    sample = shown.filter(pc.is_in(shown["row_id"], value_set=pa.array(survey.galleries["random"], pa.int64())))
    scale = HeatScale.fitted(unpack_token_maps(sample), outline=max(known, default=None))
    rows = zip(shown["row_id"].to_pylist(), groups, strict=True)
    return {row_id: dataclasses.replace(scale, outline=outlines[group]) for row_id, group in rows}


def _common(scales: Mapping[int, HeatScale]) -> HeatScale | None:
    """Return the scale of all maps, with an outline where it is the same for all."""
    if not scales:
        return None
    first = next(iter(scales.values()))
    outlines = {scale.outline for scale in scales.values()}
    return dataclasses.replace(first, outline=first.outline if len(outlines) == 1 else None)
