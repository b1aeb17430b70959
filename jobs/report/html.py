"""HTML elements whose text is escaped: only what is Html already goes through as it is.

element("p", "a < b, ", element("b", "bold"), class_="note")     # <p class="note">a &lt; b, <b>bold</b></p>
"""

import html
from collections.abc import Iterable
from pathlib import Path

NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'"
VOID = frozenset({"meta", "br", "col", "hr"})


class Html(str):
    """Text that is HTML and safe to put into a page as it is."""


def element(name: str, *children: str | None, class_: str = "", **attributes: str | int | bool) -> Html:
    """An element; `class_` is its class, `_` in attribute names becomes `-`, a child that is None is left out."""
    pairs: dict[str, str | int | bool] = {"class": class_} if class_ else {}
    pairs |= {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    written = "".join(_attribute(key, value) for key, value in pairs.items() if value is not False)
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join_html(children)}</{name}>")


def join_html(children: Iterable[str | None]) -> Html:
    """The children one after another, those that are not Html escaped."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children if child is not None))


def table(header: Iterable[str], rows: Iterable[Iterable[str]], class_: str = "", best: int | None = None) -> Html:
    """A table in a box that scrolls sideways on a narrow screen; the first cell of each row names it."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    lines = []
    for position, (first, *rest) in enumerate(rows):
        cells = [element("th", first, scope="row"), *(element("td", cell) for cell in rest)]
        lines.append(element("tr", *cells, class_="best" if position == best else ""))
    return element(
        "div", element("table", element("thead", head), element("tbody", *lines), class_=class_), class_="scroll", tabindex=0
    )


def section(title: str, *content: Html | None) -> Html:
    """A part of a page under its title."""
    return element("section", element("h2", title), *content)


def document(title: str, body: Html) -> str:
    """A page that needs nothing else: no network, no scripts, no fonts."""
    style = Html(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=NOTHING_FROM_OUTSIDE),
        element("title", title),
        element("style", style),
    )
    return "<!doctype html>\n" + element("html", head, element("body", body), lang="en") + "\n"


def _attribute(key: str, value: str | int | bool) -> str:
    return f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
