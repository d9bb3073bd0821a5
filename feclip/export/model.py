"""What an exported file computes: from bytes to scores, in float32, with nothing that depends on the image's content.

Shapes: B images, S side of the model input in pixels, H_t x W_t token grid.
"""

import itertools

import torch
from torch import nn

from feclip.calibration import StatisticOptions
from feclip.data import valid_tokens
from feclip.model import FeClipModel, counted_statistics, num_top_pixels, pixel_maps

__all__ = ["INPUT_NAMES", "OUTPUT_NAMES", "ExportedModel"]


INPUT_NAMES = ("pixels", "valid_pixels")
OUTPUT_NAMES = ("image_logit", "token_map", "map_max", "map_topk_mean")


class ExportedModel(nn.Module):
    """A model with normalisation before it and the statistics of its maps behind it.

    The statistics start from the map rounded to float16, as those of a score table do.

    Args:
        model: The model, on the CPU; its parameters are frozen.
        statistic_options: What the statistics of the map are computed with.
    """

    top_counts: torch.Tensor

    def __init__(self, model: FeClipModel, *, statistic_options: StatisticOptions) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.model.prompt_learner = None  # what it learned stands in the text embeddings
        self.statistic_options = statistic_options
        fraction = statistic_options.topk_fraction
        counts = [num_top_pixels(number, topk_fraction=fraction) for number in range(model.image_size**2 + 1)]
        # Exact decimals, which a graph does not know: looked up by the number of valid pixels.
        self.register_buffer("top_counts", torch.tensor(counts), persistent=False)
        # Its constants are made once and kept; made while a graph is traced, they would be without content.
        pixel_maps(torch.zeros(1, *model.token_grid, dtype=torch.float16), image_size=model.image_size)

    def forward(self, pixels: torch.Tensor, valid_pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Score a batch.

        Args:
            pixels: RGB ``(B, S, S, 3)``, uint8.
            valid_pixels: Bool ``(B, S, S)``, false on padding, somewhere true in each image.

        Returns:
            By `OUTPUT_NAMES`, logits, float32: of P(abnormal) ``(B,)``; the anomaly map ``(B, H_t, W_t)``, NaN on
            padding; its highest valid pixel, and the mean of its highest valid pixels, ``(B,)``.
        """
        tokens = valid_tokens(valid_pixels, patch_size=self.model.patch_size)
        images = self.model.normalize(pixels.permute(0, 3, 1, 2).contiguous(), valid_pixels)
        output = self.model(images, tokens)
        token_map = output.token_map
        statistics = counted_statistics(
            token_map.half(),
            valid_pixels,
            self.top_counts[valid_pixels.flatten(1).sum(dim=1)],
            topk_fraction=self.statistic_options.topk_fraction,
            smoothing_sigma=self.statistic_options.smoothing_sigma,
        )
        scores = (output.image_logit, token_map, *statistics)
        return dict(zip(OUTPUT_NAMES, scores, strict=True))

    def traced(self, batch_size: int) -> torch.export.ExportedProgram:
        """Return the model as a graph, without the stack traces in which the paths of this machine stand.

        Args:
            batch_size: B, which is fixed in the graph, as all shapes are.
        """
        size = self.model.image_size
        pixels = torch.zeros(batch_size, size, size, 3, dtype=torch.uint8)
        valid_pixels = torch.ones(batch_size, size, size, dtype=torch.bool)
        with torch.no_grad():
            program = torch.export.export(self, (), {"pixels": pixels, "valid_pixels": valid_pixels})
        graphs = (part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule))
        for node in itertools.chain.from_iterable(graph.nodes for graph in graphs):
            node.meta.pop("stack_trace", None)
        return program
