"""What the tests of deployments share: commands as a user reads them, and what their jobs ask a cluster for."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from feclip import config
from feclip.cli import parse_config

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job asks a cluster for, all at once."""

    cpus: float
    gpus: float
    gpus_each: float
    """GPUs that must be on one machine."""


def commands(text: str) -> list[list[str]]:
    """Return the job and the flags of every ``python jobs/...`` that a text has, line continuations joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [shlex.split(found) for found in re.findall(r"python (\S*jobs/\w+\.py .+)", joined)]


def needs_of(command: list[str]) -> Needs:
    """Parse a command as its job does, and return what it asks for."""
    job, *flags = command
    match Path(job).name:
        case "finetune.py":
            asked = parse_config(config.FinetuneConfig, flags, prog=job, about="").cluster
            return _training(asked)
        case "tune.py":
            sweep = parse_config(config.TuneConfig, flags, prog=job, about="")
            refit = _training(sweep.cluster)
            trial = sweep.tune
            return Needs(
                cpus=max(refit.cpus, trial.cpus_per_trial),
                gpus=max(refit.gpus, trial.gpus_per_trial),
                gpus_each=max(refit.gpus_each, trial.gpus_per_trial),
            )
        case "score.py":
            scoring = parse_config(config.ScoreConfig, flags, prog=job, about="").score
            gpus = scoring.gpus_per_actor
            return Needs(cpus=scoring.num_actors + 1, gpus=scoring.num_actors * gpus, gpus_each=gpus)
        case name:
            msg = f"no test knows what {name} asks for"
            raise AssertionError(msg)


def _training(asked: config.ClusterConfig) -> Needs:
    return Needs(cpus=asked.num_workers, gpus=asked.num_workers * asked.use_gpu, gpus_each=float(asked.use_gpu))


def limits(declared: str) -> dict[str, int]:
    """Return what ``CPU=256,GPU=8`` says."""
    return {name: int(amount) for name, _, amount in (pair.partition("=") for pair in declared.split(","))}
