"""Sweeps: many fine-tunings that search config fields."""

from dataclasses import dataclass, field

from feclip.config.checks import require, require_member, require_seed, require_texts, require_uris
from feclip.config.choices import Protocol, SearchMethod, TrialScheduling
from feclip.config.cluster import ClusterConfig
from feclip.config.finetuning import DataConfig, FinetuneConfig, LossConfig, OptimConfig
from feclip.config.model import ModelConfig

__all__ = ["SweepConfig", "TuneConfig"]

USUAL_TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """How a sweep searches, and what each trial gets."""

    search: SearchMethod = SearchMethod.optuna
    """What proposes values: Optuna's TPE, which learns from the trials before, or chance. Both follow the seed."""
    startup_trials: int = 10
    """Trials that TPE proposes by chance before it learns (Optuna's default)."""
    scheduler: TrialScheduling = TrialScheduling.asha
    """asha ends trials that are behind (Li et al., 2020); none trains each to its last epoch."""
    grace_epochs: int = 1
    """Epochs that asha gives every trial."""
    reduction_factor: float = 3.0
    """About one in so many trials goes on at each of asha's rungs, above 1; the next rung is so many times later."""
    max_concurrent: int | None = None
    """Trials at once at most; null takes as many as the cluster has room for."""
    cpus_per_trial: float = 1.0
    """CPUs of each trial; decoding threads share them."""
    gpus_per_trial: float = 0.0
    """GPUs of each trial, possibly a share of one; 0 trains on the CPU. Asked for here and never guessed."""
    image_auroc_weight: float = 0.5
    """Weight of the held-out image AUROC in the objective; the weights are divided by their sum."""
    aupro_weight: float = 0.5
    """Weight of the held-out exact AUPRO in the objective; without effect where no held-out image has a gt mask."""

    def __post_init__(self) -> None:
        for name in ("startup_trials", "grace_epochs"):
            require(f"tune.{name}", getattr(self, name), rule="at least 1", holds=getattr(self, name) >= 1)
        require("tune.reduction_factor", self.reduction_factor, rule="above 1", holds=self.reduction_factor > 1)
        if self.max_concurrent is not None:
            require("tune.max_concurrent", self.max_concurrent, rule="at least 1", holds=self.max_concurrent >= 1)
        require("tune.cpus_per_trial", self.cpus_per_trial, rule="above 0", holds=self.cpus_per_trial > 0)
        gpus = self.gpus_per_trial
        rule = "a whole number of at least 0, or a share below 1"
        require("tune.gpus_per_trial", gpus, rule=rule, holds=gpus >= 0 and (gpus < 1 or float(gpus).is_integer()))
        for name in ("image_auroc_weight", "aupro_weight"):
            require(f"tune.{name}", getattr(self, name), rule="at least 0", holds=getattr(self, name) >= 0)
        if self.image_auroc_weight + self.aupro_weight <= 0:
            msg = "tune.image_auroc_weight and tune.aupro_weight must not both be 0: nothing would be left to compare."
            raise ValueError(msg)
        require_member("tune.search", self.search, SearchMethod)
        require_member("tune.scheduler", self.scheduler, TrialScheduling)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search config fields by many fine-tunings that are judged on the held-out split."""

    output: str
    """Folder or s3:// prefix of the sweep; submitted again, it goes on, and a finished one does nothing."""
    space: str | None = None
    """YAML file of the searched fields and their distributions (tune_spaces/); required for a new sweep."""
    num_trials: int | None = None
    """Trials of the sweep, those that end early or fail among them; null takes 20, or as many as the resumed sweep
    has; a sweep may grow."""
    resume: bool = False
    """Whether the sweep in the output goes on, with everything that is not given taken from its own record."""
    refit: bool = False
    """Whether the best config is fine-tuned once more, with cluster.num_workers, to a bundle in <output>/bundle."""
    data: DataConfig = field(default_factory=lambda: DataConfig(protocol=Protocol.b))
    """The labelled images; protocol b, since a sweep is judged on images that are held out."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, where the space does not search it."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss, where the space does not search it."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser, where the space does not search it."""
    tune: SweepConfig = field(default_factory=SweepConfig)
    """How the sweep searches."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster; its workers are those of the refit, since a trial has one."""
    seed: int = 0
    """Seed of the splits, of every trial's adapters and order of images, and of what is proposed."""

    def __post_init__(self) -> None:
        require_texts(output=self.output)
        require_uris("", space=self.space)
        require_seed("seed", self.seed)
        if self.num_trials is None and not self.resume:
            object.__setattr__(self, "num_trials", USUAL_TRIALS)
        if self.num_trials is not None:
            require("num_trials", self.num_trials, rule="at least 1", holds=self.num_trials >= 1)
        object.__setattr__(self, "model", self.model.settled())
        if self.data.protocol != Protocol.b:
            msg = "data.protocol must be b for a sweep: under a every test image trains and none is left to judge on."
            raise ValueError(msg)
        if self.resume:
            return  # the rest stands in the sweep's record, which was checked when it began
        if self.space is None:
            msg = "space is required: a YAML file like tune_spaces/adapters.yaml; or resume with a sweep's output."
            raise ValueError(msg)
        require("optim.epochs", self.optim.epochs, rule="at least 1 for a sweep", holds=self.optim.epochs >= 1)
        if self.tune.grace_epochs > self.optim.epochs:
            msg = f"tune.grace_epochs must be at most optim.epochs ({self.optim.epochs}), got {self.tune.grace_epochs}."
            raise ValueError(msg)
        self.finetune()

    def finetune(self) -> FinetuneConfig:
        """Return the fine-tuning that each trial varies; its output is that of the refit."""
        return FinetuneConfig(
            output=f"{self.output.rstrip('/')}/bundle",
            data=self.data,
            model=self.model,
            loss=self.loss,
            optim=self.optim,
            cluster=self.cluster,
            seed=self.seed,
        )
