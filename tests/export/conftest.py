"""A bundle on the demonstration backbone with thresholds, exported once in each format, and some images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.nn import functional

from feclip.__main__ import main
from feclip.building import build_model
from feclip.bundle import StoredBank, read_bundle, write_banked, write_bundle, write_calibrated
from feclip.calibration import CalibrationOptions, StatisticOptions, calibrate
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig
from feclip.demo import FAMILIES, render

NUM_NORMALS = 24
OPTIONS = StatisticOptions(topk_fraction=0.05, smoothing_sigma=0.5)
SHAPES = ((60, 130), (112, 112), (150, 50), (40, 33))
"""Height and width of the images, pixels: padding above and below, none, left and right, and one that is enlarged."""


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Write a bundle with thresholds on random adapters; fields are those of its model."""

    def make(*, rule: str = "either", options: StatisticOptions = OPTIONS, **fields: object) -> str:
        folder = tmp_path_factory.mktemp("exported-bundle")
        config = ModelConfig(**{"backbone": "feclip-demo", "num_taps": 2} | fields)  # type: ignore[arg-type]
        run = FinetuneConfig(output=str(folder / "plain"), model=config, optim=OptimConfig(epochs=0))
        images = pa.table({"uri": ["/trained.png"], "role": ["trained"], "sha256": ["0" * 64]})
        model = build_model(config, seed=3)
        write_bundle(str(folder / "plain"), model=model, config=run, images=images, metrics=[])
        plain = read_bundle(str(folder / "plain"))
        columns = {name: np.linspace(0, 3, NUM_NORMALS, dtype=np.float32) for name in ("map_max", "map_topk_mean")}
        columns |= {"image_logit": np.linspace(-2, 2, NUM_NORMALS, dtype=np.float32)}
        table = pa.table({"model_id": [plain.model_id] * NUM_NORMALS, **columns})
        wanted = CalibrationOptions(percentiles=("50",), rule=rule)  # type: ignore[arg-type]
        calibration = calibrate([table], model_id=plain.model_id, options=wanted, statistic_options=options)
        normals = pa.table({"uri": ["/normal.png"], "sha256": ["1" * 64]})
        write_calibrated(str(folder / "calibrated"), bundle=plain, calibration=calibration, images=normals)
        return str(folder / "calibrated")

    return make


@pytest.fixture(scope="session")
def demo_bundle(make_bundle: Callable[..., str]) -> str:
    return make_bundle()


@pytest.fixture(scope="session")
def banked_bundle(demo_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], str]:
    """Write the bundle with a memory bank, by a column or for all images."""

    def make(group_column: str | None) -> str:
        folder = str(tmp_path_factory.mktemp("banked"))
        plain = read_bundle(demo_bundle)
        generator = torch.Generator().manual_seed(0)
        rows = [[functional.normalize(torch.randn(1500, 96, generator=generator)).half()] for _ in range(2)]
        bank = StoredBank.of(
            rows,
            parent_model_id=plain.model_id,
            request={"shots": 1},
            group_column=group_column,
            groups={"": 1} if group_column is None else {"1": 1},
            mean_distance=0.0,
            max_distance=0.0,
        )
        write_banked(folder, bundle=plain, bank=bank, images=pa.table({"uri": ["/shot.png"], "sha256": ["2" * 64]}))
        return folder

    return make


@pytest.fixture(scope="session")
def onnx_file(demo_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert main(["export", "--bundle", demo_bundle, "--output", str(path), "--num_check_images", "7"]) == 0
    return path


@pytest.fixture(scope="session")
def torch_file(demo_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "model.pt2"
    argv = ["export", "--bundle", demo_bundle, "--output", str(path), "--format", "torch", "--batch_size", "2"]
    assert main([*argv, "--num_check_images", "7"]) == 0
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures of `SHAPES`, every second one with a defect."""
    folder = tmp_path_factory.mktemp("images")
    for index, (size, family) in enumerate(zip(SHAPES, FAMILIES["unseen"] * 2, strict=False)):
        defect = "stain" if index % 2 else None
        drawn = render(seed=7, stream=("image", index), family=family, size=size, defect_type=defect)
        Image.fromarray(drawn.image).save(folder / f"part {index}.png")
    return folder
