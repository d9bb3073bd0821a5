"""The state of a run after an epoch: more than a bundle, so that a resumed run equals an unbroken one.

A checkpoint is a folder of two files: ``state.safetensors`` (trained tensors, Adam's moments, generator states) and
``state.json`` (finished epochs, metrics so far, the backbone's digest). Where an epoch is chosen, also the tensors of
the best one so far and the held-out metrics before training. No pickle is written or read.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from feclip.data import is_number, parse_json
from feclip.errors import RunError

__all__ = ["TrainState"]

SCHEMA = 1
TENSORS_FILE = "state.safetensors"
RECORD_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What training needs to go on after ``epoch`` finished epochs."""

    epoch: int
    """Finished epochs."""
    trained: dict[str, torch.Tensor]
    """Adapters and patch head by parameter name."""
    moments: dict[str, torch.Tensor]
    """Adam's state, keyed ``<field>/<parameter name>`` with fields exp_avg, exp_avg_sq and step."""
    generators: dict[str, torch.Tensor]
    """Generator states keyed ``<device type>/<rank>``, uint8."""
    metrics: list[dict[str, float]]
    """One record per finished epoch."""
    backbone_digest: str
    """Digest of the frozen backbone that the tensors were trained on."""
    before: dict[str, float] | None = None
    """Held-out metrics of the start; None where no epoch is chosen."""
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """Adapters and patch head of the best epoch so far, the start among them; empty where no epoch is chosen."""

    def save(self, folder: Path) -> None:
        """Write both files into ``folder``, which exists."""
        tensors = {
            f"{kind}/{name}": tensor.detach().cpu().contiguous()
            for kind, group in self._groups().items()
            for name, tensor in group.items()
        }
        record = {
            "schema": SCHEMA,
            "epoch": self.epoch,
            "metrics": self.metrics,
            "backbone_digest": self.backbone_digest,
        } | ({} if self.before is None else {"before": self.before})
        save_file(tensors, folder / TENSORS_FILE)
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")

    def _groups(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the tensors by the first part of their names in the file."""
        best = {name: tensor.clone() for name, tensor in self.best.items()}  # a file shares no memory between tensors
        return {"trained": self.trained, "adam": self.moments, "generator": self.generators, "best": best}

    @classmethod
    def load(cls, folder: Path) -> "TrainState":
        """Read what :meth:`save` wrote.

        Raises:
            RunError: If a file is missing, damaged or of another schema.
        """
        try:
            record = parse_json((folder / RECORD_FILE).read_bytes())
            tensors = load_file(folder / TENSORS_FILE)
        except (OSError, ValueError, SafetensorError) as error:
            msg = f"The checkpoint in {folder} cannot be read ({error}); delete it to go on from the one before."
            raise RunError(msg) from error
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            msg = f"The checkpoint in {folder} is not of schema {SCHEMA}; resume with the feclip that wrote it."
            raise RunError(msg)
        if not _is_whole(record):
            msg = f"The record of the checkpoint in {folder} is none; delete it to go on from the one before."
            raise RunError(msg)
        groups: dict[str, dict[str, torch.Tensor]] = {"trained": {}, "adam": {}, "generator": {}, "best": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind not in groups:
                msg = f"The checkpoint in {folder} holds an unknown tensor {key!r}."
                raise RunError(msg)
            groups[kind][name] = tensor
        return cls(
            epoch=record["epoch"],
            trained=groups["trained"],
            moments=groups["adam"],
            generators=groups["generator"],
            metrics=record["metrics"],
            backbone_digest=record["backbone_digest"],
            before=record.get("before"),
            best=groups["best"],
        )


def _is_whole(record: dict[str, Any]) -> bool:
    """Tell whether a record has its fields, and as many metrics as epochs."""
    epoch, metrics, digest = (record.get(name) for name in ("epoch", "metrics", "backbone_digest"))
    before = record.get("before", {})
    return (
        isinstance(epoch, int)
        and isinstance(metrics, list)
        and len(metrics) == epoch
        and all(isinstance(found, dict) for found in metrics)
        and isinstance(digest, str)
        and isinstance(before, dict)
        and all(map(is_number, before.values()))
    )
