"""The training loop: what it changes, what ranks agree on, and that a resumed run equals an unbroken one."""

import dataclasses
import json
import socket
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from small_fit import CPU, IMAGE_SIZE, MODEL, OPTIM, run_fit, shapes_data, small_data, write_shapes
from torch import distributed, multiprocessing

from feclip.building import build_images, build_model, read_labelled
from feclip.config import DataConfig, LossConfig, PrefixCache
from feclip.data import inspect_rows
from feclip.errors import RunError
from feclip.training import TrainState, fit
from feclip.training.loop import replicated


@pytest.fixture(scope="module")
def data(small_mvtec: Path) -> DataConfig:
    return small_data(str(small_mvtec))


@pytest.fixture(scope="module")
def manifest(data: DataConfig) -> pa.Table:
    return read_labelled(data, seed=0)


@pytest.fixture(scope="module")
def unbroken(manifest: pa.Table, data: DataConfig) -> tuple[TrainState, list[TrainState]]:
    return run_fit(manifest, data)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_each_epoch_is_recorded(unbroken: tuple[TrainState, list[TrainState]]) -> None:
    last, states = unbroken
    assert [state.epoch for state in states] == [1, 2]
    assert last.metrics[1]["loss"] < last.metrics[0]["loss"]
    for record in last.metrics:
        assert record["loss"] == pytest.approx(
            record["class_loss"] + record["focal_loss"] + record["dice_loss"], rel=1e-6
        )
        assert {"image_auroc", "image_ap", "pixel_auroc"} <= record.keys()


def test_only_adapters_and_patch_head_change(manifest: pa.Table, data: DataConfig) -> None:
    model = build_model(MODEL, seed=7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = build_images(manifest, data, image_size=IMAGE_SIZE)
    fit(
        model,
        train=images,
        held_out=build_images(manifest.slice(0, 0), data, image_size=IMAGE_SIZE),
        loss=LossConfig(),
        optim=dataclasses.replace(OPTIM, epochs=1),
        seed=0,
        device=CPU,
        num_threads=1,
        state=None,
        on_epoch=lambda _: None,
    )
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(model.trainable_state_dict())


def test_a_run_resumed_from_a_saved_state_equals_an_unbroken_one(
    manifest: pa.Table, data: DataConfig, unbroken: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    last, states = unbroken
    states[0].save(tmp_path)
    torch.manual_seed(12345)
    resumed, later = run_fit(manifest, data, state=TrainState.load(tmp_path))
    assert [state.epoch for state in later] == [2]
    assert resumed.metrics == last.metrics
    assert equal(resumed.trained, last.trained)
    assert equal(resumed.moments, last.moments)


def test_a_finished_run_does_nothing_and_more_epochs_go_on(
    manifest: pa.Table, data: DataConfig, unbroken: tuple[TrainState, list[TrainState]]
) -> None:
    last, _ = unbroken
    same, states = run_fit(manifest, data, state=last)
    assert states == []
    assert equal(same.trained, last.trained)
    more, states = run_fit(manifest, data, state=last, optim=dataclasses.replace(OPTIM, epochs=3))
    assert [state.epoch for state in states] == [3]
    assert more.metrics[:2] == last.metrics


def test_a_checkpoint_of_another_backbone_is_refused(
    manifest: pa.Table, data: DataConfig, unbroken: tuple[TrainState, list[TrainState]]
) -> None:
    foreign = dataclasses.replace(unbroken[0], backbone_digest="0" * 64)
    with pytest.raises(RunError, match="backbone 000000000000"):
        run_fit(manifest, data, state=foreign)


@pytest.mark.parametrize("damage", ["truncated", "schema", "absent"])
def test_a_damaged_checkpoint_is_one_line(
    damage: str, unbroken: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    unbroken[0].save(tmp_path)
    tensors, record = tmp_path / "state.safetensors", tmp_path / "state.json"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "schema":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"schema": 99}))
    else:
        record.unlink()
    with pytest.raises(RunError, match="checkpoint in"):
        TrainState.load(tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_step(manifest: pa.Table, data: DataConfig) -> None:
    wild = dataclasses.replace(OPTIM, learning_rate=1e30, grad_clip=None)
    with pytest.raises(RunError, match=r"loss became (nan|inf).* step 2 of"):
        run_fit(manifest, data, optim=wild)


def without_masks(manifest: pa.Table) -> pa.Table:
    labels_only = manifest.drop_columns(["mask_uri", "has_mask"])
    labels_only = labels_only.append_column("mask_uri", pa.nulls(manifest.num_rows, pa.string()))
    return labels_only.append_column("has_mask", pa.array([False] * manifest.num_rows))


def test_image_labels_alone_train_through_the_class_loss(manifest: pa.Table, data: DataConfig) -> None:
    last, _ = run_fit(without_masks(manifest), data)
    assert "focal_loss" not in last.metrics[0]
    assert "pixel_auroc" not in last.metrics[0]
    fresh = build_model(MODEL, seed=7).trainable_state_dict()
    moved = {name for name, tensor in last.trained.items() if not torch.equal(tensor, fresh[name])}
    assert {name.split(".")[1] for name in moved} == {"0", "1"}  # no class score sees the last tap's adapters


def rank_main(rank: int, world_size: int, port: int, root: str, folder: str) -> None:
    """Run four fits as one of several ranks; rank 0 writes their metrics and the bytes of DDP's buckets."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    data = small_data(root)
    manifest = inspect_rows(read_labelled(data, seed=0), num_threads=1)
    saving = dataclasses.replace(
        OPTIM, gradient_checkpointing=True, prefix_cache=PrefixCache.disk, prefix_cache_folder=f"{folder}/kept"
    )
    fits = {name: run_fit(manifest, data, optim=optim)[0] for name, optim in (("plain", OPTIM), ("saving", saving))}
    fits["labels"], _ = run_fit(without_masks(manifest), data, chooses=True)
    shapes = shapes_data(f"{folder}/shapes")
    fits["shapes"], _ = run_fit(read_labelled(shapes, seed=0), shapes)
    model = build_model(MODEL, seed=7)
    step_model = replicated(model, device=CPU)
    tokens = model.prefix(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    step_model([(tokens, None, None)])[0].token_logits.sum().backward()
    buckets = step_model._get_ddp_logging_data()["bucket_sizes"]  # noqa: SLF001 - torch's own way to tell
    if rank == 0:
        metrics: dict[str, object] = {name: last.metrics for name, last in fits.items()}
        metrics["before"] = fits["labels"].before
        sizes = [int(size) for size in buckets.split(",")]
        Path(folder, "result.json").write_text(json.dumps(metrics | {"bucket_bytes": sum(sizes)}))
    distributed.destroy_process_group()


def test_two_ranks_reach_the_loss_of_one_and_exchange_what_trains(
    small_mvtec: Path,
    unbroken: tuple[TrainState, list[TrainState]],
    manifest: pa.Table,
    data: DataConfig,
    tmp_path: Path,
) -> None:
    num_train = manifest["split"].to_pylist().count("train")
    assert num_train % OPTIM.batch_size == 1  # the last batch has one image, so one rank has none
    shapes = write_shapes(tmp_path / "shapes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(rank_main, (2, port, str(small_mvtec), str(tmp_path)), nprocs=2)
    found = json.loads((tmp_path / "result.json").read_text())
    for one, plain, saving in zip(unbroken[0].metrics, found["plain"], found["saving"], strict=True):
        assert plain == pytest.approx(one, rel=1e-4)
        assert saving == pytest.approx(one, rel=1e-4)
    alone, _ = run_fit(without_masks(manifest), data, chooses=True)
    for one, labels in zip([alone.before, *alone.metrics], [found["before"], *found["labels"]], strict=True):
        assert labels == pytest.approx(one, rel=1e-4)
    together, _ = run_fit(read_labelled(shapes, seed=0), shapes)
    for one, divided in zip(together.metrics, found["shapes"], strict=True):
        assert divided["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert divided == pytest.approx(one, rel=1e-2)  # pixels whose scores are alike change places by rounding
    assert found["bucket_bytes"] == sum(tensor.nbytes for tensor in unbroken[0].trained.values())
