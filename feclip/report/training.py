"""The page of a training: curves of loss and held-out metrics, the images it was made with, its evaluations.

Evaluations that stand beside the bundle are shown by category; each that this very model scored also gets a page of
its scores, with the best and the worst of its images.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from feclip.archive import find_run
from feclip.bundle import EVALUATION_METRICS_FILE, EVALUATION_SCORES_FOLDER, EVALUATIONS_FOLDER, Bundle, Lineage
from feclip.config import flat_fields
from feclip.data import FolderEntry, exists, join_uri, list_children, parse_parquet, read_bytes
from feclip.errors import RunError

__all__ = ["EvaluationTable", "read_evaluations", "training_content"]

ALL_CATEGORIES = "mean over categories"
EPOCH, LOSS = "epoch", "loss"


@dataclass(frozen=True, kw_only=True)
class EvaluationTable:
    """One evaluation of a bundle, by category."""

    name: str
    """Of its folder."""
    metrics: list[str]
    rows: list[tuple[str, list[float | None]]]
    """Category and its metrics; the mean over categories last."""
    split: str
    preset: str
    num_trained_images: int
    """Images that the bundle was made with: above 0 no number says what it is worth on others."""
    scores: str | None
    """Its score table, where this bundle scored it as it is."""


def read_evaluations(bundle: Bundle) -> list[EvaluationTable]:
    """Read the evaluations that stand beside a bundle.

    Raises:
        RunError: If one is damaged.
        StorageError: If storage fails.
    """
    found = []
    for folder in _folders(join_uri(bundle.uri, EVALUATIONS_FOLDER)):
        where = join_uri(folder, EVALUATION_METRICS_FILE)
        if exists(where):
            found.append(_evaluation(where, folder=folder, scores=_scores(folder, model_id=bundle.model_id)))
    return found


def training_content(bundle: Bundle, *, evaluations: list[EvaluationTable]) -> dict[str, Any]:
    """Return what the template of a training names."""
    found = dict.fromkeys(name for record in bundle.metrics for name in record if name != EPOCH)
    names = sorted(found, key=lambda name: name != LOSS)  # the whole before its terms
    model = bundle.model
    return {
        "title": f"Training of {bundle.uri}",
        "facts": {
            "Model": f"{model.backbone} at {model.image_size} px, model_id {bundle.model_id[:12]}",
            "Images as inputs": ", ".join(f"{name} {value}" for name, value in bundle.input.items()),
            "Epochs": len(bundle.metrics),
            **_lineage(bundle.lineage),
        },
        "last": [(name, bundle.metrics[-1].get(name)) for name in names],
        "images": sorted(Counter(str(role) for role in bundle.images["role"].to_pylist()).items()),
        "fields": [*flat_fields(bundle.training)],
        "evaluations": evaluations,
        "data": {
            "epochs": [record[EPOCH] for record in bundle.metrics],
            "curves": [
                {
                    "name": name,
                    "values": [record.get(name) for record in bundle.metrics],
                    "is_loss": name.endswith("loss"),
                }
                for name in names
            ],
        },
    }


def _lineage(lineage: Lineage | None) -> dict[str, str]:
    """Return in words the parent of a tuned bundle, and how it compares with it."""
    if lineage is None:
        return {}
    chosen = "the parent's own weights: no epoch was better" if lineage.epoch == 0 else f"epoch {lineage.epoch}"
    guard = {f"Guard, {domain.name} ({domain.source})": str(domain) for domain in lineage.domains}
    return {"Tuned from": f"{lineage.parent}, model_id {lineage.parent_id[:12]}; chosen: {chosen}", **guard}


def _folders(uri: str) -> Iterator[str]:
    for entry in list_children(uri):
        if isinstance(entry, FolderEntry):
            yield entry.uri.rstrip("/")


def _scores(folder: str, *, model_id: str) -> str | None:
    for uri in _folders(join_uri(folder, EVALUATION_SCORES_FOLDER)):
        run = find_run(uri)
        if run is not None and run.model_id == model_id and not run.missing(run.scores_folder):
            return uri
    return None


def _evaluation(where: str, *, folder: str, scores: str | None) -> EvaluationTable:
    try:
        rows = parse_parquet(read_bytes(where)).to_pylist()
        first = rows[0]  # the evaluation stands beside the first of its bundles
        rows = [row for row in rows if row["bundle"] == first["bundle"]]
        metrics = list(dict.fromkeys(row["metric"] for row in rows))
        categories = dict.fromkeys(row["category"] for row in rows)
        values = {(row["category"], row["metric"]): row["value"] for row in rows}
        return EvaluationTable(
            name=folder.rpartition("/")[2],
            metrics=metrics,
            rows=[
                (ALL_CATEGORIES if category is None else category, [values.get((category, name)) for name in metrics])
                for category in sorted(categories, key=lambda name: (name is None, name or ""))
            ],
            split=first["split"] or "all test images",
            preset=first["preset"],
            num_trained_images=first["num_trained_images"],
            scores=scores,
        )
    except (LookupError, TypeError, ValueError) as error:
        msg = f"{where} is no table of metrics ({type(error).__name__}); delete it, or evaluate again."
        raise RunError(msg) from error
