"""The trials of a sweep under Ray Tune: plain Tune functions around the loop that fine-tuning runs too.

    Proposals (driver)   gives a trial its number and writes its record, which holds its values
    _trial (worker)      trains, and after each epoch writes its state, its record, and then tells Tune
    Watch (driver)       writes how a trial ended that cannot say so itself, and logs one line

The records decide what is done (docs/adr/0016-sweeps.md). Tune's own state is pickled and lies in a temporary folder
that nothing reads.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from ray import tune
from ray.tune.execution import class_cache  # it has no other door; Ray is pinned exactly

from feclip.cluster.monitoring import RunTags
from feclip.cluster.trial_hooks import EPOCH, Proposals, Watch, scheduler
from feclip.config import SweepConfig, TuneConfig
from feclip.errors import ConfigError, FeclipError, RunError
from feclip.logs import configure_worker
from feclip.progress import Progress
from feclip.training import TrainState, fit_config
from feclip.tuning import (
    OBJECTIVE,
    SearchSpace,
    TrialRecord,
    TrialStatus,
    drop_states,
    objective,
    read_sweep_images,
    read_trial,
    read_trial_state,
    read_trials,
    with_values,
    write_trial,
    write_trial_state,
)

__all__ = ["run_trials"]

logger = logging.getLogger(__name__)

TABLES_OF_TUNE = "ray.tune.analysis.experiment_analysis"  # warns that the tables are missing that nobody asked for
TUNE_VARIABLES = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer of its two printers is never silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no tables of its own beside ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # Watch says them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt is an interrupt, not a sweep that ends well
}

KEYS_TUNE_WOULD_COPY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""Tune copies them to its workers, and Ray's agents log that. A node has its own keys, as for every other job."""
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
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(KEYS_TUNE_WOULD_COPY)
    logging.getLogger(TABLES_OF_TUNE).setLevel(logging.ERROR)
    assert config.num_trials is not None
    _reopen(config)
    ended = sum(record.ended for record in read_trials(config.output))
    with Progress("Sweep", config.num_trials, unit="trials", done=ended) as progress:
        watch = Watch(config, tags=RunTags.of("tune"), progress=progress)
        for _ in range(1 + config.cluster.max_failures):  # Tune gives up a trial whose worker dies between two trials
            begun = read_trials(config.output)
            missing = config.num_trials - sum(record.ended for record in begun)
            if missing <= 0:
                return begun
            _run_tune(config, space=space, begun=begun, missing=missing, at_once=at_once, watch=watch)
    records = read_trials(config.output)
    ended = sum(record.ended for record in records)
    if ended < config.num_trials:
        msg = f"The sweep broke off after {ended} of {config.num_trials} trials; submit the same command again."
        raise RunError(msg)
    return records


def _run_tune(
    config: TuneConfig, *, space: SearchSpace, begun: list[TrialRecord], missing: int, at_once: int, watch: Watch
) -> None:
    """Run Tune until no trial is left that it would start."""
    with tempfile.TemporaryDirectory(prefix="feclip-sweep-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                _trainable(config), {"cpu": config.tune.cpus_per_trial, "gpu": config.tune.gpus_per_trial}
            ),
            tune_config=tune.TuneConfig(
                search_alg=Proposals(config, space=space, begun=begun),
                scheduler=scheduler(config, begun=begun),
                num_samples=missing,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=config.cluster.max_failures),
                callbacks=[watch],
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
    configure_worker(trial=number)
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


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    while error.__cause__ is not None and error.__cause__ not in causes:
        error = error.__cause__
        causes.append(error)
    return causes
