"""Labels beside points, each where it covers the least: direct labels in place of a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

SIDES = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, 1), (-1, -1), (0, 1), (0, -1))
"""Where a label may stand, in the order of preference: right of its point, left of it, the corners, above, below."""
OUTSIDE_PENALTY = 100.0
LABEL_GAP = 4.0


@dataclass(frozen=True)
class Label:
    """A text for a point at data coordinates, which a disc of `radius` points already covers."""

    text: str
    x: float
    y: float
    radius: float
    style: dict[str, Any]


def place_labels(axes: Axes, labels: Sequence[Label], reserved: Sequence[Bbox] = ()) -> list[Annotation]:
    """Write the labels, the first ones with the freest choice; `reserved` are boxes in display units to keep clear.

    The axes' limits and the figure's layout must be final, and its dpi 72, so that a point is a display unit.
    """
    centres = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [*reserved, *(_around(x, y, label.radius) for (x, y), label in zip(centres, labels, strict=True))]
    written = []
    for label in labels:
        options = [_write(axes, label, side) for side in SIDES]
        boxes = [option.get_window_extent() for option in options]
        costs = [_cost(box, taken, axes.bbox) for box in boxes]
        chosen = costs.index(min(costs))
        for position, option in enumerate(options):
            if position != chosen:
                option.remove()
        taken.append(boxes[chosen])
        written.append(options[chosen])
    return written


def _around(x: float, y: float, radius: float) -> Bbox:
    # The square inside the disc: a label may come close to the disc's corners.
    inner = 0.8 * radius
    return Bbox.from_extents(x - inner, y - inner, x + inner, y + inner)


def _write(axes: Axes, label: Label, side: tuple[int, int]) -> Annotation:
    across, up = side
    reach = label.radius * (0.75 if across and up else 1) + LABEL_GAP
    horizontal = {1: "left", 0: "center", -1: "right"}[across]
    vertical = {1: "bottom", 0: "center", -1: "top"}[up]
    place: dict[str, Any] = {"textcoords": "offset points", "ha": horizontal, "va": vertical, "zorder": 5}
    return axes.annotate(label.text, (label.x, label.y), (across * reach, up * reach), **place, **label.style)


def _cost(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """The area that a label would cover, and dearer, the area by which it would leave the axes."""
    covered = sum(_overlap(box, other) for other in taken)
    return covered + OUTSIDE_PENALTY * (box.width * box.height - _overlap(box, inside))


def _overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)
