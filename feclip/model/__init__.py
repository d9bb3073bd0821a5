"""FE-CLIP as a torch model: adapters, frozen CLIP, prompts, maps and loss; knows no config, no data, no cluster."""

from feclip.model.adapters import FFEAdapter, FrequencyTap, LFSAdapter, LfsStatistic
from feclip.model.backbone import Backbone, backbone_digest, check_backbone, load_backbone
from feclip.model.dct import dct_basis
from feclip.model.losses import LossTerms, fe_clip_loss_terms
from feclip.model.map_statistics import MapStatistics, map_statistics, num_top_pixels, pixel_maps
from feclip.model.maps import fill_padding, mean_probability_logit, upsample
from feclip.model.output import FeClipOutput
from feclip.model.precision import autocast
from feclip.model.prompting import Tokenizer, build_prompts, text_embeddings
from feclip.model.torch_model import FeClipModel, Padding
from feclip.model.trunk import resolve_tap_blocks
from feclip.model.weights import tensor_digest

__all__ = [
    "Backbone",
    "FFEAdapter",
    "FeClipModel",
    "FeClipOutput",
    "FrequencyTap",
    "LFSAdapter",
    "LfsStatistic",
    "LossTerms",
    "MapStatistics",
    "Padding",
    "Tokenizer",
    "autocast",
    "backbone_digest",
    "build_prompts",
    "check_backbone",
    "dct_basis",
    "fe_clip_loss_terms",
    "fill_padding",
    "load_backbone",
    "map_statistics",
    "mean_probability_logit",
    "num_top_pixels",
    "pixel_maps",
    "resolve_tap_blocks",
    "tensor_digest",
    "text_embeddings",
    "upsample",
]
