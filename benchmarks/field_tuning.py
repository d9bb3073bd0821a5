"""Is a bundle better for being tuned on image labels alone, and what does it cost on the old domain and in its maps?

    python benchmarks/field_tuning.py                                   # generated pictures, three seeds
    python benchmarks/field_tuning.py --labels labels.csv --root images # photographs with labels as the field

For each seed a parent trains on generated families with masks (protocol b). It is tuned as configs/field-tuning.yaml
says on the train split of a field that has image labels alone, the epoch chosen on its held-out split; and once more
at the usual rate. Both are compared with the parent on the report splits of both domains, on which nothing was chosen.
In one process, without Ray; the numbers are those that the guard takes.
"""

import argparse
import dataclasses
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from harness import commit

from feclip.building import build_images, read_labelled
from feclip.bundle import Bundle, Domain, read_bundle, write_bundle
from feclip.config import (
    DataConfig,
    FinetuneConfig,
    Indices,
    ModelConfig,
    OptimConfig,
    Precision,
    PrefixCache,
    Protocol,
)
from feclip.demo import FAMILIES, write_archive, write_mvtec
from feclip.evaluation import WHOLE, compare_category, compare_domain
from feclip.metrics import PixelCounts
from feclip.model import pixel_maps
from feclip.scoring import Scorer
from feclip.training import fit_config
from feclip.training.choosing import METRIC

PICTURE = 128  # pixels
USUAL = OptimConfig(epochs=3, precision=Precision.float32, prefix_cache=PrefixCache.memory)
LIGHT = dataclasses.replace(USUAL, learning_rate=5e-5, patience=1)
WAYS = {"light": LIGHT, "usual rate": USUAL}
Scored = tuple[pa.Table, dict[str, PixelCounts]]


def main() -> None:
    """Train, tune and compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--labels", help="manifest of a field with image labels, instead of generated photographs")
    parser.add_argument("--root", help="folder that its paths start from")
    parser.add_argument("--num_field", type=int, default=200, help="generated field images")
    parser.add_argument("--num_good", type=int, default=40, help="normal pictures per family of the old domain")
    parser.add_argument("--image_size", type=int, default=112, help="side of the model input, pixels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        old, field = write_pictures(home, args)
        print(
            f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {args.image_size} px, field {args.labels or 'generated'}"
        )
        print("| seed | tuning | held-out AUROC by epoch | chosen | domain | metric | parent | tuned | 95 % interval |")
        print("|---|---|---|---|---|---|---|---|---|")
        for seed in map(int, args.seeds.split(",")):
            run_seed(home, old=old, field=field, seed=seed, image_size=args.image_size)


def write_pictures(home: Path, args: argparse.Namespace) -> tuple[DataConfig, DataConfig]:
    """Write what is generated and return the old domain and the field."""
    counts = {"num_train_good": 0, "num_test_good": args.num_good, "num_per_defect": 4}
    write_mvtec(home / "old", seed=0, families=FAMILIES["finetuning"], image_size=PICTURE, **counts)
    old = DataConfig(root=str(home / "old"), protocol=Protocol.b, num_workers=2)
    if args.labels:
        return old, dataclasses.replace(old, manifest=args.labels, root=args.root)
    options = {"num_images": args.num_field, "defect_fraction": 0.5, "image_size": PICTURE}
    write_archive(home / "field", seed=1, families=FAMILIES["unseen"], **options)
    return old, dataclasses.replace(old, manifest=str(home / "field/labels.csv"), root=str(home / "field/images"))


def run_seed(home: Path, *, old: DataConfig, field: DataConfig, seed: int, image_size: int) -> None:
    """Train a parent, tune it in each way, and print a row for each domain and metric."""
    model = ModelConfig(backbone="feclip-demo", image_size=image_size, tap_blocks=Indices((3, 4, 5)))
    config = FinetuneConfig(output=str(home / f"parent-{seed}"), data=old, model=model, optim=USUAL, seed=seed)
    parent = trained(config, parent=None)[0]
    splits = {name: report_split(data, seed=seed) for name, data in (("field", field), ("old", old))}
    before = {name: scored(parent, table) for name, table in splits.items()}
    for way, optim in WAYS.items():
        output = str(home / f"{way}-{seed}")
        bundle, values = trained(
            dataclasses.replace(config, output=output, parent=parent.uri, data=field, optim=optim), parent=parent
        )
        for name, table in splits.items():
            domain = compared(before[name], scored(bundle, table), name=name)
            for change in domain.changes:
                interval = f"{change.low:+.3f}..{change.high:+.3f}"
                held_out = ", ".join(f"{value:.3f}" for value in values)
                chosen = values.index(max(values))
                row = [
                    seed,
                    way,
                    held_out,
                    chosen,
                    name,
                    change.metric,
                    f"{change.before:.3f}",
                    f"{change.after:.3f}",
                    interval,
                ]
                print("|", " | ".join(map(str, row)), "|", flush=True)


def trained(config: FinetuneConfig, *, parent: Bundle | None) -> tuple[Bundle, list[float]]:
    """Train without Ray; return the bundle, and the held-out image AUROC before and after each epoch."""
    table = read_labelled(config.data, seed=config.seed)
    model, state = fit_config(
        config, images=table, parent=parent, device=torch.device("cpu"), state=None, on_epoch=lambda _: None
    )
    images = table.slice(0, 0).append_column("role", pa.nulls(0, pa.string()))
    write_bundle(config.output, model=model, config=config, images=images, metrics=state.metrics)
    records = [*([] if state.before is None else [state.before]), *state.metrics]
    return read_bundle(config.output), [record[METRIC] for record in records]


def report_split(data: DataConfig, *, seed: int) -> pa.Table:
    """Return the images that nothing was chosen on."""
    table = read_labelled(data, seed=seed).filter(pc.field("split") == "report")
    category = pc.fill_null(table["category"], WHOLE)
    return table.set_column(table.schema.get_field_index("category"), "category", category)


def scored(bundle: Bundle, table: pa.Table) -> Scored:
    """Return the rows that the metrics read, and the counts of each image's pixels."""
    data = DataConfig(root="/", **bundle.input)  # type: ignore[arg-type]
    assert bundle.model.image_size is not None
    images = build_images(table, data, image_size=bundle.model.image_size)
    samples = [images[index] for index in range(len(images))]
    valid = np.stack([sample.valid_pixels.numpy() for sample in samples])
    scores = Scorer(bundle, precision="float32").score(
        np.stack([sample.image.permute(1, 2, 0).numpy() for sample in samples]), valid
    )
    maps = pixel_maps(torch.from_numpy(scores.token_map), image_size=images.options.image_size, smoothing_sigma=0.0)
    pixels = maps.numpy()
    pixels[~valid] = np.nan
    masks = np.stack([sample.gt_mask.numpy().astype(np.bool_) for sample in samples])
    has_mask = table["has_mask"].to_pylist()
    counts = {
        uri: PixelCounts.of(pixels[index : index + 1], masks[index : index + 1])
        for index, uri in enumerate(table["uri"].to_pylist())
        if has_mask[index]
    }
    columns = {name: table[name] for name in ("uri", "category", "has_mask")}
    labels = pc.equal(table["label"], 1)
    logits = pa.array(scores.image_logit)
    return pa.table(
        {**columns, "label": labels, "image_logit": logits, "pred_label": pa.nulls(len(table), pa.bool_())}
    ), counts


def compared(before: Scored, after: Scored, *, name: str) -> Domain:
    """Return how two bundles compare on one domain."""
    pairs = {}
    for category in sorted(set(before[0]["category"].to_pylist())):
        rows = [table.filter(pc.field("category") == category) for table, _ in (before, after)]
        pairs[category] = compare_category((rows[0], rows[1]), (before[1], after[1]), category=category)
    return compare_domain(pairs, name=name, source=name)


if __name__ == "__main__":
    main()
