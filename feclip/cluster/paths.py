"""Paths that every worker understands: absolute ones, or URIs."""

import dataclasses
import os
from pathlib import Path

from feclip.cluster.session import is_submitted_job
from feclip.config import FinetuneConfig
from feclip.data import absolute_uri
from feclip.errors import ConfigError

__all__ = ["absolute_path", "absolute_paths"]


def absolute_paths(config: FinetuneConfig) -> FinetuneConfig:
    """Return ``config`` with absolute paths, since workers run in other working directories.

    Raises:
        ConfigError: If a path is relative in a submitted job, whose driver runs in an unpacked copy of the working
            directory: what it wrote there would be lost.
    """
    pretrained = config.model.pretrained
    assert pretrained is not None  # FinetuneConfig settles it
    if pretrained.endswith((".pt", ".safetensors")) or os.sep in pretrained:
        pretrained = absolute_path("model.pretrained", pretrained)
    data = dataclasses.replace(
        config.data,
        root=None if config.data.root is None else absolute_path("data.root", config.data.root),
        manifest=None if config.data.manifest is None else absolute_path("data.manifest", config.data.manifest),
    )
    guard = dataclasses.replace(
        config.guard,
        root=None if config.guard.root is None else absolute_path("guard.root", config.guard.root),
        manifest=None if config.guard.manifest is None else absolute_path("guard.manifest", config.guard.manifest),
    )
    optim = config.optim
    if optim.prefix_cache_folder is not None:
        folder = absolute_path("optim.prefix_cache_folder", optim.prefix_cache_folder)
        optim = dataclasses.replace(optim, prefix_cache_folder=folder)
    return dataclasses.replace(
        config,
        parent=None if config.parent is None else absolute_path("parent", config.parent).rstrip("/"),
        data=data,
        guard=guard,
        optim=optim,
        model=dataclasses.replace(config.model, pretrained=pretrained),
        output=absolute_path("output", config.output),
    )


def absolute_path(field: str, path: str) -> str:
    """Return an absolute path, or the URI as it is.

    Args:
        field: Name of the config field, for the message.
        path: Path or URI.

    Raises:
        ConfigError: If it is relative in a submitted job.
    """
    absolute = absolute_uri(path)
    if is_submitted_job() and absolute != path and not Path(path).is_absolute():
        msg = (
            f"{field} is the relative path {path!r}, but a submitted job runs in an unpacked copy of the working "
            "directory that is deleted afterwards; give an absolute path or an s3:// URI."
        )
        raise ConfigError(msg)
    return absolute
