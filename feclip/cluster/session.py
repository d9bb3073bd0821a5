"""Join the Ray cluster a job was submitted to, or start a local one; check that it can do what is asked."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.ray_constants import RAY_ADDRESS_ENVIRONMENT_VARIABLE
from ray._private.state import state as cluster_state  # what Ray Train asks too; Ray is pinned exactly

from feclip.cluster.endpoint import endpoint_variables, use_endpoint
from feclip.cluster.failures import in_one_line
from feclip.cluster.forwarding import forward_json
from feclip.cluster.head import watched_head
from feclip.config import ClusterConfig
from feclip.data import STORAGE_PATIENCE_VARIABLE
from feclip.errors import ConfigError, RunError, folded
from feclip.logs import settings, speaks_json

__all__ = ["is_submitted_job", "require_actors", "require_resources", "room_for_trials", "session", "use_endpoint"]

logger = logging.getLogger(__name__)

ROUNDING = 1e-6  # 1 / 0.1 is ten trials, not nine
LIMITS_VARIABLE = "FECLIP_CLUSTER_LIMITS"
"""What a cluster can grow to (``CPU=256,GPU=8``). Ray's autoscaler keeps it to itself, so that a cluster whose machines
come on demand would look too small for every job (docs/adr/0023)."""
PIPELINE_THREADS = ("StreamingExecutor", "iter_threaded", "ray-data-metadata-prefetch")
"""Beginnings of the names that Ray Data gives its threads in a driver."""
PIPELINE_SECONDS = 60.0
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job supervisor sets it for the driver of a submitted job


def is_submitted_job() -> bool:
    """Return whether ``ray job submit`` started this process, in an unpacked copy of the working directory."""
    return JOB_VARIABLE in os.environ


@contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Connect to Ray for the time of a ``with`` block.

    ``RAY_ADDRESS`` names a cluster (a submitted job has it set); without it a local one is started and ended here.
    Within the block, here and on the workers, storage is waited for as long as ``cluster.storage_patience`` says.

    Raises:
        RunError: If the cluster that ``RAY_ADDRESS`` names does not answer, or loses what it was given to do.
    """
    environment = endpoint_variables(config) | {STORAGE_PATIENCE_VARIABLE: f"{config.storage_patience:g}"}
    before = os.environ.get(STORAGE_PATIENCE_VARIABLE)
    owned = not ray.is_initialized()
    if owned:
        address = os.environ.get(RAY_ADDRESS_ENVIRONMENT_VARIABLE)
        try:
            ray.init(
                address=address or "local",  # else Ray would look for a head that may be long dead, and wait for it
                runtime_env={
                    "env_vars": environment | settings().environment(),
                    "worker_process_setup_hook": "feclip.logs.configure_worker",
                },
                logging_level=logging.WARNING,
            )
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            msg = f"Ray cannot be reached or started (RAY_ADDRESS={address}): {folded(str(error))}"
            raise RunError(msg) from error
        if speaks_json():
            forward_json()
        resources = ray.cluster_resources()
        logger.info(
            "%s Ray cluster: %g CPUs, %g GPUs",
            "Joined the" if address else "Started a local",
            resources.get("CPU", 0),
            resources.get("GPU", 0),
        )
    os.environ.update(environment)
    try:
        with in_one_line(), watched_head():
            yield
    finally:
        if before is None:
            del os.environ[STORAGE_PATIENCE_VARIABLE]
        else:
            os.environ[STORAGE_PATIENCE_VARIABLE] = before
        _await_pipelines()
        if owned:
            ray.shutdown()


def _await_pipelines() -> None:
    """Wait for threads of pipelines that were left early (Ray Data itself gives them 2 s).

    One that asks Ray something while ``ray.shutdown`` runs ends this process at once, with exit code 1 and no word.
    """
    give_up = time.monotonic() + PIPELINE_SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith(PIPELINE_THREADS):
            thread.join(max(0.0, give_up - time.monotonic()))


def require_resources(config: ClusterConfig) -> None:
    """Check that the cluster has, or can grow to, one CPU and where asked one GPU per worker.

    Ray Train would wait for ever for what the cluster can never have.

    Raises:
        ConfigError: If the cluster is too small.
    """
    available = _resources()
    for resource, wanted in (("CPU", True), ("GPU", config.use_gpu)):
        needed, found = config.num_workers * wanted, available.get(resource, 0)
        if needed > found:
            msg = (
                f"cluster.num_workers={config.num_workers} needs {needed} {resource}s, but the cluster has "
                f"{found:g}; lower cluster.num_workers"
                + (" or set cluster.use_gpu to false." if resource == "GPU" else " or use a larger cluster.")
            )
            raise ConfigError(msg)


def require_actors(*, num_actors: int, gpus_per_actor: float) -> None:
    """Check that the cluster has, or can grow to, what the scoring actors ask for and a CPU to decode beside them.

    Raises:
        ConfigError: If the cluster is too small.
    """
    available = _resources()
    for resource, needed in (("CPU", num_actors + 1), ("GPU", num_actors * gpus_per_actor)):
        found = available.get(resource, 0)
        if needed > found:
            msg = (
                f"score.num_actors={num_actors} needs {needed:g} {resource}s"
                + (", one of them to decode" if resource == "CPU" else f" (score.gpus_per_actor={gpus_per_actor:g})")
                + f", but the cluster has {found:g}; lower score.num_actors or use a larger cluster."
            )
            raise ConfigError(msg)


def room_for_trials(*, cpus: float, gpus: float, at_most: int | None) -> int:
    """Return how many trials of a sweep the cluster has room for at once, or can grow to.

    Args:
        cpus: CPUs of each trial.
        gpus: GPUs of each trial, possibly a share of one.
        at_most: More are not wanted; None for as many as there is room for.

    Raises:
        ConfigError: If no node has what one trial asks for: Tune would wait for ever.
    """
    limits = _limits()
    nodes = [limits] if limits is not None else [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shares = [
        min([node.get("CPU", 0) / cpus, *([node.get("GPU", 0) / gpus] if gpus else [])]) + ROUNDING for node in nodes
    ]
    room = sum(int(share) for share in shares)
    if room == 0:
        largest = {name: max(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
        msg = (
            f"tune.cpus_per_trial={cpus:g} and tune.gpus_per_trial={gpus:g} fit no node: the largest has "
            f"{largest['CPU']:g} CPUs and {largest['GPU']:g} GPUs; ask for less."
        )
        raise ConfigError(msg)
    return room if at_most is None else min(room, at_most)


def _resources() -> dict[str, float]:
    """Return what the cluster has or can grow to."""
    limits = _limits()
    found: dict[str, float] = ray.cluster_resources() if limits is None else limits
    return found


def _limits() -> dict[str, float] | None:
    """Return what the cluster can grow to; None where nothing scales it, or nothing says how far."""
    reported: dict[str, float] | None = cluster_state.get_max_resources_from_cluster_config()
    declared = os.environ.get(LIMITS_VARIABLE)
    if reported is not None or declared is None:
        return reported
    try:
        pairs = [pair.split("=") for pair in declared.split(",")]
        return {name: float(amount) for name, amount in pairs}
    except ValueError as error:
        msg = f"{LIMITS_VARIABLE} must be amounts such as CPU=256,GPU=8, got {declared!r}."
        raise ConfigError(msg) from error
