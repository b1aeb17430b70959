"""What a cluster has and can grow to: read from its file, from the cluster that is connected, or from this machine.

    supply = read_supply("cluster.yaml")            # a file for `ray up` or for KubeRay; no cloud is asked
    supply = connected_supply(supply)               # the living nodes, and what of the file is still to come

The cluster files of this repository export CLUSTER_FILE, so that each job on such a cluster knows what may still come.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster.fleet.placement import GIBIBYTE, NodeType, Supply
from cluster.fleet.prices import Machine, PriceTable, read_prices
from cluster.ray_private import reported_node_groups

CLUSTER_FILE = "RAYSTILL_CLUSTER"
"""Environment variable: the file of the cluster that a job runs on, seen from the job's working directory."""
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
GPU_LIMIT = "nvidia.com/gpu"


class SupplyError(Exception):
    """A cluster's file cannot be read as one; the message names it."""


def read_supply(path: str | Path, prices: PriceTable | None = None) -> Supply:
    """The node types of a `ray up` file (AWS, Google Cloud, Azure) or of a KubeRay file; SupplyError if it is neither."""
    try:
        documents = [document for document in yaml.safe_load_all(Path(path).read_text()) if isinstance(document, Mapping)]
    except (OSError, yaml.YAMLError) as error:
        raise SupplyError(f"{path}: this cluster file cannot be read ({error}); check the path") from error
    table = prices or read_prices()
    launcher = next((document for document in documents if "available_node_types" in document), None)
    if launcher is not None:
        return _of_launcher(launcher, table, str(path))
    specification = next((found for document in documents if (found := _cluster_specification(document))), None)
    if specification is None:
        reason = "it has neither available_node_types (ray up) nor workerGroupSpecs (KubeRay)"
        raise SupplyError(f"{path}: not a cluster's file: {reason}")
    return _of_kuberay(specification, str(path))


def connected_supply(planned: Supply | None = None) -> Supply:
    """The living nodes of the connected cluster (ray.init), and the nodes that may still come.

    Those are known from Ray's own autoscaler where it says so, else from what is planned (by default the file that
    CLUSTER_FILE names).
    """
    import ray

    living = [_living(node) for node in ray.nodes() if node["Alive"]]
    growing = _reported() or planned or own_supply()
    if growing is None:
        return Supply(tuple(living), source=f"{len(living)} living node(s)")
    coming = tuple(kind for kind in growing.types if not kind.living)
    most = None if growing.most is None else max(len(living), growing.most)
    # A living node is of one of these types: how many of each may still come is bounded by all of them together.
    return Supply((*living, *coming), most, f"{len(living)} living node(s) and {growing.source}")


def own_supply() -> Supply | None:
    """What the file says that CLUSTER_FILE names; None where it is not set, or the job did not bring that file along."""
    named = os.environ.get(CLUSTER_FILE)
    return read_supply(named) if named and Path(named).is_file() else None


def this_machine() -> Supply:
    """What an embedded cluster on this machine would have."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    here = NodeType("this machine", cpus, gpus, psutil.virtual_memory().total, living=1)
    return Supply((here,), source="this machine, since no cluster is named")


def _of_launcher(config: Mapping[str, Any], prices: PriceTable, path: str) -> Supply:
    types = []
    for name, node in config["available_node_types"].items():
        settings = node.get("node_config") or {}
        machine = _machine_name(settings)
        head = name == config.get("head_node_type")
        kind = _node_type(name, machine, prices.machines.get(machine), _is_spot(settings), node.get("resources") or {})
        most = 1 if head else node.get("max_workers", config.get("max_workers", 0))
        types.append(replace(kind, most=most, living=int(head), priority=node.get("priority", 0)))
    # The head is counted as living: it is there before anything is submitted.
    return Supply(tuple(types), config.get("max_workers", 0) + 1, f"{path}, prices of {prices.date}")


def _machine_name(settings: Mapping[str, Any]) -> str:
    azure = settings.get("azure_arm_parameters") or {}
    named = settings.get("InstanceType") or settings.get("machineType") or azure.get("vmSize") or ""
    return str(named).rpartition("/")[2]


def _is_spot(settings: Mapping[str, Any]) -> bool:
    azure = settings.get("azure_arm_parameters") or {}
    google = settings.get("scheduling") or {}
    market = (settings.get("InstanceMarketOptions") or {}).get("MarketType")
    return market == "spot" or azure.get("priority") == "Spot" or google.get("provisioningModel") == "SPOT"


def _node_type(name: str, machine: str, known: Machine | None, spot: bool, resources: Mapping[str, float]) -> NodeType:
    """A type of the launcher; Ray fills in what `resources` leaves out from the machine."""
    if known is None:
        return NodeType(name, resources.get("CPU", 0), resources.get("GPU", 0), machine=machine)
    lowest = known.spot if spot and known.spot is not None else known.on_demand
    return NodeType(
        name,
        cpus=resources.get("CPU", known.cpus),
        gpus=resources.get("GPU", known.gpus),
        memory=int(known.memory_gib * GIBIBYTE),
        gpu_memory=int(known.gpu_memory_gib * GIBIBYTE) or None,
        machine=machine,
        # A spot price moves between what it was and what the machine costs on demand.
        price=(lowest, known.on_demand),
    )


def _cluster_specification(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The cluster in a RayCluster, a RayJob or a RayService."""
    specification = document.get("spec") or {}
    for key in ("rayClusterSpec", "rayClusterConfig"):
        specification = specification.get(key, specification)
    return specification if "workerGroupSpecs" in specification else None


def _of_kuberay(specification: Mapping[str, Any], path: str) -> Supply:
    head = specification.get("headGroupSpec") or {}
    cpus = float((head.get("rayStartParams") or {}).get("num-cpus", 0))
    types = [NodeType("head", cpus, memory=_limits(head)[2], living=1)]
    for group in specification["workerGroupSpecs"]:
        cpus, gpus, memory = _limits(group)
        types.append(
            NodeType(
                group["groupName"], cpus, gpus, memory, most=group.get("maxReplicas", 0), priority=group.get("priority", 0)
            )
        )
    return Supply(tuple(types), None, f"{path}; what Kubernetes' nodes cost is not known here")


def _limits(group: Mapping[str, Any]) -> tuple[float, float, int | None]:
    """CPUs, GPUs and bytes of a group's pod."""
    container = group["template"]["spec"]["containers"][0]
    limits = container.get("resources", {}).get("limits", {})
    memory = quantity(limits["memory"]) if "memory" in limits else None
    return quantity(limits.get("cpu", 0)), quantity(limits.get(GPU_LIMIT, 0)), None if memory is None else int(memory)


def quantity(text: str | float) -> float:
    """A quantity as Kubernetes writes it: 500m, 16Gi, 4."""
    words = str(text)
    for unit, factor in UNITS.items():
        if words.endswith(unit):
            return float(words.removesuffix(unit)) * factor
    return float(words.removesuffix("m")) / 1000 if words.endswith("m") else float(words)


def _living(node: Mapping[str, Any]) -> NodeType:
    has = node["Resources"]
    # Ray hands out what its object store leaves.
    memory = has.get("memory", 0) + has.get("object_store_memory", 0)
    return NodeType(f"node {node['NodeManagerAddress']}", has.get("CPU", 0), has.get("GPU", 0), int(memory) or None, living=1)


def _reported() -> Supply | None:
    """The node types that Ray's autoscaler has reported to the cluster, where it does."""
    groups = reported_node_groups()
    if not groups:
        return None
    types = [
        NodeType(group.name, group.resources.get("CPU", 0), group.resources.get("GPU", 0), most=max(group.max_count, 0))
        for group in groups
    ]
    return Supply(tuple(types), None, "what its autoscaler reports")
