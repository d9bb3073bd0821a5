"""The node types of cluster.yaml, started and ended by Ray's real autoscaler; the machines are raylets of this one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from head_node import RAY, Head, free_port, head_node
from job_runner import REPOSITORY
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from feclip.bundle import read_bundle

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

IDLE_S = 6
OBJECT_STORE_BYTES = 100_000_000


def fake_machines(cluster: dict[str, Any], *, gcs: str) -> dict[str, Any]:
    """Return ``cluster`` with its limits and node types, on raylets of this machine instead of AWS."""
    types = {
        FAKE_HEAD_NODE_TYPE if name == cluster["head_node_type"] else name: {
            key: value for key, value in node_type.items() if key in {"min_workers", "max_workers"}
        }
        | {"node_config": {}, "resources": node_type["resources"] | {"object_store_memory": OBJECT_STORE_BYTES}}
        for name, node_type in cluster["available_node_types"].items()
    }
    return {
        "cluster_name": cluster["cluster_name"],
        "max_workers": cluster["max_workers"],
        "upscaling_speed": cluster["upscaling_speed"],
        "idle_timeout_minutes": IDLE_S / 60,
        "available_node_types": types,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        # by its module, because the wheel lacks the defaults of the provider "fake_multinode"
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "cluster_synced_files": [],
        "file_mounts": {},
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
    }


@pytest.fixture(scope="module")
def head(ray_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """The head of cluster.yaml, with its environment and its autoscaler."""
    folder = tmp_path_factory.mktemp("head")
    cluster = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
    ip, port = get_node_ip_address(), free_port(above=8400)  # the raylets that play machines take this address too
    config = folder / "cluster.json"
    config.write_text(json.dumps(fake_machines(cluster, gcs=f"{ip}:{port}")))
    options = [option.removeprefix("--env ") for option in cluster["docker"]["run_options"] if "--env " in option]
    env = (
        ray_env
        | dict(option.split("=", 1) for option in options)
        | {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
            "RAY_prestart_worker_first_driver": "0",  # 16 pretended cores are 16 processes on two real ones
            "RAY_enable_worker_prestart": "0",
        }
    )
    cpus = cluster["available_node_types"][cluster["head_node_type"]]["resources"]["CPU"]
    flags = ("--num-cpus", str(cpus), "--object-store-memory", str(OBJECT_STORE_BYTES))
    with head_node(env, folder, *flags, "--autoscaling-config", str(config), ip=ip, port=port) as started:
        yield started


def test_a_gpu_actor_brings_a_gpu_machine_that_idleness_removes(head: Head, ray_env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("demand.py")), head.gcs, FAKE_HEAD_NODE_TYPE],
        env=ray_env, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert steps == [
        {"step": "limits that Ray reports", "machines": {}, "result": None},  # or FECLIP_CLUSTER_LIMITS may go
        {"step": "tasks ran", "machines": {"cpu": 1}, "result": [0, 1, 4, 9]},
        {"step": "tasks ended", "machines": {}, "result": None},
        {"step": "an actor has a GPU", "machines": {"gpu": 1}, "result": [0]},
        {"step": "the actor ended", "machines": {}, "result": None},
    ]


def test_a_job_comes_before_its_machines(
    head: Head, ray_env: dict[str, str], small_run: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("python", "jobs/finetune.py", *small_run, "--output", str(tmp_path / "bundle"))
    done = subprocess.run(
        [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", str(REPOSITORY), "--", *command],
        env=ray_env, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Joined the Ray cluster: 0 CPUs, 0 GPUs" in done.stdout + done.stderr
    assert [record["epoch"] for record in read_bundle(str(tmp_path / "bundle")).metrics] == [1, 2]
