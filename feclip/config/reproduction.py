"""The paper's protocol, from fine-tuning to its table."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from feclip.config.checks import require, require_member, require_seed, require_texts, require_uris
from feclip.config.choices import Comparison, Dataset, Layout, Resize
from feclip.config.cluster import ClusterConfig
from feclip.config.evaluation import EvaluateConfig, EvaluationDataConfig
from feclip.config.finetuning import DataConfig, FinetuneConfig, LossConfig, OptimConfig
from feclip.config.lists import Indices, Names
from feclip.config.model import DEMO_BACKBONE, ModelConfig
from feclip.config.scoring import ScoringConfig

__all__ = ["PAPER_SEEDS", "ReproduceConfig", "ReproductionDataConfig"]

PAPER_SEEDS = Indices(range(5))  # the paper's numbers are means of five runs (Section 4.2)
DRY_SEEDS = Indices(range(2))  # the fewest that have a spread
DRY_EPOCHS = 1


@dataclass(frozen=True, kw_only=True)
class ReproductionDataConfig:
    """The paper's data sets, those that are at hand, each in the layout in which it is published."""

    mvtec: str | None = None
    """Folder or s3:// prefix of MVTec AD; what trains for all others and is judged by what VisA trained."""
    visa: str | None = None
    """Folder or s3:// prefix of VisA, with split_csv/1cls.csv; what trains for MVTec AD."""
    mpdd: str | None = None
    """Folder or s3:// prefix of MPDD."""
    btad: str | None = None
    """Folder or s3:// prefix of BTAD, with the folders 01, 02 and 03."""
    dagm: str | None = None
    """Folder or s3:// prefix of DAGM 2007, with the folders Class1 to Class10."""
    dtd: str | None = None
    """Folder or s3:// prefix of DTD-Synthetic."""
    resize: Resize = Resize.squash
    """How an image becomes the square; squash is what the peers do. The paper does not say."""
    num_workers: int = 4
    """Threads that read and decode images, per training worker and per task that looks at them."""

    def __post_init__(self) -> None:
        for name, root in self.roots.items():
            require_texts(**{f"data.{name}": root})
        require_member("data.resize", self.resize, Resize)
        require("data.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)

    @property
    def roots(self) -> Mapping[str, str]:
        """Folders by the names of their data sets, those that are given."""
        return {str(name): root for name in Dataset if (root := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Fine-tune and judge as the paper does, over its seeds, and set the numbers beside the paper's."""

    output: str
    """Folder or s3:// prefix of bundles, evaluations and tables; submitted again, what is missing is done."""
    data: ReproductionDataConfig = field(default_factory=ReproductionDataConfig)
    """The data sets."""
    seeds: Indices | None = None
    """Seeds of the runs, written 0,1,2,3,4, which null takes; a dry run takes 0,1."""
    dry_run: bool = False
    """Whether small generated data sets in the same layouts stand for the real ones, to prove every step without data
    or weights; the default backbone then gives way to feclip-demo, and the default of nine epochs to one."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    score: ScoringConfig = field(default_factory=ScoringConfig)
    """How images are scored; every image needs a score, whatever max_error_rate says."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster; each fine-tuning has all workers, one after the other."""

    def __post_init__(self) -> None:
        require_texts(output=self.output)
        require_uris("", output=self.output)
        if self.seeds is None:
            object.__setattr__(self, "seeds", DRY_SEEDS if self.dry_run else PAPER_SEEDS)
        assert self.seeds is not None
        require("seeds", len(self.seeds), rule="at least one number", holds=len(self.seeds) > 0)
        for seed in self.seeds:
            require_seed("seeds", seed)
        if len(set(self.seeds)) < len(self.seeds):
            msg = f"seeds names one seed twice: {','.join(map(str, self.seeds))}."
            raise ValueError(msg)
        if self.dry_run:
            self._become_small()
        elif "mvtec" not in self.data.roots or len(self.data.roots) == 1:
            msg = (
                "data.mvtec and at least one other data set are required: MVTec AD trains for all others, VisA for "
                "MVTec AD; or set dry_run, which generates all of them."
            )
            raise ValueError(msg)
        object.__setattr__(self, "model", self.model.settled())
        finetuning = self.finetune("mvtec", root="-", categories=Names(), seed=0)  # so that each says what it refuses
        self.evaluate("visa", root="-", categories=Names(), bundle=finetuning.output)

    def finetune(self, dataset: str, *, root: str, categories: Names, seed: int) -> FinetuneConfig:
        """Return the fine-tuning on the test images of one data set with one seed."""
        data = DataConfig(
            root=root,
            layout=Layout(dataset),
            categories=categories,
            resize=self.data.resize,
            num_workers=self.data.num_workers,
        )
        return FinetuneConfig(
            output=f"{self.output.rstrip('/')}/bundles/{dataset}-seed-{seed}",
            data=data,
            model=self.model,
            loss=self.loss,
            optim=self.optim,
            cluster=self.cluster,
            seed=seed,
        )

    def evaluate(self, dataset: str, *, root: str, categories: Names, bundle: str) -> EvaluateConfig:
        """Return the evaluation of one bundle on all test images of one data set."""
        data = EvaluationDataConfig(
            root=root, layout=Layout(dataset), categories=categories, num_workers=self.data.num_workers
        )
        return EvaluateConfig(
            bundle=Names((bundle,)),
            data=data,
            output=f"{self.output.rstrip('/')}/evaluations/{dataset}/{bundle.rpartition('/')[2]}",
            dataset=Dataset(dataset),
            compare=Comparison.paper,
            score=self.score,
            cluster=self.cluster,
        )

    def _become_small(self) -> None:
        """Check what a dry run cannot have, and take what it has instead of the paper's."""
        if self.data.roots:
            given = ", ".join(f"data.{name}" for name in self.data.roots)
            msg = f"dry_run generates its data sets, so leave out {given}."
            raise ValueError(msg)
        if "://" in self.output:
            msg = f"output must be a local folder where dry_run draws pictures into it; got {self.output!r}."
            raise ValueError(msg)
        if self.model.backbone == ModelConfig().backbone:
            object.__setattr__(self, "model", dataclasses.replace(self.model, backbone=DEMO_BACKBONE))
        if self.optim.epochs == OptimConfig().epochs:
            object.__setattr__(self, "optim", dataclasses.replace(self.optim, epochs=DRY_EPOCHS))
