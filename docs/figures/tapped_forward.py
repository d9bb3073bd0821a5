"""The tapped forward of the default model: which blocks are tapped, what is frozen, what learns."""

from open_clip import get_model_config
from svg import BLUE, FROZEN, MUTED, PALE_BLUE, PALE_ORANGE, Drawing
from torch import nn

from feclip.config import ModelConfig
from feclip.model import FFEAdapter, FrequencyTap, LFSAdapter, resolve_tap_blocks

LEFT, TOP = 30, 60
BLOCK_WIDTH, GAP, ADAPTERS = 24, 4, 60
SCORES = {"image score": "class", "anomaly map": "patch"}


def draw() -> str:
    """Return the figure."""
    config = ModelConfig().settled()
    tower = get_model_config(config.backbone)
    blocks, width = tower["vision_cfg"]["layers"], tower["vision_cfg"]["width"]
    side = (config.image_size or 0) // tower["vision_cfg"]["patch_size"]
    taps = resolve_tap_blocks(blocks, num_taps=config.num_taps)
    tap = FrequencyTap(
        FFEAdapter(width, config.ffe_window_size),
        LFSAdapter(width, config.lfs_window_size, config.lfs_kernel_size),
        fusion_weight=config.fusion_weight,
    )
    head = nn.Linear(width, tower["embed_dim"])
    figure = Drawing(width=940, height=400, title=f"{config.backbone}: {blocks} frozen blocks, taps after {taps}")
    figure.text((LEFT, 30), f"{config.backbone} at {config.image_size} px", size=15, anchor="start")
    tokens = f"1 class token and {side} x {side} patch tokens of width {width}; blocks count from zero"
    figure.text((LEFT, 48), tokens, size=12, anchor="start", fill=MUTED)
    x = float(LEFT)
    for block in range(blocks):
        figure.labelled((x, TOP + 10), (BLOCK_WIDTH, 60), str(block), fill=FROZEN, text_size=11)
        x += BLOCK_WIDTH + GAP
        if block in taps:
            _draw_tap(figure, x=x, last=block == taps[-1])
            x += ADAPTERS - 10
    heads = ("class head, frozen: ln_post and proj of CLIP", "patch head, learned: one linear layer for all taps")
    figure.text((LEFT, 250), *heads, size=12, anchor="start", fill=MUTED)
    scores = [f"{name} = mean over the taps of P(damaged | {token} token)" for name, token in SCORES.items()]
    figure.labelled((LEFT, 300), (420, 60), *scores, fill=PALE_ORANGE, text_size=12)
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in (tap, head)]
    learned = len(taps) * counts[0] + counts[1]
    parts = f"{len(taps)} x {counts[0] / 1e6:.2f} in adapters, {counts[1] / 1e6:.2f} in the patch head"
    total = f"learned: {learned / 1e6:.1f} million parameters"
    figure.labelled((490, 300), (420, 60), total, parts, fill=PALE_BLUE, text_size=12)
    return figure.render()


def _draw_tap(figure: Drawing, *, x: float, last: bool) -> None:
    figure.labelled((x, TOP + 10), (ADAPTERS - 20, 60), "FFE", "+", "LFS", fill=PALE_BLUE, text_size=11)
    middle = x + (ADAPTERS - 20) / 2
    figure.arrow((middle, TOP + 72), (middle, TOP + 118))
    figure.labelled((middle - 45, TOP + 120), (90, 44), "two heads,", "two prompts", fill=PALE_ORANGE, text_size=11)
    if not last:
        figure.line([(x + ADAPTERS - 20, TOP + 40), (x + ADAPTERS - 10, TOP + 40)], stroke=BLUE)
