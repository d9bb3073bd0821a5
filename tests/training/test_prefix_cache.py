"""What is kept of an image: computed once, without effect on the result, known by its content, stated at the start."""

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file
from small_fit import OPTIM, small_data
from small_fit import run_fit as run_any_fit

from feclip.building import build_images, build_model, read_labelled
from feclip.config import DataConfig, ModelConfig, OptimConfig, Precision, PrefixCache, ValidRegion
from feclip.data import LabelledImages, Sample, inspect_rows
from feclip.errors import RunError
from feclip.model import FeClipModel
from feclip.training import Step, TrainState, prefix_cache

THREE_EPOCHS = dataclasses.replace(OPTIM, epochs=3)
MODEL = ModelConfig(backbone="feclip-demo", pretrained="none", image_size=64, num_taps=3)
NUM_PREFIX_BYTES = (1 + 64) * 96 * 4  # patches of 8 at 64 px, 96 wide, float32
NUM_MASK_BYTES = 2 * 64 * 64 // 8


@pytest.fixture(scope="module")
def data(small_mvtec: Path) -> DataConfig:
    return small_data(str(small_mvtec))


@pytest.fixture(scope="module")
def manifest(data: DataConfig) -> pa.Table:
    """The images that train or are held out."""
    used = read_labelled(data, seed=0).filter(pc.field("split").isin(["train", "held_out"]))
    return inspect_rows(used, num_threads=2)


def run_fit(
    manifest: pa.Table, data: DataConfig, *, model: FeClipModel | None = None, **given: object
) -> tuple[TrainState, list[TrainState]]:
    return run_any_fit(manifest, data, model=model or build_model(MODEL, seed=7), **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def uncached(manifest: pa.Table, data: DataConfig) -> TrainState:
    return run_fit(manifest, data, optim=THREE_EPOCHS)[0]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """How many images were decoded, and how many went through a prefix."""
    counts = SimpleNamespace(decoded=0, prefixes=0)
    read, prefix = LabelledImages.__getitem__, FeClipModel.prefix

    def counted_read(self: LabelledImages, index: int) -> Sample:
        counts.decoded += 1
        return read(self, index)

    def counted_prefix(self: FeClipModel, images: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        counts.prefixes += len(images)
        return prefix(self, images, *rest)

    monkeypatch.setattr(LabelledImages, "__getitem__", counted_read)
    monkeypatch.setattr(FeClipModel, "prefix", counted_prefix)
    return counts


@pytest.fixture(params=["memory", "disk"])
def cached(request: pytest.FixtureRequest, tmp_path: Path) -> OptimConfig:
    return kept_in(request.param, tmp_path)


def kept_in(place: str, folder: Path, **fields: object) -> OptimConfig:
    cache = {"prefix_cache": PrefixCache(place), "prefix_cache_folder": str(folder / "kept")}
    return dataclasses.replace(THREE_EPOCHS, **cache, **fields)  # type: ignore[arg-type]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("kept/*/*.safetensors"))


def require_alike(one: TrainState, other: TrainState) -> None:
    """Check that two runs differ by rounding alone: the batch in which a prefix is computed is all that differs."""
    for left, right in zip(one.metrics, other.metrics, strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_each_image_is_seen_once_and_nothing_else_changes(
    cached: OptimConfig, manifest: pa.Table, data: DataConfig, uncached: TrainState, seen: SimpleNamespace
) -> None:
    last, _ = run_fit(manifest, data, optim=cached)
    assert seen.decoded == manifest.num_rows
    assert seen.prefixes == manifest.num_rows + 1  # and a blank one, for the size
    require_alike(last, uncached)


def test_a_resumed_run_fills_the_memory_anew_and_finds_the_disk_full(
    cached: OptimConfig, manifest: pa.Table, data: DataConfig, uncached: TrainState, seen: SimpleNamespace
) -> None:
    _, states = run_fit(manifest, data, optim=dataclasses.replace(cached, epochs=1))
    seen.decoded = 0
    last, _ = run_fit(manifest, data, optim=cached, state=states[0])
    assert seen.decoded == (0 if cached.prefix_cache is PrefixCache.disk else manifest.num_rows)
    require_alike(last, uncached)


def test_what_changes_a_prefix_is_not_taken_from_the_disk(
    manifest: pa.Table, data: DataConfig, tmp_path: Path, seen: SimpleNamespace
) -> None:
    optim = kept_in("disk", tmp_path, epochs=1)
    run_fit(manifest, data, optim=optim)

    def changed(name: str) -> pa.Table:
        """Return the manifest with another digest in the first row that has one."""
        column, digests = manifest.column_names.index(name), manifest[name].to_pylist()
        digests[next(row for row, digest in enumerate(digests) if digest is not None)] = "0" * 64
        return manifest.set_column(column, name, pa.array(digests))

    def others() -> Iterator[tuple[str, pa.Table, DataConfig, FeClipModel, int]]:
        table, model = manifest, build_model(MODEL, seed=7)
        yield "itself", table, data, model, 0
        yield "one image", changed("sha256"), data, model, 1
        yield "one mask", changed("mask_digest"), data, model, 1
        squashed = dataclasses.replace(data, resize="squash")
        yield "input", table, squashed, model, table.num_rows
        for name, fields in {
            "first tap": {"tap_blocks": (2, 3, 5)},
            "weights": {"init_seed": 1},
            "padding": {"padding": "attention"},
        }.items():
            yield name, table, data, build_model(dataclasses.replace(MODEL, **fields), seed=7), table.num_rows  # type: ignore[arg-type]
        model.visual.transformer.resblocks[0].mlp.gelu = torch.nn.Tanh()
        yield "activation", table, data, model, table.num_rows

    for name, table, config, model, anew in others():
        seen.decoded = 0
        run_fit(table, config, optim=optim, model=model)
        assert seen.decoded == anew, name


def test_later_taps_share_what_is_kept(
    manifest: pa.Table, data: DataConfig, tmp_path: Path, seen: SimpleNamespace
) -> None:
    optim = kept_in("disk", tmp_path, epochs=1)
    run_fit(manifest, data, optim=optim)
    seen.decoded = 0
    run_fit(manifest, data, optim=optim, model=build_model(dataclasses.replace(MODEL, tap_blocks=(1, 4)), seed=7))  # type: ignore[arg-type]
    assert seen.decoded == 0


def test_a_damaged_file_is_computed_anew(
    manifest: pa.Table, data: DataConfig, tmp_path: Path, seen: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    optim = kept_in("disk", tmp_path, epochs=1)
    run_fit(manifest, data, optim=optim)
    damaged = files(tmp_path)[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    seen.decoded = 0
    run_fit(manifest, data, optim=optim)
    assert seen.decoded == 1
    assert f"{damaged} cannot be read and is computed anew" in caplog.text
    assert len(damaged.read_bytes()) == len(whole)


def test_the_number_format_of_the_trunk_is_kept(manifest: pa.Table, data: DataConfig, tmp_path: Path) -> None:
    for precision, expected in ((Precision.float32, torch.float32), (Precision.bfloat16, torch.bfloat16)):
        before = set(files(tmp_path))
        run_fit(manifest, data, optim=kept_in("disk", tmp_path, epochs=1, precision=precision))
        written = set(files(tmp_path)) - before
        assert len(written) == manifest.num_rows
        assert {load_file(path)["tokens"].dtype for path in written} == {expected}


def test_the_size_is_stated_before_the_first_step(
    cached: OptimConfig, manifest: pa.Table, data: DataConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    said: list[str] = []

    def at_first_step(_: Step) -> None:
        said.extend(record.getMessage() for record in caplog.records if "Prefix cache" in record.getMessage())

    with caplog.at_level(logging.INFO):
        run_fit(manifest, data, optim=dataclasses.replace(cached, epochs=1), on_step=at_first_step)
    size = NUM_PREFIX_BYTES + NUM_MASK_BYTES
    total = f"{manifest.num_rows} images x {size / 1e6:.3g} MB = {manifest.num_rows * size / 1e9:.3g} GB"
    places = {"memory": "the memory of each worker", "disk": f"{tmp_path / 'kept'}, 0 of them there already"}
    assert said[0].startswith(f"Prefix cache: {total} in {places[cached.prefix_cache]}; ")


def test_no_room_is_one_line_before_the_first_step(
    cached: OptimConfig, manifest: pa.Table, data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = manifest.num_rows * (NUM_PREFIX_BYTES + NUM_MASK_BYTES)
    steps: list[int] = []
    for free, fits in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(prefix_cache, "free_memory", lambda free=free: free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if fits:
            run_fit(manifest, data, optim=dataclasses.replace(cached, epochs=1), on_step=lambda *_: steps.append(1))
            assert steps
            continue
        with pytest.raises(RunError, match=r"The prefix cache does not fit: \d+ images") as caught:
            run_fit(manifest, data, optim=cached, on_step=lambda *_: steps.append(1))
        assert "\n" not in str(caught.value)
        assert not steps


def test_images_without_digests_are_not_kept_on_disk(data: DataConfig, tmp_path: Path, manifest: pa.Table) -> None:
    with pytest.raises(RunError, match="digests that the check before training finds"):
        run_fit(manifest.drop_columns(["sha256"]), data, optim=kept_in("disk", tmp_path))
    told = dataclasses.replace(data, valid_region=ValidRegion.mask_uri)
    masks = manifest.set_column(
        manifest.column_names.index("valid_mask_uri"), "valid_mask_uri", pa.array(["/m.png"] * manifest.num_rows)
    )
    assert build_images(manifest, data, image_size=64).content_name(0) is not None
    assert build_images(masks, told, image_size=64).content_name(0) is None


def test_free_memory_is_that_of_the_container_where_it_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(prefix_cache, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert prefix_cache.free_memory() == 8000 << 10
    (tmp_path / "memory.current").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 2000000\n")
    for limit, free in (("max", 8000 << 10), ("7000000", 4_000_000), ("90000000", 8000 << 10)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert prefix_cache.free_memory() == free
