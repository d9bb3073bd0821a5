"""What a preset does to images, masks and maps, against plain arithmetic; and what it refuses."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_model
from scipy import ndimage

from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.config import PRESET_NAMES, FinetuneConfig, ModelConfig, OptimConfig, ScoringConfig
from feclip.data import InputOptions
from feclip.errors import ConfigError
from feclip.evaluation import PRESETS, override_of, preset_bundle, preset_scoring
from feclip.model import pixel_maps
from feclip.scoring import Scorer

RNG = np.random.default_rng(2)
COMMUNITY = PRESETS["community-518"]


def bundle_of(folder: Path, **fields: object) -> Bundle:
    config = ModelConfig(num_taps=2, **fields).settled()  # type: ignore[arg-type]
    run = FinetuneConfig(output=str(folder), model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(folder), model=build_model(config, seed=3), config=run, images=images, metrics=[])
    return read_bundle(str(folder))


def test_the_presets_are_those_that_the_config_knows() -> None:
    assert tuple(PRESETS) == PRESET_NAMES
    assert all(preset.name == name for name, preset in PRESETS.items())


def test_community_518_squashes_bicubic_and_places_masks_bilinear_above_one_half() -> None:
    assert (COMMUNITY.image_size, COMMUNITY.resize, COMMUNITY.smoothing_sigma) == (518, "squash", 4.0)
    options = InputOptions(image_size=518, resize="squash")
    image = RNG.integers(0, 256, (700, 1000, 3), np.uint8)
    pixels, record = options.place(image)
    plain = np.asarray(Image.fromarray(image).resize((518, 518), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels, plain)
    assert record.valid_pixels().all()
    assert options.geometry(700, 1000) == record
    mask = ndimage.gaussian_filter(RNG.normal(size=(700, 1000)), 6) > 0
    placed = options.geometry(700, 1000).place(mask)
    eight_bits = Image.fromarray((mask * 255).astype(np.uint8)).resize((518, 518), Image.Resampling.BILINEAR)
    assert (placed != (np.asarray(eight_bits) > 127.5)).mean() < 0.005  # peers round to 8 bits first


def test_maps_at_518_are_smoothed_by_a_gaussian_of_sigma_4() -> None:
    token_map = torch.from_numpy(RNG.normal(size=(1, 37, 37)).astype(np.float16))
    drawn = pixel_maps(token_map, image_size=518)[0].numpy()
    smoothed = pixel_maps(token_map, image_size=518, smoothing_sigma=4.0)[0].numpy()
    expected = ndimage.gaussian_filter(drawn.astype(np.float64), sigma=4.0, mode="nearest", truncate=4.0)
    np.testing.assert_allclose(smoothed, expected, atol=2e-5)


def test_a_patch_of_14_divides_518_and_the_bundle_becomes_another_model(tmp_path: Path) -> None:
    fields = {"backbone": "ViT-B-16", "pretrained": "none", "image_size": 64}
    bundle = bundle_of(tmp_path / "b16", **fields)
    with pytest.raises(ConfigError, match=r"preset community-518 asks for 518 px, which .* cannot take"):
        preset_bundle(bundle, COMMUNITY)
    options = bundle.with_input(override_of(COMMUNITY, bundle))
    assert options.model_id != bundle.model_id
    assert (options.input["resize"], options.model.image_size) == ("squash", 518)


def test_the_demonstration_backbone_cannot_take_518_and_says_so_in_one_line(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, backbone="feclip-demo")
    with pytest.raises(ConfigError, match=r"518 px, which .* cannot take: .*\b8\b") as raised:
        preset_bundle(bundle, COMMUNITY)
    assert "\n" not in str(raised.value)
    assert preset_bundle(bundle, PRESETS["feclip"]) is bundle
    assert bundle.with_input(override_of(PRESETS["feclip"], bundle)) is bundle


@pytest.fixture(scope="module")
def patch_14(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small backbone with a patch of 14 pixels, whose weights are in a file: its name and that file."""
    folder = tmp_path_factory.mktemp("backbone")
    vision = {"image_size": 56, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (folder / "tiny-14.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    save_model(open_clip.create_model("tiny-14"), str(folder / "tiny-14.safetensors"))
    return {"backbone": "tiny-14", "pretrained": str(folder / "tiny-14.safetensors")}


def test_community_518_from_image_to_statistics_on_a_patch_of_14(patch_14: dict[str, str], tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, **patch_14, image_size=56)
    judged = preset_bundle(bundle, COMMUNITY)
    assert judged.model_id != bundle.model_id
    scoring = preset_scoring(ScoringConfig(), COMMUNITY)
    scorer = Scorer(judged, precision="float32", smoothing_sigma=scoring.smoothing_sigma)
    assert (scorer.image_size, scorer.token_grid) == (518, (37, 37))
    pixels, record = judged.input_options.place(RNG.integers(0, 256, (60, 90, 3), np.uint8))
    assert record.valid_pixels().all()
    scores = scorer.score(pixels[None], record.valid_pixels()[None])
    drawn = pixel_maps(torch.from_numpy(scores.token_map), image_size=518)[0].numpy().astype(np.float64)
    smoothed = ndimage.gaussian_filter(drawn, sigma=4.0, mode="nearest", truncate=4.0)
    assert scores.map_max[0] == pytest.approx(smoothed.max(), abs=1e-4)
    assert Scorer(bundle, precision="float32").model_id != scorer.model_id


def test_smoothing_is_the_jobs_own_unless_the_preset_fixes_it() -> None:
    assert preset_scoring(ScoringConfig(smoothing_sigma=2.0), PRESETS["feclip"]).smoothing_sigma == 2.0
    assert preset_scoring(ScoringConfig(), COMMUNITY).smoothing_sigma == 4.0
    assert preset_scoring(ScoringConfig(smoothing_sigma=4.0), COMMUNITY).max_error_rate == 0.0
    with pytest.raises(ConfigError, match=r"smooths by sigma 4 px, but score\.smoothing_sigma is 2"):
        preset_scoring(ScoringConfig(smoothing_sigma=2.0), COMMUNITY)
