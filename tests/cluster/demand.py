"""Ask a cluster for what jobs ask for; print, as JSON lines, which machines Ray's autoscaler has beside the head."""

import json
import sys
import time
from collections import Counter

import ray
from ray._private.state import state
from ray.autoscaler.v2.sdk import get_cluster_status

PATIENCE_S = 120


class Cluster:
    """A cluster that this process has joined, as its autoscaler sees it."""

    def __init__(self, gcs: str, *, head_type: str) -> None:
        self._gcs = gcs
        self._head_type = head_type
        ray.init(gcs, logging_level="WARNING")

    def machines(self) -> dict[str, int]:
        """Return how many running nodes there are of each type, without the head."""
        status = get_cluster_status(self._gcs)
        found = Counter(node.ray_node_type_name for node in status.active_nodes + status.idle_nodes)
        del found[self._head_type]
        return dict(found)

    def wait_until_empty(self) -> None:
        """Wait until the head is alone, or patience ends."""
        give_up = time.monotonic() + PATIENCE_S
        while self.machines() and time.monotonic() < give_up:
            time.sleep(0.5)

    def report(self, step: str, result: object = None) -> None:
        """Print one line about where things stand."""
        print(json.dumps({"step": step, "machines": self.machines(), "result": result}), flush=True)  # noqa: T201


@ray.remote
def square(number: int) -> int:
    """Stand for a decoding task."""
    return number**2


@ray.remote(num_cpus=1, num_gpus=1)
class Model:
    """Stand for a scoring actor; Ray counts the GPU, nothing uses it."""

    def gpus(self) -> list[int]:
        """Return the GPUs that Ray assigned."""
        return [int(index) for index in ray.get_gpu_ids()]


def main(gcs: str, head_type: str) -> None:
    """Ask for CPUs, then for a GPU, and each time wait until the machines are gone again."""
    cluster = Cluster(gcs, head_type=head_type)
    cluster.report("limits that Ray reports", state.get_max_resources_from_cluster_config())
    squares = ray.get([square.remote(number) for number in range(4)], timeout=PATIENCE_S)
    cluster.report("tasks ran", squares)
    cluster.wait_until_empty()
    cluster.report("tasks ended")
    model = Model.remote()
    gpus = ray.get(model.gpus.remote(), timeout=PATIENCE_S)
    cluster.report("an actor has a GPU", gpus)
    del model
    cluster.wait_until_empty()
    cluster.report("the actor ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
