#!/usr/bin/env python
"""What the recipe of ``make demo`` is worth: five seeds, before and after fine-tuning, adapter by adapter.

python benchmarks/accuracy.py data runs/accuracy
python benchmarks/accuracy.py run runs/accuracy --seeds 0,1,2,3,4
python benchmarks/accuracy.py photographs runs/accuracy --root ../shared/data
python benchmarks/accuracy.py table runs/accuracy

Two recipes against each other, on the same pictures and seeds:

python benchmarks/accuracy.py run runs/accuracy --variants both --results found --recipe+=--model.fusion_weight=0.3
python benchmarks/accuracy.py compare runs/accuracy found results

Pictures and backbone must have the digests in ``benchmarks/accuracy.frozen.json``. One file per fit is written, so a
broken study goes on where it stopped, and two processes may share it by taking different seeds.
"""

import dataclasses
import hashlib
import json
import logging
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from commands import run_commands
from PIL import Image
from scipy import stats

from feclip.building import build_images, build_model, read_labelled
from feclip.cli import parse_config
from feclip.config import DataConfig, FinetuneConfig, ModelConfig, Names, plain
from feclip.data import MANIFEST_SCHEMA, LabelledImages, Split
from feclip.demo import FAMILIES, RECIPE, write_mvtec
from feclip.errors import DataError
from feclip.model import FeClipModel
from feclip.training import PrefixSource, fit, held_out_metrics

logger = logging.getLogger("accuracy")

FROZEN = Path(__file__).with_suffix(".frozen.json")
RESULTS = Path(__file__).with_suffix(".json")
README = Path(__file__).parents[1] / "README.md"
MARKS = ("<!-- accuracy: written by benchmarks/accuracy.py table -->", "<!-- end of accuracy -->")

IMAGE_SIZE = 128  # pixels of the pictures, as `make demo` writes them
COUNTS: Mapping[str, int] = MappingProxyType({"num_train_good": 0, "num_test_good": 110, "num_per_defect": 10})
SETS: Mapping[str, tuple[int, tuple[str, ...]]] = MappingProxyType(  # name: seed of the pictures, families
    {
        "train": (0, FAMILIES["finetuning"]),
        "seen": (1, FAMILIES["finetuning"]),
        "unseen": (1, FAMILIES["unseen"]),
    }
)

ZERO_SHOT = "before"
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(  # name: fields of the model beside the recipe's
    {
        ZERO_SHOT: {"use_ffe": False, "use_lfs": False},
        "patch head alone": {"use_ffe": False, "use_lfs": False},
        "conv adapter": {"use_ffe": False, "lfs_window_size": 1},  # the statistic of one token is the token itself
        "FFE": {"use_lfs": False},
        "LFS": {"use_ffe": False},
        "both": {},
    }
)
METRICS: Mapping[str, str] = MappingProxyType(
    {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
)
OBJECTIVE = ("image_auroc", "aupro")  # of equal weight, as in jobs/tune.py
SHOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(  # kind of result: evaluated set: metrics
    {
        "results": {name: tuple(METRICS) for name in SETS if name != "train"},
        "photographs": {
            "grid": ("image_auroc", "pixel_auroc"),
            "hazelnut_toy": ("image_auroc", "pixel_auroc"),
            "magnetic_tile": ("image_auroc",),
        },
    }
)


def data(folder: Path, *, image_seed: int = 1) -> None:
    """Write the pictures of the study.

    Args:
        folder: Working folder of the study.
        image_seed: Seed of the pictures that are evaluated; another than the study's to choose a recipe on.
    """
    for name, (seed, families) in SETS.items():
        if not (folder / name).is_dir():
            chosen = seed if name == "train" else image_seed
            write_mvtec(folder / name, seed=chosen, families=families, image_size=IMAGE_SIZE, **COUNTS)


def freeze(folder: Path) -> None:
    """Write the digests of backbone and pictures, which every later run must meet.

    Args:
        folder: Working folder of the study.
    """
    FROZEN.write_text(json.dumps(_digests(folder), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(FROZEN.read_text(encoding="utf-8"))


def run(
    folder: Path,
    *,
    seeds: str = "0,1,2,3,4",
    variants: str = ",".join(VARIANTS),
    num_threads: int = 1,
    check_digests: bool = True,
    recipe: list[str] | None = None,
    results: str = "results",
) -> None:
    """Fit and evaluate, one result file per variant and seed; what is there is not repeated.

    Args:
        folder: Working folder of the study, with its pictures.
        seeds: Seeds of adapters and order, separated by commas.
        variants: Which adapters, separated by commas.
        num_threads: Threads of torch.
        check_digests: Whether backbone and pictures must be the frozen ones; false for trials.
        recipe: Flags of the fine-tuning job that override feclip/demo/recipe.yaml, for trials.
        results: Folder of the result files, in ``folder``.
    """
    torch.set_num_threads(num_threads)
    digests = _digests(folder)
    if check_digests and digests != json.loads(FROZEN.read_text(encoding="utf-8")):
        msg = f"Backbone or pictures are not the frozen ones of {FROZEN.name}: {digests}"
        raise DataError(msg)
    config = _config(folder, recipe or [])
    evaluated = {name: _images(DataConfig(root=str(folder / name)), config) for name in SHOWN["results"]}
    for seed in map(int, seeds.split(",")):
        for variant in variants.split(","):
            result = folder / results / f"{variant.replace(' ', '_')}-{seed}.json"
            if not result.is_file():
                record = _run_one(variant, seed=seed, config=config, evaluated=evaluated)
                _write(result, {**record, "recipe": _recipe(config), "digests": digests})


def photographs(folder: Path, *, root: Path, seeds: str = "0,1,2,3,4", num_threads: int = 1) -> None:
    """Fit on photographs of screws and toothbrushes, evaluate on others; nothing but numbers is kept of it.

    Args:
        folder: Working folder of the study.
        root: Folder of the photographs (``mvtec/``, ``field/magnetic_tile``).
        seeds: Seeds, separated by commas.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    mvtec, field = str(root / "mvtec"), root / "field" / "magnetic_tile"
    config = _config(folder, ["--data.root", mvtec, "--data.categories", "screw,toothbrush"])
    sources = {name: DataConfig(root=mvtec, categories=Names((name,))) for name in ("grid", "hazelnut_toy")}
    sources["magnetic_tile"] = DataConfig(manifest=str(field / "labels.csv"), root=str(field / "images"))
    evaluated = {name: _images(source, config) for name, source in sources.items()}
    for seed in map(int, seeds.split(",")):
        for variant in (ZERO_SHOT, "both"):
            result = folder / "photographs" / f"{variant}-{seed}.json"
            if not result.is_file():
                record = _run_one(variant, seed=seed, config=config, evaluated=evaluated)
                _write(result, {**record, "recipe": _recipe(config)})


def table(folder: Path) -> None:
    """Collect the results, and write them to ``benchmarks/accuracy.json`` and as a table to the README.

    Args:
        folder: Working folder of the study.
    """
    collected = {
        kind: [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / kind).glob("*.json"))]
        for kind in SHOWN
    }
    RESULTS.write_text(json.dumps(collected, indent=1) + "\n", encoding="utf-8")
    before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    README.write_text(f"{before}{MARKS[0]}\n{render(collected)}\n{MARKS[1]}{after}", encoding="utf-8")


def compare(folder: Path, found: str, against: str, *, variant: str = "both") -> None:
    """Print two recipes and their difference, paired by seed, with its 95 % interval (Student's t over the seeds).

    Args:
        folder: Working folder of the study.
        found: Folder of result files in it, of one recipe.
        against: Folder of result files in it, of the other recipe.
        variant: Which adapters.
    """
    left, right = (_by_seed(folder / name, variant=variant) for name in (found, against))
    if left.keys() != right.keys() or len(left) < 2:  # noqa: PLR2004
        msg = f"{found} has the seeds {sorted(left)}, {against} has {sorted(right)}: two or more of the same are needed"
        raise DataError(msg)
    lines = [f"|  | {found} | {against} | difference | 95 % interval |", "|---|---|---|---|---|"]
    judged = set.intersection(*(set(found) for side in (left, right) for found in side.values()))
    for name, metrics in ((name, of) for name, of in SHOWN["results"].items() if name in judged):
        shown = {METRICS[metric]: (metric,) for metric in metrics} | {"objective of a sweep": OBJECTIVE}
        for label, of in shown.items():
            pairs = [tuple(statistics.mean(side[seed][name][m] for m in of) for side in (left, right)) for seed in left]
            differences = [ours - theirs for ours, theirs in pairs]
            mean, error = statistics.mean(differences), statistics.stdev(differences) / len(pairs) ** 0.5
            half = float(stats.t.ppf(0.975, len(pairs) - 1)) * error
            cells = " | ".join(_cell([pair[side] for pair in pairs]) for side in (0, 1))
            lines.append(f"| {name}: {label} | {cells} | {mean:+.3f} | {mean - half:+.3f} to {mean + half:+.3f} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _by_seed(folder: Path, *, variant: str) -> dict[int, dict[str, dict[str, float]]]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {record["seed"]: record["metrics"] for record in records if record["variant"] == variant}


def render(collected: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return the Markdown tables of collected results: mean and standard deviation over the seeds."""
    return "\n\n".join(_render(collected[kind], sets) for kind, sets in SHOWN.items() if collected[kind])


def _render(records: list[dict[str, Any]], sets: Mapping[str, tuple[str, ...]]) -> str:
    columns = [(name, metric) for name, metrics in sets.items() for metric in metrics]
    head = ["", *(f"{name.replace('_', ' ')}: {METRICS[metric]}" for name, metric in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for variant in VARIANTS:
        runs = [record["metrics"] for record in records if record["variant"] == variant]
        if runs:
            cells = [_cell([found[name][metric] for found in runs]) for name, metric in columns]
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def _config(folder: Path, flags: list[str]) -> FinetuneConfig:
    given = ["--config", str(RECIPE), "--data.root", str(folder / "train"), "--output", "unused", *flags]
    return parse_config(FinetuneConfig, given, prog="accuracy.py", about="")


def _recipe(config: FinetuneConfig) -> dict[str, Any]:
    return {"model": plain(config.model), "optim": plain(config.optim)}


def _test_images(source: DataConfig, *, image_size: int) -> LabelledImages:
    """Return the test images of ``source``; under protocol a these are its split train, and train/good is not."""
    rows = read_labelled(source, seed=0)
    return build_images(rows.filter(pc.field("split") == Split.TRAIN.value), source, image_size=image_size)


def _images(source: DataConfig, config: FinetuneConfig) -> LabelledImages:
    """Return the test images of ``source``, made inputs as ``config`` says."""
    source = dataclasses.replace(source, resize=config.data.resize, padding_color=config.data.padding_color)
    assert config.model.image_size is not None  # FinetuneConfig settles it
    return _test_images(source, image_size=config.model.image_size)


def _run_one(
    variant: str, *, seed: int, config: FinetuneConfig, evaluated: Mapping[str, LabelledImages]
) -> dict[str, Any]:
    start = time.perf_counter()
    model = build_model(dataclasses.replace(config.model, **VARIANTS[variant]), seed=seed)
    epochs: list[dict[str, float]] = []
    if variant != ZERO_SHOT:
        torch.manual_seed(seed)
        nothing = build_images(MANIFEST_SCHEMA.empty_table(), config.data, image_size=model.image_size)
        epochs = fit(
            model,
            train=_test_images(config.data, image_size=model.image_size),
            held_out=nothing,
            loss=config.loss,
            optim=config.optim,
            seed=seed,
            device=torch.device("cpu"),
            num_threads=1,
            state=None,
            on_epoch=lambda state: logger.info("%s, seed %d: %s", variant, seed, state.metrics[-1]),
        ).metrics
    metrics = {name: _evaluate(model, images) for name, images in evaluated.items()}
    logger.info("%s, seed %d, %.0f s: %s", variant, seed, time.perf_counter() - start, metrics)
    return {"variant": variant, "seed": seed, "metrics": metrics, "epochs": epochs}


def _evaluate(model: FeClipModel, images: LabelledImages) -> dict[str, float]:
    cpu = torch.device("cpu")
    return held_out_metrics(PrefixSource(model, images, precision="float32", device=cpu, num_threads=1))


def _digests(folder: Path) -> dict[str, str]:
    backbone = build_model(ModelConfig(backbone="feclip-demo"), seed=0).backbone_digest  # at the size it was trained at
    return {"backbone": backbone, **{name: _pixels_digest(folder / name) for name in SETS}}


def _pixels_digest(root: Path) -> str:
    """Return the SHA-256 over names and pixels of all PNG files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.png")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(np.asarray(Image.open(path)).tobytes())
    return digest.hexdigest()


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(run_commands([data, freeze, run, photographs, table, compare], logger=logger))
