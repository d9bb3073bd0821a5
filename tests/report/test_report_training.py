"""The page of a training: its curves, its evaluations by category, and a page of the images of each."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_plant import Plant
from small_table import write_table

from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.config import DataConfig, FinetuneConfig, ModelConfig, OptimConfig, ReportConfig
from feclip.errors import RunError
from feclip.evaluation import RESULT_SCHEMA
from feclip.report import report

METRICS = [
    {
        "epoch": epoch,
        "loss": 2 / epoch,
        "focal_loss": 0.1 / epoch,
        "image_auroc": 0.7 + epoch / 20,
        "aupro": 0.6 + epoch / 30,
    }
    for epoch in (1, 2, 3)
]


@pytest.fixture
def trained(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with three epochs of metrics."""
    uri = str(tmp_path / "trained")
    config = FinetuneConfig(
        output=uri,
        data=DataConfig(root="/pictures"),
        model=ModelConfig(backbone="feclip-demo"),
        optim=OptimConfig(epochs=3),
    )
    images = pa.table({"uri": ["/a.png", "/b.png", "/c.png"], "role": ["trained", "trained", "selected"]})
    write_bundle(uri, model=bundle.build(), config=config, images=images, metrics=METRICS)
    return read_bundle(uri)


def write_evaluation(bundle: Bundle, *, name: str, plant: Plant) -> Path:
    """Write the metrics and the scores of an evaluation beside a bundle."""
    folder = Path(bundle.uri) / "evaluations" / name
    rows = [
        {
            "metric": metric,
            "category": category,
            "value": value if uri == bundle.uri else 0.125,
            "bundle": uri,
            "num_images": 30,
            "num_anomalous": 20,
            "preset": "feclip",
            "trained_images": False,
            "num_trained_images": 0,
        }
        for uri in (bundle.uri, "/another", None)
        for category, value in (("tile", 0.75), ("<b>capsule</b>", 0.5), (None, 0.625))
        for metric in ("image_auroc", "aupro")
    ]
    scored = [
        {**row, "category": "tile", "label": str(int(row["scores"][0] > -3)), "partitions": ("category", "label")}
        for row in plant.rows[:300]
        if "error" not in row
    ]
    write_table(str(folder / "scored" / "run"), bundle=bundle, rows=scored)
    pq.write_table(pa.Table.from_pylist(rows, schema=RESULT_SCHEMA), folder / "metrics.parquet")
    return folder


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_curves_evaluations_and_the_worst_images_of_each(trained: Bundle, plant: Plant, tmp_path: Path) -> None:
    write_evaluation(trained, name="0123abcd", plant=plant)
    output = tmp_path / "page"
    report(ReportConfig(bundle=trained.uri, output=str(output), num_shown=10))
    page = (output / "index.html").read_text()
    data = data_of(output / "index.html")
    assert data["epochs"] == [1, 2, 3]
    curves = {curve["name"]: curve for curve in data["curves"]}
    assert curves["loss"] == {"name": "loss", "values": [2, 1, 2 / 3], "is_loss": True}
    assert {name for name, curve in curves.items() if not curve["is_loss"]} == {"image_auroc", "aupro"}
    assert "<b>capsule" not in page
    assert page.index("&lt;b&gt;capsule") < page.index(">tile<") < page.index("mean over categories")
    assert page.count('<td class="number">0.75</td>') == 2
    assert "0.125" not in page, "those of another bundle"
    assert "<dt>Images that trained it</dt><dd>2</dd>" in page
    assert 'href="evaluations/0123abcd/index.html"' in page
    scores = data_of(output / "evaluations" / "0123abcd" / "index.html")
    shown = {name: [scores["cards"][place] for place in places] for name, places in scores["galleries"].items()}
    labelled = [row for row in plant.rows[:300] if "error" not in row]
    logits = [float(row["scores"][0]) for row in labelled]
    anomalous = sorted((index for index in range(len(logits)) if logits[index] > -3), key=lambda index: logits[index])
    normal = sorted((index for index in range(len(logits)) if logits[index] <= -3), key=lambda index: -logits[index])
    assert [card["id"] for card in shown["missed"]] == anomalous[:10]
    assert [card["id"] for card in shown["false_alarms"]] == normal[:10]
    assert all((card["photo"] is not None) == Path(card["uri"]).exists() for card in shown["missed"])


def test_a_zero_shot_bundle_has_a_page(bundle: Bundle, tmp_path: Path) -> None:
    report(ReportConfig(bundle=bundle.uri, output=str(tmp_path / "page")))
    assert "The bundle was not trained" in (tmp_path / "page" / "index.html").read_text()


def test_a_damaged_evaluation_is_named_and_leaves_no_page(trained: Bundle, plant: Plant, tmp_path: Path) -> None:
    folder = write_evaluation(trained, name="0123abcd", plant=plant)
    (folder / "metrics.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(RunError, match=re.escape(f"{folder}/metrics.parquet is no table of metrics")):
        report(ReportConfig(bundle=trained.uri, output=str(tmp_path / "page")))
    assert not (tmp_path / "page" / "index.html").exists()
