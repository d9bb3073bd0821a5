"""The trials of a sweep under Ray Tune: plain Tune functions around the loop that fine-tuning runs too.

    Proposals (driver)   gives a trial its number and writes its record, which holds its values
    _trial (worker)      trains, and after each epoch writes its state, its record, and then tells Tune
    _Watch (driver)      writes how a trial ended that cannot say so itself, and logs one line

The records decide what is done (docs/adr/0016-sweeps.md). Tune's own state is pickled and lies in a temporary folder
that nothing reads.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from feclip.config import SweepConfig, TrialScheduling, TuneConfig
from feclip.errors import ConfigError, FeclipError, RunError
from feclip.training import TrainState, fit_config
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
    read_sweep_images,
    read_trial,
    read_trial_state,
    read_trials,
    with_values,
    write_trial,
    write_trial_state,
)

__all__ = ["Asha", "Proposals", "run_trials"]

logger = logging.getLogger(__name__)

EPOCH = "epoch"
TABLES_OF_TUNE = "ray.tune.analysis.experiment_analysis"  # warns that the tables are missing that nobody asked for
TUNE_VARIABLES = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer of its two printers is never silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no tables of its own beside ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # _Watch says them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt is an interrupt, not a sweep that ends well
}

THREAD_PATIENCE = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # for a stopped trial to leave its worker to the next one


def run_trials(config: TuneConfig, *, space: SearchSpace, at_once: int) -> list[TrialRecord]:
    """Run the trials that are not ended yet and return the records of all.

    Args:
        config: The sweep, with absolute paths.
        space: What is searched.
        at_once: Trials that run at the same time at most.

    Raises:
        RunError: If Tune fails, or ends before the trials do.
    """
    os.environ.update(TUNE_VARIABLES)
    logging.getLogger(TABLES_OF_TUNE).setLevel(logging.ERROR)
    assert config.num_trials is not None
    _reopen(config)
    for _ in range(1 + config.cluster.max_failures):  # Tune gives up a trial whose worker dies between two trials
        begun = read_trials(config.output)
        missing = config.num_trials - sum(record.ended for record in begun)
        if missing <= 0:
            return begun
        _run_tune(config, space=space, begun=begun, missing=missing, at_once=at_once)
    records = read_trials(config.output)
    ended = sum(record.ended for record in records)
    if ended < config.num_trials:
        msg = f"The sweep broke off after {ended} of {config.num_trials} trials; submit the same command again."
        raise RunError(msg)
    return records


def _run_tune(config: TuneConfig, *, space: SearchSpace, begun: list[TrialRecord], missing: int, at_once: int) -> None:
    """Run Tune until no trial is left that it would start."""
    with tempfile.TemporaryDirectory(prefix="feclip-sweep-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                _trainable(config), {"cpu": config.tune.cpus_per_trial, "gpu": config.tune.gpus_per_trial}
            ),
            tune_config=tune.TuneConfig(
                search_alg=Proposals(config, space=space, begun=begun),
                scheduler=_scheduler(config, begun=begun),
                num_samples=missing,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=config.cluster.max_failures),
                callbacks=[_Watch(config)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except tune.TuneError as error:
            cause = next((each for each in _causes(error) if isinstance(each, FeclipError)), error)
            msg = f"The sweep broke off: {cause} Submit the same command again; ended trials stay."
            raise RunError(msg) from error


def _reopen(config: TuneConfig) -> None:
    """Open failed trials again whose values need not have made them fail."""
    for record in read_trials(config.output):
        if record.mendable and record.status is TrialStatus.failed:
            logger.info("Trial %d is tried again; it had failed: %s", record.number, record.error)
            write_trial(config.output, record.reopened())


def _trainable(config: TuneConfig) -> Callable[[dict[str, Any]], None]:
    """Return what a worker of a trial runs."""

    def trial(proposed: dict[str, Any]) -> None:
        _trial(config, number=proposed["number"])

    return trial


def _trial(config: TuneConfig, *, number: int) -> None:
    """Train one trial to its last epoch, or until Tune stops it; goes on from its last written epoch."""
    logging.basicConfig(level=logging.WARNING, format=f"trial {number}: %(message)s", force=True)
    os.environ.setdefault(*THREAD_PATIENCE)
    record = read_trial(config.output, number)
    if record.ended:
        return
    record = record.started()
    write_trial(config.output, record)
    started = time.monotonic()

    def on_epoch(state: TrainState) -> None:
        nonlocal record, started
        metrics = state.metrics[-1]
        value = objective(metrics, weights=config.tune)
        if value is None:
            msg = f"Epoch {state.epoch} has nothing to judge it by: {', '.join(metrics)}."
            raise RunError(msg)
        last = state.epoch == config.optim.epochs
        record = record.advanced(metrics, seconds=time.monotonic() - started, last=last)
        started = time.monotonic()
        write_trial_state(config.output, number, state)
        write_trial(config.output, record)
        drop_states(config.output, number, before=state.epoch if last else state.epoch - 1)
        tune.report({EPOCH: state.epoch, OBJECTIVE: value})

    try:
        torch.manual_seed(config.seed)
        fit_config(
            with_values(config.finetune(), record.values),
            images=read_sweep_images(config.output),
            device=_device(config.tune),
            state=read_trial_state(config.output, record),
            on_epoch=on_epoch,
        )
    except FeclipError as error:  # a restart would meet it again, so Tune hears of no failure
        caused = isinstance(error, RunError | ConfigError)
        write_trial(config.output, record.failed(str(error), mendable=not caused))


def _device(options: SweepConfig) -> torch.device:
    if options.gpus_per_trial == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        msg = "tune.gpus_per_trial gives this worker a GPU, but torch finds none there; install torch for its driver."
        raise ConfigError(msg)
    return torch.device("cuda")


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


def _scheduler(config: TuneConfig, *, begun: list[TrialRecord]) -> TrialScheduler:
    return Asha(config, begun=begun) if config.tune.scheduler == TrialScheduling.asha else FIFOScheduler()


class _Watch(TrialProgressCallback):  # type: ignore[misc]
    """Closes the records of trials that cannot do so themselves, and says how each ended, in place of Tune's printer.

    Args:
        config: The sweep.
    """

    def __init__(self, config: TuneConfig) -> None:
        super().__init__()
        self._config = config

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
        )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(error_file: str | None) -> str:
    return Path(error_file).read_text() if error_file is not None and Path(error_file).exists() else ""


def _last_line(error_file: str | None) -> str:
    """Return the last line of what Tune wrote of a trial's errors: what went wrong, without where."""
    lines = [line.strip() for line in _text(error_file).splitlines() if line.strip()]
    return lines[-1] if lines else "Its worker was lost."


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    while error.__cause__ is not None and error.__cause__ not in causes:
        error = error.__cause__
        causes.append(error)
    return causes
