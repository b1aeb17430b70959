"""A cluster's machines, typed: what cluster/fleet.yaml says, with the versions that constraints.txt and pyproject.toml say.

fleet = read_fleet()
fleet.workers["gpu-spot"].machines["aws"]
"""

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.fleet.prices import Machine, read_prices

ROOT = Path(__file__).resolve().parents[2]
FLEET = Path(__file__).parents[1] / "fleet.yaml"
Cloud = Literal["aws", "gcp", "azure"]


class FleetPart(BaseModel):
    """A part of the description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NodeKind(FleetPart):
    """One kind of node."""

    machines: dict[Cloud, str]
    """What each cloud calls the machine; each is in cluster/prices.yaml."""
    disk_gb: int = Field(ge=50)


class Worker(NodeKind):
    """A kind of node that comes with the work and goes when idle."""

    most: int = Field(ge=1)
    spot: bool = False
    """Whether the cloud may take it back at short notice."""
    priority: int = 0
    """Of nodes that would do alike the one with the highest comes first; one that is not to be had yields for a while."""


class CloudPlace(FleetPart):
    """One cloud."""

    place: str
    """Region or location."""
    storage: str


class Kubernetes(FleetPart):
    """What KubeRay's files need besides."""

    image: str
    storage: str
    sizes_of: Cloud


class Fleet(FleetPart):
    """A whole cluster."""

    name: str = Field(pattern="^[a-z][a-z0-9-]*$")
    idle_minutes: int = Field(ge=1)
    most_workers: int = Field(ge=1)
    head: NodeKind
    workers: dict[str, Worker]
    clouds: dict[Cloud, CloudPlace]
    kubernetes: Kubernetes

    @model_validator(mode="after")
    def _machines_are_known(self) -> "Fleet":
        known = read_prices().machines
        nodes: dict[str, NodeKind] = {"head": self.head, **self.workers}
        for name, node in nodes.items():
            for cloud in self.clouds:
                machine = node.machines.get(cloud)
                if machine not in known:
                    raise ValueError(f"{name}.machines.{cloud}: {machine} is not in cluster/prices.yaml; add it there")
        return self

    def machine(self, node: NodeKind, cloud: Cloud) -> Machine:
        """What the node's machine has and costs."""
        return read_prices().machines[node.machines[cloud]]


def read_fleet(path: Path = FLEET) -> Fleet:
    """The description; pydantic's ValidationError names what is wrong with it."""
    return Fleet.model_validate(yaml.safe_load(path.read_text()))


def version_of(package: str) -> str:
    """The exact version that constraints.txt pins a package to."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"constraints.txt does not pin {package}; the cluster's files need its version")
    return found[1]


def python_version() -> str:
    """The oldest Python that pyproject.toml admits, which is the one that is tested."""
    (found,) = re.findall(r'^requires-python = ">=(\d+\.\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return str(found)


def image(gpu: bool) -> str:
    """Ray's own image of this very version."""
    return f"rayproject/ray:{version_of('ray')}-py{python_version().replace('.', '')}{'-gpu' if gpu else ''}"
