"""What Ray Tune asks and tells during a sweep: the next trial, whether one is behind, how one ended.

The records of the trials decide what is done, so nothing here keeps a state that a restart would need.
"""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from feclip.cluster.monitoring import RunTags, show_trials
from feclip.config import TrialScheduling, TuneConfig
from feclip.logs import fields
from feclip.progress import Progress
from feclip.tuning import (
    OBJECTIVE,
    SearchSpace,
    TrialRecord,
    TrialStatus,
    best_trial,
    drop_states,
    final_objective,
    objective,
    propose,
    read_trial,
    read_trials,
    write_trial,
)

__all__ = ["EPOCH", "Asha", "Proposals", "Watch", "scheduler"]

logger = logging.getLogger(__name__)

EPOCH = "epoch"


class Proposals(Searcher):  # type: ignore[misc] # Ray is not type-checked
    """Hands out first the trials that were broken off, then new ones.

    Args:
        config: The sweep.
        space: What is searched.
        begun: Records of the trials that have begun, in order.
    """

    def __init__(self, config: TuneConfig, *, space: SearchSpace, begun: list[TrialRecord]) -> None:
        super().__init__()
        self._config = config
        self._space = space
        self._broken = [record.number for record in begun if not record.ended]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # noqa: ARG002 - Tune passes it
        """Return the number of the next trial; its values stand in its record."""
        if self._broken:
            return {"number": self._broken.pop(0)}
        records = read_trials(self._config.output)
        number = len(records) + 1
        if number > (self._config.num_trials or 0):
            return str(Searcher.FINISHED)
        values = propose(self._space, records, number=number, seed=self._config.seed, options=self._config.tune)
        write_trial(self._config.output, TrialRecord(number=number, values=values))
        return {"number": number}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: FBT001, FBT002
        """Do nothing: the next proposal reads the records."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Keep nothing: the records are the state."""


class Asha(ASHAScheduler):  # type: ignore[misc]
    """ASHA that knows the epochs of a sweep that was broken off.

    Args:
        config: The sweep.
        begun: Records of the trials that have begun.
    """

    def __init__(self, config: TuneConfig, *, begun: list[TrialRecord]) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="max",
            max_t=config.optim.epochs,
            grace_period=config.tune.grace_epochs,
            reduction_factor=config.tune.reduction_factor,
            stop_last_trials=False,  # a trial that has its last epoch returns by itself
        )
        self._weights = config.tune
        self._broken = {record.number: record for record in begun if not record.ended}
        for record in begun:
            if record.ended:
                self._judge(_Known(f"ended-{record.number}"), record)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401 - Tune's own
        """Take a trial in, with the epochs that it finished before the sweep was broken off."""
        super().on_trial_add(tune_controller, trial)
        record = self._broken.pop(trial.config["number"], None)
        if record is not None:
            self._judge(trial, record)

    def _judge(self, trial: Any, record: TrialRecord) -> None:  # noqa: ANN401 - a trial of Tune's, or one that ended
        if trial.trial_id not in self._trial_info:
            super().on_trial_add(None, trial)
        for epoch, metrics in enumerate(record.epochs, start=1):
            value = objective(metrics, weights=self._weights)
            if value is not None:
                self.on_trial_result(None, trial, {EPOCH: epoch, OBJECTIVE: value})


class _Known:
    """A trial that ended before this submission: ASHA asks for its id alone."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def scheduler(config: TuneConfig, *, begun: list[TrialRecord]) -> TrialScheduler:
    """Return what ends trials early, or what does not."""
    return Asha(config, begun=begun) if config.tune.scheduler == TrialScheduling.asha else FIFOScheduler()


class Watch(TrialProgressCallback):  # type: ignore[misc]
    """Closes the records of trials that cannot do so themselves, and says how each ended, in place of Tune's printer.

    Args:
        config: The sweep.
        tags: Of its metrics.
        progress: What counts the ended trials.
    """

    def __init__(self, config: TuneConfig, *, tags: RunTags, progress: Progress) -> None:
        super().__init__()
        self._config = config
        self._tags = tags
        self._progress = progress

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks, a bar cannot be, and nothing reads what Tune pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401, ARG002
        """Show that one more trial runs."""
        self._show(read_trials(self._config.output))

    def on_trial_result(self, *args: Any, **info: Any) -> None:  # noqa: ANN401
        """Say nothing: a line per trial is enough."""

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401, ARG002
        """Say that a trial starts again, from its last finished epoch."""
        error = _last_line(trial.error_file)
        logger.warning("Trial %d broke off and starts again: %s", trial.config["number"], error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401, ARG002
        """Mark a trial that ASHA stopped: it is the only one that Tune ends before its last epoch."""
        record = read_trial(self._config.output, trial.config["number"])
        if not record.ended:
            record = record.stopped()
            write_trial(self._config.output, record)
            drop_states(self._config.output, record.number, before=len(record.epochs))
        self._tell(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401, ARG002
        """Mark a trial that failed more often than cluster.max_failures allows; others stay open for the next round."""
        record = read_trial(self._config.output, trial.config["number"])
        if not record.ended and trial.should_recover():
            return
        if not record.ended:
            text = _text(trial.error_file)
            if "Traceback" in text:
                logger.error("Trial %d: %s", record.number, text)
            record = record.failed(_last_line(trial.error_file), mendable=True)
            write_trial(self._config.output, record)
        self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        records = read_trials(self._config.output)
        self._show(records)
        self._progress.advance(1)
        ended = sum(each.ended for each in records)
        values = ", ".join(f"{name} {_short(value)}" for name, value in record.values.items())
        best = best_trial(records, options=self._config.tune)
        value = final_objective(record, options=self._config.tune)
        logger.info(
            "Trial %d %s after %d of %d epochs (%d of %d ended): %s; %s; %s",
            record.number,
            record.status,
            len(record.epochs),
            self._config.optim.epochs,
            ended,
            self._config.num_trials,
            values,
            record.error if record.error is not None else f"objective {_short(value)}",
            "no best yet"
            if best is None
            else f"best {_short(final_objective(best, options=self._config.tune))}, trial {best.number}",
            extra=fields(trial=record.number, status=record.status.value, objective=value),
        )

    def _show(self, records: list[TrialRecord]) -> None:
        statuses = Counter(record.status.value for record in records)
        show_trials(self._tags, {status.value: statuses[status.value] for status in TrialStatus})


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(error_file: str | None) -> str:
    return Path(error_file).read_text() if error_file is not None and Path(error_file).exists() else ""


def _last_line(error_file: str | None) -> str:
    """Return the last line of what Tune wrote of a trial's errors: what went wrong, without where."""
    lines = [line.strip() for line in _text(error_file).splitlines() if line.strip()]
    return lines[-1] if lines else "Its worker was lost."
