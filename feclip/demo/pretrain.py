"""Train the demonstration backbone from nothing.

python -m feclip.demo.pretrain --output feclip-demo.safetensors --seed 0 --steps 1800 --precision bfloat16

Shapes: B images, U different captions, L patch tokens, E embedding width, C side of the input in pixels.
"""

import json
import logging
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import open_clip
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from torch.nn import functional

from feclip.demo.backbone import BACKBONE_NAME, IMAGE_SIZE, register, tokenizer
from feclip.demo.families import FAMILIES, GENERIC_NOUN, caption
from feclip.demo.pretrain_data import Batch, Pool, PoolConfig, draw_batch, load_pool
from feclip.demo.tokenizer import WordTokenizer
from feclip.demo.zero_shot import normalize_pixels, zero_shot_auroc

PROGRAM = "python -m feclip.demo.pretrain"
logger = logging.getLogger("feclip.demo.pretrain")

Precision: TypeAlias = Literal["float32", "bfloat16"]

BETAS = (0.9, 0.98)  # OpenAI's for its ViTs
MAX_GRAD_NORM = 1.0
MAX_LOGIT_SCALE = math.log(100)  # OpenAI's
TOKEN_TEMPERATURE = 0.07  # tau of FE-CLIP, Eq. 1
MIN_DAMAGED_PIXELS = 3  # of a patch, for its token to count as damaged; with fewer but some it counts as neither
EVALUATION_SEED = 4_000_000  # of the pictures that progress is measured on
EVALUATION_IMAGES = 120
REPORT_EVERY = 10
SAVE_EVERY = 200


def contrastive_loss(image_logits: torch.Tensor, caption_ids: torch.Tensor) -> torch.Tensor:
    """Return CLIP's symmetric loss where equal captions are one another's positives.

    Args:
        image_logits: Scaled similarities ``(B, U)`` of images and different captions.
        caption_ids: Which caption is each image's, ``(B,)``.

    Example:
        >>> round(float(contrastive_loss(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))), 3)
        1.386
    """
    num_captions = image_logits.shape[1]
    counts = torch.bincount(caption_ids, minlength=num_captions)
    # B texts of which `counts` are equal: log-sum-exp over all, and each image's own one among its equals.
    to_texts = functional.cross_entropy(image_logits + counts.log(), caption_ids, reduction="none")
    to_texts = to_texts + counts[caption_ids].log()
    to_images = -functional.log_softmax(image_logits, dim=0).gather(1, caption_ids[:, None])[:, 0]
    return (to_texts.mean() + to_images.mean()) / 2


def token_loss(margins: torch.Tensor, damaged_pixels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of patch tokens against the two generic prompts, both classes weighing alike.

    Args:
        margins: Logits of P(damaged) ``(B, L)``.
        damaged_pixels: Damaged pixels of each patch ``(B, L)``.
    """
    damaged, normal = margins[damaged_pixels >= MIN_DAMAGED_PIXELS], margins[damaged_pixels == 0]
    return (functional.softplus(-damaged).mean() + functional.softplus(normal).mean()) / 2


def learning_rate_at(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """Return the learning rate of a step (zero-based): linear to ``peak``, then cosine to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def strong_share_at(step: int, *, steps: int) -> float:
    """Return how many pairs of a step show strong damage for certain: all at first, none after a third of the way."""
    return max(0.0, 1.0 - 3.0 * step / steps)


def create_clip(seed: int) -> open_clip.CLIP:
    """Return the untrained backbone; the global random generator is left alone."""
    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.create_model(BACKBONE_NAME)


def compute_losses(
    clip: open_clip.CLIP, words: WordTokenizer, batch: Batch, *, precision: Precision
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the contrastive loss and the token loss of a batch."""
    generic = [caption(noun=GENERIC_NOUN, label=label) for label in (0, 1)]
    different = list(dict.fromkeys(batch.captions + generic))
    caption_ids = torch.tensor([different.index(text) for text in batch.captions])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        seen = clip.visual.forward_intermediates(
            normalize_pixels(batch.images), indices=1, normalize_intermediates=True, output_fmt="NLC"
        )
        texts = clip.encode_text(words(different), normalize=True)
    texts = texts.float()
    scale = clip.logit_scale.exp()
    images = functional.normalize(seen["image_features"].float(), dim=-1)
    used = caption_ids.unique()  # a generic prompt may be nobody's caption
    positions = torch.searchsorted(used, caption_ids)
    contrastive = contrastive_loss(scale * images @ texts[used].T, positions)
    normal, damaged = (texts[different.index(text)] for text in generic)
    tokens = functional.normalize(seen["image_intermediates"][-1].float() @ clip.visual.proj, dim=-1)
    patch = clip.visual.patch_size[0]
    damaged_pixels = batch.masks.float().unfold(1, patch, patch).unfold(2, patch, patch).sum((-1, -2)).flatten(1)
    return contrastive, token_loss(tokens @ (damaged - normal) / TOKEN_TEMPERATURE, damaged_pixels)


def train(
    pool: Pool,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    weight_decay: float,
    token_weight: float,
    precision: Precision,
    output: Path | None = None,
) -> tuple[open_clip.CLIP, list[dict[str, float]]]:
    """Train on pairs of ``pool``; see ``pretrain`` for the settings.

    Returns:
        The backbone and, for every step, its losses and seconds.
    """
    clip, words, rng = create_clip(seed), tokenizer(), np.random.default_rng(seed)
    decayed = [parameter for parameter in clip.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in clip.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS)
    history: list[dict[str, float]] = []
    for step in range(steps):
        start = time.perf_counter()
        clip.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps=steps, warmup_steps=warmup_steps, peak=learning_rate)
        batch = draw_batch(
            pool,
            rng=rng,
            num_pairs=batch_size // 2,
            image_size=IMAGE_SIZE,
            strong_share=strong_share_at(step, steps=steps),
        )
        contrastive, tokens = compute_losses(clip, words, batch, precision=precision)
        loss = contrastive + token_weight * tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        values = {"contrastive": contrastive.item(), "token": tokens.item()}
        history.append({**values, "seconds": time.perf_counter() - start})
        _follow(clip, history, steps=steps, output=output)
    return clip.eval(), history


def _follow(clip: open_clip.CLIP, history: list[dict[str, float]], *, steps: int, output: Path | None) -> None:
    """Log the mean of the last steps; now and then measure progress and save what there is."""
    done = len(history)
    if done % REPORT_EVERY == 0:
        means = {name: sum(entry[name] for entry in history[-REPORT_EVERY:]) / REPORT_EVERY for name in history[0]}
        logger.info("Step %d of %d: %s", done, steps, ", ".join(f"{name} {means[name]:.3f}" for name in means))
    if output is not None and done % SAVE_EVERY == 0:
        auroc = zero_shot_auroc(
            clip,
            families=FAMILIES["pretraining"],
            seed=EVALUATION_SEED,
            num_images=EVALUATION_IMAGES,
            image_size=IMAGE_SIZE,
        )
        history[-1]["image_auroc"] = auroc
        logger.info("Step %d: zero-shot image AUROC on the families trained on %.3f", done, auroc)
        _save(clip, history, output=output.with_suffix(".part.safetensors"), described={})


def _save(clip: open_clip.CLIP, history: list[dict[str, float]], *, output: Path, described: dict[str, object]) -> None:
    """Write the weights and, beside them, what training measured; each beside its place, then moved."""
    temporary = output.with_name(f".{output.name}.tmp")
    save_file({name: tensor.detach().contiguous() for name, tensor in clip.state_dict().items()}, temporary)
    temporary.replace(output)
    columns: dict[str, object] = {
        name: [round(entry[name], 4) for entry in history] for name in ("contrastive", "token", "seconds")
    }
    aurocs = {str(step): entry["image_auroc"] for step, entry in enumerate(history, 1) if "image_auroc" in entry}
    record = {**described, "image_auroc_by_step": aurocs, **columns}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    output.with_suffix(".training.json").write_text(f"{{\n{lines}\n}}\n")


def pretrain(
    output: Path,
    *,
    seed: int = 0,
    steps: int = 1800,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    warmup_steps: int = 100,
    weight_decay: float = 0.05,
    token_weight: float = 1.0,
    precision: Precision = "float32",
    pool: PoolConfig | None = None,
    cache: Path | None = None,
    num_threads: int = 1,
) -> None:
    """Train the demonstration backbone and write its weights, with the loss curve beside them.

    Args:
        output: Weight file to write, ``.safetensors``; ``.training.json`` is written beside it.
        seed: Seed of the initial weights and of the order of the pictures.
        steps: Optimiser steps.
        batch_size: Images per step, half of them damaged twins of the others.
        learning_rate: Peak step size of AdamW.
        warmup_steps: Steps until the peak.
        weight_decay: Of matrices and embeddings, not of biases and norms.
        token_weight: Weight of the token loss beside the contrastive loss; 0 is plain CLIP.
        precision: Of the forward pass; bfloat16 is twice as fast on processors that compute it (AVX512-BF16, AMX).
        pool: Which pictures are drawn before training.
        cache: Folder that keeps them; none means memory only.
        num_threads: Threads of torch.
    """
    if output.suffix != ".safetensors" or batch_size < 2 or batch_size % 2 or steps < 1:  # noqa: PLR2004 - a pair
        msg = f"Wanted a .safetensors file, an even batch and a step, got {output}, {batch_size}, {steps}."
        raise ValueError(msg)
    torch.set_num_threads(num_threads)
    settings: dict[str, object] = {
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "weight_decay": weight_decay,
        "token_weight": token_weight,
        "precision": precision,
        "num_threads": num_threads,
    }
    pictures = load_pool(pool or PoolConfig(), cache=cache)
    clip, history = train(
        pictures,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        token_weight=token_weight,
        precision=precision,
        output=output,
    )
    described = {"settings": settings, "pool": asdict(pool or PoolConfig()), "torch": torch.__version__}
    _save(clip, history, output=output, described=cast("dict[str, object]", described))
    logger.info("Wrote %s, %.2f s a step.", output, sum(entry["seconds"] for entry in history) / len(history))


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code: 0, or 2 where the command line is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        auto_cli(pretrain, args=arguments, prog=PROGRAM, as_positional=False, allow_abbrev=False)
    except ValueError as error:
        logger.error("error: %s", error)  # noqa: TRY400 - written for the user, without a traceback
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
