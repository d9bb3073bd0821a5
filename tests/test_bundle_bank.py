"""A bundle with a memory bank: made, written, read, scored with, and refused where it is not what it must be."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_bundle import SIZE, write_small_bundle

from feclip.bundle import Bundle, InputOverride, read_bundle, write_banked
from feclip.bundle.record import encode_json, sealed
from feclip.errors import BundleError, DataError, RunError
from feclip.scoring import BankImages, Scorer, build_bank
from feclip.scoring import bank as module

Rows = dict[str, torch.Tensor]


def images(num: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise of a coarse grain, with padding on the right."""
    chance = np.random.default_rng(seed)
    pixels = np.kron(chance.integers(0, 256, (num, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    valid = np.ones((num, SIZE, SIZE), np.bool_)
    valid[:, :, 48:] = False
    return pixels, valid


def batch(num: int, *, seed: int) -> BankImages:
    pixels, valid = images(num, seed=seed)
    return BankImages(pixels=pixels, valid_pixels=valid)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(write_small_bundle(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def banked(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with three normal images in two groups."""
    groups = {"b": [batch(1, seed=1)], "a": [batch(1, seed=2), batch(1, seed=3)]}
    bank = build_bank(plain, groups, group_column="line", request={"memory_bank": 2}, precision="float32")
    place = tmp_path_factory.mktemp("banked")
    found = pa.table({"uri": ["/x.png", "/y.png", "/z.png"], "sha256": ["1" * 64, "2" * 64, "3" * 64]})
    model_id = write_banked(str(place), bundle=plain, bank=bank, images=found)
    bundle = read_bundle(str(place))
    assert bundle.model_id == model_id
    return bundle


def test_what_is_written_is_read_back(banked: Bundle, plain: Bundle) -> None:
    bank = banked.memory_bank
    assert bank is not None
    assert bank.parent_model_id == plain.model_id != banked.model_id
    assert (bank.groups, bank.num_images, bank.group_column) == ({"a": 2, "b": 1}, 3, "line")
    assert {name: tuple(rows.shape) for name, rows in bank.rows.items()} == {
        f"tap_{tap}.group_{group}": (number * 4 * 3, 384) for tap in (0, 1) for group, number in ((0, 2), (1, 1))
    }  # a grid of 4 x 4, of which one column is padding
    assert banked.images["role"].to_pylist() == ["trained", *["memory_bank"] * 3]
    assert banked.calibration is None


def test_images_of_the_bank_score_as_near_and_those_of_another_group_do_not(banked: Bundle, plain: Bundle) -> None:
    scorer = Scorer(banked, precision="float32")
    assert scorer.group_column == "line"
    pixels, valid = images(1, seed=1)
    before = Scorer(plain, precision="float32").score(pixels, valid).image_score[0]
    at_home, abroad = (scorer.score(pixels, valid, [group]) for group in ("b", "a"))
    assert at_home.image_score[0] == pytest.approx(before / 3, abs=1e-3)
    assert abroad.image_score[0] > at_home.image_score[0] + 1e-3
    assert abroad.map_max[0] > at_home.map_max[0]
    assert np.array_equal(np.isnan(at_home.token_map), np.isnan(abroad.token_map))


def test_company_in_a_batch_changes_nothing(banked: Bundle) -> None:
    pixels, valid = images(5, seed=9)
    groups = ["a", "b", "b", "a", "b"]
    together = Scorer(banked, precision="float32").score(pixels, valid, groups)
    alone = Scorer(banked, precision="float32", batch_size=1).score(pixels, valid, groups)
    assert together.image_logit == pytest.approx(alone.image_logit, abs=1e-5)


@pytest.mark.slow
def test_compiled_it_scores_alike(banked: Bundle) -> None:
    pixels, valid = images(3, seed=9)
    plain, fast = (Scorer(banked, precision="float32", batch_size=3, compiles=compiles) for compiles in (False, True))
    found, expected = (scorer.score(pixels, valid, ["a", "b", "a"]) for scorer in (fast, plain))
    assert found.image_logit == pytest.approx(expected.image_logit, abs=1e-4)


def test_a_group_without_normal_images_is_named(banked: Bundle) -> None:
    pixels, valid = images(1, seed=1)
    with pytest.raises(RunError, match="memory bank has no normal images of line=c, only of a, b"):
        Scorer(banked).score(pixels, valid, ["c"])


def test_another_bank_is_another_model(banked: Bundle, plain: Bundle, tmp_path: Path) -> None:
    groups = {"a": [batch(2, seed=2)], "b": [batch(1, seed=4)]}
    bank = build_bank(plain, groups, group_column="line", request={}, precision="float32")
    other = write_banked(str(tmp_path), bundle=plain, bank=bank, images=pa.table({"uri": [], "sha256": []}))
    assert other not in {banked.model_id, plain.model_id}


def test_a_coreset_is_smaller_and_says_what_it_lost(plain: Bundle) -> None:
    def bank(fraction: float) -> Any:  # noqa: ANN401 - a StoredBank
        groups = {"": [batch(3, seed=2)]}
        return build_bank(plain, groups, group_column=None, request={}, coreset_fraction=fraction)

    whole, part = bank(1.0), bank(0.25)
    assert (whole.mean_distance, whole.max_distance) == (0, 0)
    assert part.num_bytes == whole.num_bytes / 4
    assert 0 < part.mean_distance < part.max_distance
    for name, rows in part.rows.items():
        similar = (whole.rows[name].float() @ rows.float().T).amax(dim=1)
        assert float((1 - similar).max()) <= part.max_distance + 2e-3  # float16 rows


def test_a_bank_that_would_be_too_large_is_refused(plain: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BANK_BYTES", 10_000)
    with pytest.raises(DataError, match=r"take fewer images, or a smaller bank\.coreset_fraction"):
        build_bank(plain, {"": [batch(1, seed=2)]}, group_column=None, request={})


def test_no_image_is_no_bank(plain: Bundle) -> None:
    with pytest.raises(DataError, match="there is no normal image for the memory bank of line=a"):
        build_bank(plain, {"a": []}, group_column="line", request={})


def test_another_input_is_refused(banked: Bundle) -> None:
    with pytest.raises(BundleError, match="has a memory bank of images that were brought to the model in another way"):
        banked.with_input(InputOverride(image_size=80, resize="letterbox"))


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """Change a file of a bundle as whoever forged it would: with the digests made right."""
    (folder / name).write_bytes(content)
    record = json.loads((folder / "config.json").read_bytes())
    record["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "config.json").write_bytes(encode_json(sealed(record)))


def with_rows(change: Callable[[Rows], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows = load_file(folder / "memory_bank.safetensors")
        change(rows)
        path = folder / "forged"
        save_file(rows, path)
        rewritten(folder, "memory_bank.safetensors", path.read_bytes())

    return damage


def with_field(name: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        record = json.loads((folder / "memory_bank.json").read_bytes())
        rewritten(folder, "memory_bank.json", encode_json(record | {name: value}))

    return damage


def without_rows(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_bytes())
    del record["files"]["memory_bank.safetensors"]
    (folder / "config.json").write_bytes(encode_json(sealed(record)))


def lacking(rows: Rows) -> None:
    del rows["tap_1.group_0"]


def too_long(rows: Rows) -> None:
    rows["tap_0.group_0"] *= 2


def of_another_type(rows: Rows) -> None:
    rows["tap_0.group_1"] = rows["tap_0.group_1"].float()


def not_finite(rows: Rows) -> None:
    rows["tap_0.group_0"][0, 0] = torch.nan


def turned_round(rows: Rows) -> None:
    rows["tap_0.group_0"][0] *= -1


DAMAGES = {
    "both files": without_rows,
    "does not hold the rows of 2 taps and 2 groups": with_rows(lacking),
    "tap_0.group_0 must be float16 rows of unit length": with_rows(too_long),
    "tap_0.group_1 must be float16": with_rows(of_another_type),
    "not finite": with_rows(not_finite),
    "model_id is not the digest": with_rows(turned_round),
    "groups is not what it must be": with_field("groups", {"a": 0, "b": 1}),
    "group_column is not what it must be": with_field("group_column", ""),
    "max_distance is not what it must be": with_field("max_distance", 3),
    "parent_model_id is not what it must be": with_field("parent_model_id", "f"),
    "request is not what it must be": with_field("request", []),
    "unknown fields": with_field("more", 1),
}


@pytest.mark.parametrize("named", DAMAGES)
def test_a_damaged_bank_is_one_error_that_names_the_damage(named: str, banked: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(banked.uri, tmp_path / "copy"))
    DAMAGES[named](copy)
    with pytest.raises(BundleError, match=named) as refused:
        read_bundle(str(copy))
    assert "\n" not in str(refused.value)
