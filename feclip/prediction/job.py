"""The command: score what a command line names, write a line for each image, and draw overlays where wanted."""

import csv
import json
import logging
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from feclip.config import OutputFormat, PredictConfig
from feclip.errors import DataError, RunError, one_line
from feclip.prediction.inputs import Inputs, PlacedImage
from feclip.prediction.prediction import FailedPrediction, Prediction
from feclip.prediction.predictor import NamedImage, Predictor

__all__ = ["predict"]

logger = logging.getLogger(__name__)

SCORES = ("image_score", "image_logit", "map_max", "map_topk_mean")


def predict(config: PredictConfig) -> None:
    """Score images in this process and write a line for each to standard output, errors to standard error too.

    Raises:
        RunError: At the end, if an image has no scores, no label, or no overlay that was wanted.
        FeclipError: If the bundle, the device, storage or a name is not what it must be.
    """
    inputs = Inputs(config.images, listing=config.listing, save=config.save)
    with Predictor.load(
        config.bundle,
        device=str(config.device),
        precision=str(config.precision),
        batch_size=config.batch_size,
        pretrained=config.pretrained,
    ) as predictor:
        rows = _Rows(config.format, statistics=tuple(map(str, predictor.decides_on)))
        num_images = num_failed = 0
        groups = set[str | None]()
        for row in _rows(predictor, inputs, groups=groups):
            num_images += 1
            num_failed += row["error"] is not None
            rows.write(row)
    if predictor.bundle.model.nouns is not None:
        logger.info(predictor.bundle.model.tell_nouns(groups))
    if num_failed:
        msg = f"{num_failed} of {num_images} images could not be predicted; each is named above."
        raise RunError(msg)


def _rows(predictor: Predictor, inputs: Inputs, *, groups: set[str | None]) -> Iterator[dict[str, Any]]:
    """Yield what is known of each image after its overlay is written, and note the groups that are told of."""
    waiting, model = deque[PlacedImage](), predictor.bundle.model

    def named() -> Iterator[NamedImage]:
        for placed in inputs:
            waiting.append(placed)
            if model.nouns is not None:
                found = model.groups_to_tell({*groups, placed.image.columns.get(model.noun_column)})
                groups.clear()
                groups.update(found)
            yield placed.image

    for found in predictor.predict_all(named()):
        overlay = waiting.popleft().overlay
        if isinstance(found, FailedPrediction):
            yield {"image": found.uri, "error": one_line(str(found.error))}
            continue
        yield _scored_row(found, overlay=overlay)


def _scored_row(found: Prediction, *, overlay: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"image": found.uri, "label": found.label}
    row |= {name: getattr(found, name) for name in SCORES}
    row |= {f"threshold_{name}": value for name, value in found.thresholds.items()}
    row |= {"width": found.width, "height": found.height, "overlay": None, "error": None}
    if overlay is not None:
        try:
            row["overlay"] = found.save(overlay)
        except DataError as error:
            row["error"] = one_line(str(error))
    return row


class _Rows:
    """Writes rows to standard output as they come.

    Args:
        kind: Their form.
        statistics: What labels rest on.
    """

    def __init__(self, kind: OutputFormat, *, statistics: tuple[str, ...]) -> None:
        self._kind = kind
        self._statistics = statistics
        thresholds = [f"threshold_{name}" for name in statistics]
        names = ["image", "label", *SCORES, *thresholds, "width", "height", "overlay", "error"]
        self._csv = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        self._names = names
        if kind is OutputFormat.csv:
            self._csv.writeheader()

    def write(self, row: dict[str, Any]) -> None:
        """Write one row; an error also goes to standard error."""
        if row["error"] is not None:
            sys.stderr.write(f"{row['error']}\n")
        whole = {name: row.get(name) for name in self._names}
        if self._kind is OutputFormat.csv:
            written = {name: one_line(value) if isinstance(value, str) else value for name, value in whole.items()}
            self._csv.writerow(written)
        elif self._kind is OutputFormat.json:
            sys.stdout.write(json.dumps(whole) + "\n")
        elif "image_score" in row:
            sys.stdout.write(self._text(row) + "\n")
        sys.stdout.flush()

    def _text(self, row: dict[str, Any]) -> str:
        """Return ``anomalous  P 0.931  image_logit 2.605 > 1.200  a.jpg``."""
        compared = []
        for name in self._statistics or ("image_logit",):
            threshold = row.get(f"threshold_{name}")
            sign = ">" if threshold is not None and row[name] > threshold else "<="
            compared.append(f"{name} {row[name]:.3f}" + ("" if threshold is None else f" {sign} {threshold:.3f}"))
        label = row["label"] or "no threshold"
        saved = "" if row["overlay"] is None else f" -> {one_line(row['overlay'])}"
        score = f"P(abnormal) {row['image_score']:.4f}"
        return f"{label:{len('anomalous')}}  {score}  {', '.join(compared)}  {one_line(row['image'])}{saved}"
