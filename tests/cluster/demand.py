"""Ask a cluster for what jobs ask for; print, as JSON lines, which machines Ray's autoscaler has beside the head."""

import json
import sys
import time
from collections import Counter

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

PATIENCE_S = 120


def machines(gcs: str) -> dict[str, int]:
    """Return how many running nodes there are of each type, without the head."""
    status = get_cluster_status(gcs)
    found = Counter(node.ray_node_type_name for node in status.active_nodes + status.idle_nodes)
    del found["ray.head.default"]
    return dict(found)


def settle(gcs: str, expected: dict[str, int]) -> dict[str, int]:
    """Wait until the machines are those expected, and return the machines there are."""
    give_up = time.monotonic() + PATIENCE_S
    while (found := machines(gcs)) != expected and time.monotonic() < give_up:
        time.sleep(0.5)
    return found


@ray.remote
def square(number: int) -> int:
    """Stand for a decoding task."""
    return number**2


@ray.remote(num_cpus=1, num_gpus=1)
class Model:
    """Stand for a scoring actor; Ray counts the GPU, nothing uses it."""

    def ready(self) -> list[int]:
        """Return the GPUs that Ray assigned."""
        return [int(index) for index in ray.get_gpu_ids()]


def main(gcs: str) -> None:
    """Ask for CPUs, then for a GPU, each time until the machines are gone again."""
    ray.init(gcs, logging_level="WARNING")
    say = lambda step, **more: print(json.dumps({"step": step, "machines": machines(gcs)} | more), flush=True)  # noqa: E731, T201
    say("nothing is asked for")
    squares = ray.get([square.remote(number) for number in range(4)], timeout=PATIENCE_S)
    say("tasks ran", result=squares)
    settle(gcs, {})
    say("tasks ended")
    model = Model.remote()
    gpus = ray.get(model.ready.remote(), timeout=PATIENCE_S)
    say("an actor has a GPU", result=gpus)
    del model
    settle(gcs, {})
    say("the actor ended")


if __name__ == "__main__":
    main(sys.argv[1])
