"""Metrics on the held-out split after an epoch."""

import itertools

import numpy as np
import torch

from feclip.metrics import PixelCounts, image_metrics, mean_over_categories, pixel_metrics
from feclip.model import autocast, fill_padding, upsample
from feclip.training.batches import shard
from feclip.training.prefixes import PrefixSource
from feclip.training.ranks import gathered, rank, world_size

__all__ = ["held_out_metrics"]

BATCH_SIZE = 16  # images per forward pass of a rank; without effect on the metrics


def held_out_metrics(source: PrefixSource) -> dict[str, float]:
    """Score the images of ``source`` with its model and return the metrics of all of them together.

    They are divided over the ranks without repeats.
    The scores of all ranks are gathered and then ranked once: a mean of the ranks' metrics would be another number.
    Maps leave the device batch by batch; what is gathered is a category's :class:`feclip.metrics.PixelCounts`, one
    category at a time: in memory, 4 bytes for each pixel of a rank's own images and of the category at hand.

    Returns:
        The mean over the categories of what :func:`feclip.metrics.image_metrics` and
        :func:`feclip.metrics.pixel_metrics` return; empty for no images.
    """
    if len(source) == 0:
        return {}
    model, images, device = source.model, source.images, source.device
    own = shard(list(range(len(source))), rank=rank(), world_size=world_size())
    batches = [own[start : start + BATCH_SIZE] for start in range(0, len(own), BATCH_SIZE)]
    logits = [torch.zeros(0, device=device)]
    labels = [torch.zeros(0, dtype=torch.uint8, device=device)]
    categories = [torch.zeros(0, dtype=torch.int64, device=device)]
    counts: dict[int, list[PixelCounts]] = {category: [] for category in sorted(set(images.category_index.tolist()))}
    model.eval()
    for batch in itertools.chain.from_iterable(source.batches(batches)):
        with torch.no_grad(), autocast(source.precision, device=device):
            output = model.forward_from_prefix(batch.tokens, batch.valid_tokens, nouns=batch.nouns)
        upsampled = upsample(fill_padding(output.token_map, batch.valid_tokens), size=output.image_size)
        counted = batch.valid_pixels & batch.has_mask[:, None, None]
        pixels, masks = upsampled.masked_fill(~counted, torch.nan).float().cpu(), batch.gt_masks.cpu()
        category_index = images.category_index[batch.index.cpu()]
        for category in set(category_index.tolist()):
            chosen = category_index == category
            counts[category].append(PixelCounts.of(pixels[chosen], masks[chosen]))
        logits.append(output.image_logit.float())
        labels.append(batch.labels.to(torch.uint8))
        categories.append(category_index.to(device))
    model.train()
    columns = [gathered(torch.cat(parts)).cpu() for parts in (logits, labels, categories)]
    by_category = {}
    for category, parts in counts.items():
        chosen = columns[2] == category
        pixel_counts = _gathered_counts(PixelCounts.merge_all(parts), device=device)
        found = {**image_metrics(columns[0][chosen], columns[1][chosen]), **pixel_metrics(pixel_counts)}
        by_category[str(category)] = found
    return mean_over_categories(by_category)


def _gathered_counts(own: PixelCounts, *, device: torch.device) -> PixelCounts:
    """Return the counts of all ranks together; each rank must call it."""
    columns = {}
    for name in ("normal_keys", "anomalous_keys", "region_sizes"):
        values = torch.from_numpy(getattr(own, name).view(np.int32))  # unsigned integers are not sent
        columns[name] = gathered(values.to(device)).cpu().numpy().view(np.uint32)
    return PixelCounts.merge_all([PixelCounts(**columns)])
