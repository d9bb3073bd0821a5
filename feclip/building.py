"""From a config to the thing it describes: the one place that knows both a config and a model or a data set."""

import dataclasses
import itertools

import pyarrow as pa
import torch

from feclip.config import DataConfig, Device, ModelConfig
from feclip.data import LabelledImages, assign_splits, read_layout, read_manifest
from feclip.demo import backbone as demo
from feclip.errors import ConfigError
from feclip.model import FeClipModel, Tokenizer, build_prompts, resolve_tap_blocks

__all__ = ["build_images", "build_model", "check_model", "find_device", "read_labelled"]

SHIPPED = "shipped"  # ``pretrained`` of the demonstration backbone: the weights that are part of the package


def build_model(config: ModelConfig, *, seed: int) -> FeClipModel:
    """Build the model of ``config`` on the CPU.

    Args:
        config: The model's fields.
        seed: Seed of the adapters and the patch head; the trunk has ``config.init_seed``.

    Raises:
        ConfigError: If the backbone is unknown, its weights cannot be had, or a field does not fit it.
    """
    config = config.settled()
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    fields |= {"pretrained": _find_weights(config), "tokenizer": _find_tokenizer(config)}
    fields |= {"nouns": config.noun_by_group, "prompts": str(config.prompts)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return FeClipModel.from_pretrained(**fields)
        except ValueError as error:
            msg = f"model: {error}"
            raise ConfigError(msg) from error


def check_model(config: ModelConfig) -> int:
    """Check, without loading weights, that the backbone exists and that the fields fit it.

    Returns:
        The number of blocks of its image tower.

    Raises:
        ConfigError: If they do not.
    """
    from feclip.model.backbone import check_backbone  # noqa: PLC0415 - see docs/adr/0020

    config = config.settled()
    assert config.image_size is not None
    tokenizer = _find_tokenizer(config)
    try:
        num_blocks = check_backbone(config.backbone, pretrained=_find_weights(config), image_size=config.image_size)
        resolve_tap_blocks(num_blocks, num_taps=config.num_taps, tap_blocks=config.tap_blocks)
        if tokenizer is not None:
            for noun in {config.noun, *config.noun_by_group.values()}:
                tokenizer([*itertools.chain.from_iterable(build_prompts(noun, str(config.prompts)))])
    except ValueError as error:
        msg = f"model: {error}"
        raise ConfigError(msg) from error
    return num_blocks


def find_device(wanted: str) -> torch.device:
    """Return the device of a model that this process itself holds.

    Args:
        wanted: ``cpu``, ``cuda``, or ``auto`` for a GPU if this process sees one.

    Raises:
        ConfigError: If it is none of these, or a GPU is wanted where none is seen.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if wanted not in list(Device):
        msg = f"device must be one of {', '.join(Device)}, got {wanted!r}."
        raise ConfigError(msg)
    seen = torch.cuda.is_available()
    if wanted == Device.cuda and not seen:
        msg = "device is cuda, but this process sees no GPU; take cpu, or look at CUDA_VISIBLE_DEVICES and the driver."
        raise ConfigError(msg)
    return torch.device("cuda" if seen and wanted != Device.cpu else "cpu")


def _find_weights(config: ModelConfig) -> str:
    """Return ``config.pretrained``, with the path of the file that ships with the demonstration backbone."""
    assert config.pretrained is not None  # the config is settled
    if (config.backbone, config.pretrained) == (demo.BACKBONE_NAME, SHIPPED):
        return str(demo.weights_path())
    return config.pretrained


def _find_tokenizer(config: ModelConfig) -> Tokenizer | None:
    """Return the demonstration backbone's tokenizer after making its name known to open_clip; None for any other."""
    if config.backbone != demo.BACKBONE_NAME:
        return None
    demo.register()
    return demo.tokenizer()


def read_labelled(config: DataConfig, *, seed: int) -> pa.Table:
    """List the labelled images of ``config`` and give each its split.

    Raises:
        DataError: If the folder or the table is not what it must be.
        StorageError: If it cannot be read.
    """
    if config.manifest is not None:
        table = read_manifest(config.manifest, root=config.root)
    else:
        assert config.root is not None  # FinetuneConfig requires one of the two
        table = read_layout(config.root, layout=str(config.layout), categories=config.categories, trains=True)
    return assign_splits(
        table,
        protocol=str(config.protocol),
        fractions=tuple(config.fractions),
        group_column=config.group_column,
        seed=seed,
    )


def build_images(
    table: pa.Table, config: DataConfig, *, image_size: int, patch_size: int | None = None
) -> LabelledImages:
    """Return the data set over the rows of a manifest.

    Args:
        table: Its rows.
        config: How images become inputs.
        image_size: The model's, pixels.
        patch_size: The model's, pixels; ``data.resize`` rectangle needs it.
    """
    return LabelledImages(
        table,
        image_size=image_size,
        resize=str(config.resize),
        padding_color=config.padding_color,
        valid_region=str(config.valid_region),
        jpeg_decoding=str(config.jpeg_decoding),
        patch_size=patch_size,
    )
