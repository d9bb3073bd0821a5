"""Metrics on the held-out split after an epoch."""

from contextlib import AbstractContextManager

import torch

from feclip.data import LabelledImages, prefetched_batches, valid_tokens
from feclip.metrics import ScoredImages, image_and_pixel_metrics
from feclip.model import FeClipModel, fill_padding, upsample
from feclip.training.batches import shard
from feclip.training.ranks import gathered, rank, world_size

__all__ = ["held_out_metrics"]

BATCH_SIZE = 16  # images per forward pass of a rank; without effect on the metrics


def held_out_metrics(
    model: FeClipModel,
    images: LabelledImages,
    *,
    device: torch.device,
    num_threads: int,
    context: AbstractContextManager[object],
) -> dict[str, float]:
    """Score ``images``, divided over the ranks without repeats, and return the metrics of all of them together.

    The scores of all ranks are gathered and then ranked once: a mean of the ranks' metrics would be another number.

    Returns:
        What :func:`feclip.metrics.image_and_pixel_metrics` returns; empty for no images.
    """
    if len(images) == 0:
        return {}
    own = shard(list(range(len(images))), rank=rank(), world_size=world_size())
    batches = [own[start : start + BATCH_SIZE] for start in range(0, len(own), BATCH_SIZE)]
    size = model.image_size
    logits = [torch.zeros(0, device=device)]
    labels = [torch.zeros(0, dtype=torch.bool, device=device)]
    indices = [torch.zeros(0, dtype=torch.int64, device=device)]
    pixels = [torch.zeros(0, size, size, device=device)]
    masks = [torch.zeros(0, size, size, dtype=torch.bool, device=device)]
    model.eval()
    for loaded in prefetched_batches(images, batches, num_threads=num_threads):
        batch = loaded.to(device)
        tokens = valid_tokens(batch.valid_pixels, patch_size=model.patch_size)
        with torch.no_grad(), context:
            output = model(model.normalize(batch.images, batch.valid_pixels), tokens)
        upsampled = upsample(fill_padding(output.token_map, tokens), size=(size, size))
        counted = batch.valid_pixels & batch.has_mask[:, None, None]
        logits.append(output.image_logit)
        labels.append(batch.labels.bool())
        indices.append(batch.index)
        pixels.append(upsampled.masked_fill(~counted, torch.nan))
        masks.append(batch.gt_masks)
    model.train()
    index = gathered(torch.cat(indices)).cpu()
    scored = ScoredImages(
        image_logits=gathered(torch.cat(logits)).cpu(),
        labels=gathered(torch.cat(labels).to(torch.uint8)).bool().cpu(),
        category_index=images.category_index[index],
        pixel_logits=gathered(torch.cat(pixels)).cpu(),
        gt_masks=gathered(torch.cat(masks).to(torch.uint8)).bool().cpu(),
    )
    return image_and_pixel_metrics(scored)
