"""The plan of a recipe: which steps would run, why, on what nodes and for how much; nothing is run or started.

python -m jobs.pipeline RECIPE --plan                            for the cluster of RAY_ADDRESS, else for this machine
python -m jobs.pipeline RECIPE --plan --cluster cluster.yaml     for a cluster that need not run yet
"""

import argparse
import os
import shlex
from collections.abc import Mapping

from cluster.connection.connect import attach
from cluster.fleet.placement import Placement, Supply, place, size
from cluster.fleet.prices import read_prices
from cluster.fleet.supply import connected_supply, read_supply, this_machine
from cluster.store.storage import StorageError, absolute
from jobs.core.config import BadInput
from jobs.core.places import Place, gather, locate
from jobs.core.recipe import Recipe, load_recipe
from jobs.running.cli import connect
from jobs.running.parents import parent_problems
from jobs.running.preflight import placement_problem, recipe_problems
from jobs.running.remarks import remarks
from jobs.running.sizing import recipe_demands


def print_plan(arguments: argparse.Namespace) -> int:
    """Print the plan; BadInput names the steps that could never run."""
    recipe, storage = load_recipe(arguments.recipe, arguments.overrides), absolute(arguments.storage)
    problems = recipe_problems(recipe.steps.values()) + parent_problems(recipe, recipe.steps)
    if problems:
        raise BadInput(problems)
    supply = find_supply(arguments.cluster, arguments.prices)
    places, notes = look(recipe, storage)
    demands = recipe_demands(recipe)
    placements = {name: place(demands[name], supply) for name in recipe.steps}
    notes = [*(["", *recipe.not_implied] if recipe.not_implied else []), *notes]
    for line in [*plan_table(places, placements), *notes, "", *cluster_lines(supply), *cost_lines(places, placements)]:
        print(line)
    refused = [placement_problem(placement) for placement in placements.values() if placement.refused]
    if refused:
        raise BadInput(refused)
    command = ["python", "-m", "jobs.pipeline", arguments.recipe, *arguments.overrides, "--storage", storage]
    print(f"\nray job submit --working-dir . -- {shlex.join(command)}")
    return 0


def find_supply(cluster: str | None, prices: str | None) -> Supply:
    """What to plan for: the cluster's file, the cluster that RAY_ADDRESS names, or this machine."""
    price_table = read_prices(prices)
    planned = read_supply(cluster, price_table) if cluster else None
    address = os.environ.get("RAY_ADDRESS", "local")
    if planned is not None or address == "local":
        return planned or this_machine()
    with attach(address) as named:
        if named.address is None:
            # A dashboard alone does not say which nodes there are; the file that the cluster was made from does.
            return read_supply("cluster.yaml", price_table)
        connect()
        return connected_supply()


def look(recipe: Recipe, storage: str) -> tuple[dict[str, Place], list[str]]:
    """Where every step stands, with notes on what cannot be seen from here."""
    try:
        places = locate(recipe, storage)
    except (BadInput, StorageError) as error:
        reason = str(error.problems[0]) if isinstance(error, BadInput) else str(error)
        note = f"\nwhat is done already cannot be seen from here, so that all steps are planned: {reason}"
        return {name: Place(step, None, None, "not known from here") for name, step in recipe.steps.items()}, [note]
    ready = [place for place in places.values() if place.runs and place.uri is not None]
    lines = [f"  {line}" for place in ready for line in remarks(place.step, gather(place.step, places, storage))]
    return places, ["", "told beforehand:", *lines] if lines else []


def plan_table(places: Mapping[str, Place], placements: Mapping[str, Placement]) -> list[str]:
    """A row for each step: whether it runs, what it asks for, which nodes start for it, why."""
    rows = [("step", "stage", "", "workers", "at once", "starts", "USD/h", "why")]
    for name, found in places.items():
        placement = placements[name]
        demand = placement.demand
        asked = f"{demand.workers} × {demand.worker}" if demand.cpus or demand.gpus else "its driver alone"
        at_once = f"{placement.at_once} of {demand.trials}" if demand.trials > 1 else ""
        starts = "refused" if placement.refused else ", ".join(f"{count} {kind}" for kind, count in placement.starts.items())
        # A step that is skipped starts nothing, but would if it had to run.
        needs = (asked, at_once, starts or "-", _price(placement)) if found.runs else ("", "", "", "")
        rows.append((name, found.step.stage.name, "run" if found.runs else "skip", *needs, found.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows
    ]
    runs = [placements[name] for name, found in places.items() if found.runs]
    warnings = [f"  {each.demand.step}: {warning}" for each in runs for warning in each.warnings]
    return [*lines, *(["", "mind:", *warnings] if warnings else [])]


def cluster_lines(supply: Supply) -> list[str]:
    """What the cluster has now, and what may still come."""
    now = [kind for kind in supply.types if kind.living]
    more = [kind for kind in supply.types if kind.most > kind.living]
    lines = [f"planned for {supply.source}"]
    lines += [
        f"  has now   {kind.living} × {node_type_words(kind.name, kind.cpus, kind.gpus, kind.memory, kind.machine)}"
        for kind in now
    ]
    for kind in more:
        price = f"  {_dollars(*kind.price)} USD/h each" if kind.price else ""
        what = node_type_words(kind.name, kind.cpus, kind.gpus, kind.memory, kind.machine)
        lines.append(f"  may grow  {kind.most - kind.living} × {what}{price}")
    return lines


def node_type_words(name: str, cpus: float, gpus: float, memory: int | None, machine: str) -> str:
    """A node type in words."""
    words = [f"{cpus:g} CPU"] + ([f"{gpus:g} GPU"] if gpus else []) + ([size(memory)] if memory else [])
    return f"{name}{f' ({machine})' if machine else ''}: {', '.join(words)}"


def cost_lines(places: Mapping[str, Place], placements: Mapping[str, Placement]) -> list[str]:
    """What the dearest step costs an hour, and all steps together if each takes as long as when it last ran."""
    starting = [name for name, found in places.items() if found.runs and placements[name].starts]
    prices = {name: price for name in starting if (price := placements[name].price) is not None}
    if len(prices) < len(starting):
        return ["no price is known for some of these nodes: name a table with --prices"]
    if not starting:
        return []
    dearest = max(prices, key=lambda name: prices[name][1])
    lines = [
        f"costs at the most {_price(placements[dearest])} USD/h besides the head, while {dearest} runs (spot – on demand)"
    ]
    known = {name: seconds / 3600 for name in starting if (seconds := places[name].seconds) is not None}
    if known:
        low, high = (sum(prices[name][end] * hours for name, hours in known.items()) for end in (0, 1))
        which = (
            "all of them" if len(known) == len(starting) else f"{len(known)} of {len(starting)} steps, the others never ran,"
        )
        lines.append(
            f"costs {low:.2f}–{high:.2f} USD if {which} take as long as last time; nodes that start and idle come on top"
        )
    return lines


def _price(placement: Placement) -> str:
    if placement.price is None:
        return "not known"
    return _dollars(*placement.price) if placement.starts else "-"


def _dollars(low: float, high: float) -> str:
    return f"{low:.2f}–{high:.2f}" if low != high else f"{high:.2f}"
