"""What the paper's protocol asks for: which data set trains for which, over which seeds, and what of it there is."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from feclip.building import read_labelled
from feclip.config import EvaluateConfig, FinetuneConfig, Names, ReproduceConfig
from feclip.data import read_layout
from feclip.errors import DataError
from feclip.evaluation import PAPER, check_selection, read_images, select_images

__all__ = ["TRAINED_ON", "FoundSet", "Judging", "Training", "check_images", "find_sets", "judged_sets", "plan"]

logger = logging.getLogger(__name__)

TRAINED_ON: Mapping[str, str] = MappingProxyType({name: "visa" if name == "mvtec" else "mvtec" for name in PAPER})
"""For each data set of the table, the one whose test images train (paper, Section 4.2)."""


@dataclass(frozen=True, kw_only=True)
class FoundSet:
    """One data set that is at hand."""

    root: str
    categories: Names
    """Those of the paper's that it has; others in the folder are left out."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """One evaluation of the plan."""

    dataset: str
    seed: int
    config: EvaluateConfig

    def __str__(self) -> str:
        return f"evaluate seed {self.seed} on {PAPER[self.dataset].title}"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One fine-tuning of the plan, with the evaluations of its bundle."""

    dataset: str
    seed: int
    config: FinetuneConfig
    judgings: Sequence[Judging]

    def __str__(self) -> str:
        return f"fine-tune seed {self.seed} on {PAPER[self.dataset].title}"


def find_sets(roots: Mapping[str, str]) -> dict[str, FoundSet]:
    """List the data sets and see what they hold; no image is opened.

    Args:
        roots: Absolute folders by the data sets' names.

    Raises:
        DataError: If a folder is not in its data set's layout, or has none of its categories.
        StorageError: If one cannot be listed.
    """
    found = {}
    for name, root in roots.items():
        present = set(read_layout(root, layout=name)["category"].to_pylist())
        categories = Names(sorted(PAPER[name].categories & present))
        if not categories:
            msg = (
                f"data.{name} has no category of {PAPER[name].title}: {root} has {', '.join(sorted(present))}; "
                f"it needs some of {', '.join(sorted(PAPER[name].categories))}."
            )
            raise DataError(msg)
        foreign = sorted(present - set(categories))
        if foreign:
            logger.warning("%s: %s is no category of %s; left out.", root, ", ".join(foreign), PAPER[name].title)
        found[name] = FoundSet(root=root, categories=categories)
    return found


def judged_sets(names: Sequence[str]) -> list[str]:
    """Return the data sets that can be judged: those at hand whose training set is at hand too.

    Example:
        >>> judged_sets(["mvtec", "mpdd"])
        ['mpdd']
    """
    return [name for name in PAPER if name in names and TRAINED_ON[name] in names]


def plan(config: ReproduceConfig, sets: Mapping[str, FoundSet]) -> list[Training]:
    """Return every step, seed by seed, so that the table has whole seeds early.

    Args:
        config: The reproduction, with an absolute output.
        sets: The data sets at hand.
    """
    assert config.seeds is not None
    return [step for seed in config.seeds for step in _of_seed(config, sets, seed=seed)]


def check_images(steps: Sequence[Training]) -> None:
    """Check by their listing, before any work, that the images of a plan can train and judge.

    Raises:
        DataError: If they cannot.
        StorageError: If a data set cannot be listed.
    """
    for training in [step for step in steps if step.seed == steps[0].seed]:  # each seed has the same data sets
        read_labelled(training.config.data, seed=training.seed)
        for judging in training.judgings:
            data = judging.config.data
            images = select_images(read_images(data), data, split=None, training={})
            check_selection(images, source=str(data.root))


def _of_seed(config: ReproduceConfig, sets: Mapping[str, FoundSet], *, seed: int) -> Iterator[Training]:
    judged = judged_sets(list(sets))
    for trained in [name for name in PAPER if name in {TRAINED_ON[other] for other in judged}]:
        found = sets[trained]
        finetuning = config.finetune(trained, root=found.root, categories=found.categories, seed=seed)
        judgings = [
            Judging(
                dataset=name,
                seed=seed,
                config=config.evaluate(
                    name, root=sets[name].root, categories=sets[name].categories, bundle=finetuning.output
                ),
            )
            for name in judged
            if TRAINED_ON[name] == trained
        ]
        yield Training(dataset=trained, seed=seed, config=finetuning, judgings=judgings)
