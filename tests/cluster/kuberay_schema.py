"""KubeRay's resources as strict types: the keys of ray.io/v1 that this project uses, named and typed as KubeRay's Go types
(apis/ray/v1, 1.5) have them. The real CRDs are in no package that CI can install; a key that is not listed here fails, right
or wrong, until it has been looked up. What is inside pods is checked by Kubernetes' own schemas (kubernetes-validate).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """No key that is not listed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PodTemplate(Strict):
    """A pod, whose own schema is Kubernetes'."""

    metadata: dict[str, Any] | None = None
    spec: dict[str, Any]


class HeadGroup(Strict):
    """headGroupSpec."""

    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(Strict):
    """An entry of workerGroupSpecs."""

    groupName: str
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=0)
    numOfHosts: int = 1
    idleTimeoutSeconds: int | None = None
    rayStartParams: dict[str, str]
    template: PodTemplate


class AutoscalerOptions(Strict):
    """autoscalerOptions."""

    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: int = Field(ge=0)


class AuthOptions(Strict):
    """authOptions, 1.5.1 and newer."""

    mode: Literal["disabled", "token"]


class ClusterSpec(Strict):
    """The spec of a RayCluster."""

    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class JobSpec(Strict):
    """The spec of a RayJob."""

    entrypoint: str
    runtimeEnvYAML: str
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    backoffLimit: int
    rayClusterSpec: ClusterSpec


class ServiceSpec(Strict):
    """The spec of a RayService."""

    serveConfigV2: str
    rayClusterConfig: ClusterSpec


class Resource(Strict):
    """A whole resource."""

    apiVersion: Literal["ray.io/v1"]
    metadata: dict[str, Any]
    kind: str
    spec: dict[str, Any]


SPECS: dict[str, type[Strict]] = {"RayCluster": ClusterSpec, "RayJob": JobSpec, "RayService": ServiceSpec}


def check_resource(document: dict[str, Any]) -> ClusterSpec:
    """Validate a resource; returns the cluster in it."""
    resource = Resource.model_validate(document)
    spec = SPECS[resource.kind].model_validate(resource.spec)
    if isinstance(spec, JobSpec):
        return spec.rayClusterSpec
    if isinstance(spec, ServiceSpec):
        return spec.rayClusterConfig
    assert isinstance(spec, ClusterSpec)
    return spec
