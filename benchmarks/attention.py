#!/usr/bin/env python
"""A pretraining step of the demonstration backbone, attention multiplied out against torch's fused attention.

python benchmarks/attention.py --num_threads 1
"""

import contextlib
import statistics
import sys
import time

import numpy as np
import torch
from jsonargparse import auto_cli

from feclip.demo.backbone import IMAGE_SIZE, tokenizer
from feclip.demo.pretrain import create_clip, explicit_attention
from feclip.demo.pretrain_data import PoolConfig, draw_batch, load_pool
from feclip.demo.pretrain_losses import compute_losses, create_heads


def attention(*, num_threads: int = 1, num_images: int = 32, repeats: int = 9) -> None:
    """Print median seconds of forward and backward pass, with spread, and the ratio; the two take turns.

    Args:
        num_threads: Threads of torch.
        num_images: Images in a step.
        repeats: Steps of each kind after one that is not counted.
    """
    torch.set_num_threads(num_threads)
    pool = load_pool(PoolConfig(num_pairs=num_images // 2))
    clip, words = create_clip(0), tokenizer()
    heads = create_heads(0, width=clip.visual.transformer.width)
    rng = np.random.default_rng(0)
    batch = draw_batch(pool, rng=rng, num_pairs=num_images // 2, image_size=IMAGE_SIZE, strong_share=0.5)
    for precision in ("bfloat16", "float32"):
        seconds: dict[str, list[float]] = {"fused": [], "multiplied out": []}
        for _ in range(repeats + 1):
            for name, values in seconds.items():
                context = contextlib.nullcontext() if name == "fused" else explicit_attention(clip.visual)
                start = time.perf_counter()
                with context:
                    losses = compute_losses(clip, batch, heads=heads, words=words, precision=precision)
                torch.autograd.backward(torch.stack(list(losses.values())).sum())
                values.append(time.perf_counter() - start)
        counted = {name: values[1:] for name, values in seconds.items()}
        medians = {name: statistics.median(values) for name, values in counted.items()}
        for name, values in counted.items():
            sys.stdout.write(f"{precision}, {name}: {medians[name]:.3f} s ({min(values):.3f} to {max(values):.3f})\n")
        sys.stdout.write(f"{precision}: fused / multiplied out {medians['fused'] / medians['multiplied out']:.2f}\n")


if __name__ == "__main__":
    auto_cli(attention)
