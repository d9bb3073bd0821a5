"""Train the demonstration backbone from nothing, on generated pictures alone.

python -m feclip.demo.pretrain --output feclip-demo.safetensors --training.precision bfloat16
"""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from jsonargparse import auto_cli
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from torch import nn

from feclip.demo.backbone import BACKBONE_NAME, IMAGE_SIZE, register, tokenizer
from feclip.demo.families import FAMILIES
from feclip.demo.pretrain_data import Pool, PoolConfig, draw_batch, load_pool
from feclip.demo.pretrain_init import initialize_trunk
from feclip.demo.pretrain_losses import Precision, compute_losses, create_heads
from feclip.demo.zero_shot import zero_shot_auroc
from feclip.logs import LogConfig, asked_format, configure, fields, say_end
from feclip.progress import Progress

__all__ = ["TrainingConfig", "create_clip", "main", "pretrain", "train"]

PROGRAM = "python -m feclip.demo.pretrain"
JOB = "pretrain"
logger = logging.getLogger("feclip.demo.pretrain")

BETAS = (0.9, 0.98)  # OpenAI's for its ViTs
MAX_GRAD_NORM = 1.0
MAX_LOGIT_SCALE = math.log(100)  # OpenAI's
INITIALIZATION_IMAGES = 1000
EVALUATION_SEED = 4_000_000  # of the pictures that progress is measured on
EVALUATION_IMAGES = 120
REPORT_EVERY = 10
SAVE_EVERY = 200


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one training run; what they were chosen against stands in ``docs/demo-backbone.md``."""

    seed: int = 0
    """Seed of the initial weights and of the order of the pictures."""
    steps: int = 24_000
    """Optimiser steps."""
    batch_size: int = 32
    """Images per step, half of them damaged twins of the others."""
    learning_rate: float = 1e-3
    """Peak step size of AdamW."""
    warmup_steps: int = 100
    """Steps until the peak."""
    weight_decay: float = 0.05
    """Of matrices and embeddings, not of biases and norms."""
    twin_weight: float = 3.0
    """Weight of telling an image's caption from its twin's, beside the contrastive loss."""
    token_weight: float = 10.0
    """Weight of the token loss at first, beside the contrastive loss; both weights 0 are plain CLIP."""
    precision: Precision = "float32"
    """Of the forward pass; bfloat16 is twice as fast on processors that compute it (AVX512-BF16, AMX)."""

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.batch_size % 2:  # noqa: PLR2004 - a pair
            msg = f"batch_size must be even and positive, got {self.batch_size}."
            raise ValueError(msg)
        if min(self.steps, self.warmup_steps) < 1:
            msg = f"steps and warmup_steps must be positive, got {self.steps} and {self.warmup_steps}."
            raise ValueError(msg)

    def learning_rate_at(self, step: int) -> float:
        """Return the step size of a step (zero-based): linear to its peak, then cosine to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def token_weight_at(self, step: int) -> float:
        """Return the token loss's weight: whole for three tenths of the way, down to a fifth at seven tenths."""
        progress = min(1.0, max(0.0, (step / self.steps - 0.3) / 0.4))
        return self.token_weight * (1 - 0.8 * progress)

    def strong_share_at(self, step: int) -> float:
        """Return how many pairs show strong damage for certain: all at first, none after a third of the way."""
        return max(0.0, 1.0 - 3.0 * step / self.steps)


def create_clip(seed: int) -> open_clip.CLIP:
    """Return the backbone with open_clip's random weights; the global random generator is left alone."""
    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.create_model(BACKBONE_NAME)


@contextlib.contextmanager
def explicit_attention(visual: VisionTransformer) -> Iterator[None]:
    """Let the image tower multiply queries and keys by matrix products, as for attention weights that somebody reads.

    torch's fused attention is slow in bfloat16 on processors: ``benchmarks/attention.py`` compares the two.
    """

    def want_weights(
        _module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return arguments, {**keywords, "need_weights": True, "average_attn_weights": False}

    blocks = visual.transformer.resblocks
    hooks = [block.attn.register_forward_pre_hook(want_weights, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def train(
    pool: Pool, config: TrainingConfig, *, output: Path | None = None
) -> tuple[open_clip.CLIP, list[dict[str, float]]]:
    """Train on pairs of ``pool``.

    Args:
        pool: What it learns from.
        config: How.
        output: Weight file; now and then, what there is goes to ``.part.safetensors`` beside it. None: nothing.

    Returns:
        The backbone in eval mode and, for every step, its losses and seconds.
    """
    clip, words, rng = create_clip(config.seed), tokenizer(), np.random.default_rng(config.seed)
    initialize_trunk(clip, pool.flawless[:INITIALIZATION_IMAGES])
    heads = create_heads(config.seed, width=clip.visual.transformer.width)
    parameters = [*clip.parameters(), *heads.parameters()]
    optimizer = _create_optimizer(parameters, config)
    attention = explicit_attention if config.precision == "bfloat16" else contextlib.nullcontext
    history: list[dict[str, float]] = []
    with Progress("Pretraining", config.steps, unit="steps") as progress:
        for step in range(config.steps):
            start = time.perf_counter()
            clip.train()
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            batch = draw_batch(
                pool,
                rng=rng,
                num_pairs=config.batch_size // 2,
                image_size=IMAGE_SIZE,
                strong_share=config.strong_share_at(step),
            )
            with attention(clip.visual):
                losses = compute_losses(clip, batch, heads=heads, words=words, precision=config.precision)
            loss = losses["contrastive"] + config.twin_weight * losses["twin"]
            loss = loss + config.token_weight_at(step) * losses["token"]
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            with torch.no_grad():
                clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            values = {name: value.item() for name, value in losses.items()}
            history.append({**values, "seconds": time.perf_counter() - start})
            progress.advance()
            _follow(clip, history, config=config, output=output)
    return clip.eval(), history


def _create_optimizer(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS)


def _follow(
    clip: open_clip.CLIP, history: list[dict[str, float]], *, config: TrainingConfig, output: Path | None
) -> None:
    """Log the mean of the last steps; now and then measure progress and save what there is."""
    done = len(history)
    if done % REPORT_EVERY == 0:
        means = {name: sum(entry[name] for entry in history[-REPORT_EVERY:]) / REPORT_EVERY for name in history[0]}
        shown = ", ".join(f"{name} {means[name]:.3f}" for name in means)
        logger.info("Step %d of %d: %s", done, config.steps, shown, extra=fields(step=done, **means))
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
    """Write the weights (beside their place, then moved) and the loss curve, as means of ``REPORT_EVERY`` steps."""
    temporary = output.with_name(f".{output.name}.tmp")
    save_file({name: tensor.detach().contiguous() for name, tensor in clip.state_dict().items()}, temporary)
    temporary.replace(output)
    parts = [history[start : start + REPORT_EVERY] for start in range(0, len(history), REPORT_EVERY)]
    columns: dict[str, object] = {
        name: [round(sum(entry[name] for entry in part) / len(part), 4) for part in parts]
        for name in ("contrastive", "twin", "token", "seconds")
    }
    aurocs = {str(step): entry["image_auroc"] for step, entry in enumerate(history, 1) if "image_auroc" in entry}
    record = {**described, "image_auroc_by_step": aurocs, "steps_per_entry": REPORT_EVERY, **columns}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    output.with_suffix(".training.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def pretrain(
    output: Path,
    *,
    training: TrainingConfig | None = None,
    pool: PoolConfig | None = None,
    cache: Path | None = None,
    num_threads: int = 1,
) -> None:
    """Train the demonstration backbone and write its weights, with the loss curve beside them.

    Args:
        output: Weight file to write, ``.safetensors``; ``.training.json`` is written beside it.
        training: How it is trained; the defaults where absent.
        pool: Which pictures are drawn before training; the defaults where absent.
        cache: Folder that keeps the pictures for another run; none means memory only.
        num_threads: Threads of torch.
    """
    if output.suffix != ".safetensors":
        msg = f"output must be a .safetensors file, got {output}."
        raise ValueError(msg)
    torch.set_num_threads(num_threads)
    training, pool = training or TrainingConfig(), pool or PoolConfig()
    clip, history = train(load_pool(pool, cache=cache), training, output=output)
    described: dict[str, object] = {"training": asdict(training), "pool": asdict(pool), "num_threads": num_threads}
    _save(clip, history, output=output, described={**described, "torch": torch.__version__})
    logger.info("Wrote %s, %.2f s a step.", output, sum(entry["seconds"] for entry in history) / len(history))


def _command(*, log: LogConfig | None = None, **arguments: Any) -> None:  # noqa: ANN401 - those of pretrain
    """Train the demonstration backbone and write its weights, with the loss curve beside them.

    Args:
        log: What is said meanwhile.
        **arguments: What is trained, and how.
    """
    configure(log or LogConfig(), job=JOB)
    pretrain(**arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code: 0, or 2 where the command line is wrong."""
    asked = asked_format(sys.argv[1:] if arguments is None else arguments)
    configure(LogConfig(format=asked), job=JOB)
    try:
        auto_cli(_command, args=arguments, prog=PROGRAM, as_positional=False, allow_abbrev=False)
    except ValueError as error:
        say_end(PROGRAM, f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
