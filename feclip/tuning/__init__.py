"""Sweeps without ray: search spaces, proposals, the objective, what is kept of each trial, table and page.

space + records of the trials before -> proposal -> (a trial trains) -> its record -> table, page, best config
"""

from feclip.tuning.claim import SweepClaim, read_sweep_images, resumed_config
from feclip.tuning.fields import SEARCHABLE_FIELDS, with_values
from feclip.tuning.objective import OBJECTIVE, objective, require_judgeable
from feclip.tuning.page import importances, sweep_page
from feclip.tuning.proposing import propose
from feclip.tuning.record import (
    TrialRecord,
    TrialStatus,
    drop_states,
    read_trial,
    read_trial_state,
    read_trials,
    write_trial,
    write_trial_state,
)
from feclip.tuning.space import Dimension, Kind, SearchSpace, fitted_space, parse_space, read_space
from feclip.tuning.table import best_trial, final_objective, trials_table

__all__ = [
    "OBJECTIVE",
    "SEARCHABLE_FIELDS",
    "Dimension",
    "Kind",
    "SearchSpace",
    "SweepClaim",
    "TrialRecord",
    "TrialStatus",
    "best_trial",
    "drop_states",
    "final_objective",
    "fitted_space",
    "importances",
    "objective",
    "parse_space",
    "propose",
    "read_space",
    "read_sweep_images",
    "read_trial",
    "read_trial_state",
    "read_trials",
    "require_judgeable",
    "resumed_config",
    "sweep_page",
    "trials_table",
    "with_values",
    "write_trial",
    "write_trial_state",
]
