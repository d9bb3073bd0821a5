"""The training loop that Ray Train and Ray Tune both call; torch only, no ray.

It runs in one process as it is, and on several where a torch process group exists.
"""

from feclip.training.checkpoint import TrainState
from feclip.training.choosing import best_epoch
from feclip.training.claim import RUN_FOLDER, Claim, read_images, read_run_images, require_same_images, write_images
from feclip.training.held_out import held_out_metrics
from feclip.training.loop import Step, fit
from feclip.training.loss_sums import loss_sums, mean_loss, mean_terms
from feclip.training.parent import all_images, claimed_parent, inherited, require_unseen, trained_images
from feclip.training.prefixes import PrefixSource
from feclip.training.run import fit_config

__all__ = [
    "RUN_FOLDER",
    "Claim",
    "PrefixSource",
    "Step",
    "TrainState",
    "all_images",
    "best_epoch",
    "claimed_parent",
    "fit",
    "fit_config",
    "held_out_metrics",
    "inherited",
    "loss_sums",
    "mean_loss",
    "mean_terms",
    "read_images",
    "read_run_images",
    "require_same_images",
    "require_unseen",
    "trained_images",
    "write_images",
]
