"""The pointing game on generated pictures: does the highest place of a heatmap lie on the defect?

    python benchmarks/pointing.py                # fine-tune as the demonstration does, calibrate, score, count
    python benchmarks/pointing.py --epochs 1

For each defective picture the highest pixel of its map, drawn as a report draws it, is held against the gt mask: a hit
lies within one patch side of it. Counted over all defective pictures and over those that are called anomalous, by the
rules image and pixel, for families that fine-tuning saw and for families that nothing saw.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from harness import commit
from PIL import Image
from scipy.ndimage import distance_transform_edt

from feclip.bundle import read_bundle
from feclip.calibration import Rule
from feclip.config import ReportConfig
from feclip.demo import FAMILIES, RECIPE, write_mvtec
from feclip.report.opened import ScoredTable
from feclip.report.pictures import map_of

ROOT = Path(__file__).parents[1]
IMAGE_SIZE, PATCH = 128, 8  # pixels of a picture; pixels of the model input along a patch of feclip-demo
SETS = {"seen": FAMILIES["finetuning"], "unseen": FAMILIES["unseen"]}
PERCENTILE = "99"


def main() -> None:
    """Train, calibrate, score and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="keep pictures, bundles and scores here, and use those that stand there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(args.folder or temporary)
        write_pictures(home, seed=args.seed)
        flags = ("--optim.epochs", str(args.epochs), "--seed", str(args.seed))
        job("finetune", "--config", str(RECIPE), "--data.root", f"{home}/train", "--output", f"{home}/bundle", *flags)
        print(f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, seed {args.seed}, {args.epochs} epochs")
        print("| families | pictures | defective | hits | share |")
        print("|---|---|---|---|---|")
        for name in SETS:
            count(home, name=name)


def write_pictures(home: Path, *, seed: int) -> None:
    """Write the pictures to train on, and for each set of families normals to calibrate and pictures to judge."""
    counts = {"num_train_good": 0, "num_test_good": 110, "num_per_defect": 10}
    wanted = {"train": (seed, FAMILIES["finetuning"], counts)}
    for name, families in SETS.items():
        wanted[f"{name}-normals"] = (
            seed + 2,
            families,
            {"num_train_good": 100, "num_test_good": 0, "num_per_defect": 0},
        )
        wanted[name] = (seed + 1, families, {"num_train_good": 0, "num_test_good": 40, "num_per_defect": 10})
    for name, (image_seed, families, sizes) in wanted.items():
        if not (home / name).is_dir():
            write_mvtec(home / name, seed=image_seed, families=families, image_size=IMAGE_SIZE, **sizes)


def job(name: str, *flags: str) -> None:
    """Run one job to its end."""
    subprocess.run([sys.executable, str(ROOT / "jobs" / f"{name}.py"), *flags], check=True)  # noqa: S603 - our own job


def count(home: Path, *, name: str) -> None:
    """Score one set of families and print its hits."""
    calibrated, scores = f"{home}/{name}-calibrated", f"{home}/{name}-scores"
    normals = ("--normals", f"{home}/{name}-normals", "--calibrate.percentiles", PERCENTILE)
    job("calibrate", "--bundle", f"{home}/bundle", *normals, "--output", calibrated)
    job(
        "score",
        "--bundle",
        calibrated,
        "--archive",
        f"{home}/{name}",
        "--listing.include",
        "*/test/*",
        "--output",
        scores,
    )
    table = ScoredTable.opened(ReportConfig(bundle=calibrated, scores=scores, output="none"))
    rows = table.rows(range(table.run.num_rows))
    defective = [index for index, uri in enumerate(rows["uri"].to_pylist()) if "/test/good/" not in uri]
    hits = np.array(hit(table, rows.take(pa.array(defective))))
    calibration = read_bundle(calibrated).calibration
    assert calibration is not None
    print(line(name, "all defective", chosen=np.ones(len(hits), np.bool_), hits=hits))
    for rule in (Rule.image, Rule.pixel):
        decided = dataclasses.replace(table, calibration=calibration.with_decision(rule=rule))
        called = decided.margins(rows)[defective] > 0
        print(line(name, f"called anomalous by rule {rule}, percentile {PERCENTILE}", chosen=called, hits=hits))


def hit(table: ScoredTable, rows: pa.Table) -> list[bool]:
    """Return for each row whether the highest pixel of its map lies within one patch side of its mask."""
    size = table.bundle.input_options.image_size
    found = []
    for index, uri in enumerate(rows["uri"].to_pylist()):
        values = map_of(table, rows.slice(index, 1))
        assert values is not None
        top, left = np.unravel_index(np.nanargmax(values), values.shape)
        picture = Path(uri)
        mask_file = picture.parents[2] / "ground_truth" / picture.parent.name / f"{picture.stem}_mask.png"
        with Image.open(mask_file) as image:
            mask = np.asarray(image) > 0
        distances = distance_transform_edt(~mask)
        place = (
            int((top + 0.5) / values.shape[0] * mask.shape[0]),
            int((left + 0.5) / values.shape[1] * mask.shape[1]),
        )
        found.append(bool(distances[place] <= PATCH * max(mask.shape) / size))
    return found


def line(name: str, what: str, *, chosen: np.ndarray, hits: np.ndarray) -> str:
    """Return one line of the table."""
    num = int(chosen.sum())
    return (
        f"| {name} | {what} | {num} | {int(hits[chosen].sum())} | {hits[chosen].mean() if num else float('nan'):.3f} |"
    )


if __name__ == "__main__":
    main()
