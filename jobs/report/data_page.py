"""The data report as one HTML file that needs nothing else, drawn from what jobs/judging/data_report.py found.

data_report_files(counted, parts, ["text"], spec)
render_data_page(found)     # "<!doctype html>…"
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.data.row_sample import joined
from jobs.judging.data_report import DATA_PAGE, DATA_RECORD, Counted, data_report
from jobs.report import plots
from jobs.report.html import Html, document, element, join_html, section, table
from jobs.report.sections import reasons
from jobs.report.tables import NO_VALUE, fraction, percent, shorten, significant
from serve.tasks.protocol import Task

MOST_LABELS = 40
"""Labels that are listed, the most frequent ones."""
LABEL_WIDTH = 40
MEANINGS = {
    "rows_bad": "could not be read, or said something without a meaning",
    "rows_without_text": "without a text",
    "rows_without_target": "without a target",
    "rows_empty": "empty after cleaning",
    "rows_duplicate": "duplicates of another row",
    "rows_near_duplicate": "nearly the same as another row",
    "rows_conflicting": "at odds with another row of the same text",
    "rows_excluded": "texts of data that must not be trained on",
    "rows_near_conflicting": "nearly the same as another row and at odds with it",
    "rows_over_the_limit": "beyond the limit",
    "texts_language_unknown": "whose language cannot be told",
    "texts_without_boilerplate": "freed of boilerplate",
}
BEGINNINGS = {
    "rows_filtered_": "filtered: ",
    "rows_dropped_": "dropped for personal data: ",
    "texts_masked_": "with personal data masked: ",
    "rows_": "",
    "texts_": "",
}
"""What counts are called; of others the name says it, by how it begins."""


def data_report_files(counted: Counted, parts: Sequence[bytes], fields: Sequence[str], spec: Task | None) -> dict[str, str]:
    """The page, and what is on it as JSON, by name; `parts` are those of the sample that each block gave."""
    found = data_report(counted, joined(parts), fields, spec)
    return {DATA_PAGE: render_data_page(found), DATA_RECORD: json.dumps(found, ensure_ascii=False, indent=1)}


def render_data_page(found: Mapping[str, Any]) -> str:
    """The page as text."""
    content = [
        _headline(found),
        _rows(found),
        _targets(found),
        _tokens(found["tokens"]),
        _lengths(found),
        _languages(found),
        _suspicious(found),
        _near_duplicates(found["near_duplicates"]),
        *(_samples(split, rows, found["fields"]) for split, rows in found["samples"].items()),
        _reasons(found),
    ]
    return document("Data report", element("main", *content))


def _headline(found: Mapping[str, Any]) -> Html:
    rows, suspicious = found["rows"], found["suspicious"]
    all_of_them, kept = rows["read"] + rows["made"], sum(rows["kept"].values())
    said = f"{_number(kept)} of {_number(all_of_them)} rows are kept"
    splits = ", ".join(f"{split} {_number(count)}" for split, count in rows["kept"].items())
    largest = max(rows["left_out"].items(), key=lambda item: item[1], default=("", 0))
    figures = [_figure(percent(kept / max(1, all_of_them)), "of the rows are kept", splits)]
    if largest[1]:
        gone = all_of_them - kept
        figures.append(_figure(_number(gone), "rows are left out", f"{_number(largest[1])} {_meaning(largest[0])}"))
    if suspicious is not None and suspicious["looked_at"]:
        among = f"among {_number(suspicious['looked_at'])} training rows"
        figures.append(_figure(_number(suspicious["found"]), "labels look wrong", among))
    kicker = element("p", "Raystill · data report", class_="kicker")
    return element("header", kicker, element("h1", said), element("div", *figures, class_="figures"))


def _rows(found: Mapping[str, Any]) -> Html:
    rows = found["rows"]
    all_of_them = rows["read"] + rows["made"]
    lines = [("read", rows["read"])] + ([("made by augmentation", rows["made"])] if rows["made"] else [])
    lines += [(_meaning(name), -count) for name, count in rows["left_out"].items() if count]
    lines += [(f"kept for {split}", count) for split, count in rows["kept"].items()]
    cells = [
        [name, _number(count).replace("-", "\N{MINUS SIGN}"), percent(abs(count) / max(1, all_of_them))]
        for name, count in lines
    ]
    notes = [f"{_number(rows['unlabelled'])} of the kept rows have no label." if rows["unlabelled"] else ""]
    notes += [f"Among those left out: {_number(count)} {_meaning(name)}." for name, count in rows["among_left_out"].items()]
    notes += [f"{_number(count)} texts {_meaning(name)}." for name, count in rows["changed"].items() if count]
    note = element("p", " ".join(filter(None, notes)), class_="note") if any(notes) else None
    return section("Rows", note, table(["", "rows", "of all"], cells, class_="wrapped"))


def _targets(found: Mapping[str, Any]) -> Html | None:
    """What the kind sums up of its targets; where each row is counted once, as labels are, their shares too."""
    targets, targeted = found["targets"], found["rows"]["targeted"]
    names = sorted({name for own in targets.values() for name in own}, key=lambda name: (-_all(targets, name), name))
    if not names:
        return None
    shared = all(sum(own.values()) == targeted[split] for split, own in targets.items())
    rows = []
    for name in names[:MOST_LABELS]:
        counts = [(own.get(name, 0), targeted[split]) for split, own in targets.items()]
        cells = [join_html([_number(count), _share(count, rows_of) if shared else None]) for count, rows_of in counts]
        rows.append([element("span", shorten(name, LABEL_WIDTH), dir="auto"), *cells])
    left = len(names) - MOST_LABELS
    note = element("p", f"The {MOST_LABELS} most frequent of {len(names)}.", class_="note") if left > 0 else None
    return section("Labels by split" if shared else "Targets by split", note, table(["", *targets], rows))


def _tokens(tokens: Mapping[str, Mapping[str, int]]) -> Html | None:
    if not tokens:
        return None
    left_out = any("documents_left_out" in own for own in tokens.values())
    rows = [
        [split, _number(own["rows"]), _number(own["tokens"]), significant(own["tokens"] / max(1, own["rows"]))]
        + ([_number(own.get("documents_left_out", 0))] if left_out else [])
        for split, own in tokens.items()
    ]
    header = ["", "rows", "tokens", "tokens a row", *(["documents without a row"] if left_out else [])]
    return section("Tokens", table(header, rows))


def _lengths(found: Mapping[str, Any]) -> Html | None:
    if not found["sampled"]:
        return None
    panels, parts = [], []
    for unit, own in found["lengths"].items():
        panels.append(element("figure", Html(plots.histogram_plot(unit, own["edges"], own["counts"]))))
        figures = list(next(iter(own["splits"].values())))
        cells = ([split, *(_number(numbers[name]) for name in figures)] for split, numbers in own["splits"].items())
        parts.append(table([unit, *figures], cells))
    said = f"Of {_number(found['sampled'])} rows, all texts of a row together. A Chinese character counts as a word."
    note = element("p", said, class_="note")
    return section("Lengths", note, element("div", *panels, class_="panels pair"), *parts)


def _languages(found: Mapping[str, Any]) -> Html | None:
    languages = found["languages"]
    names = list(dict.fromkeys(name for own in languages.values() for name in own))
    if not names:
        return None
    names.sort(key=lambda name: (-_all(languages, name), name))
    sums = {split: sum(own.values()) for split, own in languages.items()}
    rows = (
        [name, *(percent(own.get(name, 0) / max(1, sums[split])) for split, own in languages.items())] for name in names[:12]
    )
    looked = ", ".join(f"{_number(count)} of {split}" for split, count in sums.items())
    said = f"Told by letters and words of {looked}; und: short texts of which it cannot be told."
    return section("Languages", element("p", said, class_="note"), table(["", *languages], rows))


def _suspicious(found: Mapping[str, Any]) -> Html | None:
    suspicious = found["suspicious"]
    if suspicious is None or not suspicious["looked_at"]:
        return None
    said = (
        f"{_number(suspicious['found'])} of {_number(suspicious['looked_at'])} training rows; the most suspicious first. "
        f"{suspicious['how']}"
    )
    rows = (
        [
            *_texts(row["texts"]),
            join_html([row["given"], element("small", f" {fraction(row['given_probability'])}")]),
            element("span", row["likely"], element("small", f" {fraction(row['likely_probability'])}"), class_="no"),
        ]
        for row in suspicious["rows"]
    )
    return section(
        "Labels that look wrong", element("p", said, class_="note"), _table(found["fields"], ["label", "looks like"], rows)
    )


def _near_duplicates(pairs: Sequence[Mapping[str, Any]]) -> Html | None:
    if not pairs:
        return None
    rows = ([*_texts([str(pair["dropped"])]), _text(str(pair["kept"])), fraction(pair["similarity"])] for pair in pairs)
    return section("Near duplicates", _table(["left out"], ["kept instead", "similarity"], rows))


def _samples(split: str, rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> Html:
    targeted = any(row["target"] is not None for row in rows)
    cells = ([*_texts(row["texts"]), *([row["target"] or NO_VALUE] if targeted else [])] for row in rows)
    return section(f"Some rows of {split}", _table(fields, ["target"] if targeted else [], cells))


def _reasons(found: Mapping[str, Any]) -> Html | None:
    bad = found["bad_rows"]
    return section("Why rows made no item", *reasons(bad, found["rows"]["read"])) if bad["by_reason"] else None


def _table(fields: Sequence[str], more: Sequence[str], rows: Any) -> Html:
    return table([*fields, *more], rows, class_="words")


def _texts(texts: Sequence[str]) -> list[Html]:
    return [_text(text) for text in texts]


def _text(text: str) -> Html:
    """A text in marks of quotation, in the direction of its own letters."""
    return element("q", text, dir="auto")


def _share(count: float, rows: int) -> Html:
    return element("small", f" {percent(count / max(1, rows))}")


def _all(by_split: Mapping[str, Mapping[str, float]], name: str) -> float:
    return sum(own.get(name, 0) for own in by_split.values())


def _meaning(name: str) -> str:
    """A count's name in words."""
    beginning = next(beginning for beginning in BEGINNINGS if name.startswith(beginning))
    return MEANINGS.get(name) or BEGINNINGS[beginning] + name.removeprefix(beginning).replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else significant(value)


def _figure(number: str, word: str, small: str) -> Html:
    return element("div", element("strong", number), element("span", word), element("small", small), class_="figure")
