"""What a Lightning checkpoint keeps of a `FeClip`: everything but the frozen CLIP, and what its bundle needs.

Plain data and tensors alone, which Lightning reads with ``weights_only``.
"""

from typing import TYPE_CHECKING, Any, Protocol

from feclip.errors import BundleError

if TYPE_CHECKING:
    import torch

    from feclip.integrations.anomalib.images_used import ImagesUsed
    from feclip.integrations.anomalib.torch_model import FeClipInference

__all__ = ["put_into", "take_from"]

_FROZEN = ("model.feclip.visual.", "model.feclip.prompt_learner.transformer.", "model.feclip.prompt_learner.ln_final.")
_KEY = "feclip"


class Checkpointed(Protocol):
    """What a checkpoint keeps of a module."""

    model: "FeClipInference"
    images_used: "ImagesUsed"
    epoch_metrics: list[dict[str, float]]

    def state_dict(self) -> "dict[str, torch.Tensor]":
        """Return all tensors, the frozen ones too."""
        ...


def put_into(checkpoint: dict[str, Any], module: Checkpointed) -> None:
    """Leave the frozen tensors out of a checkpoint, and add the module's record."""
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: tensor for name, tensor in state.items() if not name.startswith(_FROZEN)}
    checkpoint[_KEY] = {
        "backbone_digest": module.model.feclip.backbone_digest,
        "smoothing_sigma": module.model.smoothing_sigma,
        "epoch_metrics": module.epoch_metrics,
        "images_used": module.images_used.state(),
    }


def take_from(checkpoint: dict[str, Any], module: Checkpointed) -> None:
    """Restore the module's record, and lend the checkpoint the frozen tensors, so that it is loaded strictly.

    Raises:
        BundleError: If the checkpoint is of no `FeClip`, or was trained on another backbone.
    """
    kept = checkpoint.get(_KEY)
    if kept is None:
        msg = "The checkpoint was not written by FeClip; give one that was, or a bundle."
        raise BundleError(msg)
    own = module.model.feclip.backbone_digest
    if kept["backbone_digest"] != own:
        msg = (
            f"The checkpoint was trained on a backbone with digest {kept['backbone_digest'][:12]}, this one has "
            f"{own[:12]}; give the same model."
        )
        raise BundleError(msg)
    frozen = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(_FROZEN)}
    checkpoint["state_dict"] = checkpoint["state_dict"] | frozen
    module.model.smoothing_sigma = kept["smoothing_sigma"]
    module.epoch_metrics = kept["epoch_metrics"]
    module.images_used.load_state(kept["images_used"])
