"""Files for `ray up`: what it would make of them, checked without a cloud."""

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.fleet.clouds.providers import PROVIDERS
from cluster.fleet.description import version_of

ROOT = Path(__file__).parents[2]
PROVIDER_KEYS = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "key_pair"},
    "gcp": {"type", "region", "availability_zone", "project_id", "use_internal_ips"},
    "azure": {"type", "location", "resource_group", "cache_stopped_nodes", "use_internal_ips", "subscription_id"},
}
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(params=sorted(PROVIDERS))
def written(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load((ROOT / PROVIDERS[request.param].file).read_text())


@pytest.fixture
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """The file with Ray's defaults filled in."""
    return prepare_config(copy.deepcopy(written))


def problems(config: dict[str, Any]) -> list[str]:
    """What Ray's validation does not look at: names inside `provider` and `node_config`, against each cloud's own model."""
    cloud = config["provider"]["type"]
    found = [f"provider.{key}" for key in config["provider"] if key not in PROVIDER_KEYS[cloud] | {"_config_cache_path"}]
    check = {"aws": ec2_problems, "gcp": compute_problems, "azure": template_problems}[cloud]
    for name, node in config["available_node_types"].items():
        found += [f"{name}: {problem}" for problem in check(node["node_config"])]
    return found


def ec2_problems(settings: dict[str, Any]) -> list[str]:
    """EC2's own model of the request that starts an instance."""
    run_instances = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**settings, "MinCount": 1, "MaxCount": 1}, run_instances)
    return [report.generate_report()] if report.has_errors() else []


def compute_problems(settings: dict[str, Any]) -> list[str]:
    """Google's own description of an instance."""
    document = resources.files("googleapiclient.discovery_cache") / "documents" / "compute.v1.json"
    schemas = json.loads(document.read_text())["schemas"]
    return list(unknown_keys(settings, schemas["Instance"], schemas, ""))


def unknown_keys(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str) -> Any:
    """Paths of keys and values that a discovery document's schema does not have."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in schema.get("properties", {}):
                yield f"{path}.{key}"
            else:
                yield from unknown_keys(inner, schema["properties"][key], schemas, f"{path}.{key}")
    elif isinstance(value, list):
        if schema.get("type") != "array":
            yield f"{path} is a list"
        for inner in value:
            yield from unknown_keys(inner, schema.get("items", {}), schemas, path)
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path} = {value}"


def template_problems(settings: dict[str, Any]) -> list[str]:
    """The parameters of the template by which Ray makes Azure's machines, and their types."""
    template = resources.files("ray.autoscaler._private._azure") / "azure-vm-template.json"
    known = json.loads(template.read_text())["parameters"]
    types = {"string": str, "int": int, "bool": bool, "object": dict, "array": list}
    given = settings.get("azure_arm_parameters", {})
    found = [key for key in settings if key != "azure_arm_parameters"]
    return found + [
        key for key, value in given.items() if key not in known or not isinstance(value, types[known[key]["type"]])
    ]


def test_ray_and_the_cloud_accept_it(prepared: dict[str, Any]) -> None:
    validate_config(prepared)
    assert problems(prepared) == []


TYPOS = {
    "aws": ({"InstanceMarketOptions": {"MarketTyp": "spot"}}, "MarketTyp"),
    "gcp": ({"scheduling": {"provisioningModel": "SPOTS"}}, "provisioningModel = SPOTS"),
    "azure": ({"azure_arm_parameters": {"vmSise": "Standard_D2s_v5"}}, "vmSise"),
}


def test_a_typo_is_found(prepared: dict[str, Any]) -> None:
    typo, told = TYPOS[prepared["provider"]["type"]]
    prepared["provider"]["cache_stoped_nodes"] = False
    prepared["available_node_types"]["gpu-spot"]["node_config"].update(typo)
    validate_config(prepared)  # Ray sees nothing
    found = problems(prepared)
    assert len(found) == 2
    assert "cache_stoped_nodes" in found[0]
    assert told in found[1]


def test_it_scales_to_zero(prepared: dict[str, Any]) -> None:
    nodes = prepared["available_node_types"]
    assert all(node["min_workers"] == 0 for node in nodes.values())
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert nodes["head"]["max_workers"] == 0
    assert 0 < sum(node["max_workers"] for node in nodes.values()) <= prepared["max_workers"]
    assert prepared["idle_timeout_minutes"] <= 10
    assert prepared["provider"].get("cache_stopped_nodes", False) is False


def test_spot_gpus_come_before_those_on_demand(prepared: dict[str, Any]) -> None:
    spot, steady = (prepared["available_node_types"][name] for name in ("gpu-spot", "gpu-on-demand"))
    text = yaml.safe_dump(spot["node_config"])
    assert "spot" in text.lower()
    assert "spot" not in yaml.safe_dump(steady["node_config"]).lower()
    assert spot["resources"] == steady["resources"]
    assert spot["priority"] > steady.get("priority", 0)
    # Priorities, and yielding of nodes that are not to be had, are the second autoscaler's.
    assert "RAY_enable_autoscaler_v2=1" in " ".join(prepared["head_start_ray_commands"])


def test_nothing_is_open_to_the_world(prepared: dict[str, Any]) -> None:
    text = yaml.safe_dump(prepared)
    assert "0.0.0.0" not in text
    assert "IpPermissions" not in text
    provider, nodes = prepared["provider"], prepared["available_node_types"].values()
    if provider["type"] == "aws":  # Ray's own group admits SSH from everywhere.
        assert all(node["node_config"]["SecurityGroupIds"] for node in nodes)
    elif provider["type"] == "gcp":  # So does the network `default`.
        assert all("SUBNET" in node["node_config"]["networkInterfaces"][0]["subnetwork"] for node in nodes)
    else:  # And so does Ray's group on Azure, which admits nobody where no node has a public address.
        assert provider["use_internal_ips"] is True
    for commands in START_COMMANDS:
        (start,) = [command for command in prepared[commands] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    assert "--dashboard-host=127.0.0.1" in " ".join(prepared["head_start_ray_commands"])


def test_ray_s_own_install_commands_are_replaced(written: dict[str, Any], prepared: dict[str, Any]) -> None:
    """Ray's defaults would install a nightly wheel; every list of commands must be ours."""
    lists = {"initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", *START_COMMANDS}
    assert lists <= set(written)
    text = yaml.safe_dump(prepared)
    assert ".whl" not in text
    installs = [command for key in sorted(lists) for command in written[key] if "pip install" in command]
    free = [command for command in installs if "-c ~/raystill/constraints.txt" not in command]
    assert len(installs) > len(free)
    assert free == ['pip install --quiet "uv>=0.9,<1"']


def test_the_images_have_the_ray_that_is_tested(written: dict[str, Any]) -> None:
    text = yaml.safe_dump(written)
    assert text.count("rayproject/ray:") == 3
    assert text.count(f"rayproject/ray:{version_of('ray')}-py3") == 3


def test_mounted_files_are_there(written: dict[str, Any]) -> None:
    ours = [path for path in written["file_mounts"].values() if not path.startswith("~")]
    assert [path for path in ours if not (ROOT / path).is_file()] == []
