"""Tuning a parent: image labels move what a class score sees, nothing else; the epoch is chosen, not the last."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from small_fit import CPU, IMAGE_SIZE, MODEL, OPTIM, run_fit, small_data

from feclip.building import build_images, build_model, read_labelled
from feclip.bundle import IMAGE_COLUMNS, Bundle, read_bundle, write_bundle
from feclip.config import DataConfig, FinetuneConfig, LossConfig, ModelConfig, OptimConfig, Resize
from feclip.data import INSPECTION_SCHEMA, MANIFEST_SCHEMA, inspect_rows
from feclip.errors import ConfigError, DataError, RunError
from feclip.training import (
    Claim,
    TrainState,
    all_images,
    best_epoch,
    claimed_parent,
    fit,
    inherited,
    require_unseen,
)
from feclip.training.choosing import is_over
from feclip.training.reach import class_parameters

DECAYING = dataclasses.replace(OPTIM, weight_decay=0.1)


@pytest.fixture(scope="module")
def data(small_mvtec: Path) -> DataConfig:
    return small_data(str(small_mvtec))


@pytest.fixture(scope="module")
def labelled(data: DataConfig) -> pa.Table:
    """The small set without its masks."""
    manifest = read_labelled(data, seed=0)
    kept = manifest.drop_columns(["mask_uri", "has_mask"])
    kept = kept.append_column("mask_uri", pa.nulls(manifest.num_rows, pa.string()))
    return kept.append_column("has_mask", pa.array([False] * manifest.num_rows))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, labelled: pa.Table) -> Bundle:
    """A bundle whose images are the first two of the small set."""
    folder = tmp_path_factory.mktemp("parent")
    images = inspect_rows(labelled.slice(0, 2), num_threads=1).append_column("role", pa.array(["trained"] * 2))
    calibrated = pa.table({"uri": ["/n.png"], "sha256": ["1" * 64], "role": ["calibrated"]})
    images = pa.concat_tables([images.select(IMAGE_COLUMNS.names), calibrated], promote_options="default")
    model = dataclasses.replace(MODEL, noun="screw")
    run = FinetuneConfig(output=str(folder), model=model, optim=OptimConfig(epochs=0))
    write_bundle(str(folder), model=build_model(model, seed=3), config=run, images=images, metrics=[])
    return read_bundle(str(folder))


def tuned(parent: Bundle, **fields: object) -> FinetuneConfig:
    defaults = {"output": "/runs/tuned", "parent": parent.uri, "data": DataConfig(root="/data")}
    return FinetuneConfig(**{**defaults, **fields})  # type: ignore[arg-type]


def chosen_fit(
    labelled: pa.Table, data: DataConfig, optim: OptimConfig, state: TrainState | None = None
) -> tuple[TrainState, list[TrainState]]:
    return run_fit(labelled, data, optim=optim, state=state, chooses=True)


def test_weight_decay_moves_nothing_that_image_labels_do_not_reach(labelled: pa.Table, data: DataConfig) -> None:
    """Adam makes a full step of even the smallest penalty, so that decay alone would spoil the maps."""
    last, _ = run_fit(labelled, data, optim=DECAYING)
    model = build_model(MODEL, seed=7)
    fresh = model.trainable_state_dict()
    moved = {name for name, tensor in last.trained.items() if not torch.equal(tensor, fresh[name])}
    assert moved == class_parameters(model)
    assert {name.rpartition(".")[0].split(".")[1] for name in moved} == {"0", "1"}  # of three taps
    assert {name.partition("/")[2] for name in last.moments} == moved
    assert "patch_head.weight" not in moved


def test_one_tap_and_no_mask_train_nothing_and_it_is_said(labelled: pa.Table, data: DataConfig) -> None:
    model = build_model(dataclasses.replace(MODEL, num_taps=1), seed=7)
    with pytest.raises(RunError, match="no class score sees an adapter, so nothing can be trained: take more taps"):
        run_fit(labelled, data, model=model)


def test_the_state_holds_the_best_epoch_and_what_was_before(
    labelled: pa.Table, data: DataConfig, tmp_path: Path
) -> None:
    last, states = chosen_fit(labelled, data, dataclasses.replace(OPTIM, epochs=3, learning_rate=1e-3))
    assert last.before is not None
    assert {"image_auroc", "image_ap"} <= last.before.keys()
    best = best_epoch(last.before, last.metrics)
    expected = build_model(MODEL, seed=7).trainable_state_dict() if best == 0 else states[best - 1].trained
    assert all(torch.equal(last.best[name], tensor) for name, tensor in expected.items())
    dataclasses.replace(last, best=last.trained).save(tmp_path)  # as where the last epoch is the best
    read = TrainState.load(tmp_path)
    assert read.best.keys() == last.trained.keys()
    assert all(torch.equal(read.best[name], tensor) for name, tensor in last.trained.items())


def test_training_ends_after_epochs_that_brought_nothing_and_goes_on_alike(
    labelled: pa.Table, data: DataConfig, tmp_path: Path
) -> None:
    """At this rate no ranking changes: the parent stays the best, after one epoch or after two."""
    still = dataclasses.replace(OPTIM, epochs=4, learning_rate=1e-12, patience=2)
    last, states = chosen_fit(labelled, data, still)
    assert [state.epoch for state in states] == [1, 2]
    assert last.before is not None
    assert best_epoch(last.before, last.metrics) == 0
    start = build_model(MODEL, seed=7).trainable_state_dict()
    assert all(torch.equal(last.best[name], tensor) for name, tensor in start.items())
    states[0].save(tmp_path)
    resumed, later = chosen_fit(labelled, data, still, TrainState.load(tmp_path))
    assert [state.epoch for state in later] == [2]
    assert (resumed.before, resumed.metrics) == (last.before, last.metrics)
    for one, other in ((resumed.trained, last.trained), (resumed.best, last.best), (resumed.moments, last.moments)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_earliest_of_equal_epochs_is_chosen_and_patience_counts_from_it() -> None:
    before = {"image_auroc": 0.8}
    epochs = [{"image_auroc": value} for value in (0.7, 0.9, 0.9, 0.85)]
    assert [best_epoch(before, epochs[:number]) for number in range(5)] == [0, 0, 2, 2, 2]
    assert [is_over(before, epochs[:number], patience=2) for number in range(5)] == [False, False, False, False, True]
    assert not is_over(before, epochs, patience=None)
    with pytest.raises(RunError, match="have no AUROC to choose an epoch by"):
        best_epoch({}, epochs)


def test_a_held_out_split_of_one_kind_is_no_choice(labelled: pa.Table, data: DataConfig) -> None:
    nothing = build_images(labelled.slice(0, 0), data, image_size=IMAGE_SIZE)
    with pytest.raises(RunError, match="hold out normal and anomalous ones"):
        fit(
            build_model(MODEL, seed=7), train=build_images(labelled, data, image_size=IMAGE_SIZE), held_out=nothing,
            loss=LossConfig(), optim=OPTIM, seed=0, device=CPU, num_threads=1, state=None, on_epoch=lambda _: None,
            chooses=True,
        )  # fmt: skip


def test_the_model_and_its_inputs_are_the_parents(parent: Bundle) -> None:
    config = inherited(tuned(parent), parent)
    assert config.model == parent.model
    assert config.model.noun == "screw"
    said_again = tuned(parent, model=dataclasses.replace(MODEL, noun="screw"))
    assert inherited(said_again, parent).model == parent.model


def test_a_field_that_differs_from_the_parents_is_refused_and_named(parent: Bundle) -> None:
    other = tuned(
        parent, model=ModelConfig(noun="grid", num_taps=2), data=DataConfig(root="/data", resize=Resize.squash)
    )
    with pytest.raises(ConfigError) as caught:
        inherited(other, parent)
    for named in (
        "model.noun is screw there, given grid",
        "model.num_taps is 3 there, given 2",
        "data.resize is letterbox there, given squash",
    ):
        assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_belongs_to_one_parent(parent: Bundle, tmp_path: Path) -> None:
    config = tuned(parent, output=str(tmp_path))
    fields = {field.name: field for field in (*MANIFEST_SCHEMA, *INSPECTION_SCHEMA)}
    empty = pa.schema(list(fields.values())).empty_table()
    Claim.of(config, parent_id=parent.model_id).take(empty, guard=empty)
    assert Claim.of(config, parent_id=parent.model_id).begun
    guard = dataclasses.replace(config.guard, root="/old", fail_if_worse=True)
    with pytest.raises(RunError, match=r"another config: guard.root was None, now '/old'\. Choose"):
        Claim.of(dataclasses.replace(config, guard=guard), parent_id=parent.model_id)
    with pytest.raises(RunError, match=r"was tuned from model '\w{12}', but the parent .* is model 'ffffffffffff' now"):
        Claim.of(config, parent_id="f" * 64)
    with pytest.raises(RunError, match="was replaced while it was tuned"):
        claimed_parent(config, model_id="f" * 64)
    found = claimed_parent(config, model_id=parent.model_id)
    assert found is not None
    assert found.model_id == parent.model_id


def test_what_trained_the_parent_is_not_held_out_and_stays_known(parent: Bundle, labelled: pa.Table) -> None:
    rows = inspect_rows(labelled, num_threads=2).drop_columns(["error"])
    with pytest.raises(DataError, match="2 of 3 held-out images trained the parent"):
        require_unseen(rows.slice(0, 3), parent)
    require_unseen(rows.slice(2, 3), parent)
    own = rows.slice(2, 3).append_column("role", pa.array(["selected"] * 3))
    images = all_images(parent, own)
    assert images["role"].to_pylist() == ["trained"] * 2 + ["selected"] * 3  # and not what calibrated the parent
    assert images["sha256"].to_pylist() == rows["sha256"].to_pylist()[:5]
    assert images["thumbnail"].null_count == 0
