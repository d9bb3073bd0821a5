"""Tap blocks and the steps through open_clip's image tower."""

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed

from feclip.model import resolve_tap_blocks
from feclip.model.backbone import load_backbone
from feclip.model.trunk import check_trunk, embed_class, embed_images, resize_positions, run_blocks


@pytest.mark.parametrize(
    ("num_blocks", "num_taps", "expected"),
    [(24, 4, (5, 11, 17, 23)), (12, 4, (2, 5, 8, 11)), (12, 1, (11,)), (3, 3, (0, 1, 2)), (10, 4, (2, 4, 7, 9))],
)
def test_taps_are_the_ends_of_the_stages(num_blocks: int, num_taps: int, expected: tuple[int, ...]) -> None:
    assert resolve_tap_blocks(num_blocks, num_taps=num_taps) == expected


def test_taps_are_distinct_in_range_and_end_with_the_last_block() -> None:
    for num_blocks in range(1, 50):
        for num_taps in range(1, num_blocks + 1):
            blocks = resolve_tap_blocks(num_blocks, num_taps=num_taps)
            assert len(blocks) == num_taps
            assert blocks == resolve_tap_blocks(num_blocks, num_taps=1, tap_blocks=blocks)
            assert blocks[-1] == num_blocks - 1


@pytest.mark.parametrize("num_taps", [0, 25])
def test_a_number_of_taps_out_of_range_is_refused(num_taps: int) -> None:
    with pytest.raises(ValueError, match=rf"num_taps must lie in \[1, 24\], got {num_taps}"):
        resolve_tap_blocks(24, num_taps=num_taps)


@pytest.mark.parametrize("tap_blocks", [(), (24,), (-1, 3), (0, 30)])
def test_tap_blocks_out_of_range_are_refused(tap_blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"tap_blocks must be one or more in \[0, 23\] \(zero-based\), got \("):
        resolve_tap_blocks(24, num_taps=4, tap_blocks=tap_blocks)


@pytest.mark.parametrize("tap_blocks", [(3, 3), (5, 2)])
def test_tap_blocks_repeated_or_out_of_order_are_refused(tap_blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tap_blocks must be strictly increasing, got"):
        resolve_tap_blocks(24, num_taps=4, tap_blocks=tap_blocks)


POOLS = [
    "Tiny",
    "Tiny-quickgelu",
    "Tiny-average",
    "Tiny-average-late",
    "Tiny-attentional",
    "Tiny-no-ln-pre",
    "Tiny-custom",
]


@pytest.mark.parametrize("backbone", POOLS)
def test_the_steps_together_are_encode_image(backbone: str, images: torch.Tensor) -> None:
    clip = load_backbone(backbone, pretrained="none", init_seed=0, image_size=64).clip
    tokens = run_blocks(clip.visual.transformer.resblocks, embed_images(clip.visual, images))
    embedding = embed_class(clip.visual, tokens[:, 0], tokens[:, 1:])
    torch.testing.assert_close(embedding, clip.encode_image(images), rtol=0, atol=1e-5)
    everything = torch.ones(3, 16, dtype=torch.bool)
    masked = embed_class(clip.visual, tokens[:, 0], tokens[:, 1:], valid_tokens=everything)
    torch.testing.assert_close(masked, embedding, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", ["Tiny-average", "Tiny-average-late"])
def test_averaging_towers_leave_padding_out(backbone: str, images: torch.Tensor, valid_tokens: torch.Tensor) -> None:
    visual = load_backbone(backbone, pretrained="none", init_seed=0, image_size=64).clip.visual
    patches = embed_images(visual, images)[:, 1:]
    seen = valid_tokens.flatten(1)
    poisoned = torch.where(seen[..., None], patches, torch.nan)
    embedding = embed_class(visual, patches[:, 0], poisoned, valid_tokens=seen)
    alone = embed_class(visual, patches[:1, 0], patches[:1][seen[:1]][None])
    torch.testing.assert_close(embedding[:1], alone, rtol=0, atol=1e-6)
    assert torch.isfinite(embedding).all()


def test_masking_no_key_is_the_blocks_own_forward(images: torch.Tensor) -> None:
    visual = load_backbone("Tiny-quickgelu", pretrained="none", init_seed=0, image_size=64).clip.visual
    tokens = embed_images(visual, images).requires_grad_()
    nothing = torch.zeros(3, 17, dtype=torch.bool)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            plain = run_blocks(visual.transformer.resblocks, tokens)
            masked = run_blocks(visual.transformer.resblocks, tokens, nothing)
        torch.testing.assert_close(masked, plain, rtol=0, atol=1e-5)


def test_towers_that_cannot_be_tapped_are_refused() -> None:
    towers = {
        name: load_backbone(name, pretrained="none", init_seed=0, image_size=64).clip.visual
        for name in ("Tiny-unpooled", "Tiny-attentional", "Tiny-custom")
    }
    with pytest.raises(ValueError, match="must pool its tokens to one embedding, got pool_type 'none'"):
        check_trunk(towers["Tiny-unpooled"], masks_attention=False)
    for name in ("Tiny-attentional", "Tiny-custom"):
        check_trunk(towers[name], masks_attention=False)
        with pytest.raises(ValueError, match="padding 'attention' needs standard attention blocks"):
            check_trunk(towers[name], masks_attention=True)


@pytest.mark.parametrize("backbone", ["Tiny", "Tiny-no-ln-pre", "Tiny-average"])
@pytest.mark.parametrize("size", [(32, 64), (80, 16)])
def test_a_rectangle_enters_as_into_a_tower_of_its_own_size(backbone: str, size: tuple[int, int]) -> None:
    """open_clip builds a tower for any rectangle, and resizes the positions of other weights for it."""
    square = load_backbone(backbone, pretrained="none", init_seed=0, image_size=64).clip
    own = open_clip.create_model(backbone, force_image_size=size, load_weights=False).eval()
    state = square.state_dict()
    resize_pos_embed(state, own)
    own.load_state_dict(state)
    images = torch.randn(2, 3, *size)
    positions = resize_positions(square.visual, own.visual.grid_size)
    torch.testing.assert_close(positions, own.visual.positional_embedding, rtol=0, atol=1e-6)
    with torch.no_grad():
        ours = embed_images(square.visual, images, positions)
        torch.testing.assert_close(ours, own.visual._embeds(images), rtol=0, atol=1e-5)  # noqa: SLF001
