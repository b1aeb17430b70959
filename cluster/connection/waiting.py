"""What a job waits for: resources that it asked for and that no node has free, and the nodes that start for it.

    waiting = Waiting(client, job_id)
    waiting.look()      # "40 s for 2 GPU (the cluster has 0 GPU; 2 nodes are starting: gpu_spot)"; None while it does not

A job waits while nothing of what it asked for is placed: a search with some trials running and others queued does not.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MOST = 10_000
"""Entries of Ray's state that are looked at."""
SHORT_SECONDS = 10.0
"""What waits for less is not waiting for resources but for its process to start."""
QUEUED = ("PENDING", "PENDING_CREATION", "PENDING_NODE_ASSIGNMENT", "RESCHEDULING", "RESTARTING")
PLACED = ("CREATED", "ALIVE", "RUNNING")


class Waiting:
    """A job's waiting, looked at from time to time by a process that is connected to its cluster (ray.init)."""

    def __init__(self, client: "JobSubmissionClient", job_id: str) -> None:
        self.client, self.job_id = client, job_id
        self.since: float | None = None
        self.told: str | None = None

    def look(self) -> str | None:
        """How long it has been waiting and for what, or None. The text changes every ten seconds, later every minute.

        While the dashboard, which knows it, gives no answer: what was said last.
        """
        wanted = waited_for(self.client, self.job_id)
        if wanted:
            self.since = self.since or time.monotonic()
            waited = time.monotonic() - self.since
            self.told = f"{_roughly(waited)} for {describe(wanted)}" if waited >= SHORT_SECONDS else None
        elif wanted is not None:
            self.since = self.told = None
        return self.told


def _roughly(seconds: float) -> str:
    return f"{seconds // 10 * 10:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min"


def waited_for(client: "JobSubmissionClient", job_id: str) -> dict[str, float] | None:
    """The resources that a job's work waits for, in all; empty where some of it is placed, or where none was asked for.

    None where the dashboard, which knows them, gives no answer that makes sense.
    """
    from ray.util.state import list_actors, list_placement_groups, list_tasks
    from ray.util.state.exception import RayStateApiException

    try:
        driver = client.get_job_info(job_id).job_id
        if driver is None:
            return {}
        groups = list_placement_groups(filters=[("creator_job_id", "=", driver)], detail=True, limit=MOST)
        actors = list_actors(filters=[("job_id", "=", driver)], detail=True, limit=MOST)
        # An actor's creation is a task too, and counted with the actor.
        wanted: Any = [("job_id", "=", driver), ("type", "=", "NORMAL_TASK"), ("state", "!=", "FINISHED")]
        tasks = list_tasks(filters=wanted, detail=True, limit=MOST)
    except (RayStateApiException, requests.RequestException, RuntimeError, TypeError, ValueError):
        return None
    asked = [(group.state, bundle["unit_resources"]) for group in groups for bundle in group.bundles or ()]
    # What has a place in a group was counted with the group.
    others: list[Any] = [*actors, *tasks]
    asked += [(each.state, each.required_resources or {}) for each in others if not each.placement_group_id]
    return _waiting([(state, needs) for state, needs in asked if any(needs.values())])


def _waiting(asked: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for state, needs in asked:
        if state in PLACED:
            return {}
        if state in QUEUED:
            total.update(needs)
    return dict(sorted(total.items(), reverse=True))  # always in one order: GPU before CPU


def describe(wanted: Mapping[str, float]) -> str:
    """What is waited for, what of it the cluster has, and which nodes are starting."""
    import ray

    has = ray.cluster_resources()
    parts = [f"the cluster has {', '.join(f'{has.get(name, 0):g} {name}' for name in wanted)}"]
    starting, failed = _starting()
    if starting:
        number = sum(starting.values())
        parts.append(f"{number} {'node is' if number == 1 else 'nodes are'} starting: {', '.join(sorted(starting))}")
    parts += [f"a {kind} could not be started: {reason}" for kind, reason in failed.items()]
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    return f"{asked} ({'; '.join(parts)})"


def _starting() -> tuple[Counter[str], dict[str, str]]:
    """Nodes that the autoscaler has asked for and that have not joined, by type; and why the last of a type did not start."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status: Any = get_cluster_status(ray.get_runtime_context().gcs_address)
    starting = Counter(node.ray_node_type_name for node in status.pending_nodes)
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    return starting, {launch.ray_node_type_name: launch.details or "no reason given" for launch in status.failed_launches}
