"""How well a CLIP tells damaged from normal pictures of the generator by its two prompts alone.

python -m feclip.demo.zero_shot prints what the model card says of the shipped weights.
"""

import sys

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from feclip.demo.backbone import BACKBONE_NAME, IMAGE_SIZE, register, weights_path
from feclip.demo.families import FAMILIES, GENERIC_NOUN, caption
from feclip.demo.sampling import draw_sample
from feclip.demo.tokenizer import WordTokenizer

__all__ = ["normalize_pixels", "zero_shot_auroc"]

CARD_SEED = 7_000_000  # of the pictures of the model card
CARD_IMAGES = 300  # per role
_CHUNK = 50  # images per forward pass


def normalize_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return RGB images ``(B, 3, H, W)``, uint8, as CLIP wants them: float32, by OpenAI's mean and deviation."""
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (images.float() / 255 - mean) / deviation


@torch.no_grad()
def zero_shot_auroc(
    clip: open_clip.CLIP,
    *,
    families: tuple[str, ...],
    seed: int,
    num_images: int,
    image_size: int,
) -> float:
    """Return the image AUROC of "normal object" against "damaged object" on fresh pictures, half of them damaged.

    Args:
        clip: In any mode; it is left in eval mode.
        families: Drawn from in equal shares.
        seed: Of the pictures; not the one it was trained on.
        num_images: How many.
        image_size: Side of the pictures, pixels.
    """
    clip.eval()
    prompts = [caption(noun=GENERIC_NOUN, label=label) for label in (0, 1)]
    normal, damaged = clip.encode_text(WordTokenizer()(prompts), normalize=True)
    samples = [
        draw_sample(seed=seed, index=index, families=families, size=(image_size, image_size))
        for index in range(num_images)
    ]
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    margins = [
        functional.normalize(clip.encode_image(normalize_pixels(chunk)), dim=-1) @ (damaged - normal)
        for chunk in torch.split(images, _CHUNK)
    ]
    labels = torch.tensor([sample.label for sample in samples])
    return float(binary_auroc(torch.cat(margins), labels))


def main() -> None:
    """Print the zero-shot image AUROC of the shipped weights for each role of families."""
    register()
    clip = open_clip.create_model(BACKBONE_NAME)
    clip.load_state_dict(load_file(weights_path()))
    num_parameters = sum(parameter.numel() for parameter in clip.parameters())
    sys.stdout.write(f"{BACKBONE_NAME}: {num_parameters} parameters\n")
    for role, families in FAMILIES.items():
        auroc = zero_shot_auroc(clip, families=families, seed=CARD_SEED, num_images=CARD_IMAGES, image_size=IMAGE_SIZE)
        sys.stdout.write(f"{role}: image AUROC {auroc:.3f} on {CARD_IMAGES} pictures\n")


if __name__ == "__main__":
    main()
