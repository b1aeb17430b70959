"""Files for `ray up` on AWS, Google Cloud and Azure: what they have in common, and each one's head and nodes."""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import indent

from cluster.connection.embedded import RAY_ENVIRONMENT
from cluster.fleet.description import Cloud, Fleet, NodeKind, Worker, image
from cluster.fleet.supply import CLUSTER_FILE

GENERATED = "# Written by `python -m cluster.generate` from cluster/fleet.yaml: change it there."


@dataclass(frozen=True)
class Provider:
    """What differs from cloud to cloud."""

    file: str
    """Where the file lies in the repository."""
    title: str
    once: str
    """What has to be made and filled in before the first start."""
    provider: Callable[[Fleet], str]
    auth: str
    node: Callable[[NodeKind, bool], str]
    """A node's `node_config`; the second argument says whether it is the head."""
    packages: str
    """What the launcher needs on the head to start machines."""
    environment: Callable[[Fleet], str] = lambda fleet: ""


def launcher_file(fleet: Fleet, cloud: Cloud, provider: Provider) -> str:
    """The whole file."""
    parts = [
        _head_comment(provider),
        f"""cluster_name: {fleet.name}
max_workers: {fleet.most_workers}
upscaling_speed: 1.0
idle_timeout_minutes: {fleet.idle_minutes}
""",
        provider.provider(fleet),
        provider.auth,
        f"""# The image brings Python and this very Ray. Nodes are up sooner with an image of your own (cluster/Dockerfile):
# setup_commands then find nothing left to do.
docker:
  image: {image(gpu=False)}
  container_name: {fleet.name}
  pull_before_run: true
""",
        "head_node_type: head\navailable_node_types:\n" + _head_node(fleet, provider) + _worker_nodes(fleet, cloud, provider),
        _setup(provider),
        _start(fleet, cloud, provider),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _head_comment(provider: Provider) -> str:
    file = provider.file
    return f"""{GENERATED}
#
# A Raystill cluster on {provider.title} that costs one small machine while nothing runs: CPU and GPU nodes come with the work
# and go when idle. For `ray up`, with the Ray version of constraints.txt on your own machine.
#
# Once:
#   ray get-auth-token --generate && chmod 600 ~/.ray/auth_token      # who holds it may use the cluster
{indent(provider.once.strip(), "#   ")}
#
# Then:
#   ray up {file}
#   ray dashboard {file} &                                  # an SSH tunnel to the head's port 8265
#   export RAY_AUTH_MODE=token RAY_ADDRESS=http://127.0.0.1:8265
#   python -m cluster.doctor
#   python -m cluster.submit -- python -m jobs.pipeline jobs/recipes/spam_cloud.yaml
#   ray down {file}
"""


def _head_node(fleet: Fleet, provider: Provider) -> str:
    return f"""  head:
    # No CPU to give away: drivers and the scheduler have it to themselves, and no step can take the cluster down.
    resources: {{CPU: 0}}
    min_workers: 0
    max_workers: 0
    node_config:
{indent(provider.node(fleet.head, True).strip(), "      ")}
"""


def _worker_nodes(fleet: Fleet, cloud: Cloud, provider: Provider) -> str:
    blocks = []
    for name, worker in fleet.workers.items():
        machine = fleet.machine(worker, cloud)
        resources = [f"CPU: {machine.cpus}"] + ([f"GPU: {machine.gpus}"] if machine.gpus else [])
        worker_image = f"\n    docker:\n      worker_image: {image(gpu=True)}" if machine.gpus else ""
        priority = f"\n    priority: {worker.priority}" if worker.priority else ""
        blocks.append(f"""
  {name}:
    resources: {{{", ".join(resources)}}}
    min_workers: 0
    max_workers: {worker.most}{priority}{worker_image}
    node_config:
{indent(provider.node(worker, False).strip(), "      ")}
""")
    return "".join(blocks)


def _setup(provider: Provider) -> str:
    return f"""file_mounts:
  ~/.ray/auth_token: ~/.ray/auth_token
  ~/raystill/pyproject.toml: pyproject.toml
  ~/raystill/constraints.txt: constraints.txt

initialization_commands: []

# Dependencies only, in exactly the versions that were tested: the code itself comes with each job.
# (uv, because pip cannot install a project's dependencies without the project.)
setup_commands:
  - chmod 600 ~/.ray/auth_token
  - pip install --quiet "uv>=0.9,<1"
  - uv pip install --system --quiet -r ~/raystill/pyproject.toml -c ~/raystill/constraints.txt

# The launcher's own need on the head: it starts machines from there.
head_setup_commands:
  - pip install --quiet -c ~/raystill/constraints.txt {provider.packages}

worker_setup_commands: []
"""


def _start(fleet: Fleet, cloud: Cloud, provider: Provider) -> str:
    words = [
        f"RAY_AUTH_MODE=token RAYSTILL_STORAGE={fleet.clouds[cloud].storage}",
        f"{CLUSTER_FILE}={provider.file} {provider.environment(fleet)}".rstrip(),
        " ".join(f"{name}={value}" for name, value in RAY_ENVIRONMENT.items()),
    ]
    exported = indent("\n".join(words), "    ")
    return f"""# What is exported here reaches all drivers and workers: no credentials, those come from the machines' role.
# Autoscaler v2 knows priorities, and which machines are not to be had just now.
head_start_ray_commands:
  - ray stop
  - >-
    ulimit -n 65536;
    export RAY_enable_autoscaler_v2=1
{exported};
    ray start --head --port=6379 --object-manager-port=8076 --dashboard-host=127.0.0.1 --disable-usage-stats
    --autoscaling-config=~/ray_bootstrap_config.yaml

worker_start_ray_commands:
  - ray stop
  - >-
    ulimit -n 65536;
    export
{exported};
    ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076 --disable-usage-stats
"""


def is_spot(node: NodeKind) -> bool:
    """Whether the cloud may take such a node back."""
    return isinstance(node, Worker) and node.spot
