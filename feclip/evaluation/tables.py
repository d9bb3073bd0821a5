"""An evaluation for people: Markdown with a table of images, of pixels, of decisions, and the paper beside it."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from feclip.evaluation.cells import code, header, line, on_screen, plain
from feclip.evaluation.judging import FPRS
from feclip.evaluation.paper import PaperRow
from feclip.evaluation.results import Evaluation, Judgement, Spread, spread

__all__ = ["markdown", "screen"]

IMAGE_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "image_auroc": "AUROC",
        "image_ap": "AP",
        "image_f1_max": "F1 max",
        "image_tpr_at_fpr_0.01": "TPR at 1 % FPR",
        "image_tpr_at_fpr_0.001": "TPR at 0.1 % FPR",
        "image_fpr_at_tpr_0.95": "FPR at 95 % TPR",
    }
)
PIXEL_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "pixel_auroc": "AUROC",
        "pixel_ap": "AP",
        "pixel_f1_max": "F1 max",
        "aupro": "AUPRO, exact",
        "aupro_community": "AUPRO, community",
    }
)
DECIDED_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "decided_tp": "anomalous, called so",
        "decided_fn": "anomalous, missed",
        "decided_fp": "normal, false alarm",
        "decided_tn": "normal, passed",
        "decided_tpr": "TPR",
        "decided_fpr": "FPR",
    }
)
COUNTS = ("decided_tp", "decided_fn", "decided_fp", "decided_tn")
COMPARED: Mapping[str, str] = MappingProxyType(
    {
        "image_auroc": "image AUROC",
        "image_ap": "image AP",
        "pixel_auroc": "pixel AUROC",
        "aupro_community": "PRO (ours: community)",
        "aupro": "AUPRO, exact",
    }
)
MARK = "†"
PAPER_BACKBONE, PAPER_SIZE, PAPER_RUNS = "ViT-L-14-336", 336, 5


def markdown(evaluation: Evaluation, *, paper: PaperRow | None = None) -> str:
    """Return the whole report."""
    lines = ["# Evaluation", "", *_head(evaluation), "", *_tables(evaluation)]
    if len(evaluation.judgements) > 1:
        lines += _by_bundle(evaluation)
    if paper is not None:
        lines += _comparison(evaluation, paper)
    return "\n".join(lines).rstrip() + "\n"


def screen(evaluation: Evaluation, *, paper: PaperRow | None = None) -> str:
    """Return what fits on a screen: the tables without head and intervals, their columns aligned."""
    lines = [*_tables(evaluation, with_intervals=False), *(_comparison(evaluation, paper) if paper is not None else ())]
    return on_screen(lines)


def _head(evaluation: Evaluation) -> Iterator[str]:
    for judgement in evaluation.judgements:
        thresholds = f", thresholds {judgement.calibration_id[:12]}" if judgement.calibration_id else ""
        yield f"- bundle: {code(judgement.bundle)} (model_id {judgement.model_id[:12]}{thresholds})"
        yield f"- preset: {judgement.preset_text}"
        mean = judgement.mean
        yield (
            f"- images: {mean.num_images} ({mean.num_images - mean.num_anomalous} normal, {mean.num_anomalous} "
            f"anomalous), categories: {len(judgement.categories)}, data digest {judgement.data_digest}"
        )
        if judgement.num_trained_images:
            yield (
                f"- **{MARK} {judgement.num_trained_images} of {mean.num_images} images trained, selected or "
                "calibrated this bundle: no number below says what it is worth on others**"
            )
    yield f"- data: {code(evaluation.source)}"
    yield f"- split: {_split_text(evaluation)}"
    yield from (f"- {note}" for note in _notes(evaluation.judgements[0]))


def _split_text(evaluation: Evaluation) -> str:
    return "all test images" if evaluation.split is None else f"{evaluation.split}, as protocol b divides the images"


def _notes(judgement: Judgement) -> Iterator[str]:
    mean = judgement.mean
    if mean.num_masked == 0:
        yield "pixels: no mask is known, so images alone are judged"
    elif mean.num_masked < mean.num_images:
        yield (
            f"pixels: judged on {mean.num_masked} images whose mask is known; {mean.num_anomalous} images are "
            f"anomalous, and {mean.num_anomalous - mean.num_masked_anomalous} of them have no mask"
        )
    fewest = min(result.num_images - result.num_anomalous for result in judgement.categories.values())
    yield from (
        f"TPR at {100 * fpr:g} % FPR: a category has {fewest} normal images, so not one false alarm is allowed in it"
        for fpr in FPRS
        if fewest * fpr < 1
    )


def _tables(evaluation: Evaluation, *, with_intervals: bool = True) -> Iterator[str]:
    known = {name for result in evaluation.result(None) for name in result.metrics}
    for title, columns in (("Images", IMAGE_COLUMNS), ("Pixels", PIXEL_COLUMNS), ("Decisions", DECIDED_COLUMNS)):
        shown = {name: label for name, label in columns.items() if name in known}
        if shown:
            yield from _table(evaluation, shown, title=title, with_intervals=with_intervals)


def _table(evaluation: Evaluation, columns: Mapping[str, str], *, title: str, with_intervals: bool) -> Iterator[str]:
    yield f"## {title}{_marked_title(evaluation)}"
    yield ""
    yield from header(["category", *columns.values()])
    rows = [(name, evaluation.result(name)) for name in evaluation.categories]
    last = "all" if title == "Decisions" else "mean"
    for name, results in [*rows, (last, evaluation.result(None))] if len(rows) > 1 else rows:
        found = {metric: spread(results, metric) for metric in columns}
        yield line([plain(name), *(_cell(evaluation, *item, with_interval=with_intervals) for item in found.items())])
    yield ""


def _by_bundle(evaluation: Evaluation) -> Iterator[str]:
    columns = {
        "image_auroc": "image AUROC",
        "image_ap": "image AP",
        "pixel_auroc": "pixel AUROC",
        "aupro": "AUPRO, exact",
        "aupro_community": "AUPRO, community",
    }
    shown = {name: label for name, label in columns.items() if name in evaluation.judgements[0].mean.metrics}
    yield f"## Mean over the categories, by bundle{_marked_title(evaluation)}"
    yield ""
    yield from header(["bundle", *shown.values()])
    for judgement in evaluation.judgements:
        cells = [_cell(evaluation, metric, spread([judgement.mean], metric)) for metric in shown]
        yield line([code(judgement.bundle.rstrip("/").rpartition("/")[2]), *cells])
    yield ""


def _comparison(evaluation: Evaluation, paper: PaperRow) -> Iterator[str]:
    """Yield the paper's numbers, ours and the difference, in per cent, and why they may not compare."""
    theirs = paper.metrics
    ours = {name: found for name in COMPARED if (found := spread(evaluation.result(None), name)) is not None}
    yield f"## Beside the paper: {paper.title}, per cent{_marked_title(evaluation)}"
    yield ""
    yield from header(["", *COMPARED.values()])
    yield line(["paper", *(f"{theirs[name]:.1f}" if name in theirs else "-" for name in COMPARED)])
    mark = f" {MARK}" if evaluation.is_marked else ""
    yield line(["ours", *(f"{100 * ours[name].value:.1f}{mark}" if name in ours else "-" for name in COMPARED)])
    differences = {name: 100 * ours[name].value - theirs[name] for name in theirs if name in ours}
    yield line(
        ["difference", *(f"{differences[name]:+.1f}{mark}" if name in differences else "-" for name in COMPARED)]
    )
    yield ""
    yield (
        f"The paper: trained on {paper.trained_on}, all test images of {len(paper.categories)} categories, "
        f"{PAPER_BACKBONE} at {PAPER_SIZE} px, mean of {PAPER_RUNS} runs. The comparison means something only where "
        "ours is the same. Here:"
    )
    yield from (f"- {difference}" for difference in _departures(evaluation, paper))
    yield ""


def _departures(evaluation: Evaluation, paper: PaperRow) -> Iterator[str]:
    missing = sorted(paper.categories - set(evaluation.categories))
    if missing:
        yield f"{len(missing)} of {len(paper.categories)} categories are absent here: {', '.join(missing)}"
    if evaluation.split is not None:
        yield f"split {evaluation.split} is a part of the test images"
    if len(evaluation.judgements) != PAPER_RUNS:
        yield f"{len(evaluation.judgements)} bundle(s) instead of {PAPER_RUNS} runs"
    recipes = {(judgement.recipe["backbone"], judgement.recipe["image_size"]) for judgement in evaluation.judgements}
    for backbone, image_size in sorted(recipes - {(PAPER_BACKBONE, PAPER_SIZE)}):
        yield f"{plain(backbone)} at {image_size} px"
    for trained_on in sorted({str(judgement.recipe["trained_on"] or "nothing") for judgement in evaluation.judgements}):
        yield f"trained on {plain(trained_on)}"
    if evaluation.is_marked:
        yield f"{MARK} images that made the bundle judge it"


def _cell(evaluation: Evaluation, metric: str, found: Spread | None, *, with_interval: bool = True) -> str:
    if found is None:
        return "-"
    digits = 0 if metric in COUNTS else 3
    text = f"{found.value:.{digits}f}"
    if found.deviation is not None:
        text += f" ± {found.deviation:.{max(digits, 1)}f}"
    elif with_interval and found.interval is not None:
        text += f" ({found.interval[0]:.3f} to {found.interval[1]:.3f})"
    return f"{text} {MARK}" if evaluation.is_marked else text


def _marked_title(evaluation: Evaluation) -> str:
    return f" {MARK} with images that made the bundle" if evaluation.is_marked else ""
