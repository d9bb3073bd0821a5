"""The page of a sweep: one HTML file that needs no network: table, plots, and the script that draws them."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import plotly.graph_objects as go
from markupsafe import Markup

from feclip.config import SweepConfig
from feclip.pages import plotly_script, render_page
from feclip.tuning.objective import OBJECTIVE
from feclip.tuning.proposing import study_of
from feclip.tuning.record import TrialRecord, TrialStatus
from feclip.tuning.space import Dimension, Kind, SearchSpace
from feclip.tuning.table import best_trial, final_objective, trials_table

__all__ = ["importances", "sweep_page"]

TEMPLATE = "sweep.html.jinja"
FEWEST_TRIALS = 4  # that were trained to the end, before a share of importance means anything
PLOT_HEIGHT = 420  # pixels
TICKS_OF_LOG = 5
TICKS_OF_INTEGERS = 10  # at most so many steps between them
LABEL_ANGLE = -15  # degrees, so that the names of neighbouring axes do not cover each other


def sweep_page(
    space: SearchSpace, records: Sequence[TrialRecord], *, options: SweepConfig, title: str, facts: Mapping[str, str]
) -> str:
    """Return the page as HTML.

    Args:
        space: What was searched.
        records: The trials.
        options: How it was searched; holds the weights of the objective.
        title: Heading.
        facts: What stands above the plots, by name.
    """
    judged = [record for record in records if final_objective(record, options=options) is not None]
    shares = importances(space, records, options=options)
    plots = {"Objective by trial": _history(judged, options=options)} if judged else {}
    if judged:
        name = "Parallel coordinates, stopped trials after their last epoch"
        plots[name] = _parallel_coordinates(space, judged, options=options)
    if shares:
        plots["Importance of each field (PED-ANOVA)"] = _importance_bars(shares)
    table = trials_table(space, records, options=options)
    best = best_trial(records, options=options)
    return render_page(
        TEMPLATE,
        package="feclip.tuning",
        title=title,
        facts=facts,
        best=best,
        best_objective=None if best is None else final_objective(best, options=options),
        best_values=None if best is None else {field: _shown(value) for field, value in best.values.items()},
        plots={name: json.loads(figure.to_json()) for name, figure in plots.items()},
        no_importance=None if shares else f"Importance needs {FEWEST_TRIALS} trials trained to the end that differ.",
        columns=table.column_names,
        rows=[[_shown(row[name]) for name in table.column_names] for row in table.to_pylist()],
        plotly=Markup(plotly_script()),  # noqa: S704 - the library itself
    )


def importances(space: SearchSpace, records: Sequence[TrialRecord], *, options: SweepConfig) -> dict[str, float]:
    """Return each searched field's share of what told the better trials from the rest, the largest first.

    Optuna's PED-ANOVA (Watanabe et al., 2023) on the trials that were trained to the end.

    Returns:
        Shares that sum to 1; empty for too few trials, or where all are alike.
    """
    study = study_of(space, [record for record in records if record.status is TrialStatus.done], options=options)
    values = {trial.value for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])}
    if len(values) < FEWEST_TRIALS:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _history(records: Sequence[TrialRecord], *, options: SweepConfig) -> go.Figure:
    numbers = [record.number for record in records]
    values = [final_objective(record, options=options) for record in records]
    reached, best = [], -math.inf
    for record, value in zip(records, values, strict=True):
        assert value is not None
        best = max(best, value) if record.status is TrialStatus.done else best
        reached.append(best if best > -math.inf else None)
    figure = go.Figure()
    for status in TrialStatus:
        chosen = [index for index, record in enumerate(records) if record.status is status]
        if chosen:
            figure.add_scatter(
                x=[numbers[index] for index in chosen],
                y=[values[index] for index in chosen],
                mode="markers",
                name=str(status),
            )
    figure.add_scatter(x=numbers, y=reached, mode="lines", line={"shape": "hv"}, name="best so far")
    return _laid_out(figure, x="trial", y="objective, larger is better")


def _importance_bars(shares: Mapping[str, float]) -> go.Figure:
    names = list(shares)[::-1]
    figure = go.Figure(go.Bar(x=[shares[name] for name in names], y=names, orientation="h"))
    return _laid_out(figure, x="share", y="")


def _parallel_coordinates(space: SearchSpace, records: Sequence[TrialRecord], *, options: SweepConfig) -> go.Figure:
    values = [final_objective(record, options=options) for record in records]
    axes = [_axis(dimension, [record.values[dimension.field] for record in records]) for dimension in space.dimensions]
    line = {"color": values, "colorscale": "Viridis", "showscale": True, "colorbar": {"title": {"text": OBJECTIVE}}}
    dimensions = [*axes, {"label": OBJECTIVE, "values": values}]
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, labelangle=LABEL_ANGLE))
    return _laid_out(figure, x="", y="").update_layout(margin_t=110)


def _axis(dimension: Dimension, values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis of the plot: logarithmic where values are drawn so, one tick per choice where they are chosen."""
    label = dimension.field
    if dimension.kind is Kind.choice:
        places = range(len(dimension.values))
        return {
            "label": label,
            "values": [dimension.values.index(value) for value in values],
            "tickvals": list(places),
            "ticktext": [html.escape(str(value)) for value in dimension.values],  # Plotly takes tags in texts
            "range": [0, max(1, len(places) - 1)],
        }
    low, high = (float(value) for value in dimension.values)
    if dimension.kind is Kind.int:
        steps = max(1, math.ceil((high - low) / TICKS_OF_INTEGERS))
        whole = list(range(int(low), int(high) + 1, steps))
        return {"label": label, "values": list(values), "range": [low, high], "tickvals": whole, "tickformat": "d"}
    if dimension.kind is Kind.uniform:
        return {"label": label, "values": list(values), "range": [low, high]}
    ends = (math.log10(low), math.log10(high))
    ticks = [ends[0] + (ends[1] - ends[0]) * step / (TICKS_OF_LOG - 1) for step in range(TICKS_OF_LOG)]
    return {
        "label": label,
        "values": [math.log10(value) for value in values],
        "range": list(ends),
        "tickvals": ticks,
        "ticktext": [f"{10**tick:.3g}" for tick in ticks],
    }


def _laid_out(figure: go.Figure, *, x: str, y: str) -> go.Figure:
    margin = {"l": 80, "r": 40, "t": 60, "b": 50}
    figure.update_layout(template="none", height=PLOT_HEIGHT, margin=margin)
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y, automargin=True)
    return figure


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
