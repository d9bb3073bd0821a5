"""cluster.yaml and its stack: what Ray's validator says, who can reach it, whether it is large enough for its jobs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import REPOSITORY, Needs, commands, limits, needs_of
from ray.autoscaler._private.util import prepare_config, validate_config


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """cluster.yaml as it is read, without Ray's defaults."""
    return yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


class _Stack(yaml.SafeLoader):
    """YAML of CloudFormation, whose ``!Ref`` becomes text."""


_Stack.add_multi_constructor("!", lambda _, suffix, node: f"{suffix} {node.value}")


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """The stack of the security group and the roles."""
    return yaml.load((REPOSITORY / "deploy" / "aws.yaml").read_text(), Loader=_Stack)  # noqa: S506 - a safe loader


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_rays_validator_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(cluster | {"max_wokers": 1}))


def test_the_head_takes_no_work(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_gpus_are_on_spot_machines_and_there_is_a_pool_without(cluster: dict[str, Any]) -> None:
    workers = {
        name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]
    }
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers.values())
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    assert sorted(kind["resources"].get("GPU", 0) for kind in workers.values()) == [0, 1]
    assert sum(kind["max_workers"] for kind in workers.values()) == cluster["max_workers"]


def test_the_image_names_the_ray_that_the_project_pins(cluster: dict[str, Any]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (pin,) = [entry.partition("==")[2] for entry in project["dependencies"] if entry.startswith("ray[")]
    assert cluster["docker"]["image"].endswith(f"/feclip:ray-{pin}")
    assert not [name for name in cluster["docker"] if name.endswith("_image")]
    registry = cluster["docker"]["image"].partition("/")[0]
    assert any(command.endswith(registry) for command in cluster["initialization_commands"])


def test_nothing_is_installed_when_a_node_starts(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    assert [prepared[f"{kind}setup_commands"] for kind in ("", "head_", "worker_")] == [[], [], []]


def test_the_dashboard_is_on_loopback_and_ray_asks_for_the_token(cluster: dict[str, Any]) -> None:
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def test_ray_makes_no_security_group_and_no_role_of_its_own(cluster: dict[str, Any]) -> None:
    machines = [kind["node_config"] for kind in cluster["available_node_types"].values()]
    assert all(
        machine["SecurityGroupIds"] == ["sg-EDIT"] for machine in machines
    )  # no group has this id: `ray up` stops
    assert {machine["IamInstanceProfile"]["Name"] for machine in machines} == {"feclip-head", "feclip-worker"}
    assert all(machine["MetadataOptions"]["HttpTokens"] == "required" for machine in machines)
    assert "security_group" not in cluster["provider"]


def test_only_ssh_from_a_given_address_is_open(stack: dict[str, Any], cluster: dict[str, Any]) -> None:
    group = stack["Resources"]["SecurityGroup"]["Properties"]
    assert group["SecurityGroupIngress"] == [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "Ref SshFrom"}
    ]
    others = [
        resource["Properties"] for resource in stack["Resources"].values() if resource["Type"].endswith("GroupIngress")
    ]
    assert [rule["SourceSecurityGroupId"] for rule in others] == ["Ref SecurityGroup"]
    assert not any("Cidr" in key for rule in others for key in rule)
    assert stack["Parameters"]["ClusterName"]["Default"] == cluster["cluster_name"]


@pytest.mark.parametrize(
    ("address", "accepted"),
    [("203.0.113.7/32", True), ("0.0.0.0/0", False), ("0.0.0.0/32", False), ("203.0.113.0/24", False), ("", False)],
)
def test_the_address_has_no_default_and_is_one_address(stack: dict[str, Any], address: str, accepted: bool) -> None:
    parameter = stack["Parameters"]["SshFrom"]
    assert "Default" not in parameter
    assert bool(re.fullmatch(parameter["AllowedPattern"], address)) is accepted


def test_the_head_may_end_only_machines_of_its_cluster(stack: dict[str, Any]) -> None:
    (policy,) = stack["Resources"]["HeadRole"]["Properties"]["Policies"]
    allowed = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        actions = statement["Action"]
        allowed |= dict.fromkeys([actions] if isinstance(actions, str) else actions, statement)
    assert not [action for action in allowed if "*" in action]
    condition = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": "Ref ClusterName"}}
    assert allowed["ec2:TerminateInstances"]["Condition"] == condition
    assert allowed["iam:PassRole"]["Resource"] == "GetAtt WorkerRole.Arn"


def test_the_declared_limits_are_those_of_the_pools(cluster: dict[str, Any]) -> None:
    (declared,) = [option for option in cluster["docker"]["run_options"] if "FECLIP_CLUSTER_LIMITS" in option]
    total = {"CPU": 0, "GPU": 0}
    for kind in cluster["available_node_types"].values():
        for name in total:
            total[name] += kind["max_workers"] * kind["resources"].get(name, 0)
    assert limits(declared.partition("FECLIP_CLUSTER_LIMITS=")[2]) == total


@pytest.mark.parametrize("command", commands((REPOSITORY / "deploy" / "README.md").read_text()), ids=" ".join)
def test_the_pools_are_large_enough_for_the_jobs_of_the_page(cluster: dict[str, Any], command: list[str]) -> None:
    needs: Needs = needs_of(command)
    kinds = [kind for kind in cluster["available_node_types"].values() if kind["max_workers"]]
    fitting = [kind for kind in kinds if kind["resources"].get("GPU", 0) >= needs.gpus_each]
    assert sum(kind["max_workers"] * kind["resources"]["CPU"] for kind in kinds) >= needs.cpus
    assert sum(kind["max_workers"] * kind["resources"].get("GPU", 0) for kind in fitting) >= needs.gpus


def test_the_page_has_a_command_for_each_manifest() -> None:
    jobs = [Path(command[0]).name for command in commands((REPOSITORY / "deploy" / "README.md").read_text())]
    assert set(jobs) == {
        f"{path.stem}.py" for path in (REPOSITORY / "deploy" / "kuberay").iterdir() if path.suffix == ".yaml"
    }
