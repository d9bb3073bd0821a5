"""FE-CLIP as a torch model: adapters, frozen CLIP, prompts, maps and loss; knows no config, no data, no cluster.

What loads open_clip is `feclip.model.backbone`; it is imported where a model is built, not with this room.
"""

from feclip.model.adapters import FFEAdapter, FrequencyTap, LFSAdapter, LfsStatistic
from feclip.model.dct import dct_basis
from feclip.model.losses import LossTerms, fe_clip_loss_terms
from feclip.model.map_statistics import (
    MapStatistics,
    counted_statistics,
    map_statistics,
    num_top_pixels,
    pixel_maps,
)
from feclip.model.maps import fill_padding, mean_probability_logit, upsample
from feclip.model.memory_bank import Coreset, MemoryBank, greedy_coreset
from feclip.model.output import FeClipOutput
from feclip.model.precision import autocast
from feclip.model.prompting import Prompts, Tokenizer, build_prompts, text_embeddings
from feclip.model.torch_model import FeClipModel, Padding
from feclip.model.trunk import resolve_tap_blocks
from feclip.model.weights import tensor_digest

__all__ = [
    "Coreset",
    "FFEAdapter",
    "FeClipModel",
    "FeClipOutput",
    "FrequencyTap",
    "LFSAdapter",
    "LfsStatistic",
    "LossTerms",
    "MapStatistics",
    "MemoryBank",
    "Padding",
    "Prompts",
    "Tokenizer",
    "autocast",
    "build_prompts",
    "counted_statistics",
    "dct_basis",
    "fe_clip_loss_terms",
    "fill_padding",
    "greedy_coreset",
    "map_statistics",
    "mean_probability_logit",
    "num_top_pixels",
    "pixel_maps",
    "resolve_tap_blocks",
    "tensor_digest",
    "text_embeddings",
    "upsample",
]
