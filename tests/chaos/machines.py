"""A cluster of several machines that are raylets of this one, and faults that strike while a job runs."""

import atexit
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from job_runner import members
from ray._private.services import wait_for_node
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from feclip.archive import find_run

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_DEDUP_LOGS": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other programs of this machine fill its memory, too
    "FECLIP_STORAGE_PATIENCE": "120",
}
ACTOR = "ray::MapWorker"
"""Title of the process of a scoring actor."""
DECODER = "ray::Map(_fetch)"
TRAINER = "ray::RayTrainWorker"
TRIAL = "ray::ImplicitFunc"
MEMORY_KILL = "OOM kill reason"
"""Words of a raylet's log."""
PATIENCE_S = 240.0
ADDRESS = "127.0.0.2"
"""On loopback; Ray takes 127.0.0.1 for a name of the address that is reached from outside."""
NODE_CPUS = 2
NUM_STARTS = 3
OBJECT_STORE_BYTES = 200_000_000


class Machines:
    """A head that takes no work, and machines that come and go; this process is the driver.

    Args:
        environment: Of all processes of the cluster, beside that of this one.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._marks: dict[Any, str] = {}
        self._cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,  # else Ray sets handlers of signals, which no thread but the main one may
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "node_ip_address": ADDRESS,
                "object_store_memory": OBJECT_STORE_BYTES,
                "env_vars": environment,
            },
        )
        atexit.register(self.shutdown)
        ray.init(address=self._cluster.address, logging_level="WARNING", _node_ip_address=ADDRESS)

    def bring(self, number: int = 2) -> None:
        """Make it so many machines that nothing befell."""
        while len(self._marks) > number:
            self.kill(next(iter(self._marks)))
        while len(self._marks) < number:
            self.add()

    def add(self, **environment: str) -> Any:  # noqa: ANN401 - a node of Ray's
        """Start one more machine; one that a busy computer starts too slowly for Ray is started again."""
        for attempt in range(1, NUM_STARTS + 1):
            mark = f"FECLIP_TEST_MACHINE={uuid.uuid4()}"
            try:
                node = self._cluster.add_node(
                    wait=False,
                    num_cpus=NODE_CPUS,
                    node_ip_address=ADDRESS,
                    object_store_memory=OBJECT_STORE_BYTES,
                    env_vars=self._environment | environment | dict([mark.split("=")]),
                )
            except Exception:
                _kill_all(mark)
                if attempt == NUM_STARTS:
                    raise
                continue
            self._marks[node] = mark
            wait_for_node(node.gcs_address, node.plasma_store_socket_name, timeout=120)
            return node
        raise AssertionError

    def pids(self, title: str) -> list[int]:
        """Return the processes of a title on all machines."""
        return [pid for mark in self._marks.values() for pid, name in members(mark) if name.startswith(title)]

    def kill_worker(self, title: str) -> bool:
        """Kill one process of a title, if there is one."""
        pids = self.pids(title)
        if pids:
            os.kill(pids[0], signal.SIGKILL)
        return bool(pids)

    def running(self, title: str) -> Any:  # noqa: ANN401
        """Return a machine that runs a process of this title; None if there is none."""
        return next((node for node in self._marks if self.runs(node, title)), None)

    def runs(self, node: Any, title: str) -> bool:  # noqa: ANN401
        """Return whether a machine runs a process of this title."""
        return any(name.startswith(title) for _, name in members(self._marks[node]))

    def num_memory_kills(self) -> int:
        """Return how often Ray's memory monitors say that they ended workers."""
        logs = Path(self._cluster.head_node.get_logs_dir_path())
        return sum(path.read_text(errors="replace").count(MEMORY_KILL) for path in logs.glob("raylet*"))

    def kill(self, node: Any) -> None:  # noqa: ANN401
        """End a machine as a power cut does: its raylet and all of its workers at once."""
        mark = self._marks.pop(node)
        if node.any_processes_alive():
            self._cluster.remove_node(node, allow_graceful=False)
        _kill_all(mark)

    def drain(self, node: Any, *, seconds: int) -> None:  # noqa: ANN401
        """Give a machine the notice that spot machines get, and take it away when the time is over."""
        client = ray._raylet.GcsClient(address=self._cluster.address)  # noqa: SLF001 - what `ray drain-node` calls
        accepted, why_not = client.drain_node(
            node.node_id,
            autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "spot",
            time.time_ns() // 1_000_000 + seconds * 1000,
        )
        assert accepted, why_not
        time.sleep(seconds)
        self.kill(node)

    def shutdown(self) -> None:
        """End the cluster."""
        atexit.unregister(self.shutdown)
        ray.shutdown()
        self._cluster.shutdown()


def _kill_all(mark: str) -> None:
    for pid, _ in members(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Strike(threading.Thread):
    """A fault that strikes once, when a job has come so far, beside the thread that runs the job.

    Args:
        when: Whether the moment has come.
        do: The fault.
        written: How much the job has written, which tells when it goes on.
        then: What follows the fault and takes its time, as a new machine does.
    """

    def __init__(
        self,
        *,
        when: Callable[[], bool],
        do: Callable[[], object],
        written: Callable[[], int],
        then: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(daemon=True)
        self._when, self._do, self._written, self._then = when, do, written, then
        self._over = threading.Event()
        self._error: BaseException | None = None
        self.struck = False
        self.seconds: float | None = None
        """From the fault to the next piece of work written; None if there was none."""

    def run(self) -> None:
        """Wait, strike, and wait until the job goes on."""
        try:
            give_up = time.monotonic() + PATIENCE_S
            while not self._when():
                if self._over.wait(0.01) or time.monotonic() > give_up:
                    return
            self._do()
            self.struck = True
            struck_at, before = time.monotonic(), self._written()
            help_comes = threading.Thread(target=self._then)
            help_comes.start()
            while self._written() <= before and not self._over.wait(0.02):
                pass
            if self._written() > before:
                self.seconds = time.monotonic() - struck_at
            help_comes.join()
        except BaseException as error:  # noqa: BLE001 - raised again where the test is
            self._error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()
        if error is None:
            if self._error is not None:
                raise self._error
            assert self.struck, "the job ended before the fault struck"


def num_slices(output: str | Path) -> int:
    """Return how many slices are published in a local output."""
    return len(list(Path(output).glob("scores/*/slice-*.parquet")))


def num_slices_anywhere(output: str) -> int:
    """Return how many slices are published in an output, local or not."""
    run = find_run(output)
    return 0 if run is None else run.num_slices - len(run.missing(run.scores_folder))
