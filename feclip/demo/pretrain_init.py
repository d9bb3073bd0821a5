"""How the trunk of the demonstration backbone starts, so that minutes of training are enough.

A ViT of default weights finds out by training alone that fine detail matters beside colour, and that a patch is to be
compared with its neighbours. Here the patch embedding starts as a whitening, some of the width is kept for the
position, and the first blocks start with heads that look around every token and subtract what is usual there. All of
it is a starting point in an ordinary ``VisionTransformer``; training may undo it.

Shapes: D token width, H_t x W_t token grid.
"""

import math

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch.nn import functional

from feclip.demo.fields import ByteArray
from feclip.demo.zero_shot import normalize_pixels

__all__ = ["initialize_trunk"]

FREQUENCIES = 6  # per axis; sine and cosine of both axes take 24 of the width
PERIOD = 28.0  # tokens, twice the grid, so that opposite edges do not look alike
LOCAL_BLOCKS = 4
SHARPNESS = (0.5, 0.2)  # per local head, logits per frequency: neighbours weigh 0.36 and 0.66 of the token itself
SUBTRACTED_SHARE = 0.7  # of the surroundings' mean
CONTENT_SCALE = 0.3  # of the whitened patches beside waves of amplitude 1: a token's norm is mostly that of its place,
# and the layer norms leave standing how strong its content is
LAYER_NORM_GAIN = 2.3  # of the first layer norm on such tokens
WHITENING_FLOOR = 3e-3  # added to each variance; about that of the sensor noise in CLIP's normalised pixels


@torch.no_grad()
def initialize_trunk(clip: open_clip.CLIP, images: ByteArray) -> None:
    """Set the first weights of the image tower; no random number is drawn.

    Args:
        clip: Freshly created.
        images: Flawless pictures ``(n, H, W, 3)`` for the statistics of patches.
    """
    visual = clip.visual
    num_places = 4 * FREQUENCIES
    _whiten_patches(visual, images, num_filters=visual.transformer.width - num_places)
    _place_tokens(visual, num_places=num_places)
    for index, block in enumerate(visual.transformer.resblocks[:LOCAL_BLOCKS]):
        _look_around(block, num_places=num_places, shift=index)


def _whiten_patches(visual: VisionTransformer, images: ByteArray, *, num_filters: int) -> None:
    filters = visual.conv1.weight
    side = filters.shape[-1]
    pixels = normalize_pixels(torch.from_numpy(images).permute(0, 3, 1, 2))
    rows = functional.unfold(pixels, kernel_size=side, stride=side).transpose(1, 2).flatten(0, 1).double()
    variances, directions = torch.linalg.eigh(torch.cov(rows.T))
    whitening = CONTENT_SCALE * directions[:, -num_filters:] / (variances[-num_filters:] + WHITENING_FLOOR).sqrt()
    filters.zero_()
    filters[:num_filters] = whitening.T.reshape(num_filters, *filters.shape[1:])


def _place_tokens(visual: VisionTransformer, *, num_places: int) -> None:
    """Write sines and cosines of row and column to the last ``num_places`` of the width."""
    height, width = visual.grid_size
    angles = 2 * math.pi / PERIOD * torch.arange(1, FREQUENCIES + 1)
    rows, columns = (torch.arange(count)[:, None] * angles for count in (height, width))
    waves = [torch.cat([axis.sin(), axis.cos()], dim=1) for axis in (rows, columns)]
    places = torch.cat([waves[0][:, None].expand(-1, width, -1), waves[1][None].expand(height, -1, -1)], dim=2).flatten(
        0, 1
    )
    visual.positional_embedding[:, -num_places:] = 0
    visual.positional_embedding[1:, -num_places:] = places


def _look_around(block: ResidualAttentionBlock, *, num_places: int, shift: int) -> None:
    """Let the first heads attend by position alone and subtract the mean of part of the token's content."""
    attention = block.attn
    width, head_width = attention.embed_dim, attention.head_dim
    num_contents = width - num_places
    query, key, value = attention.in_proj_weight.split(width)
    for head, sharpness in enumerate(SHARPNESS):
        gain = math.sqrt(sharpness * math.sqrt(head_width)) / LAYER_NORM_GAIN
        rows = slice(head * head_width, head * head_width + num_places)
        for projection in (query, key):
            projection[rows] = 0
            projection[rows, num_contents:] = gain * torch.eye(num_places)
        own = torch.arange(head * head_width, (head + 1) * head_width)
        contents = (own + shift * head_width) % num_contents
        value[own] = 0
        value[own, contents] = 1
        attention.out_proj.weight[:, own] = 0
        attention.out_proj.weight[contents, own] = -SUBTRACTED_SHARE
