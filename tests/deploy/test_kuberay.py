"""The RayJob manifests: their schema where it is at hand, and what must hold without it."""

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from deployed import REPOSITORY, commands, limits, needs_of

MANIFESTS = sorted((REPOSITORY / "deploy" / "kuberay").glob("*.yaml"))
CRD_VARIABLE = "FECLIP_RAYJOB_CRD"


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One manifest after the other."""
    return yaml.safe_load(request.param.read_text())


@pytest.fixture
def cluster(manifest: dict[str, Any]) -> dict[str, Any]:
    """The cluster that a manifest asks for."""
    return manifest["spec"]["rayClusterSpec"]


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def refuse_unknown_fields(schema: object) -> None:
    """Make a schema of Kubernetes as strict as ``kubectl apply --validate=strict``, in place."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        refuse_unknown_fields(inner)


@pytest.fixture(scope="module")
def rayjob_schema() -> dict[str, Any]:
    """The schema of a RayJob, from KubeRay's own definition."""
    if CRD_VARIABLE not in os.environ:
        pytest.skip(f"set {CRD_VARIABLE} to KubeRay's ray.io_rayjobs.yaml")
    definition = yaml.safe_load(Path(os.environ[CRD_VARIABLE]).read_text())
    (schema,) = [
        version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"] if version["name"] == "v1"
    ]
    refuse_unknown_fields(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def test_kuberay_accepts_it(manifest: dict[str, Any], rayjob_schema: dict[str, Any]) -> None:
    jsonschema.validate(manifest, rayjob_schema, cls=jsonschema.Draft7Validator)


def test_kuberays_schema_refuses_an_unknown_field(manifest: dict[str, Any], rayjob_schema: dict[str, Any]) -> None:
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(manifest, rayjob_schema, cls=jsonschema.Draft7Validator)


def test_there_is_one_for_each_job() -> None:
    assert [path.stem for path in MANIFESTS] == ["finetune", "score", "tune"]


def test_they_differ_in_name_and_command_alone(manifest: dict[str, Any]) -> None:
    first = yaml.safe_load(MANIFESTS[0].read_text())
    for differs in (("metadata", "name"), ("spec", "entrypoint")):
        first[differs[0]][differs[1]] = manifest[differs[0]][differs[1]]
    assert manifest == first


def test_the_cluster_goes_when_its_job_has_ended(manifest: dict[str, Any]) -> None:
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    assert manifest["spec"]["ttlSecondsAfterFinished"] > 0


def test_image_and_ray_are_those_of_cluster_yaml(cluster: dict[str, Any]) -> None:
    image = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["docker"]["image"]
    assert {container["image"] for pod in pods(cluster) for container in pod["containers"]} == {image}
    assert image.endswith(f":ray-{cluster['rayVersion']}")


def test_the_head_takes_no_work_and_ray_asks_for_the_token(cluster: dict[str, Any]) -> None:
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert not [name for name in head["template"]["spec"]["containers"][0]["resources"]["limits"] if "gpu" in name]
    assert cluster["authOptions"] == {"mode": "token"}
    assert not {"serviceType", "headService", "enableIngress"} & set(head)


def test_pods_run_without_rights_and_get_secrets_by_name_alone(cluster: dict[str, Any]) -> None:
    for pod in pods(cluster):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] == "feclip"
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["envFrom"] == [{"secretRef": {"name": "feclip-storage", "optional": True}}]
            assert {entry["name"] for entry in container.get("env", [])} <= {
                "FECLIP_CLUSTER_LIMITS",
                "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
            }


def test_the_groups_are_large_enough_for_the_job(manifest: dict[str, Any], cluster: dict[str, Any]) -> None:
    total = {"CPU": 0, "GPU": 0}
    for group in cluster["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert group["minReplicas"] == group["replicas"] == 0
        total["CPU"] += group["maxReplicas"] * int(resources["limits"]["cpu"])
        total["GPU"] += group["maxReplicas"] * int(resources["limits"].get("nvidia.com/gpu", 0))
    env = {
        entry["name"]: entry["value"] for entry in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert limits(env["FECLIP_CLUSTER_LIMITS"]) == total
    (command,) = commands(manifest["spec"]["entrypoint"])
    needs = needs_of([argument.replace("/home/ray/feclip", str(REPOSITORY)) for argument in command])
    assert needs.cpus <= total["CPU"]
    assert needs.gpus <= total["GPU"]
    assert needs.gpus_each <= 1
