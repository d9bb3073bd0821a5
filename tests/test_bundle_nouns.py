"""A bundle with nouns of groups: scored as each noun's bundle would, on every way that images take."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from feclip.archive import (
    LISTING_FOLDER,
    Run,
    Source,
    fetch_slice,
    list_part,
    listed_values,
    plan_parts,
    score_slice,
    write_numbered,
)
from feclip.archive.listing import LISTING_SCHEMA
from feclip.building import build_model, check_model
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.bundle.record import sealed
from feclip.calibration import StatisticOptions
from feclip.config import FinetuneConfig, ModelConfig, Nouns, OptimConfig, PredictConfig, Prompts, ScoringConfig
from feclip.data import GuardedDecoder
from feclip.errors import BundleError, ConfigError
from feclip.export import ExportedModel
from feclip.export.recipe import recipe_of
from feclip.prediction import Prediction, Predictor, predict
from feclip.scoring import Scorer

SIZE = 112
NOUNS = {"1": "wood", "2": "tile"}
MODEL = ModelConfig(
    backbone="feclip-demo", num_taps=2, nouns=Nouns(("2=tile", "1=wood")), noun_column="line"
).settled()  # groups without a noun of their own: "object"


def write(folder: Path, config: ModelConfig) -> Bundle:
    run = FinetuneConfig(output=str(folder), model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(folder), model=build_model(config, seed=3), config=run, images=images, metrics=[])
    return read_bundle(str(folder))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(tmp_path_factory.mktemp("nouns"), MODEL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Bundle]:
    """Bundles of the same adapters whose one noun is that of a group."""
    nouns = {**NOUNS, "3": "object", None: "object"}
    return {
        group: write(tmp_path_factory.mktemp("alone"), ModelConfig(backbone="feclip-demo", num_taps=2, noun=noun))
        for group, noun in nouns.items()
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each of three lines, and one of none."""
    root = tmp_path_factory.mktemp("archive")
    chance = np.random.default_rng(0)
    for name in (
        "line=1/a.png",
        "line=1/b.png",
        "line=2/a.png",
        "line=2/b.png",
        "line=3/a.png",
        "line=3/b.png",
        "z.png",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        coarse = chance.integers(0, 256, (14, 14, 3))
        Image.fromarray(np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)).save(root / name)
    return root


def pixels_of(archive: Path) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
    paths = sorted(archive.rglob("*.png"))
    groups = [path.parent.name.partition("=")[2] or None for path in paths]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    return pixels, np.ones(pixels.shape[:3], np.bool_), groups


def expected(archive: Path, alone: dict[str | None, Bundle]) -> list[float]:
    """Return the logit of each image by the bundle whose noun is that of its group."""
    pixels, valid, groups = pixels_of(archive)
    scorers = {group: Scorer(bundle, precision="float32") for group, bundle in alone.items()}
    singles = zip(pixels, valid, groups, strict=True)
    return [float(scorers[group].score(one[None], seen[None]).image_logit[0]) for one, seen, group in singles]


def test_each_image_is_scored_with_the_noun_of_its_group(
    bundle: Bundle, alone: dict[str | None, Bundle], archive: Path
) -> None:
    pixels, valid, groups = pixels_of(archive)
    scorer = Scorer(bundle, precision="float32")
    assert scorer.noun_column == "line"
    found, wanted = scorer.score(pixels, valid, nouns=groups), expected(archive, alone)
    assert found.image_logit == pytest.approx(wanted, abs=1e-5)
    others = scorer.score(pixels, valid)  # as where the images have no such column
    assert others.image_logit[-3:] == pytest.approx(wanted[-3:], abs=1e-5)
    assert (np.abs(others.image_logit - found.image_logit)[:-3] > 1e-3).all()
    one_at_a_time = Scorer(bundle, precision="float32", batch_size=1).score(pixels, valid, nouns=groups)
    for name in ("image_logit", "map_max", "map_topk_mean"):
        assert getattr(found, name) == pytest.approx(getattr(one_at_a_time, name), abs=2e-3)


@pytest.mark.slow
def test_compiled_it_scores_alike(bundle: Bundle, archive: Path) -> None:
    pixels, valid, groups = pixels_of(archive)
    plain, fast = (Scorer(bundle, precision="float32", batch_size=7, compiles=compiles) for compiles in (False, True))
    found, wanted = (scorer.score(pixels, valid, nouns=groups) for scorer in (fast, plain))
    assert found.image_logit == pytest.approx(wanted.image_logit, abs=1e-4)


def frozen(archive: Path, output: str, *, model_id: str) -> Run:
    """Freeze a listing as a scoring job does."""
    source = Source(archive=str(archive), manifest=None)
    tables = [block.table for part in plan_parts(source) for block in list_part(part, source)]
    columns = sorted({name for table in tables for name in table.column_names} - set(LISTING_SCHEMA.names))
    files, first = [], 0
    for table in filter(len, tables):
        files.append(write_numbered(f"{output}/{LISTING_FOLDER}", table, first_row_id=first, columns=columns))
        first += len(table)
    options = StatisticOptions(topk_fraction=0.01, smoothing_sigma=0.0)
    assert ScoringConfig().statistic_options == options
    config = ScoringConfig(slice_size=4)
    return Run.frozen(output, model_id=model_id, config=config, source=source, files=files, ignored={}, image_size=SIZE)


def test_a_slice_knows_its_groups_and_an_archive_without_them_has_one_noun(
    bundle: Bundle, alone: dict[str | None, Bundle], archive: Path, tmp_path: Path
) -> None:
    scorer = Scorer(bundle, precision="float32")
    wanted = dict(zip(sorted(map(str, archive.rglob("*.png"))), expected(archive, alone), strict=True))
    run = frozen(archive, str(tmp_path / "run"), model_id=bundle.model_id)
    flat = frozen(archive / "line=1", str(tmp_path / "flat"), model_id=bundle.model_id)
    with GuardedDecoder(bundle.input_options) as decoder:
        tables = [
            score_slice(of, fetch_slice(of, index, decoder=decoder, num_readers=2), scorer=scorer)
            for of in (run, flat)
            for index in range(of.num_slices)
        ]
    rows = pa.concat_tables(tables[:2]).to_pylist()
    assert {row["uri"]: row["image_logit"] for row in rows} == pytest.approx(wanted, abs=1e-5)
    for row in tables[2].to_pylist():
        assert abs(row["image_logit"] - wanted[row["uri"]]) > 1e-3
    assert listed_values(run, range(run.num_slices), column="line") == {"1", "2", "3", None}
    assert listed_values(flat, [0], column="line") == {None}


def test_predictions_agree_and_the_command_says_what_images_are_called(
    bundle: Bundle, alone: dict[str | None, Bundle], archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted(archive.rglob("*.png"))
    with Predictor(bundle, device="cpu", precision="float32", batch_size=4) as predictor:
        found = [item for item in predictor.predict_all(paths) if isinstance(item, Prediction)]
    assert [item.image_logit for item in found] == pytest.approx(expected(archive, alone), abs=1e-5)
    with caplog.at_level(logging.INFO):
        predict(PredictConfig(bundle=bundle.uri, images=[str(archive)]))
    assert (
        "Prompts by line: 'wood' for 1; 'tile' for 2; 'object', for want of a noun of their own, for 3, images without "
        "one."
    ) in caplog.text


def test_for_one_group_there_is_one_noun_and_the_same_model(bundle: Bundle, alone: dict[str | None, Bundle]) -> None:
    for group in ("1", "2", "3"):
        one = bundle.of_group(group, field="group")
        assert (one.model.noun, one.model.nouns) == (alone[group].model.noun, None)
        assert one.model_id == bundle.model_id
        assert recipe_of(one)["prompts"] == recipe_of(alone[group])["prompts"]
        assert torch.equal(one.build().text_embeddings, alone[group].build().text_embeddings)
    with pytest.raises(ConfigError, match="calls images by their line: give group, one of 1, 2; images of any other"):
        bundle.of_group(None, field="group")
    assert alone["1"].of_group(None, field="group") is alone["1"]


def test_an_exported_model_of_a_group_scores_as_the_bundle_does(bundle: Bundle, archive: Path) -> None:
    pixels, valid, groups = pixels_of(archive)
    scores = Scorer(bundle, precision="float32").score(pixels, valid, nouns=groups)
    exported = ExportedModel(bundle.of_group("2", field="group").build(), statistic_options=bundle.statistic_options)
    with torch.no_grad():
        found = exported(torch.from_numpy(pixels[2:4]), torch.from_numpy(valid[2:4]))
    assert found["image_logit"].numpy() == pytest.approx(scores.image_logit[2:4], abs=1e-5)


def test_the_model_id_follows_nouns_prompts_and_column(bundle: Bundle, tmp_path: Path) -> None:
    def model_id(name: str, **fields: Any) -> str:  # noqa: ANN401 - of a config
        plain = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=32, num_taps=1, **fields)
        return write(tmp_path / name, plain).model_id

    found = {
        model_id("plain"),
        model_id("winclip", prompts=Prompts.winclip),
        model_id("nouns", nouns=Nouns(("a=PCB",))),
        model_id("group", nouns=Nouns(("b=PCB",))),
        model_id("column", nouns=Nouns(("a=PCB",)), noun_column="line"),
    }
    assert len(found) == 5
    assert model_id("again", nouns=Nouns(("b=screw", "a=PCB"))) == model_id("order", nouns=Nouns(("a=PCB", "b=screw")))
    assert bundle.model.nouns == ("1=wood", "2=tile")


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def apply(record: dict[str, Any]) -> dict[str, Any]:
        change(record)
        return sealed(record)

    return apply


DAMAGES = {
    "must name 1 to 256 groups, got 300": lambda record: record["model"].update(
        nouns=[f"{number}=PCB" for number in range(300)]
    ),
    "must name 1 to 256 groups, got 0": lambda record: record["model"].update(nouns=[]),
    "written group=noun": lambda record: record["model"].update(nouns=["PCB"]),
    "with 4096 characters at most": lambda record: record["model"].update(nouns=["a=" + "b" * 5000]),
    "names 'a' twice": lambda record: record["model"].update(nouns=["a=b", "a=c"]),
    "model.nouns": lambda record: record["model"].update(nouns=7),
    "expected nouns by group": lambda record: record["model"].update(nouns={"class_path": {"os.system": 1}}),
    "model.noun_column must not be empty": lambda record: record["model"].update(noun_column=" "),
    'key "prompts": Expected a member of': lambda record: record["model"].update(prompts="coop"),
    "model.prompts must be paper for feclip-demo": lambda record: record["model"].update(prompts="winclip"),
    "prompts are not those of": lambda record: record["model"].update(noun="wood"),
    "model_id is not the digest": lambda record: record["model"].update(nouns=["1=wood"]),
}


@pytest.mark.parametrize("named", DAMAGES)
def test_nouns_from_strangers_are_checked(named: str, bundle: Bundle, tmp_path: Path) -> None:
    place = Path(shutil.copytree(bundle.uri, tmp_path / "copy"))
    record = edited(DAMAGES[named])(json.loads((place / "config.json").read_text()))
    (place / "config.json").write_text(json.dumps(record))
    with pytest.raises(BundleError) as error:
        read_bundle(str(place))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_word_that_the_backbone_does_not_know_is_named_before_anything_is_loaded() -> None:
    unknown = dataclasses.replace(MODEL, nouns=Nouns(("1=wood", "2=unicorn")))
    with pytest.raises(ConfigError, match=r"^model: feclip-demo does not know 'unicorn' in 'A photo of a normal uni"):
        check_model(unknown)
    with pytest.raises(ValueError, match=r"^model.prompts must be paper for feclip-demo, which learned no other words"):
        dataclasses.replace(MODEL, prompts=Prompts.winclip)
