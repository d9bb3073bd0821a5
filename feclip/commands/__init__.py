"""The sub-commands of ``feclip``: a table that is read without loading anything, and one text for each.

``<name>.txt`` beside this file teaches a command by examples. It is the one source of ``feclip <name> --help`` and of
``jobs/<name>.py --help``; its first line is the summary in ``feclip --help``.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "Command", "about", "load", "summary"]


class Command(NamedTuple):
    """Where a command's parts are, as ``module:name``; they are loaded when they are needed, and no sooner."""

    config: str
    """Dataclass of its flags."""
    action: str
    """What is done with one of these."""


COMMANDS = {
    "finetune": Command("feclip.config:FinetuneConfig", "feclip.cluster.finetune:finetune"),
    "tune": Command("feclip.config:TuneConfig", "feclip.cluster.tune:tune"),
    "calibrate": Command("feclip.config:CalibrateConfig", "feclip.cluster.calibrate:calibrate"),
    "score": Command("feclip.config:ScoreConfig", "feclip.cluster.score:score"),
    "decide": Command("feclip.config:DecideConfig", "feclip.cluster.decide:decide"),
    "evaluate": Command("feclip.config:EvaluateConfig", "feclip.cluster.evaluate:evaluate"),
    "reproduce": Command("feclip.config:ReproduceConfig", "feclip.cluster.reproduce:reproduce"),
    "report": Command("feclip.config:ReportConfig", "feclip.report:report"),
    "predict": Command("feclip.config:PredictConfig", "feclip.prediction:predict"),
    "export": Command("feclip.config:ExportConfig", "feclip.export:export"),
    "doctor": Command("feclip.config:DoctorConfig", "feclip.cluster.doctor:doctor"),
    "demo": Command("feclip.config:DemoConfig", "feclip.cluster.demo:demo"),
}
"""By name, in the order of their use."""


def load(path: str) -> Any:  # noqa: ANN401 - whatever has that name
    """Return what ``module:name`` names.

    Example:
        >>> load("pathlib:PurePath").__name__
        'PurePath'
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def about(name: str, *, written: str | None = None) -> str:
    """Return the text that teaches a command.

    Args:
        name: One of `COMMANDS`.
        written: How the command is written in the examples; None for ``feclip <name>``.

    Example:
        >>> about("score", written="python jobs/score.py").splitlines()[3].strip().partition(" --")[0]
        'python jobs/score.py'
    """
    text = Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8")
    return text if written is None else text.replace(f"feclip {name} ", f"{written} ")


def summary(name: str) -> str:
    """Return the first line of a command's text.

    Example:
        >>> summary("decide").partition(";")[0]
        'Apply the thresholds of a bundle to an existing score table'
    """
    return about(name).partition("\n")[0]
