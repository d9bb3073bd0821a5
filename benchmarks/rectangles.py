#!/usr/bin/env python
"""Token grids of the image's own aspect ratio against a square input: accuracy and speed on strong aspect ratios.

python benchmarks/rectangles.py pictures runs/rectangles
python benchmarks/rectangles.py fit runs/rectangles --train_root runs/accuracy/train
python benchmarks/rectangles.py accuracy runs/rectangles
python benchmarks/rectangles.py accuracy runs/rectangles --photographs ../shared/data/field/magnetic_tile
python benchmarks/rectangles.py speed runs/rectangles

The adapters are trained once for each seed on the square pictures of ``benchmarks/accuracy.py data``: without padding
all ways of treating it are the same training. Pixel metrics are those of the source image, so that all ways are judged
on the same pixels.
"""

import csv
import dataclasses
import json
import logging
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from commands import run_commands
from PIL import Image
from safetensors.torch import load_file, save_file

from feclip.building import build_images, build_model, read_labelled
from feclip.cli import parse_config
from feclip.config import FinetuneConfig, ModelConfig
from feclip.data import MANIFEST_SCHEMA, Split, TokenBox, by_rectangle, letterbox, squash, valid_tokens
from feclip.data.letterbox import rectangle
from feclip.data.source_image import SourceImage
from feclip.demo import FAMILIES, RECIPE
from feclip.demo.defects import DEFECT_TYPES
from feclip.demo.fields import chance, generator, log_uniform
from feclip.demo.sampling import render
from feclip.metrics import PixelCounts, bootstrap_pairs, image_metrics, mean_over_categories, pixel_metrics
from feclip.model import FeClipModel, Padding, fill_padding, upsample
from feclip.training import fit as train

logger = logging.getLogger("rectangles")

AREA_SIDE = 256  # pixels, of the square with the area of each picture, as `python -m feclip.demo archive` has it
RATIOS = (1.6, 4.0)  # longer side to shorter; as the archive's letterboxed pictures
BATCH_SIZE = 16
REPEATS = 5
RIVAL = "letterbox, masked"
METRICS = MappingProxyType(
    {"image_auroc": "image AUROC", "max_auroc": "AUROC of map_max", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
)

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How an image becomes an input."""

    resize: str
    """``letterbox``, ``squash``, ``rectangle`` as data.resize; ``tokens``, a rectangle of as many tokens as the square;
    ``cropped``, the letterbox without the tokens that show padding alone."""
    padding: Padding = "masked"
    own_positions: bool = False
    """Whether tokens keep the positions of the square, and are not stretched over the rectangle."""


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "letterbox, ignore": Way(resize="letterbox", padding="ignore"),
        RIVAL: Way(resize="letterbox"),
        "letterbox, attention": Way(resize="letterbox", padding="attention"),
        "squash": Way(resize="squash"),
        "rectangle": Way(resize="rectangle"),
        "rectangle, positions of the square": Way(resize="rectangle", own_positions=True),
        "rectangle of as many tokens as the square": Way(resize="tokens"),
        "cropped letterbox": Way(resize="cropped", padding="attention"),
        "cropped letterbox, positions of the square": Way(resize="cropped", padding="attention", own_positions=True),
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture with its truth."""

    image: Pixels
    """``(h, w, 3)``."""
    label: int
    mask: npt.NDArray[np.bool_] | None
    """``(h, w)``; None where it is unknown."""
    category: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """A picture as the model reads it."""

    pixels: Pixels
    """``(H, W, 3)``."""
    valid_pixels: npt.NDArray[np.bool_]
    """``(H, W)``."""
    box: TokenBox
    """Its place on the token grid of the square."""
    undo: Callable[[Floats], Floats]
    """From a map ``(H, W)`` to one of the picture ``(h, w)``."""


def pictures(folder: Path, *, num_images: int = 80, seed: int = 21) -> None:
    """Write pictures of strong aspect ratios with masks: half of them defective, either side the longer one.

    Args:
        folder: Working folder; they go to ``pictures``.
        num_images: Of each family.
        seed: Seed of the pictures.
    """
    root, rows = folder / "pictures", []
    root.mkdir(parents=True)
    for family in (*FAMILIES["finetuning"], *FAMILIES["unseen"]):
        for index in range(num_images):
            rng = generator(seed, "rectangles", family, index)
            stretch = math.sqrt(log_uniform(rng, RATIOS))
            size = (round(AREA_SIDE / stretch), round(AREA_SIDE * stretch))
            sample = render(
                seed=seed,
                stream=("rectangles", family, index),
                family=family,
                size=size if chance(rng, 0.5) else size[::-1],
                defect_type=DEFECT_TYPES[index // 2 % len(DEFECT_TYPES)] if index % 2 else None,
            )
            name = f"{family}_{index:03d}.png"
            Image.fromarray(sample.image).save(root / name)
            Image.fromarray(sample.mask).save(root / f"mask_{name}")
            rows.append((name, sample.label, f"mask_{name}" if sample.label else "", family))
        logger.info("%s: %d pictures", family, num_images)
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "mask_path", "category"), *rows])


def fit(folder: Path, *, train_root: Path, seeds: str = "0,1,2,3,4", num_threads: int = 1) -> None:
    """Train adapters by the recipe of the demonstration, one file for each seed; what is there is not repeated.

    Args:
        folder: Working folder; they go to ``adapters``.
        train_root: The pictures ``train`` of ``benchmarks/accuracy.py data``.
        seeds: Seeds of adapters and order, separated by commas.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    given = ["--config", str(RECIPE), "--data.root", str(train_root), "--output", "unused"]
    config = parse_config(FinetuneConfig, given, prog="rectangles.py", about="")
    optim = dataclasses.replace(config.optim, precision="float32")
    (folder / "adapters").mkdir(parents=True, exist_ok=True)
    for seed in map(int, seeds.split(",")):
        path = folder / "adapters" / f"{seed}.safetensors"
        if path.is_file():
            continue
        started = time.perf_counter()
        model = build_model(config.model, seed=seed)
        torch.manual_seed(seed)
        rows = read_labelled(config.data, seed=0).filter(pc.field("split") == Split.TRAIN.value)
        train(
            model,
            train=build_images(rows, config.data, image_size=model.image_size),
            held_out=build_images(MANIFEST_SCHEMA.empty_table(), config.data, image_size=model.image_size),
            loss=config.loss,
            optim=optim,
            seed=seed,
            device=torch.device("cpu"),
            num_threads=1,
            state=None,
            on_epoch=lambda state: logger.info("%s", state.metrics[-1]),
        )
        save_file({name: value.contiguous() for name, value in model.trainable_state_dict().items()}, path)
        logger.info("seed %d: %.0f s", seed, time.perf_counter() - started)


def accuracy(
    folder: Path,
    *,
    photographs: Path | None = None,
    strata: int = 1,
    roles: str = "seen,unseen",
    ways: str = ";".join(WAYS),
    image_size: int = 224,
    num_threads: int = 1,
) -> None:
    """Print the metrics of every way: mean and deviation over the seeds, and against the rival, paired, over images.

    Args:
        folder: Working folder.
        photographs: A field archive with ``labels.csv`` and ``images``, instead of the pictures.
        strata: Photographs of like aspect ratio are judged among themselves, in so many groups of like size.
        roles: Which families of the pictures, separated by commas.
        ways: Which ways, separated by semicolons, the rival among them.
        image_size: S, pixels.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    models = _models(folder, image_size=image_size)
    found = _photographs(photographs, strata=strata) if photographs else _pictures(folder / "pictures")
    sets = {"photographs": found} if photographs else {role: _of_role(found, role) for role in roles.split(",")}
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, chosen in sets.items():
        scored = {}
        for way in ways.split(";"):
            started = time.perf_counter()
            scored[way] = list(_scored(models, chosen, WAYS[way]))
            logger.info("%s, %s: %.0f s", name, way, time.perf_counter() - started)
        results[name] = _table(name, chosen, scored)
    kind = "photographs" if photographs else roles.replace(",", "-")
    (folder / f"{kind}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def speed(
    folder: Path, *, every: int = 16, ways: str = ";".join(WAYS), image_size: int = 224, num_threads: int = 1
) -> None:
    """Print images per second of each way against the rival's, in turns, on batches of one shape.

    Args:
        folder: Working folder.
        every: Every which picture is timed; shapes and filling are those of all.
        ways: Which ways, separated by semicolons.
        image_size: S, pixels.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    model = _models(folder, image_size=image_size)[0]
    found = _pictures(folder / "pictures")
    sys.stdout.write("| way | images/s | of the rival's | tokens an image | shapes | filling of batches |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for name in ways.split(";"):
        timed = {each: _batches(model, found[::every], WAYS[each]) for each in (name, RIVAL)}
        seconds: dict[str, list[float]] = {name: [], RIVAL: []}
        for turn in range(1 + REPEATS):
            for each in (name, RIVAL):
                taken = _timed(model, timed[each], WAYS[each])
                if turn:
                    seconds[each].append(taken)
        ours, theirs = (len(found[::every]) / statistics.median(seconds[each]) for each in (name, RIVAL))
        batches = _batches(model, found, WAYS[name])
        tokens = sum(math.prod(batch.pixels.shape[:3]) for batch in batches) / model.patch_size**2 / len(found)
        shapes = {tuple(batch.pixels.shape[1:3]) for batch in batches}
        filling = len(found) / (BATCH_SIZE * len(batches))
        row = f"{ours:.1f} | {ours / theirs:.2f} | {tokens:.0f} | {len(shapes)} | {filling:.2f}"
        sys.stdout.write(f"| {name} | {row} |\n")
        sys.stdout.flush()


def _models(folder: Path, *, image_size: int) -> list[FeClipModel]:
    models = []
    for path in sorted((folder / "adapters").glob("*.safetensors")):
        fields = ModelConfig(backbone="feclip-demo", image_size=image_size, tap_blocks=(3, 4, 5))
        model = build_model(fields, seed=0).eval()
        model.load_trainable_state_dict(load_file(path))
        models.append(model)
    return models


def _pictures(root: Path) -> list[Picture]:
    with (root / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Picture(
            image=np.asarray(Image.open(root / row["path"]).convert("RGB")),
            label=int(row["label"]),
            mask=np.asarray(Image.open(root / f"mask_{row['path']}")).astype(np.bool_),
            category=row["category"],
        )
        for row in rows
    ]


def _photographs(root: Path, *, strata: int) -> list[Picture]:
    with (root / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = [np.asarray(Image.open(root / "images" / row["path"]).convert("RGB")) for row in rows]
    ranks = np.argsort(np.argsort([max(image.shape[:2]) / min(image.shape[:2]) for image in images], kind="stable"))
    return [
        Picture(image=image, label=int(row["label"]), mask=None, category=str(rank * strata // len(rows)))
        for image, row, rank in zip(images, rows, ranks.tolist(), strict=True)
    ]


def _of_role(found: list[Picture], role: str) -> list[Picture]:
    families = FAMILIES["finetuning" if role == "seen" else "unseen"]
    return [picture for picture in found if picture.category in families]


def _input(picture: Picture, way: Way, *, model: FeClipModel) -> Input:
    """Return a picture as the model reads it; of a square that carries a rectangle, the rectangle."""
    size, patch, image = model.image_size, model.patch_size, picture.image
    if way.resize == "tokens":
        return _of_as_many_tokens(image, model=model)
    if way.resize == "squash":
        pixels, record = squash(image, image_size=size)
    elif way.resize == "rectangle":
        pixels, record = rectangle(image, image_size=size, patch_size=patch, padding_color="white")
    else:
        pixels, record = letterbox(image, image_size=size, padding_color="white")
    valid = record.valid_pixels()
    box = TokenBox(0, 0, *model.token_grid)
    if way.resize in {"rectangle", "cropped"}:
        (box,) = by_rectangle(valid[None], patch_size=patch)
    window = box.pixels(patch_size=patch)

    def undo(values: Floats) -> Floats:
        whole = np.zeros((size, size), np.float32)
        whole[window] = values
        return record.undo(whole)

    return Input(pixels=pixels[window], valid_pixels=valid[window], box=box, undo=undo)


def _of_as_many_tokens(image: Pixels, *, model: FeClipModel) -> Input:
    height, width = image.shape[:2]
    side, ratio = model.token_grid[0], max(height, width) / min(height, width)
    short = max(1, round(side / math.sqrt(ratio)))
    grid = (short, min(side * side // short, round(short * ratio)) if short < side else side)
    box = TokenBox(0, 0, *(grid if height <= width else grid[::-1]))
    rows, columns = box.height * model.patch_size, box.width * model.patch_size

    def undo(values: Floats) -> Floats:
        return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))

    resized = SourceImage.of(image).resized(rows, columns)
    return Input(pixels=resized, valid_pixels=np.ones((rows, columns), np.bool_), box=box, undo=undo)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Inputs of one shape, at most a batch."""

    indices: list[int]
    """Of their pictures, zero-based."""
    inputs: list[Input]
    pixels: torch.Tensor
    """``(B, H, W, 3)``, uint8."""
    valid_pixels: torch.Tensor
    """``(B, H, W)``, bool."""


def _batches(model: FeClipModel, found: Sequence[Picture], way: Way) -> list[Inputs]:
    boxes: dict[TokenBox, list[tuple[int, Input]]] = defaultdict(list)
    for index, picture in enumerate(found):
        made = _input(picture, way, model=model)
        boxes[made.box if way.own_positions else made.box._replace(top=0, left=0)].append((index, made))
    return [
        Inputs(
            indices=[index for index, _ in part],
            inputs=[made for _, made in part],
            pixels=torch.from_numpy(np.stack([made.pixels for _, made in part])),
            valid_pixels=torch.from_numpy(np.stack([made.valid_pixels for _, made in part])),
        )
        for same in boxes.values()
        for part in (same[start : start + BATCH_SIZE] for start in range(0, len(same), BATCH_SIZE))
    ]


def _prefix(model: FeClipModel, batch: Inputs, way: Way) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `FeClipModel.prefix` does, and the valid tokens."""
    model.padding = way.padding
    model._positions.clear()  # noqa: SLF001 - the positions that are not taken are what is compared
    box = batch.inputs[0].box
    if way.own_positions and box[2:] != model.token_grid:
        first, plane = model.visual.positional_embedding.split([1, math.prod(model.token_grid)])
        cropped = plane.view(*model.token_grid, -1)[box.tokens()].flatten(0, 1)
        model._positions[box.height, box.width] = torch.cat([first, cropped])  # noqa: SLF001
    seen = valid_tokens(batch.valid_pixels, patch_size=model.patch_size)
    images = model.normalize(batch.pixels.permute(0, 3, 1, 2).contiguous(), batch.valid_pixels)
    return model.prefix(images, seen), seen


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What one model says of pictures."""

    image_logits: Floats
    map_max: Floats
    pixels: list[PixelCounts]
    """One for each picture; empty where masks are unknown."""


@torch.inference_mode()
def _scored(models: list[FeClipModel], found: Sequence[Picture], way: Way) -> Iterator[Scored]:
    logits, highest = (np.zeros((len(models), len(found)), np.float32) for _ in range(2))
    counts: list[list[PixelCounts]] = [[PixelCounts.empty()] * len(found) for _ in models]
    for batch in _batches(models[0], found, way):
        tokens, seen = _prefix(models[0], batch, way)
        for number, model in enumerate(models):
            model.padding = way.padding
            output = model.forward_from_prefix(tokens, seen)
            maps = upsample(fill_padding(output.token_map, seen), output.image_size)
            logits[number, batch.indices] = output.image_logit.numpy()
            valid = maps.masked_fill(~batch.valid_pixels, -torch.inf)
            highest[number, batch.indices] = valid.flatten(1).amax(dim=1).numpy()
            for index, placed, values in zip(batch.indices, batch.inputs, maps.numpy(), strict=True):
                mask = found[index].mask
                if mask is not None:
                    counts[number][index] = PixelCounts.of(placed.undo(values)[None], mask[None])
    for number in range(len(models)):
        yield Scored(
            image_logits=logits[number],
            map_max=highest[number],
            pixels=counts[number] if found[0].mask is not None else [],
        )


def _metrics(found: Sequence[Picture], scored: Scored) -> dict[str, float]:
    by_category = {}
    labels = np.array([picture.label for picture in found])
    for category, chosen in _chosen(found).items():
        values = image_metrics(scored.image_logits[chosen], labels[chosen])
        values["max_auroc"] = image_metrics(scored.map_max[chosen], labels[chosen])["image_auroc"]
        if scored.pixels:
            values |= pixel_metrics(PixelCounts.merge_all(scored.pixels[index] for index in chosen))
        by_category[category] = values
    return mean_over_categories(by_category)


def _chosen(found: Sequence[Picture]) -> dict[str, npt.NDArray[np.int64]]:
    categories = np.array([picture.category for picture in found])
    return {name: np.flatnonzero(categories == name) for name in sorted(set(categories.tolist()))}


def _table(
    name: str, found: Sequence[Picture], scored: Mapping[str, list[Scored]]
) -> dict[str, dict[str, list[float]]]:
    results = {}
    sys.stdout.write(f"\n{name}, {len(found)} images\n\n| way | {' | '.join(METRICS.values())} | image AUROC against ")
    sys.stdout.write(f"{RIVAL}, seed 0, 95 % |\n|---|{'---|' * (1 + len(METRICS))}\n")
    for way, runs in scored.items():
        metrics = [_metrics(found, run) for run in runs]
        results[way] = {key: [each[key] for each in metrics] for key in METRICS if key in metrics[0]}
        cells = [_cell(results[way].get(key)) for key in METRICS]
        low, high = _paired(found, scored[RIVAL][0], runs[0])
        sys.stdout.write(f"| {way} | {' | '.join(cells)} | {low:+.3f} to {high:+.3f} |\n")
        sys.stdout.flush()
    return results


def _paired(found: Sequence[Picture], before: Scored, after: Scored) -> tuple[float, float]:
    """Return the 95 % interval of the difference of image AUROC, mean over the categories, over resampled images."""
    labels = np.array([picture.label for picture in found])
    differences = []
    for category, chosen in _chosen(found).items():
        left, right = bootstrap_pairs(
            before.image_logits[chosen], after.image_logits[chosen], labels[chosen], seed=0, category=category
        )
        differences.append(right["image_auroc"] - left["image_auroc"])
    low, high = np.quantile(np.mean(differences, axis=0), (0.025, 0.975))
    return float(low), float(high)


def _cell(values: list[float] | None) -> str:
    if values is None:
        return "-"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


@torch.inference_mode()
def _timed(model: FeClipModel, batches: list[Inputs], way: Way) -> float:
    taken = 0.0
    for batch in batches:
        started = time.perf_counter()
        tokens, seen = _prefix(model, batch, way)
        output = model.forward_from_prefix(tokens, seen)
        output.image_logit.sum().item()
        output.token_map.sum().item()
        taken += time.perf_counter() - started
    return taken


if __name__ == "__main__":
    sys.exit(run_commands([pictures, fit, accuracy, speed], logger=logger))
