"""Training where groups have nouns of their own: what each image is compared with, and that a run notices a change."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from small_fit import CPU, IMAGE_SIZE, MODEL, OPTIM, run_fit, small_data

from feclip.building import build_images, build_model, read_labelled
from feclip.config import DataConfig, FinetuneConfig, Nouns, PrefixCache, Prompts
from feclip.errors import DataError, RunError
from feclip.training import Claim, PrefixSource

OPTIM_ONCE = dataclasses.replace(OPTIM, epochs=1)
NAMED = dataclasses.replace(MODEL, nouns=Nouns(("capsule=pill",)))


@pytest.fixture(scope="module")
def data(small_mvtec: Path) -> DataConfig:
    return small_data(str(small_mvtec))


@pytest.fixture(scope="module")
def manifest(data: DataConfig) -> pa.Table:
    return read_labelled(data, seed=0)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_batches_carry_the_noun_of_each_image_kept_or_not(manifest: pa.Table, data: DataConfig) -> None:
    model = build_model(NAMED, seed=7)
    images = build_images(manifest, data, image_size=IMAGE_SIZE)
    wanted = [int(category == "capsule") for category in manifest["category"].to_pylist()]
    assert 0 < sum(wanted) < len(wanted)
    source = PrefixSource(model, images, precision="float32", device=CPU, num_threads=1)
    rows = list(range(0, len(images), 3))
    ((batch,),) = source.batches([rows])
    assert batch.nouns.tolist() == [wanted[row] for row in rows]


def test_groups_with_one_noun_train_as_one_noun_does(manifest: pa.Table, data: DataConfig) -> None:
    """So every image meets its own noun, whichever group it is of and wherever its tokens come from."""
    one = dataclasses.replace(MODEL, noun="pill")
    both = dataclasses.replace(MODEL, nouns=Nouns(("capsule=pill", "tile=pill")))
    optim = dataclasses.replace(OPTIM_ONCE, prefix_cache=PrefixCache.memory)
    expected, _ = run_fit(manifest, data, optim=OPTIM_ONCE, model=build_model(one, seed=7))
    for config, setting in ((both, OPTIM_ONCE), (both, optim)):
        found, _ = run_fit(manifest, data, optim=setting, model=build_model(config, seed=7))
        assert largest_difference(found.trained, expected.trained) < 1e-4
        assert found.metrics[0] == pytest.approx(expected.metrics[0], abs=1e-3)
    named, _ = run_fit(manifest, data, optim=OPTIM_ONCE, model=build_model(NAMED, seed=7))
    assert largest_difference(named.trained, expected.trained) > 1e-4


def test_kept_tokens_serve_other_prompts() -> None:
    """What is kept lies before any text: one cache serves all prompts, which then train something else."""
    plain, named = build_model(MODEL, seed=7), build_model(NAMED, seed=7)
    assert plain.prefix_digest == named.prefix_digest
    assert plain.backbone_digest == named.backbone_digest


def test_images_without_the_column_are_refused(manifest: pa.Table, data: DataConfig) -> None:
    model = build_model(dataclasses.replace(NAMED, noun_column="lien"), seed=7)
    with pytest.raises(DataError, match=r"have no column 'lien', by which model\.nouns names nouns; they have uri,"):
        run_fit(manifest, data, optim=OPTIM_ONCE, model=model)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"nouns": Nouns(("capsule=pill",))}, r"model.nouns was None, now \['capsule=pill'\]"),
        ({"prompts": Prompts.winclip}, "model.prompts was 'paper', now 'winclip'"),
        ({"noun_column": "line"}, "model.noun_column was 'category', now 'line'"),
    ],
)
def test_a_run_with_other_prompts_is_another_run(fields: dict[str, object], named: str, tmp_path: Path) -> None:
    config = FinetuneConfig(output=str(tmp_path / "run"), model=MODEL, data=DataConfig(root="/data"))
    rows = {"uri": ["/a.png"], "split": ["train"], "sha256": ["0" * 64], "mask_digest": [None]}
    Claim.of(config).take(pa.table(rows))
    assert Claim.of(config).begun
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))  # type: ignore[arg-type]
    with pytest.raises(RunError, match=f"belongs to a run with another config: {named}"):
        Claim.of(other)
