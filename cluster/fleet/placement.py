"""Where work would run: what each step asks for against what a cluster has and can grow to. Pure functions.

placement = place(Demand("teacher", workers=1, cpus=4, gpus=1, trials=8), supply)
placement.refused        # why it could never run, or None
placement.starts         # {"gpu-spot": 2}: the nodes that would start for it
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ESTIMATE_FACTOR = 1.6
"""Estimates of memory are right within this factor; a step is refused only where even the lower end does not fit."""
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class NodeType:
    """Nodes of one kind: those that are there, and how many there may be."""

    name: str
    cpus: float
    gpus: float = 0
    memory: int | None = None
    """Bytes of one node; None where that is not known."""
    gpu_memory: int | None = None
    """Bytes of one of its GPUs."""
    custom: Mapping[str, float] = field(default_factory=dict)
    """Ray's resources of other names."""
    most: int = 1
    """How many of them there may be at once."""
    living: int = 0
    """How many of them there are."""
    machine: str = ""
    """What the cloud calls it."""
    priority: int = 0
    """The higher one is started first where several would do."""
    price: tuple[float, float] | None = None
    """USD an hour: the lowest and the highest that may be paid."""


@dataclass(frozen=True)
class Supply:
    """What a cluster has, and what it can grow to."""

    types: tuple[NodeType, ...]
    most: int | None = None
    """Nodes besides the head that there may be in all."""
    source: str = ""
    """Where this is known from, for people."""

    @property
    def living(self) -> int:
        return sum(kind.living for kind in self.types)


@dataclass(frozen=True)
class Demand:
    """What a step asks for: so many workers in each of its trials."""

    step: str
    cpus: float = 1
    gpus: float = 0
    workers: int = 1
    fewest: int | None = None
    """It can begin with so many workers."""
    trials: int = 1
    """Trials of a search; they may run one after another."""
    memory: int | None = None
    """Bytes that one worker is estimated to take on its node."""
    gpu_memory: int | None = None
    """And on its GPU."""

    @property
    def worker(self) -> str:
        """One worker's wish in words."""
        words = [f"{self.cpus:g} CPU"] + ([f"{self.gpus:g} GPU"] if self.gpus else [])
        words += [f"about {size(self.memory)}"] if self.memory else []
        words += [f"{size(self.gpu_memory)} of GPU memory"] if self.gpu_memory else []
        return ", ".join(words)


@dataclass(frozen=True)
class Placement:
    """How a demand meets a supply."""

    demand: Demand
    refused: str | None = None
    """Why it can never run there."""
    at_once: int = 0
    """The most trials (or 1, where it is no search) that can run side by side."""
    starts: Mapping[str, int] = field(default_factory=dict)
    """Nodes that would start for it, by the name of their type."""
    price: tuple[float, float] | None = (0.0, 0.0)
    """USD an hour of those nodes; None where a price is not known."""
    warnings: tuple[str, ...] = ()


def place(demand: Demand, supply: Supply) -> Placement:
    """Where a step's workers would run: on the nodes that are there, else on those that would start for them."""
    fitting = [(kind, held) for kind in supply.types if (held := holds(kind, demand)) > 0]
    if not fitting:
        return Placement(demand, refused=_why_no_node(demand, supply))
    here = sum(held * kind.living for kind, held in fitting)
    room = _room(fitting, supply)
    fewest = demand.fewest or demand.workers
    if here + room < fewest:
        reason = f"{fewest} workers of {demand.worker} are needed at once, and all nodes together hold {here + room}"
        return Placement(demand, refused=reason)
    at_once = max(1, min(demand.trials, (here + room) // demand.workers))
    wanted = min(at_once * demand.workers, here + room)
    starts = _starts(wanted - here, fitting, supply)
    kinds = {kind.name: kind for kind, _ in fitting}
    warnings = tuple(filter(None, (_crowded(kinds[name], demand) for name in starts or _occupied(fitting))))
    return Placement(demand, None, at_once, starts, cost(starts, kinds), warnings)


def holds(kind: NodeType, demand: Demand) -> int:
    """Workers of a demand that one node of this type holds; 0 where one does not fit, also by its memory's lower end."""
    if _too_small(demand.memory, kind.memory) or _too_small(demand.gpu_memory, kind.gpu_memory):
        return 0
    # Ray keeps work that needs no GPU away from nodes that have them only where others would do, so they count.
    shares = [kind.cpus / demand.cpus] if demand.cpus else [math.inf]
    shares += [kind.gpus / demand.gpus] if demand.gpus else []
    most = min(shares)
    return int(most + 1e-9) if most != math.inf else demand.workers * demand.trials


def cost(starts: Mapping[str, int], kinds: Mapping[str, NodeType]) -> tuple[float, float] | None:
    """USD an hour of these nodes, at least and at most; None where one has no price."""
    prices = [(kinds[name].price, count) for name, count in starts.items()]
    if any(price is None for price, _ in prices):
        return None
    return sum(p[0] * count for p, count in prices if p), sum(p[1] * count for p, count in prices if p)


def size(count: int | float) -> str:
    """Bytes for people."""
    return f"{count / GIBIBYTE:.1f} GiB" if count >= GIBIBYTE / 10 else f"{count / (1 << 20):.0f} MiB"


def _too_small(wanted: int | None, has: int | None) -> bool:
    return wanted is not None and has is not None and wanted / ESTIMATE_FACTOR > has


def _room(fitting: Iterable[tuple[NodeType, int]], supply: Supply) -> int:
    """Workers that nodes still to come would hold: the roomiest first, as many nodes as there may be."""
    left = supply.most - supply.living if supply.most is not None else math.inf
    room = 0
    for kind, held in sorted(fitting, key=lambda pair: -pair[1]):
        more = int(min(kind.most - kind.living, left))
        room, left = room + held * max(0, more), left - max(0, more)
    return room


def _starts(missing: int, fitting: list[tuple[NodeType, int]], supply: Supply) -> dict[str, int]:
    """The nodes that start for the workers that find no place: without GPUs first, then by priority, then by price."""
    left = supply.most - supply.living if supply.most is not None else math.inf
    starts: dict[str, int] = {}
    for kind, held in sorted(fitting, key=lambda pair: _preference(*pair)):
        more = int(min(kind.most - kind.living, left, -(-missing // held)))
        if more > 0:
            starts[kind.name] = more
            missing, left = missing - more * held, left - more
    return starts


def _preference(kind: NodeType, held: int) -> tuple[float, float, float]:
    return kind.gpus, -kind.priority, (kind.price[1] if kind.price else 0.0) / held


def _occupied(fitting: Iterable[tuple[NodeType, int]]) -> list[str]:
    return [kind.name for kind, _ in fitting if kind.living]


def _crowded(kind: NodeType, demand: Demand) -> str | None:
    """What goes wrong where all workers that Ray puts on one node are there."""
    together = min(holds(kind, demand), demand.workers * demand.trials)
    if demand.memory and kind.memory and together * demand.memory > kind.memory:
        each = kind.cpus * demand.memory / kind.memory
        advice = (
            f"resources.cpus of {math.ceil(each)} or more leaves each its share" if each <= kind.cpus else "it may not fit"
        )
        needs = f"{together} worker(s) on one {kind.name} may need {size(together * demand.memory)}"
        return f"{needs}, it has {size(kind.memory)}; {advice}"
    if demand.gpu_memory and kind.gpu_memory and demand.gpu_memory > kind.gpu_memory * min(1.0, demand.gpus or 1.0):
        return f"a worker may need {size(demand.gpu_memory)} of a GPU of {kind.name}, it has {size(kind.gpu_memory)}"
    return None


def _why_no_node(demand: Demand, supply: Supply) -> str:
    """The first thing that no node has enough of."""
    wishes = (("CPU", demand.cpus, "cpus"), ("GPU", demand.gpus, "gpus"))
    for name, wanted, key in wishes:
        largest = max(supply.types, key=lambda kind: getattr(kind, key), default=None)
        has = getattr(largest, key) if largest else 0
        if wanted > has:
            where = f"the largest node, {largest.name}, has {has:g}" if largest and has else "no node has any"
            return f"a worker asks for {wanted:g} {name}, and {where}"
    nodes = [(kind.memory, kind.name) for kind in supply.types if kind.gpus >= demand.gpus]
    cards = [(kind.gpu_memory, kind.name) for kind in supply.types]
    for what, needed, known in (("memory", demand.memory, nodes), ("GPU memory", demand.gpu_memory, cards)):
        most, name = max(((has, name) for has, name in known if has), default=(None, ""))
        if needed and most and _too_small(needed, most):
            return f"a worker needs about {size(needed)} of {what}, and {name} has {size(most)}"
    return f"no single node has {demand.worker} together"
