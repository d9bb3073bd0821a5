"""The demonstration backbone: a CLIP of a megabyte or three that ships with the package.

It is an ordinary open_clip model with a vocabulary of its own, trained by ``python -m feclip.demo.pretrain`` on
generated pictures. It stands in for no other backbone: whoever wants it names it.
"""

from pathlib import Path

from feclip.demo.tokenizer import WordTokenizer

__all__ = ["BACKBONE_NAME", "IMAGE_SIZE", "register", "tokenizer", "weights_path"]

BACKBONE_NAME = "feclip-demo"
IMAGE_SIZE = 112  # pixels; 14 x 14 patches of 8

_FOLDER = Path(__file__).parent / "weights"


def register() -> None:
    """Make ``feclip-demo`` a model name of open_clip; a second call changes nothing."""
    import open_clip  # noqa: PLC0415 - see docs/adr/0020

    if BACKBONE_NAME not in open_clip.list_models():
        open_clip.add_model_config(_FOLDER / f"{BACKBONE_NAME}.json")


def weights_path() -> Path:
    """Return the file of its weights, a part of the installed package.

    Example:
        >>> weights_path().name
        'feclip-demo.safetensors'
    """
    return _FOLDER / f"{BACKBONE_NAME}.safetensors"


def tokenizer() -> WordTokenizer:
    """Return its tokenizer, which refuses words it does not know.

    Example:
        >>> tokenizer()(["a photo of a damaged unicorn"])
        Traceback (most recent call last):
            ...
        ValueError: feclip-demo does not know 'unicorn' in 'a photo of a damaged unicorn'; its nouns are object, ...
    """
    return WordTokenizer()
