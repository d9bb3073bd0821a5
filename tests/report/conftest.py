"""A calibrated bundle, an archive that has drifted, and one report of it."""

from pathlib import Path

import pyarrow as pa
import pytest
from small_plant import NUM_NORMALS, NUM_ROWS, Plant, draw_rows
from small_table import write_table

from feclip.archive import read_scores
from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle, write_calibrated
from feclip.calibration import CalibrationOptions, Rule, calibrate
from feclip.config import DataConfig, FinetuneConfig, ModelConfig, OptimConfig, ReportConfig
from feclip.report import report


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A zero-shot bundle of the demonstration backbone, without thresholds."""
    folder = str(tmp_path_factory.mktemp("bundle"))
    model = ModelConfig(backbone="feclip-demo").settled()
    config = FinetuneConfig(output=folder, model=model, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"]})
    write_bundle(folder, model=build_model(model, seed=3), config=config, images=images, metrics=[])
    return read_bundle(folder)


@pytest.fixture(scope="session")
def plant(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A calibrated bundle with its normals beside, and an archive whose last month has drifted."""
    home = tmp_path_factory.mktemp("plant")
    calibrated = home / "calibrated"
    normals = draw_rows(NUM_NORMALS, seed=1, archive=None, anomalous=0)
    run = write_table(str(calibrated / "_normals"), bundle=bundle, rows=normals)
    tables = [read_scores(run, index) for index in range(run.num_slices)]
    options = CalibrationOptions(percentiles=("99", "99.5"), rule=Rule.image)
    calibration = calibrate(tables, model_id=bundle.model_id, options=options, statistic_options=run.statistic_options)
    write_calibrated(
        str(calibrated), bundle=bundle, calibration=calibration, images=pa.table({"uri": ["/n.png"], "sha256": ["1"]})
    )
    rows = draw_rows(NUM_ROWS, seed=2, archive=home / "archive", anomalous=0.05)
    scores = str(home / "scores")
    run = write_table(scores, bundle=bundle, rows=rows)
    return Plant(calibrated=read_bundle(str(calibrated)), scores=scores, run=run, rows=rows)


@pytest.fixture(scope="session")
def site(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one report with images."""
    output = tmp_path_factory.mktemp("site") / "page"
    report(plant.config(output, num_shown=24))
    return output


@pytest.fixture(scope="session")
def training_site(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of a training of two epochs."""
    home = tmp_path_factory.mktemp("training")
    config = FinetuneConfig(
        output=str(home / "bundle"),
        data=DataConfig(root="/pictures"),
        model=ModelConfig(backbone="feclip-demo"),
        optim=OptimConfig(epochs=2),
    )
    metrics = [{"epoch": epoch, "loss": 2 / epoch, "focal_loss": 0.2 / epoch, "aupro": 0.5} for epoch in (1, 2)]
    images = pa.table({"uri": ["/a.png"], "role": ["trained"]})
    write_bundle(str(home / "bundle"), model=bundle.build(), config=config, images=images, metrics=metrics)
    report(ReportConfig(bundle=str(home / "bundle"), output=str(home / "page")))
    return home / "page"
