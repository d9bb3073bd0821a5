"""The whole model on tiny random backbones: against open_clip, under masks, in training and when saved."""

from collections.abc import Callable, Iterator

import open_clip
import pytest
import torch

from feclip.model import FeClipModel, FeClipOutput

Build = Callable[..., FeClipModel]


def forward_with_hooks(model: FeClipModel, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return open_clip's own image embedding and the patch tokens at the taps, the adapters acting in forward hooks."""
    enhanced: list[torch.Tensor] = []

    def make_hook(tap: torch.nn.Module) -> Callable[..., torch.Tensor]:
        def hook(_block: torch.nn.Module, _given: object, tokens: torch.Tensor) -> torch.Tensor:
            grid = tap(tokens[:, 1:].reshape(len(tokens), *model.token_grid, -1))
            enhanced.append(grid)
            return torch.cat([tokens[:, :1], grid.flatten(1, 2)], dim=1)

        return hook

    blocks = model.visual.transformer.resblocks
    handles = [
        blocks[block].register_forward_hook(make_hook(tap))
        for block, tap in zip(model.tap_blocks, model.taps, strict=True)
    ]
    try:
        return model.visual(images), enhanced
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("backbone", ["Tiny", "Tiny-quickgelu", "Tiny-no-ln-pre", "Tiny-average", "Tiny-attentional"])
def test_at_fusion_weight_zero_the_class_embedding_is_open_clips(
    build_model: Build, images: torch.Tensor, backbone: str
) -> None:
    model = build_model(backbone, fusion_weight=0.0)
    quick_gelu = backbone == "Tiny-quickgelu"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.create_model(backbone, force_image_size=64, force_quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        expected = clip.encode_image(images)
        torch.testing.assert_close(model(images).class_embeddings[:, -1], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(forward_with_hooks(model, images)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("tap_blocks", [(1, 3), (0, 1, 2, 3), (3,)])
def test_the_loop_equals_hooks(
    build_model: Build, images: torch.Tensor, fusion_weight: float, tap_blocks: tuple[int, ...]
) -> None:
    model = build_model(fusion_weight=fusion_weight, tap_blocks=tap_blocks)
    output = model(images)
    embedding, enhanced = forward_with_hooks(model, images)
    torch.testing.assert_close(output.class_embeddings[:, -1], embedding, rtol=0, atol=1e-5)
    normal, abnormal = model.text_embeddings[0]
    for index, grid in enumerate(enhanced):
        projected = model.patch_head(grid)
        cosine = torch.nn.functional.cosine_similarity
        logits = (cosine(projected, abnormal, dim=-1) - cosine(projected, normal, dim=-1)) / 0.07
        torch.testing.assert_close(output.token_logits[:, index], logits, rtol=0, atol=1e-4)


def test_blocks_after_the_last_tap_do_not_run(build_model: Build, images: torch.Tensor) -> None:
    model = build_model(tap_blocks=(0, 2))
    model.visual.transformer.resblocks[3] = torch.nn.Identity()
    model.visual.transformer.resblocks[3].forward = None
    assert torch.isfinite(model(images).image_logit).all()


def test_the_class_logit_is_the_papers_probability(build_model: Build, images: torch.Tensor) -> None:
    model = build_model(temperature=0.5)
    output = model(images)
    embeddings = torch.nn.functional.normalize(output.class_embeddings, dim=-1)
    probabilities = (embeddings @ model.text_embeddings[0].T / 0.5).softmax(dim=-1)[..., 1]
    torch.testing.assert_close(output.class_logits.sigmoid(), probabilities)
    torch.testing.assert_close(output.image_score, probabilities.mean(dim=1))


def test_shapes_and_scales_of_the_output(build_model: Build, images: torch.Tensor) -> None:
    output = build_model(num_taps=4)(images)
    assert isinstance(output, FeClipOutput)
    assert output.class_logits.shape == (3, 4)
    assert output.token_logits.shape == (3, 4, 4, 4)
    assert output.image_score.shape == output.image_logit.shape == (3,)
    assert output.token_map.shape == (3, 4, 4)
    assert output.anomaly_map.shape == (3, 64, 64)
    torch.testing.assert_close(output.token_map.sigmoid(), output.token_logits.sigmoid().mean(dim=1))
    assert ((output.anomaly_map > 0) & (output.anomaly_map < 1)).all()


def test_taps_do_not_share_one_map(build_model: Build, images: torch.Tensor) -> None:
    logits = build_model(num_taps=4)(images).token_logits
    assert all(not torch.allclose(logits[:, first], logits[:, first + 1]) for first in range(3))


def test_images_of_a_batch_do_not_mix(build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor) -> None:
    for padding in ("masked", "attention"):
        model = build_model(padding=padding).eval()
        together = model(images, valid_tokens)
        alone = model(images[1:2], valid_tokens[1:2])
        torch.testing.assert_close(together.class_logits[1:2], alone.class_logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(together.token_logits[1:2], alone.token_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("padding", ["ignore", "masked", "attention"])
def test_an_all_true_mask_changes_nothing(build_model: Build, images: torch.Tensor, padding: str) -> None:
    model = build_model(padding=padding)
    plain, masked = model(images), model(images, torch.ones(3, 4, 4, dtype=torch.bool))
    tolerance = 1e-4 if padding == "attention" else 0
    for first, second in zip(plain[:3], masked[:3], strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=tolerance)
    assert torch.allclose(plain.anomaly_map, masked.anomaly_map, rtol=0, atol=tolerance)


def paint_padding(images: torch.Tensor, valid_tokens: torch.Tensor, colour: float) -> torch.Tensor:
    valid_pixels = valid_tokens.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    return torch.where(valid_pixels[:, None], images, colour)


@pytest.mark.parametrize("backbone", ["Tiny", "Tiny-quickgelu", "Tiny-average"])
def test_padding_colour_changes_no_score_when_attention_is_masked(
    build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor, backbone: str
) -> None:
    model = build_model(backbone, padding="attention", fusion_weight=0.5, num_taps=4)
    first, second = (model(paint_padding(images, valid_tokens, colour), valid_tokens) for colour in (-2.0, 3.0))
    torch.testing.assert_close(first.image_score, second.image_score, rtol=0, atol=1e-5)
    torch.testing.assert_close(first.class_embeddings, second.class_embeddings, rtol=0, atol=1e-5)
    torch.testing.assert_close(first.token_map, second.token_map, rtol=0, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(first.anomaly_map, second.anomaly_map, rtol=0, atol=1e-5)


def test_padding_colour_does_change_scores_otherwise(
    build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor
) -> None:
    for padding in ("ignore", "masked"):
        model = build_model(padding=padding, fusion_weight=0.5)
        first, second = (model(paint_padding(images, valid_tokens, colour), valid_tokens) for colour in (-2.0, 3.0))
        assert not torch.allclose(first.image_score[:2], second.image_score[:2], rtol=0, atol=1e-5)


def test_maps_leave_padding_out(build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor) -> None:
    for padding in ("ignore", "masked", "attention"):
        output = build_model(padding=padding)(images, valid_tokens)
        assert torch.equal(output.token_map.isnan(), ~valid_tokens)
        assert torch.isfinite(output.token_logits).all()
        assert torch.isfinite(output.anomaly_map).all()


def test_prefix_and_rest_are_the_whole(build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor) -> None:
    for padding in ("masked", "attention"):
        model = build_model(padding=padding)
        tokens = model.prefix(images.clone().requires_grad_(), valid_tokens)
        assert not tokens.requires_grad
        whole, parts = model(images, valid_tokens), model.forward_from_prefix(tokens, valid_tokens)
        assert all(torch.equal(first, second) for first, second in zip(whole[:3], parts[:3], strict=True))


@pytest.mark.parametrize(("image_size", "grid"), [(32, (2, 2)), (80, (5, 5)), (16, (1, 1))])
def test_other_image_sizes_have_other_grids(build_model: Build, image_size: int, grid: tuple[int, int]) -> None:
    model = build_model(image_size=image_size, ffe_window_size=4, lfs_window_size=2)
    assert (model.image_size, model.patch_size, model.token_grid) == (image_size, 16, grid)
    output = model(torch.randn(2, 3, image_size, image_size))
    assert output.token_map.shape == (2, *grid)
    assert output.anomaly_map.shape == (2, image_size, image_size)


@pytest.mark.parametrize(("use_ffe", "use_lfs"), [(True, False), (False, True), (False, False)])
def test_an_adapter_that_is_not_used_does_not_exist(
    build_model: Build,
    images: torch.Tensor,
    use_ffe: bool,
    use_lfs: bool,
) -> None:
    model = build_model(use_ffe=use_ffe, use_lfs=use_lfs)
    names = " ".join(model.trainable_state_dict())
    assert (".ffe." in names, ".lfs." in names) == (use_ffe, use_lfs)
    assert torch.isfinite(model(images).image_logit).all()


def test_settings_reach_the_adapters(build_model: Build) -> None:
    settings = {"lfs_window_size": 4, "lfs_statistic": "power", "lfs_kernel_size": 5, "ffe_window_size": 2}
    model = build_model(fusion_weight=0.2, **settings)
    tap = model.taps[1]
    assert (tap.ffe.window_size, tap.lfs.window_size) == (2, 4)
    assert (tap.lfs.statistic, tap.lfs.conv.kernel_size, tap.fusion_weight) == ("power", (5, 5), 0.2)


def test_adapters_follow_the_callers_seed_and_the_trunk_its_own(build_model: Build) -> None:
    states = []
    for seed, init_seed in ((0, 0), (0, 1), (1, 0)):
        torch.manual_seed(seed)
        model = build_model(init_seed=init_seed)
        states.append((model.trainable_state_dict()["taps.0.ffe.linear.weight"], model.backbone_digest))
    assert torch.equal(states[0][0], states[1][0])
    assert not torch.equal(states[0][0], states[2][0])
    assert states[0][1] == states[2][1] != states[1][1]


def test_the_noun_reaches_the_prompts(build_model: Build) -> None:
    assert not torch.equal(build_model().text_embeddings, build_model(noun="PCB").text_embeddings)


def test_the_text_tower_and_fixed_parts_are_dropped_and_not_saved(build_model: Build) -> None:
    model = build_model()
    names = set(model.state_dict())
    assert not any("token_embedding" in name or "text" in name for name in names)
    assert {name for name in names if not name.startswith("visual.")} == set(model.trainable_state_dict())
    assert sorted(model.trainable_state_dict())[:3] == [
        "patch_head.bias",
        "patch_head.weight",
        "taps.0.ffe.linear.bias",
    ]


def test_normalize_is_clips(build_model: Build) -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    expected = [
        (value / 255 - mean) / std
        for value, mean, std in zip(
            (0, 128, 255), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, strict=True
        )
    ]
    normalized = build_model().normalize(pixels)
    assert normalized.dtype == torch.float32
    assert normalized[0, :, 5, 7].tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"must be torch.uint8, got torch.float32"):
        build_model().normalize(pixels.float())


def bad_settings() -> Iterator[tuple[dict[str, object], str]]:
    yield {"temperature": 0.0}, "temperature must be positive, got 0.0"
    yield {"temperature": float("nan")}, "temperature must be positive, got nan"
    yield {"padding": "mask"}, "padding must be one of ignore, masked, attention, got 'mask'"
    yield {"fusion_weight": -0.1}, r"fusion_weight must lie in \[0, 1\]"
    yield {"tap_blocks": (4,)}, r"tap_blocks must be one or more in \[0, 3\] \(zero-based\), got \(4,\)"
    yield {"num_taps": 5}, r"num_taps must lie in \[1, 4\], got 5"
    yield {"ffe_window_size": 0}, "window_size must be at least 1, got 0"
    yield {"lfs_kernel_size": 4}, "kernel_size must be odd, got 4"
    yield {"noun": ""}, "noun must not be blank"
    yield {"backbone": "Tiny-unpooled"}, "must pool its tokens to one embedding"
    yield {"backbone": "Tiny-custom", "padding": "attention"}, "padding 'attention' needs standard attention blocks"


@pytest.mark.parametrize(("settings", "message"), list(bad_settings()))
def test_bad_settings_are_refused(build_model: Build, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(**settings)


def test_bad_input_is_refused(build_model: Build, images: torch.Tensor) -> None:
    model = build_model()
    with pytest.raises(ValueError, match=r"multiples of the patch size 16, got \(3, 3, 40, 64\)"):
        model(images[:, :, :40])
    with pytest.raises(ValueError, match=r"valid_tokens must be torch.bool of shape \(3, 4, 4\)"):
        model(images, torch.ones(3, 64, 64, dtype=torch.bool))


def test_an_image_of_whole_patches_is_scored_at_its_own_shape(build_model: Build, images: torch.Tensor) -> None:
    model = build_model()
    wide = images[:, :, :32]
    output = model(wide)
    assert output.token_map.shape == (3, 2, 4)
    assert output.anomaly_map.shape == (3, 32, 64)
    torch.testing.assert_close(model(wide[:1]).token_map, output.token_map[:1], rtol=0, atol=1e-5)
    all_valid = torch.ones(3, 2, 4, dtype=torch.bool)
    torch.testing.assert_close(model(wide, all_valid).image_logit, output.image_logit, rtol=0, atol=1e-5)
    tokens = model.prefix(wide)
    kept = model.forward_from_prefix(tokens, token_grid=(2, 4))
    assert torch.equal(kept.token_map, output.token_map)
    assert model.fused_tokens(wide).shape == (3, 2, 2, 4, 64)
    with pytest.raises(ValueError, match=r"tokens of a 4 x 4 grid must be \(B, 1 \+ L, D\)"):
        model.forward_from_prefix(tokens)


def test_the_square_is_what_it_was_beside_rectangles(build_model: Build, images: torch.Tensor) -> None:
    model = build_model()
    before = model(images).token_map
    for height in range(16, 65, 16):
        model(images[:, :, :height])
    assert torch.equal(model(images).token_map, before)
