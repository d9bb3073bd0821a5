"""What Tune is told when a sweep goes on, without a cluster."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from feclip.cluster.trial_hooks import Asha, Proposals
from feclip.config import DataConfig, Protocol, SweepConfig, TuneConfig
from feclip.tuning import TrialRecord, TrialStatus, parse_space, read_trials, write_trial

SPACE = parse_space({"model.fusion_weight": {"loguniform": [0.01, 1.0]}}, name="example", where="-")


@dataclass(frozen=True)
class Trial:
    """As much of a trial of Tune's as a scheduler looks at."""

    trial_id: str
    config: dict[str, int]


def sweep(output: Path, *, num_trials: int = 4, epochs_of_grace: int = 1) -> TuneConfig:
    return TuneConfig(
        output=str(output),
        space="space.yaml",
        num_trials=num_trials,
        data=DataConfig(root="/data", protocol=Protocol.b),
        tune=SweepConfig(grace_epochs=epochs_of_grace, reduction_factor=2, search="random"),  # type: ignore[arg-type]
    )


def record(number: int, *values: float, status: TrialStatus = TrialStatus.done) -> TrialRecord:
    epochs = tuple({"epoch": epoch, "image_auroc": value} for epoch, value in enumerate(values, start=1))
    return TrialRecord(number=number, values={"model.fusion_weight": 0.1}, status=status, epochs=epochs)


def judged(asha: Asha, number: int, *, epoch: int, value: float) -> str:
    trial = Trial(trial_id=f"new-{number}", config={"number": number})
    asha.on_trial_add(None, trial)
    return str(asha.on_trial_result(None, trial, {"epoch": epoch, "objective": value}))


@pytest.mark.parametrize(("value", "action"), [(0.2, "STOP"), (0.95, "CONTINUE")])
def test_asha_judges_by_trials_that_ended_before_the_sweep_went_on(value: float, action: str, tmp_path: Path) -> None:
    begun = [record(1, 0.9, 0.9), record(2, 0.8, status=TrialStatus.stopped)]
    assert judged(Asha(sweep(tmp_path), begun=begun), 3, epoch=1, value=value) == action
    assert judged(Asha(sweep(tmp_path), begun=[]), 3, epoch=1, value=value) == "CONTINUE"


def test_asha_judges_a_broken_trial_at_its_next_rung_alone(tmp_path: Path) -> None:
    """Its first epoch was judged before the sweep broke off; the second one is the next rung."""
    begun = [record(1, 0.5, 0.9), record(2, 0.6, status=TrialStatus.running)]
    assert judged(Asha(sweep(tmp_path), begun=begun), 2, epoch=2, value=0.3) == "STOP"
    assert judged(Asha(sweep(tmp_path), begun=begun), 2, epoch=2, value=0.95) == "CONTINUE"


def test_broken_trials_go_first_and_new_ones_are_recorded_before_they_run(tmp_path: Path) -> None:
    begun = [record(1, 0.5), record(2, 0.6, status=TrialStatus.running)]
    for each in begun:
        write_trial(str(tmp_path), each)
    proposals = Proposals(sweep(tmp_path), space=SPACE, begun=begun)
    assert [proposals.suggest(name) for name in "abc"] == [{"number": 2}, {"number": 3}, {"number": 4}]
    assert proposals.suggest("d") == "FINISHED"
    records = read_trials(str(tmp_path))
    assert [each.number for each in records] == [1, 2, 3, 4]
    assert [each.status for each in records[2:]] == [TrialStatus.running] * 2
    assert records[2].values != records[3].values
