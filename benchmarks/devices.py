"""What the rows of the model share: models with random weights, and records of GPU rows where no GPU is."""

import dataclasses
from dataclasses import dataclass

import torch
from harness import Record
from torch import nn

from feclip.model import FeClipModel, FeClipOutput, fe_clip_loss_terms


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model and a batch for it."""

    backbone: str
    image_size: int
    batch: int

    def __str__(self) -> str:
        """Name them for a table."""
        return f"{self.backbone} at {self.image_size} px, random weights, batch {self.batch}"


TINY = Size(backbone="ViT-S-32-alt", image_size=64, batch=2)


def model_and_images(size: Size, device: torch.device) -> tuple[FeClipModel, torch.Tensor]:
    """Return a fresh model of ``size`` with random weights, and normalised images of noise ``(B, 3, S, S)``."""
    torch.manual_seed(0)
    model = FeClipModel.from_pretrained(size.backbone, pretrained="none", image_size=size.image_size)
    side = size.image_size
    return model.to(device), torch.randn(size.batch, 3, side, side, device=device)


def score(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what scoring reads of the model: image logits ``(B,)`` and token maps ``(B, H_t, W_t)``."""
    output = model(images)
    return output.image_logit, output.token_map


def corner_loss(output: FeClipOutput) -> torch.Tensor:
    """Return the loss of images that are all anomalous, with a defect in one corner."""
    batch, (height, width), device = len(output.class_logits), output.image_size, output.class_logits.device
    masks = torch.zeros(batch, height, width, device=device)
    masks[:, : height // 4, : width // 4] = 1
    terms = fe_clip_loss_terms(output, torch.ones(batch, device=device), masks)
    return torch.stack(terms).mean(dim=1).sum()


def name_of(device: torch.device) -> str:
    """Return ``cpu`` or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def not_measured(record: Record, *, ran: str) -> Record:
    """Return the record of a GPU row where no GPU is: without a number.

    Args:
        record: What the same code made of a tiny size on the CPU.
        ran: That size.
    """
    facts = {"ran_on_cpu_to_show_that_it_works": ran}
    return dataclasses.replace(record, ratio=None, met=None, ours=None, theirs=None, facts=facts)
