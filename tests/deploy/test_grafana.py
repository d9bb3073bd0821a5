"""The dashboard shows every metric that jobs have, and no other."""

import json
import re
from typing import Any

import pytest
from deployed import REPOSITORY

from feclip.cluster.monitoring import METRICS

EXPORTED = re.compile(r"\bray_(feclip_[a-z_]+)\{")
LABELS = re.compile(r"\{([^}]*)\}")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return json.loads((REPOSITORY / "deploy" / "grafana" / "feclip.json").read_text())


def test_panels_name_the_metrics_that_the_code_defines(dashboard: dict[str, Any]) -> None:
    shown = {name for query in queries(dashboard) for name in EXPORTED.findall(query)}
    assert shown == METRICS.keys()


def queries(dashboard: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(found) > 10
    return found


def test_every_series_is_chosen_by_run_and_kind_and_grouped_by_tags_that_exist(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        assert query.count("(") == query.count(")")
        assert query.count("ray_feclip_") == len(EXPORTED.findall(query))  # each with a selector
        assert {*LABELS.findall(query)} == {'run=~"$run", job_kind=~"$job_kind"'}
        tags = {tag for name in EXPORTED.findall(query) for tag in METRICS[name].tags} | {"run", "job_kind"}
        for grouped in re.findall(r"\b(?:by|ignoring) \(([^)]*)\)", query):
            assert {*grouped.split(", ")} <= tags, query


def test_the_data_source_is_the_viewer_s_choice(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "run", "job_kind"}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen
            assert all(target["datasource"] == chosen for target in panel["targets"])
            assert panel["title"]
            assert panel["description"]
    places = [tuple(panel["gridPos"][key] for key in ("x", "y")) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_names_follow_the_habits_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name
        assert name.startswith("feclip_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not {"uri", "image", "slice", "row_id"} & set(metric.tags)  # nothing of an image
        assert metric.text.endswith(".")
