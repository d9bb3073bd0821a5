"""The whole story on generated pictures, as one job: what each of its steps leaves is what the step's own job leaves.

pictures -> finetune -> calibrate -> score an archive -> evaluate on families that nothing has seen -> a page, a screen
"""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from feclip.archive import finished_run, read_decisions
from feclip.bundle import EVALUATION_METRICS_FILE, read_bundle
from feclip.calibration import CalibrationOptions, Percentiles
from feclip.cli import parse_config
from feclip.cluster.calibrate import calibrate
from feclip.cluster.evaluate import evaluate
from feclip.cluster.finetune import finetune
from feclip.cluster.paths import absolute_path
from feclip.cluster.score import score
from feclip.cluster.session import session
from feclip.config import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    EvaluationDataConfig,
    FinetuneConfig,
    Names,
    ReportConfig,
    ScoreConfig,
    ScoringConfig,
)
from feclip.demo import RECIPE, write_pictures
from feclip.report import report

__all__ = ["demo"]

logger = logging.getLogger(__name__)

PERCENTILE = "99"  # needs 100 normals
SCORING = ScoringConfig(threads_per_actor=2)  # small pictures: decoding leaves its core idle
SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


def demo(config: DemoConfig) -> str:
    """Run the demonstration, print what came of it and return its folder.

    Raises:
        FeclipError: One line that says what is wrong; submitted again, the demonstration goes on.
    """
    output = absolute_path("output", config.output).rstrip("/")
    pictures = f"{output}/pictures"
    trained, calibrated, scores = f"{output}/bundle", f"{output}/calibrated", f"{output}/scores"
    seconds: dict[str, float] = {}
    with contextlib.ExitStack() as steps:
        with _timed("pictures", seconds):
            write_pictures(Path(pictures))
        with _timed("start of Ray", seconds):
            steps.enter_context(session(config.cluster))
        with _timed("finetune", seconds):
            finetune(_recipe(config, root=f"{pictures}/train", output=trained))
        with _timed("calibrate", seconds):
            calibrate(
                CalibrateConfig(
                    bundle=trained,
                    normals=f"{pictures}/normals/images",
                    output=calibrated,
                    calibrate=CalibrationOptions(percentiles=Percentiles((PERCENTILE,))),
                    score=SCORING,
                    cluster=config.cluster,
                )
            )
        with _timed("score", seconds):
            archive = f"{pictures}/archive/images"
            score(ScoreConfig(bundle=calibrated, archive=archive, output=scores, score=SCORING, cluster=config.cluster))
        with _timed("evaluate", seconds):
            judged = evaluate(
                EvaluateConfig(
                    bundle=Names((calibrated,)),
                    data=EvaluationDataConfig(root=f"{pictures}/unseen"),
                    output=f"{output}/evaluation",
                    score=SCORING,
                    cluster=config.cluster,
                )
            )
    with _timed("report", seconds):
        report(ReportConfig(bundle=calibrated, scores=scores, output=f"{output}/report"))
    sys.stdout.write(_screen(output, calibrated=calibrated, scores=scores, judged=judged, seconds=seconds))
    return output


@contextlib.contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    logger.info("Demonstration: %s", step)
    started = time.monotonic()
    yield
    seconds[step] = time.monotonic() - started


def _recipe(config: DemoConfig, *, root: str, output: str) -> FinetuneConfig:
    own = {"data.root": root, "output": output, "seed": config.seed, "optim.epochs": config.epochs}
    flags = [f"--{name}={value}" for name, value in own.items()]
    recipe = ["--config", str(RECIPE), "--optim.prefix_cache=memory", *flags]
    return dataclasses.replace(parse_config(FinetuneConfig, recipe, prog="demo", about=""), cluster=config.cluster)


def _screen(output: str, *, calibrated: str, scores: str, judged: str, seconds: dict[str, float]) -> str:
    """Return what a newcomer reads at the end."""
    steps = ", ".join(f"{step} {took:.0f}" for step, took in seconds.items())
    mean = pq.read_table(f"{judged}/{EVALUATION_METRICS_FILE}").filter(pc.field("category").is_null())
    values = dict(zip(mean["metric"].to_pylist(), mean["value"].to_pylist(), strict=True))
    metrics = ", ".join(f"{title} {values[name]:.3f}" for name, title in SHOWN.items())
    found = _found(output, scores=scores, calibrated=calibrated)
    return (
        f"\nDemonstration done in {sum(seconds.values()):.0f} s ({steps})\n"
        f"  families that nothing has seen  {metrics}\n"
        f"  archive, percentile {PERCENTILE}          {found}\n"
        f"  bundle with thresholds          {calibrated}\n"
        f"  score table and decisions       {scores}\n"
        f"  evaluation                      {judged}/metrics.md\n"
        f"  page to look at                 {output}/report/index.html\n"
    )


def _found(output: str, *, scores: str, calibrated: str) -> str:
    """Return in words which images of the archive were called anomalous, held against its labels."""
    labels = pyarrow.csv.read_csv(f"{output}/pictures/archive/labels.csv")
    truth = {f"{output}/pictures/archive/images/{row['path']}": row["label"] == 1 for row in labels.to_pylist()}
    bundle = read_bundle(calibrated)
    assert bundle.calibration is not None
    run = finished_run(scores, model_id=bundle.model_id)
    tables = [
        read_decisions(run, index, calibration_id=bundle.calibration.calibration_id, columns=["uri", "pred_label"])
        for index in range(run.num_slices)
    ]
    decided = [row for table in tables for row in table.to_pylist()]
    called = [(truth[row["uri"]], row["pred_label"]) for row in decided]
    defective = [label for is_defective, label in called if is_defective]
    normal = [label for is_defective, label in called if not is_defective]
    return (
        f"{defective.count(True)} of {len(defective)} defective images called anomalous, "
        f"{normal.count(True)} of {len(normal)} normal ones"
    )
