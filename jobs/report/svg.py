"""Palette and type of the figures, and the way from a matplotlib figure to inline SVG that follows the page's theme.

Figures are drawn in the light palette; in the SVG each of its colours becomes a CSS variable with that colour as
the fallback, so the same drawing is right in light, in dark and as a file of its own.
"""

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Blue and vermilion stay apart for every common colour blindness (Okabe and Ito 2008); all the rest is grey.
INK, MUTED, FAINT, RULE, CARD = "#1c2530", "#66717e", "#a9b2bc", "#e3e7eb", "#fefefe"
ACCENT, SECOND_ACCENT = "#0b66b2", "#c8500a"
VARIABLES = {INK: "ink", MUTED: "muted", FAINT: "faint", RULE: "rule", CARD: "card", ACCENT: "accent", SECOND_ACCENT: "second"}

PIXELS_PER_INCH = 72
MATPLOTLIB_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raystill",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 1,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "figure.dpi": PIXELS_PER_INCH,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def draw_svg(name: str, title: str, size: tuple[int, int], paint: Callable[[Figure], None]) -> str:
    """The SVG of what `paint` draws.

    `name` becomes a prefix that keeps ids apart on a page; `title` is read out by screen readers; size is in CSS pixels.
    """
    width, height = size
    buffer = io.StringIO()
    with matplotlib.rc_context(MATPLOTLIB_SETTINGS), warnings.catch_warnings():
        # The browser has the glyphs that the measuring font lacks (Chinese labels): text stays text in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), name, title, width)


def caption(axes: Axes, text: str) -> None:
    """Say above the top left corner what the y axis shows: read at once, and no turned text."""
    axes.set_title(text, loc="left", fontsize=12, color=INK, pad=8)


def _inline(svg: str, name: str, title: str, width: int) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    name = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1system-ui, sans-serif", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    said = html.escape(title)
    attributes = f'role="img" aria-label="{said}" style="width: 100%; max-width: {width}px; height: auto"'
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    return svg.replace("<svg", f"<svg {attributes}", 1).strip()
