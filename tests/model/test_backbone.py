"""Loading a frozen CLIP: activation, layout, files, digest, and what users get wrong."""

import json
import logging
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn

from feclip.model.backbone import (
    Backbone,
    backbone_digest,
    check_activation,
    load_backbone,
    needs_quick_gelu,
    probe_block_layout,
)


def load(backbone: str = "Tiny", *, pretrained: str = "none", init_seed: int = 0, image_size: int = 64) -> Backbone:
    return load_backbone(backbone, pretrained=pretrained, init_seed=init_seed, image_size=image_size)


@pytest.fixture
def weight_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(load(init_seed=7).clip.state_dict(), path)
    return path


def test_the_backbone_is_frozen_and_in_eval_mode() -> None:
    clip = load("Tiny-no-ln-pre").clip
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert not any(module.training for module in clip.modules())


def test_random_weights_depend_on_the_seed_alone_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = load(init_seed=5)
    assert torch.equal(torch.rand(1), expected)
    assert load(init_seed=5).digest == first.digest
    assert load(init_seed=6).digest != first.digest


def test_the_digest_sees_names_types_shapes_and_single_bits() -> None:
    layer = nn.Linear(2, 2)
    digests = {backbone_digest(layer)}
    layer.weight.data.view(torch.int32)[0, 0] ^= 1
    digests.add(backbone_digest(layer))
    layer.weight = nn.Parameter(layer.weight.data.reshape(1, 4))
    digests.add(backbone_digest(layer))
    layer.weight = nn.Parameter(layer.weight.data.view(torch.int32), requires_grad=False)
    digests.add(backbone_digest(layer))
    digests.add(backbone_digest(nn.ModuleDict({"renamed": layer})))
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("backbone", "pretrained", "expected"),
    [
        ("ViT-L-14-336", "openai", True),
        ("ViT-L-14-336-quickgelu", "openai", True),
        ("ViT-L-14-336", "FILE", True),
        ("ViT-L-14-336", "none", False),
        ("ViT-L-14-336-quickgelu", "none", True),
        ("ViT-B-32", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32", "FILE", False),
        ("ViT-B-32-quickgelu", "FILE", True),
        ("Tiny", "FILE", False),
    ],
)
def test_weights_get_the_activation_they_were_trained_with(
    backbone: str,
    pretrained: str,
    expected: bool,
    weight_file: Path,
) -> None:
    source = str(weight_file) if pretrained == "FILE" else pretrained
    assert needs_quick_gelu(backbone, pretrained=source) is expected


def test_a_file_for_an_architecture_with_both_activations_is_warned_about(
    weight_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    needs_quick_gelu("ViT-B-32", pretrained=str(weight_file))
    assert "name the backbone ViT-B-32-quickgelu" in caplog.text


@pytest.fixture
def published(weight_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish a tag for Tiny as OpenAI's: a file trained with QuickGELU and other pixel statistics."""
    tag = {"file": str(weight_file), "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", {"openai": tag})  # noqa: SLF001


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("source", ["openai", "FILE"])
def test_a_published_tag_and_its_file_bring_activation_and_pixel_statistics(source: str, weight_file: Path) -> None:
    backbone = load(pretrained=str(weight_file) if source == "FILE" else source)
    activations = {type(module) for module in backbone.clip.visual.modules() if "GELU" in type(module).__name__}
    assert activations == {QuickGELU}
    assert (backbone.pixel_mean, backbone.pixel_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.digest == load(init_seed=7).digest


def test_pixel_statistics_are_clips_where_nothing_else_is_published() -> None:
    backbone = load()
    assert backbone.pixel_mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert backbone.pixel_std == pytest.approx((0.26862954, 0.26130258, 0.27577711))


def test_the_wrong_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation must be QuickGELU, got GELU"):
        check_activation(load("Tiny").clip.visual, quick_gelu=True)
    with pytest.raises(ValueError, match="activation must be GELU, got QuickGELU"):
        check_activation(load("Tiny-quickgelu").clip.visual, quick_gelu=False)


def test_a_block_that_takes_tokens_first_is_refused() -> None:
    visual = load().clip.visual
    probe_block_layout(visual)
    visual.transformer.resblocks[0].attn.batch_first = False
    with pytest.raises(ValueError, match=r"must take tokens as \(B, L, D\)"):
        probe_block_layout(visual)


def test_a_file_gives_the_same_backbone_whatever_its_form(weight_file: Path, tmp_path: Path) -> None:
    state = load(init_seed=7).clip.state_dict()
    counted = state | {"input_resolution": torch.tensor(64), "logit_scale": state["logit_scale"].reshape(1)}
    torch.save({"state_dict": {f"module.{name}": value for name, value in counted.items()}}, tmp_path / "tiny.pt")
    digests = {load(pretrained=str(path)).digest for path in (weight_file, tmp_path / "tiny.pt")}
    assert digests == {load(init_seed=7).digest}


def test_a_file_with_the_old_names_of_the_text_tower_loads_into_a_custom_one(tmp_path: Path) -> None:
    state = load("Tiny-no-ln-pre", init_seed=7).clip.state_dict()
    save_file({name.removeprefix("text."): value for name, value in state.items()}, tmp_path / "old.safetensors")
    assert load("Tiny-no-ln-pre", pretrained=str(tmp_path / "old.safetensors")).digest == backbone_digest(
        load("Tiny-no-ln-pre", init_seed=7).clip
    )


@pytest.mark.parametrize("image_size", [32, 96])
def test_another_image_size_resizes_the_positions_as_open_clip_does(weight_file: Path, image_size: int) -> None:
    ours = load(pretrained=str(weight_file), image_size=image_size).clip.visual
    theirs = open_clip.create_model("Tiny", pretrained=str(weight_file), force_image_size=image_size).visual
    assert ours.grid_size == (image_size // 16, image_size // 16)
    torch.testing.assert_close(ours.positional_embedding, theirs.positional_embedding, rtol=1e-5, atol=1e-6)


def test_resized_positions_are_rounded_from_float64_so_that_the_digest_is_the_same_everywhere(
    weight_file: Path,
) -> None:
    grid = load(init_seed=7).clip.visual.positional_embedding[1:].double().T.reshape(1, 64, 4, 4)
    exact = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True, align_corners=False)
    resized = load(pretrained=str(weight_file), image_size=96).clip.visual.positional_embedding[1:]
    assert torch.equal(resized, exact.reshape(64, 36).T.float())


def test_a_file_that_does_not_fit_is_refused_by_tensor(tmp_path: Path) -> None:
    state = load().clip.state_dict()
    del state["visual.proj"]
    state |= {"stranger": torch.zeros(1), "visual.conv1.weight": torch.zeros(64, 3, 8, 8)}
    state["visual.ln_post.bias"][0] = torch.inf
    save_file(state, tmp_path / "w.safetensors")
    message = (
        r"w.safetensors does not fit: missing visual.proj; unknown stranger; "
        r"reshaped visual.conv1.weight \(64, 3, 8, 8\), expected \(64, 3, 16, 16\); non-finite visual.ln_post.bias."
    )
    with pytest.raises(ValueError, match=message):
        load(pretrained=str(tmp_path / "w.safetensors"))


def test_positions_that_are_no_square_grid_are_refused(tmp_path: Path) -> None:
    state = load().clip.state_dict() | {"visual.positional_embedding": torch.zeros(4, 64)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"reshaped visual.positional_embedding \(4, 64\), expected \(17, 64\)"):
        load(pretrained=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("ViT-L-14-33", "is no open_clip model; did you mean ViT-L-14-336"),
        ("zzz", r"is no open_clip model; see open_clip.list_models\(\)"),
        ("hf-hub:someone/something", "is no open_clip model"),
        ("RN50", "must have an open_clip VisionTransformer as image tower, got a ResNet"),
        ("ViT-B-16-SigLIP", "VisionTransformer as image tower, got timm's vit_base_patch16_siglip_224"),
    ],
)
def test_a_backbone_that_is_unknown_or_no_vision_transformer_is_refused(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(backbone, image_size=224)


@pytest.mark.parametrize("image_size", [72, 0, -16, 8])
def test_an_image_size_that_patches_do_not_divide_is_refused(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of the patch size 16 of Tiny, got {image_size}"):
        load(image_size=image_size)


def test_an_unknown_tag_names_the_tags_that_exist() -> None:
    with pytest.raises(
        ValueError, match=r"'none', an existing weight file or a tag of ViT-L-14-336 \(openai\), got 'opn'"
    ):
        load("ViT-L-14-336", pretrained="opn", image_size=336)
    with pytest.raises(ValueError, match=r"no tag is published for Tiny\), got '/nowhere/w.pt'"):
        load(pretrained="/nowhere/w.pt")


def test_weights_that_cannot_be_downloaded_point_to_a_local_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    tag = {"hf_hub": "someone/something/", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", {"far": tag})  # noqa: SLF001
    with pytest.raises(
        ValueError, match=r"'far' of Tiny are not cached and cannot be downloaded.*local weight file"
    ) as caught:
        load(pretrained="far")
    assert "\n" not in str(caught.value)


def test_a_text_tower_that_cannot_be_built_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    vision = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {"hf_model_name": str(tmp_path / "absent")}}
    (tmp_path / "Tiny-hf.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "Tiny-hf.json")
    with pytest.raises(ValueError, match="'Tiny-hf' cannot be built") as caught:
        load("Tiny-hf")
    assert "\n" not in str(caught.value)


def test_open_clip_is_kept_from_the_root_logger(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters))
    with caplog.at_level(logging.INFO):
        load()
    assert (root.handlers, root.filters) == before
    assert [record.message for record in caplog.records] == ["Backbone Tiny, weights none, GELU, 64 px."]
