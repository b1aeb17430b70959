"""The steps of a run as a drawn graph: each to the right of what it was made from (or below it, on a narrow screen).

lineage_graph({"teacher": ("finetune", 61.0), "small": ("compress", 9.0)}, {"small": ["teacher"]}, winner="small")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.report.html import Html, element
from jobs.report.tables import shorten

BOX = (108, 40)
"""Width and height of a step's box, in pixels."""
BETWEEN_LAYERS = 30
BETWEEN_LANES = 14
WIRE_LANE = 8
"""How wide a lane is that holds no box, only wires that pass by."""


GraphNode = str | tuple[str, int]
"""A step by its name, or the wire of a step where it passes a layer: (step, layer)."""


@dataclass(frozen=True)
class GraphLayout:
    """Where every node stands: (layer, lane)."""

    places: Mapping[GraphNode, tuple[int, int]]
    layers: int
    lanes: int


def lineage_graph(
    steps: Mapping[str, tuple[str, float]], parents: Mapping[str, Sequence[str]], winner: str | None = None, down: bool = False
) -> Html:
    """The graph as SVG. `steps`: name → (stage, seconds), parents before children; `winner` is the step in colour."""
    layout = arrange(parents, list(steps))
    thick, long = BOX if down else BOX[::-1]
    boxed = {layout.places[name][1] for name in steps}
    lanes, across = [], 1.0
    for lane in range(layout.lanes):
        size = thick if lane in boxed else WIRE_LANE
        lanes.append(across + size / 2)
        across += size + BETWEEN_LANES
    along = layout.layers * (long + BETWEEN_LAYERS) - BETWEEN_LAYERS + 2
    points = {
        node: (1 + long / 2 + layer * (long + BETWEEN_LAYERS), lanes[lane]) for node, (layer, lane) in layout.places.items()
    }
    wires = [
        element("path", class_="wire", d=_curve(points[start], points[end], long, isinstance(end, tuple), down))
        for start, end in _wires(layout, parents)
    ]
    centres = {name: points[name][::-1] if down else points[name] for name in steps}
    boxes = [_box(name, steps[name], centres[name], name == winner) for name in steps]
    width, height = (across - BETWEEN_LANES + 1, along) if down else (along, across - BETWEEN_LANES + 1)
    said = "; ".join(f"{name} from {', '.join(parents[name])}" if parents.get(name) else name for name in steps)
    frame = {"viewBox": f"0 0 {width:g} {height:g}", "xmlns": "http://www.w3.org/2000/svg", "role": "img"}
    look = f"width: 100%; max-width: {width:g}px; height: auto"
    return element("svg", *wires, *boxes, aria_label=f"what each step was made from: {said}", style=look, **frame)


def arrange(parents: Mapping[str, Sequence[str]], order: Sequence[str]) -> GraphLayout:
    """Layers by depth; in each, wires keep their lane, then steps take their deepest parent's, then new wires start."""
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[parent] for parent in parents.get(name, ())), default=-1)
    reach = {name: max((depth[child] for child in order if name in parents.get(child, ())), default=0) for name in order}
    layers = 1 + max(depth.values())
    places: dict[GraphNode, tuple[int, int]] = {}
    for layer in range(layers):
        passing = [name for name in order if depth[name] < layer < reach[name]]
        nodes: list[tuple[GraphNode, int]] = []
        nodes += [((name, layer), places[name, layer - 1][1]) for name in passing if depth[name] < layer - 1]
        for name in (name for name in order if depth[name] == layer):
            deepest = max(parents.get(name, ()), key=depth.__getitem__, default=None)
            nodes.append((name, 0 if deepest is None else places[deepest][1]))
        nodes += [((name, layer), places[name][1]) for name in passing if depth[name] == layer - 1]
        used: set[int] = set()
        for node, wish in nodes:
            lane = min((lane for lane in range(len(used) + wish + 1) if lane not in used), key=lambda lane: abs(lane - wish))
            used.add(lane)
            places[node] = (layer, lane)
    return GraphLayout(places, layers, 1 + max(lane for _, lane in places.values()))


def _wires(layout: GraphLayout, parents: Mapping[str, Sequence[str]]) -> list[tuple[GraphNode, GraphNode]]:
    """Every piece of wire between neighbouring layers; children of one step share its wire as far as they can."""
    pieces: dict[tuple[GraphNode, GraphNode], None] = {}
    for child, names in parents.items():
        for parent in names:
            first, last = layout.places[parent][0], layout.places[child][0]
            chain: list[GraphNode] = [parent, *((parent, layer) for layer in range(first + 1, last)), child]
            pieces |= dict.fromkeys(zip(chain, chain[1:], strict=False))
    return list(pieces)


def _curve(start: tuple[float, float], end: tuple[float, float], long: float, passes: bool, down: bool) -> str:
    """A wire between two places, given along and across the layers; where it passes a layer it also crosses it."""
    (along1, across1), (along2, across2) = (start[0] + long / 2, start[1]), (end[0] - long / 2, end[1])
    middle = (along1 + along2) / 2
    corners = [(along1, across1), (middle, across1), (middle, across2), (along2, across2), (along2 + long, across2)]
    first, *curve, last = [f"{y:g},{x:g}" if down else f"{x:g},{y:g}" for x, y in corners]
    return f"M{first} C{' '.join(curve)}" + (f" L{last}" if passes else "")


def _box(name: str, step: tuple[str, float], centre: tuple[float, float], won: bool) -> Html:
    (x, y), (width, height), (stage, seconds) = centre, BOX, step
    below = f"{stage}, {duration(seconds)}" if stage != name else duration(seconds)
    return element(
        "g",
        element("rect", x=f"{x - width / 2:g}", y=f"{y - height / 2:g}", width=width, height=height, rx=6),
        element("text", shorten(name, 14), class_="name", x=f"{x:g}", y=f"{y - 3:g}"),
        element("text", shorten(below, 19), class_="below", x=f"{x:g}", y=f"{y + 12:g}"),
        class_="node won" if won else "node",
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 61 s, 4.2 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
