"""The demonstration."""

from dataclasses import dataclass, field

from feclip.config.checks import require, require_seed, require_texts
from feclip.config.cluster import ClusterConfig

__all__ = ["DemoConfig"]


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Generate pictures, fine-tune on them, calibrate, score an archive, evaluate; all of it on this machine."""

    output: str = "runs/demo"
    """Local folder of all that is made; given again, what is there is not made again."""
    epochs: int = 3
    """Epochs of fine-tuning; 3 are the measured recipe."""
    seed: int = 0
    """Seed of the adapters and of the order of the images; the pictures are always the same."""
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(num_workers=2))
    """The cluster, whose machines must all see the folder."""

    def __post_init__(self) -> None:
        require_texts(output=self.output)
        require("epochs", self.epochs, rule="at least 1", holds=self.epochs >= 1)
        require_seed("seed", self.seed)
        if "://" in self.output:
            msg = f"output must be a local folder, since pictures are drawn into it; got {self.output!r}."
            raise ValueError(msg)
