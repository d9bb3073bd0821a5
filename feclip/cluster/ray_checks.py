"""Ray, as a job will meet it: whether the cluster answers, what it has, and whether its workers are set up alike."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir

from feclip.cluster.paths import absolute_path
from feclip.cluster.session import require_resources, session
from feclip.config import DoctorConfig
from feclip.doctor import Finding, Status, check_storage, failed, guarded, ok

__all__ = ["check_ray", "session_logs"]

WORKER_SECONDS = 120.0
"""Longest wait for a first worker, which loads ray on a busy machine."""
ALIKE = ("feclip", "numpy", "open_clip_torch", "pyarrow", "ray", "torch")
"""Distributions whose versions must be the same here and on the workers."""
MAX_SESSIONS = 3
MAX_LOGS = 40
LOG_PATTERNS = ("job-driver-*.log", "*.err", "gcs_server.out", "raylet.out", "monitor.log", "dashboard.log")


def check_ray(config: DoctorConfig) -> Iterator[Finding]:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one, and try a worker.

    Raises:
        RunError: If it does not answer, or loses its work.
        ConfigError: If it is too small for what ``config.cluster`` asks for.
    """
    with session(config.cluster):
        resources = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        memory = resources.get("object_store_memory", 0) / (1 << 30)
        told = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {memory:.1f} GiB of object store"
        address = os.environ.get("RAY_ADDRESS")
        whose = "started here" if address is None else f"at {address}"
        yield ok("ray", f"version {ray.__version__}, cluster {whose}, {nodes} nodes: {told}")
        require_resources(config.cluster)
        yield _worker()
        if config.output is not None:
            yield from _storage_of_worker(absolute_path("output", config.output))


def session_logs() -> Iterator[Path]:
    """Yield logs of the newest Ray sessions of this machine that hold anything, the newest first."""
    sessions = sorted(Path(get_default_ray_temp_dir()).glob("session_2*"), key=_changed, reverse=True)[:MAX_SESSIONS]
    found = {path for folder in sessions for pattern in LOG_PATTERNS for path in folder.glob(f"logs/{pattern}")}
    written = [path for path in found if path.is_file() and path.stat().st_size]
    yield from sorted(written, key=_changed, reverse=True)[:MAX_LOGS]


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _worker() -> Finding:
    here = _versions()
    try:
        there = ray.get(ray.remote(num_cpus=0)(_versions).remote(), timeout=WORKER_SECONDS)
    except ray.exceptions.GetTimeoutError:
        told = f"no worker did anything within {WORKER_SECONDS:g} s"
        return failed("worker", told, advice="look at the cluster's resources and at the logs of its nodes")
    unlike = [f"{name} {there[name]} instead of {here[name]}" for name in here if there[name] != here[name]]
    if unlike:
        return failed("worker", f"has {', '.join(unlike)}", advice="give all nodes one environment (Dockerfile)")
    return ok("worker", f"answers, with Python {here['Python']} and the same versions as here")


def _storage_of_worker(uri: str) -> Iterator[Finding]:
    found: list[dict[str, Any]] = ray.get(ray.remote(num_cpus=0)(_try_storage).remote(uri), timeout=WORKER_SECONDS)
    for fields in found:
        yield Finding(**fields | {"status": Status(fields["status"])})


def _try_storage(uri: str) -> list[dict[str, Any]]:
    look = guarded("storage", lambda: check_storage(uri, where="from a worker"))
    return [{name: str(value) for name, value in vars(finding).items()} for finding in look]


def _versions() -> dict[str, str]:
    """Return what must be alike wherever a job computes."""
    versions = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {"Python": platform.python_version()} | {name: versions.get(name, "nothing") for name in ALIKE}
