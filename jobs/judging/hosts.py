"""On which host candidates are judged: one whose processor is of the kind that the figures are to hold for.

strategy = strategy_for(ProcessorKind.AVX2, cpus=1)          # of Ray's scheduling, for the options of a remote function
refuse_another_kind(ProcessorKind.AVX2)                      # BadInput on a host of another kind
kind_problems(ProcessorKind.AVX2)                            # the same, as far as the cluster's hosts tell it beforehand
"""

from collections.abc import Mapping
from typing import Any

from cluster.fleet.supply import connected_supply
from jobs.core.config import BadInput, Problem
from serve.engines.processor import ProcessorKind, kind

KIND_SECONDS = 60.0


def strategy_for(wanted: ProcessorKind, cpus: float, gpus: float = 0) -> Any:
    """Where Ray is to run what measures: a host of this kind that is large enough, where one is there and others are not such.

    Where none is there yet, Ray chooses among those that it may start, and `refuse_another_kind` has the last word.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    large = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _holds(node["Resources"], cpus, gpus)]
    if len(large) < 2:
        return "DEFAULT"
    kinds = kinds_of(large)
    fitting = [node for node in large if kinds.get(node) is wanted]
    if not fitting or len(fitting) == len(large):
        return "DEFAULT"
    return NodeAffinitySchedulingStrategy(fitting[0], soft=False)


def kind_problems(wanted: ProcessorKind) -> list[Problem]:
    """Whether no host of the connected cluster is of this kind, and none can come: known before hours of training."""
    import ray

    if not ray.is_initialized() or any(type_.most > type_.living for type_ in connected_supply().types):
        return []
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _holds(node["Resources"], 1, 0)]
    if wanted is kind() and ray.get_runtime_context().get_node_id() in nodes:
        return []
    there = kinds_of(nodes).values()
    if wanted in there:
        return []
    reason = f"no host of this cluster is of that kind: they are {', '.join(sorted(set(there))) or 'none that have CPUs'}"
    return [Problem("for", str(wanted), reason, "Name one of these, or run on a cluster with such a host.")]


def kinds_of(nodes: list[str]) -> dict[str, ProcessorKind]:
    """The kinds of these nodes' processors, by the nodes' ids; a node that does not answer in time is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {
        ray.remote(_own_kind)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(): node
        for node in nodes
    }
    ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=KIND_SECONDS)
    if silent:
        print(f"of {len(silent)} node(s) the kind of processor is not known: no answer in {KIND_SECONDS:.0f} s", flush=True)
    return {asked[one]: ray.get(one) for one in ready}


def refuse_another_kind(wanted: ProcessorKind) -> None:
    """BadInput where this host's figures would say nothing of that kind."""
    if (here := kind()) is not wanted:
        reason = f"the host that would measure is of the kind {here}, and its figures say nothing of {wanted}"
        remedy = f"Run on a cluster with such a host, or give `for: {here}` where models are to be served on such ones."
        raise BadInput([Problem("for", str(wanted), reason, remedy)])


def _own_kind() -> ProcessorKind:
    """Ray takes plain functions alone."""
    return kind()


def _holds(resources: Mapping[str, float], cpus: float, gpus: float) -> bool:
    return resources.get("CPU", 0) >= cpus and resources.get("GPU", 0) >= gpus
