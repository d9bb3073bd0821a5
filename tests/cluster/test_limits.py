"""What a cluster that scales says it can grow to, for jobs that come before its machines."""

from unittest import mock

import pytest
import ray

from feclip.cluster import session
from feclip.config import ClusterConfig
from feclip.errors import ConfigError


@pytest.fixture
def cold_cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A head without cores, before any machine has come: what Ray 2.60 says there, with its own autoscaler."""
    monkeypatch.setattr(
        session, "cluster_state", mock.Mock(**{"get_max_resources_from_cluster_config.return_value": None})
    )
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"memory": 1e9})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"memory": 1e9}}])
    return monkeypatch


def test_a_job_is_judged_by_what_the_cluster_can_grow_to(cold_cluster: pytest.MonkeyPatch) -> None:
    cold_cluster.setenv(session.LIMITS_VARIABLE, "CPU=256,GPU=8")
    session.require_resources(ClusterConfig(num_workers=8, use_gpu=True))
    session.require_actors(num_actors=8, gpus_per_actor=1)
    assert session.room_for_trials(cpus=1, gpus=0.25, at_most=None) == 32
    with pytest.raises(ConfigError, match="needs 9 GPUs, but the cluster has 8"):
        session.require_resources(ClusterConfig(num_workers=9, use_gpu=True))
    with pytest.raises(ConfigError, match="needs 9 GPUs"):
        session.require_actors(num_actors=9, gpus_per_actor=1)


def test_without_a_word_the_cluster_is_what_it_has(cold_cluster: pytest.MonkeyPatch) -> None:
    cold_cluster.delenv(session.LIMITS_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="needs 1 CPUs, but the cluster has 0"):
        session.require_resources(ClusterConfig(num_workers=1))


@pytest.mark.parametrize("declared", ["256", "CPU", "CPU=many", "CPU=1;GPU=2", ""])
def test_limits_that_cannot_be_read_are_one_clear_line(cold_cluster: pytest.MonkeyPatch, declared: str) -> None:
    cold_cluster.setenv(session.LIMITS_VARIABLE, declared)
    with pytest.raises(ConfigError, match=r"FECLIP_CLUSTER_LIMITS must be amounts such as CPU=256,GPU=8, got "):
        session.require_resources(ClusterConfig(num_workers=1))
