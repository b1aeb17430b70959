"""Files for KubeRay (1.5.1 or newer): a cluster, a job that runs a recipe on one of its own, a service for the winner."""

from typing import Any

import yaml

from cluster.connection.embedded import RAY_ENVIRONMENT
from cluster.fleet.clouds.launcher import GENERATED
from cluster.fleet.description import Fleet, NodeKind, Worker, image, version_of
from cluster.fleet.supply import CLUSTER_FILE, GPU_LIMIT

CODE = "/home/ray/raystill"
"""Where cluster/Dockerfile puts the repository."""
LEFT_FOR_POD = 0.9
"""Share of a machine that its pod may have; the rest is Kubernetes' own."""
OPERATOR_NAMESPACE = "kuberay-operator"


def cluster_file(fleet: Fleet) -> str:
    """A RayCluster."""
    about = """A cluster that stays: kubectl apply -f cluster/kuberay/cluster.yaml
#
#   kubectl port-forward service/NAME-head-svc 8265 &
#   kubectl get secret NAME -o jsonpath='{.data.auth_token}' | base64 -d > ~/.ray/auth_token; chmod 600 ~/.ray/auth_token
#   export RAY_AUTH_MODE=token RAY_ADDRESS=http://127.0.0.1:8265
#   python -m cluster.submit -- python -m jobs.pipeline jobs/recipes/spam_cloud.yaml"""
    cluster = _resource("RayCluster", fleet.name, _cluster(fleet, "cluster/kuberay/cluster.yaml"))
    return _text(about.replace("NAME", fleet.name), fleet, cluster)


def job_file(fleet: Fleet) -> str:
    """A RayJob: a cluster that comes for one recipe and goes with it."""
    about = """One recipe on a cluster of its own, which goes when it ends: kubectl create -f cluster/kuberay/job.yaml
#
#   kubectl logs -f -l job-name=… and kubectl get rayjob follow it; creating it again goes on where it stopped."""
    specification = {
        "entrypoint": "python -m jobs.pipeline jobs/recipes/spam_cloud.yaml",
        "runtimeEnvYAML": f"working_dir: {CODE}\n",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 300,
        # Another try is another cluster; what is done is found in the storage.
        "backoffLimit": 2,
        "rayClusterSpec": _cluster(fleet, "cluster/kuberay/job.yaml"),
    }
    job = _resource("RayJob", f"{fleet.name}-job", specification)
    return _text(about, fleet, job)


def service_file(fleet: Fleet) -> str:
    """A RayService that answers with the winner."""
    about = """The winner answers: kubectl apply -f cluster/kuberay/service.yaml
#
#   MODEL_URI and FINGERPRINT are in the select step's manifest (`python -m cluster.runs list STORAGE` shows where).
#   kubectl port-forward service/NAME-serve-svc 8000 &
#   A changed file is rolled out to a second cluster before the first one goes."""
    application = {
        "name": "winner",
        "route_prefix": "/",
        "import_path": "serve.app:build",
        "runtime_env": {},
        "args": {"model": "MODEL_URI", "fingerprint": "FINGERPRINT", "name": "winner", "min_replicas": 1, "max_replicas": 4},
    }
    cluster = _cluster(fleet, "cluster/kuberay/service.yaml")
    cluster["workerGroupSpecs"] = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "cpu"]
    specification = {"serveConfigV2": yaml.safe_dump({"applications": [application]}), "rayClusterConfig": cluster}
    service = _resource("RayService", f"{fleet.name}-winner", specification)
    return _text(about.replace("NAME", f"{fleet.name}-winner"), fleet, service)


def network_file(fleet: Fleet) -> str:
    """A network policy: only pods of the same namespace and the operator may connect to Ray's pods."""
    operator = {"matchLabels": {"kubernetes.io/metadata.name": OPERATOR_NAMESPACE}}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{fleet.name}-members-only"},
        "spec": {
            "podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}, {"namespaceSelector": operator}]}],
        },
    }
    about = f"""# Once for each namespace: pods of other namespaces cannot connect to Ray's, but for the operator's.
# Change {OPERATOR_NAMESPACE} to the namespace that KubeRay's operator runs in.
"""
    return f"{GENERATED}\n#\n{about}{yaml.safe_dump(policy, sort_keys=False)}"


def _text(about: str, fleet: Fleet, document: dict[str, Any]) -> str:
    head = f"""{GENERATED}
#
# {about}
#
# Once: build and push {fleet.kubernetes.image} (cluster/Dockerfile); replace REGISTRY and
# {fleet.kubernetes.storage}; apply cluster/kuberay/network.yaml; give the service account {fleet.name} a cloud role that
# may read and write the storage; label the node pools raystill/pool=cpu, gpu-spot and gpu-on-demand.
# KubeRay makes the token and keeps it in a secret of the cluster's name.
"""
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _resource(kind: str, name: str, specification: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name}, "spec": specification}


def _cluster(fleet: Fleet, file: str) -> dict[str, Any]:
    groups = [_group(fleet, name, worker, file) for name, worker in fleet.workers.items()]
    return {
        "rayVersion": version_of("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "upscalingMode": "Default", "idleTimeoutSeconds": 60 * fleet.idle_minutes},
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            # No CPU to give away: no step can take the head down.
            "rayStartParams": {"num-cpus": "0", "disable-usage-stats": "true"},
            "template": {"spec": _pod(fleet, "ray-head", fleet.head, "", file)},
        },
        "workerGroupSpecs": groups,
    }


def _group(fleet: Fleet, name: str, worker: Worker, file: str) -> dict[str, Any]:
    pod = _pod(fleet, "ray-worker", worker, "-gpu" if fleet.machine(worker, fleet.kubernetes.sizes_of).gpus else "", file)
    pod["nodeSelector"] = {"raystill/pool": name}
    if GPU_LIMIT in pod["containers"][0]["resources"]["limits"]:
        pod["tolerations"] = [{"key": GPU_LIMIT, "operator": "Exists", "effect": "NoSchedule"}]
    if worker.spot:
        # Time to write a checkpoint after the notice.
        pod["terminationGracePeriodSeconds"] = 100
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": worker.most,
        "rayStartParams": {},
        "template": {"spec": pod},
    }


def _pod(fleet: Fleet, container: str, node: NodeKind, variant: str, file: str) -> dict[str, Any]:
    machine = fleet.machine(node, fleet.kubernetes.sizes_of)
    cpus, memory = max(1, int(machine.cpus * LEFT_FOR_POD)), f"{int(machine.memory_gib * LEFT_FOR_POD)}Gi"
    amounts: dict[str, Any] = {"cpu": str(cpus), "memory": memory} | ({GPU_LIMIT: str(machine.gpus)} if machine.gpus else {})
    settings = {"RAYSTILL_STORAGE": fleet.kubernetes.storage, CLUSTER_FILE: file, **RAY_ENVIRONMENT}
    described = {
        "name": container,
        "image": f"{fleet.kubernetes.image}:{version_of('ray')}{variant}",
        "env": [{"name": name, "value": value} for name, value in settings.items()],
        "resources": {"limits": amounts, "requests": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    return {
        "serviceAccountName": fleet.name,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 100, "fsGroup": 100},
        "containers": [described],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{int(machine.memory_gib * 0.3)}Gi"}}
        ],
        # Autoscaler v2: a pod is one node, never two.
        "restartPolicy": "Never",
    }


def dockerfile(fleet: Fleet) -> str:
    """The image of all nodes: Ray's own of this very version, the dependencies as tested, the code."""
    base = image(gpu=False)
    tag = f"{fleet.kubernetes.image}:{version_of('ray')}"
    return f"""{GENERATED}
#
# docker build -f cluster/Dockerfile -t {tag} .
# docker build -f cluster/Dockerfile -t {tag}-gpu --build-arg VARIANT=-gpu .
ARG VARIANT=""
FROM {base}${{VARIANT}}
ARG VARIANT=""

# Dependencies before code: a changed line of code rebuilds the last layer alone. CPU nodes get a torch without CUDA.
WORKDIR {CODE}
COPY --chown=ray:users pyproject.toml constraints.txt ./
RUN pip install --quiet --no-cache-dir "uv>=0.9,<1" \\
    && uv pip install --system --quiet --no-cache -r pyproject.toml -c constraints.txt \\
       --torch-backend "$([ -n "$VARIANT" ] && echo auto || echo cpu)" \\
    && uv pip install --system --quiet --no-cache -c constraints.txt boto3

COPY --chown=ray:users cluster.yaml README.md LICENSE ./
COPY --chown=ray:users cluster cluster
COPY --chown=ray:users serve serve
COPY --chown=ray:users jobs jobs
ENV PYTHONPATH={CODE}
USER ray
"""
