"""The cluster's files: generated from one description, fresh, and what Kubernetes accepts."""

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from cluster import generate
from cluster.fleet.description import ROOT, read_fleet, version_of
from cluster.fleet.placement import Demand, place
from cluster.fleet.supply import read_supply
from serve.app import Arguments
from tests.cluster.kuberay_schema import ClusterSpec, check_resource

KUBERNETES = "1.31"
KUBERAY = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "cluster" / "kuberay").glob("*.yaml"))
RAY_RESOURCES = [path for path in KUBERAY if "network" not in path]


def load(path: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / path).read_text())
    assert isinstance(document, dict)
    return document


def test_no_file_is_stale() -> None:
    assert generate.stale_files(read_fleet()) == [], "run python -m cluster.generate"


def test_a_changed_description_makes_files_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = read_fleet().model_copy(update={"idle_minutes": 7})
    assert set(generate.stale_files(fleet)) == set(generate.cluster_files(fleet)) - {
        "cluster/Dockerfile",
        "cluster/kuberay/network.yaml",
    }
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_versions_are_those_of_the_constraints() -> None:
    found = {version for path in generate.cluster_files(read_fleet()) for version in versions_in(ROOT / path)}
    assert found == {version_of("ray")}


def versions_in(file: Path) -> list[str]:
    """Every version of Ray that a file names."""
    return re.findall(r"(?:rayproject/ray:|rayVersion: |raystill:)(\d+\.\d+\.\d+)", file.read_text())


def test_a_machine_without_a_price_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "cluster" / "fleet.yaml").read_text().replace("g6.xlarge", "g99.xlarge")
    (tmp_path / "fleet.yaml").write_text(text)
    with pytest.raises(ValidationError, match="g99.xlarge is not in cluster/prices.yaml"):
        generate.read_fleet(tmp_path / "fleet.yaml")


@pytest.mark.parametrize("path", RAY_RESOURCES)
def test_kuberay_s_keys_and_kubernetes_pods_are_valid(path: str) -> None:
    for pod in pods(check_resource(load(path))):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_network_policy_is_valid() -> None:
    policy = load("cluster/kuberay/network.yaml")
    kubernetes_validate.validate(policy, KUBERNETES, strict=True)
    assert policy["spec"]["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("path", RAY_RESOURCES)
def test_typos_are_found(path: str) -> None:
    document = load(path)
    cluster = next(spec for spec in (document["spec"].get(k, document["spec"]) for k in keys_of(document)))
    wrong = copy.deepcopy(cluster)
    wrong["enableIntreeAutoscaling"] = True
    with pytest.raises(ValidationError, match="enableIntreeAutoscaling"):
        ClusterSpec.model_validate(wrong)
    (pod, *_) = pods(ClusterSpec.model_validate(cluster))
    pod["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def keys_of(document: dict[str, Any]) -> list[str]:
    return {"RayCluster": [""], "RayJob": ["rayClusterSpec"], "RayService": ["rayClusterConfig"]}[document["kind"]]


def pods(cluster: ClusterSpec) -> list[dict[str, Any]]:
    """Each template as the pod that it makes."""
    templates = [cluster.headGroupSpec.template, *(group.template for group in cluster.workerGroupSpecs)]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": copy.deepcopy(t.spec)} for t in templates]


@pytest.mark.parametrize("path", RAY_RESOURCES)
def test_pods_are_safe_and_scale_to_zero(path: str) -> None:
    cluster = check_resource(load(path))
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"
    assert cluster.headGroupSpec.serviceType == "ClusterIP"
    assert cluster.authOptions.mode == "token"
    assert all(group.minReplicas == 0 for group in cluster.workerGroupSpecs)
    assert cluster.autoscalerOptions.idleTimeoutSeconds <= 600
    for pod in pods(cluster):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not [entry for entry in container["env"] if "TOKEN" in entry["name"] or "SECRET" in entry["name"]]


def test_the_service_s_application_is_one_that_serve_takes() -> None:
    config = yaml.safe_load(load("cluster/kuberay/service.yaml")["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert hasattr(__import__(module, fromlist=[name]), name)
    Arguments.model_validate(application["args"])


@pytest.mark.parametrize("path", ["cluster.yaml", "cluster/gcp.yaml", "cluster/azure.yaml", "cluster/kuberay/cluster.yaml"])
def test_a_plan_can_be_made_for_each(path: str) -> None:
    supply = read_supply(ROOT / path)
    placed = place(Demand("train", cpus=2, gpus=1, workers=5), supply)
    assert placed.refused is None
    assert placed.starts == {"gpu-spot": 4, "gpu-on-demand": 1}
    assert place(Demand("train", gpus=8), supply).refused is not None


def test_the_image_has_what_the_nodes_need() -> None:
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert {"cluster", "serve", "jobs", "constraints.txt"} <= set(copied)
    assert f"FROM rayproject/ray:{version_of('ray')}-py311" in text
    assert "USER ray" in text
