"""cluster.yaml: what `ray up` would make of it, checked without a cloud."""

import copy
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[2] / "cluster.yaml"
PROVIDER_KEYS = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "key_pair"}
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def written() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """The file with Ray's defaults filled in."""
    return prepare_config(copy.deepcopy(written))


def problems(config: dict[str, Any]) -> list[str]:
    """What Ray's own validation does not look at: names inside `provider` and `node_config`, against EC2's own model."""
    found = [f"provider.{key}" for key in config["provider"] if key not in PROVIDER_KEYS]
    run_instances = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node in config["available_node_types"].items():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, run_instances)
        found += [f"{name}: {report.generate_report()}"] if report.has_errors() else []
    return found


def test_ray_and_ec2_accept_it(prepared: dict[str, Any]) -> None:
    validate_config(prepared)
    assert problems(prepared) == []


def test_a_typo_is_found(prepared: dict[str, Any]) -> None:
    prepared["provider"]["cache_stoped_nodes"] = False
    prepared["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"] = {"MarketTyp": "spot"}
    validate_config(prepared)  # Ray sees nothing
    found = problems(prepared)
    assert len(found) == 2
    assert "cache_stoped_nodes" in found[0]
    assert "MarketTyp" in found[1]


def test_it_scales_to_zero(prepared: dict[str, Any]) -> None:
    nodes = prepared["available_node_types"]
    assert all(node["min_workers"] == 0 for node in nodes.values())
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert nodes["head"]["max_workers"] == 0
    assert nodes["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 < sum(node["max_workers"] for node in nodes.values()) <= prepared["max_workers"]
    assert prepared["idle_timeout_minutes"] <= 10
    assert prepared["provider"]["cache_stopped_nodes"] is False


def test_nothing_is_open_to_the_world(prepared: dict[str, Any]) -> None:
    text = yaml.safe_dump(prepared)
    assert "0.0.0.0" not in text
    assert "IpPermissions" not in text
    # A node type without groups of its own would get Ray's, which admits SSH from everywhere.
    assert all(node["node_config"]["SecurityGroupIds"] for node in prepared["available_node_types"].values())
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


def test_the_images_have_the_ray_that_is_tested() -> None:
    bounds = (FILE.parent / "pyproject.toml").read_text()
    (lower,) = re.findall(r'"ray\[[^"]*\]>=(\d+\.\d+)', bounds)
    images = re.findall(r"rayproject/ray:(\d+\.\d+)", FILE.read_text())
    assert images
    assert set(images) == {lower}


def test_mounted_files_are_there(written: dict[str, Any]) -> None:
    ours = [path for path in written["file_mounts"].values() if not path.startswith("~")]
    assert [path for path in ours if not (FILE.parent / path).is_file()] == []
