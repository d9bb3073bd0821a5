"""Training on images of several aspect ratios: a batch is divided by shape, and nothing else depends on that."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_fit import OPTIM, run_fit, shapes_data, write_shapes

from feclip.building import build_images, build_model, read_labelled
from feclip.config import DataConfig, ModelConfig, PrefixCache
from feclip.data import inspect_rows
from feclip.training import PrefixSource

MODEL = ModelConfig(backbone="feclip-demo", pretrained="none", image_size=64, num_taps=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "images")


@pytest.fixture(scope="module")
def manifest(data: DataConfig) -> pa.Table:
    return inspect_rows(read_labelled(data, seed=0), num_threads=1)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_loss_is_that_of_the_images_however_batches_divide_them(
    manifest: pa.Table, data: DataConfig, batch_size: int
) -> None:
    still = dataclasses.replace(OPTIM, learning_rate=1e-12, epochs=1)
    found = [
        run_fit(manifest, data, optim=dataclasses.replace(still, batch_size=size), model=build_model(MODEL, seed=7))[0]
        for size in (len(manifest), batch_size)
    ]
    assert found[1].metrics[0] == pytest.approx(found[0].metrics[0], rel=1e-4)
    assert {"loss", "dice_loss", "pixel_auroc"} <= found[0].metrics[0].keys()


def test_a_batch_is_divided_by_shape_and_keeps_what_belongs_to_each_image(manifest: pa.Table, data: DataConfig) -> None:
    model = build_model(MODEL, seed=7)
    images = build_images(manifest, data, image_size=64, patch_size=model.patch_size)
    source = PrefixSource(model, images, precision="float32", device=model.pixel_mean.device, num_threads=1)
    (parts,) = source.batches([list(range(8))])
    assert sorted(index for part in parts for index in part.index.tolist()) == list(range(8))
    assert {tuple(part.valid_tokens.shape[1:]) for part in parts} == {(8, 3), (3, 8), (8, 8), (8, 6)}
    for part in parts:
        assert part.valid_pixels.all()
        assert part.valid_pixels.shape == part.gt_masks.shape
        assert part.tokens.shape[1] == 1 + part.valid_tokens[0].numel()
        assert part.labels.tolist() == images.labels[part.index].tolist()
        assert part.gt_masks.flatten(1).any(dim=1).tolist() == part.labels.bool().tolist()


@pytest.mark.parametrize("kept", [PrefixCache.memory, PrefixCache.disk])
def test_a_kept_prefix_changes_nothing(manifest: pa.Table, data: DataConfig, kept: PrefixCache, tmp_path: Path) -> None:
    folder = str(tmp_path) if kept is PrefixCache.disk else None
    cached = dataclasses.replace(OPTIM, prefix_cache=kept, prefix_cache_folder=folder)
    plain, found = (
        run_fit(manifest, data, optim=optim, model=build_model(MODEL, seed=7))[0] for optim in (OPTIM, cached)
    )
    for one, other in zip(plain.metrics, found.metrics, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_a_trained_model_learns_from_rectangles(manifest: pa.Table, data: DataConfig) -> None:
    last, _ = run_fit(manifest, data, optim=dataclasses.replace(OPTIM, epochs=3), model=build_model(MODEL, seed=7))
    losses = [epoch["loss"] for epoch in last.metrics]
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()
    assert data == shapes_data(data.manifest.rpartition("/")[0])
