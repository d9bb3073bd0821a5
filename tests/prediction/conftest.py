"""A small bundle with thresholds, and some images, for predictions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_thresholds import NUM_NORMALS, OPTIONS

from feclip.bundle import read_bundle, write_calibrated
from feclip.calibration import CalibrationOptions, calibrate
from feclip.prediction import Predictor


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several shapes under line=1 and line=2, two bad files and one that is no image by its name."""
    root = tmp_path_factory.mktemp("pictures") / "archive"
    generator = np.random.default_rng(7)
    for number, (height, width) in enumerate([(40, 90), (64, 64), (130, 50), (33, 31), (64, 128)]):
        folder = root / f"line={1 + number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"part {number}.png")
    (root / "line=1" / "empty.png").write_bytes(b"")
    (root / "line=2" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (root / "line=2" / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="session")
def predictor(bundle: str) -> Predictor:
    """A model that is loaded once."""
    return Predictor.load(bundle, device="cpu", precision="float32", batch_size=4)


@pytest.fixture(scope="session")
def calibrated_bundle(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundle with thresholds for line 1 alone, so that some images are above and others below."""
    folder = tmp_path_factory.mktemp("calibrated-bundle")
    plain = read_bundle(bundle)
    logits = np.linspace(-0.5, 0.5, NUM_NORMALS, dtype=np.float32)
    table = pa.table(
        {
            "model_id": [plain.model_id] * NUM_NORMALS,
            "image_logit": logits,
            "map_max": logits,
            "map_topk_mean": logits,
            "line": ["1"] * NUM_NORMALS,
        }
    )
    options = CalibrationOptions(percentiles=("50",), threshold_by="line", rule="either")  # type: ignore[arg-type]
    calibration = calibrate([table], model_id=plain.model_id, options=options, statistic_options=OPTIONS)
    images = pa.table({"uri": ["/normal.png"], "sha256": ["1" * 64]})
    write_calibrated(str(folder), bundle=plain, calibration=calibration, images=images)
    return str(folder)
