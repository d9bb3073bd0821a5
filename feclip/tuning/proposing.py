"""What the next trial tries: Optuna on the records of all trials before, built anew for each proposal.

A proposal follows from the seed, the trial's number and what is known of the others, so a sweep that was broken off
proposes what it would have proposed, and no state of a sampler is kept anywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from feclip.config import SearchMethod, SweepConfig
from feclip.tuning.objective import objective
from feclip.tuning.record import TrialRecord, TrialStatus
from feclip.tuning.space import Dimension, Kind, SearchSpace

__all__ = ["propose", "study_of"]

STATES = {
    TrialStatus.running: TrialState.RUNNING,
    TrialStatus.done: TrialState.COMPLETE,
    TrialStatus.stopped: TrialState.PRUNED,
    TrialStatus.failed: TrialState.FAIL,
}


def propose(
    space: SearchSpace, records: Sequence[TrialRecord], *, number: int, seed: int, options: SweepConfig
) -> dict[str, Any]:
    """Return the values of trial ``number``.

    Args:
        space: What is searched.
        records: The trials so far; those that run are kept away from, failed ones teach nothing.
        number: Number of the trial, from one.
        seed: Seed of the sweep.
        options: How to search.
    """
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler: BaseSampler
    if options.search == SearchMethod.random:
        sampler = RandomSampler(seed=drawn)
    else:
        sampler = TPESampler(seed=drawn, n_startup_trials=options.startup_trials, constant_liar=True)
    study = study_of(space, records, options=options, sampler=sampler)
    return dict(study.ask(fixed_distributions=_distributions(space)).params)


def study_of(
    space: SearchSpace, records: Sequence[TrialRecord], *, options: SweepConfig, sampler: BaseSampler | None = None
) -> optuna.Study:
    """Return an Optuna study of the trials, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler or RandomSampler(seed=0))
    for record in records:
        study.add_trial(_frozen(record, distributions=_distributions(space), options=options))
    return study


def _frozen(record: TrialRecord, *, distributions: dict[str, BaseDistribution], options: SweepConfig) -> FrozenTrial:
    values = {
        epoch: value
        for epoch, metrics in enumerate(record.epochs, start=1)
        if (value := objective(metrics, weights=options)) is not None
    }
    state = STATES[record.status]
    last = values.get(len(record.epochs))
    if state is TrialState.COMPLETE and last is None:
        state = TrialState.FAIL
    return create_trial(
        state=state,
        value=last if state is TrialState.COMPLETE else None,
        params=dict(record.values),
        distributions=distributions,
        intermediate_values=values,
    )


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    return {dimension.field: _distribution(dimension) for dimension in space.dimensions}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind is Kind.choice:
        return CategoricalDistribution(dimension.values)
    low, high = dimension.values
    if dimension.kind is Kind.int:
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log=dimension.kind is Kind.loguniform)
