"""The sections of the report page, one function each: from figures to HTML. A section without content is None."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from cluster.store.artifact import Artifact
from jobs.judging.pareto import metric_of
from jobs.report import plots
from jobs.report.html import Html, element, join_html, section, table
from jobs.report.lineage import duration, lineage_graph
from jobs.report.tables import (
    NO_VALUE,
    conditions_sentence,
    count,
    fraction,
    interval_text,
    megabytes,
    metric_name,
    other_figures,
    percent,
    significant,
    times,
)
from jobs.tasks.telling import DOUBTFUL

NARROW_SIZE = (360, 430)
COLUMNS = ("p50 ms", "p95 ms", "texts/s", "MB", "parameters", "agreement", "faster", "smaller")


SURE = {"calibration_error": ("calibration error", fraction), "calibration_error_unscaled": ("unscaled", fraction)}
STEADY = {
    "parity_change": ("parity", fraction),
    "batch_change": ("batch change", fraction),
    "batch_flips": ("flips", percent),
    "memory_bytes": ("memory MB", megabytes),
}
"""Figures of a row by their keys, each with its head and how it is written."""
CONFIDENCE = (
    "Calibration error: how far confidence is from accuracy, and how far it would be without the temperature in the card. "
)
CHANGES = (
    "Parity: the largest change of an answer (of labels, of a probability) against the same model as it was trained. Batch "
    "change: the same when a text is answered among others instead of alone; flips: the share of texts whose answer says "
    "something else with it. Memory: the peak of a process that loads the model and answers a batch."
)


def headline(recipe: str, report: Mapping[str, Any], winner: Mapping[str, Any] | None) -> Html:
    """The outcome in one sentence, what all is worth above the floor in another and, of a winner, its three figures."""
    kicker = element("p", "Raystill · ", recipe, class_="kicker")
    rows = report["rows"]
    floor = element("p", _capital(report["floor"]["verdict"]), ".", class_="floor") if "floor" in report else None
    if winner is None:
        sentence = f"{len(rows)} candidate{'s' if len(rows) > 1 else ''} measured, none chosen"
        return element("header", kicker, element("h1", sentence), floor)
    if winner["candidate"] == rows[0]["candidate"]:
        sentence = ", the teacher itself, is the winner: no smaller candidate was chosen"
        return element("header", kicker, element("h1", element("em", winner["candidate"]), sentence), floor)
    metric, kept = metric_name(report["metric"]), winner.get("kept")
    speed = _compared(winner.get("speedup"), "faster", "slower")
    size = _compared(winner.get("size_ratio"), "smaller", "larger")
    parts = [f"keeps {percent(kept)} of the teacher’s {metric}" if kept is not None else None]
    parts += [f"answers {speed[0]} times {speed[1]}" if speed else None, f"is {size[0]} times {size[1]}" if size else None]
    said = [part for part in parts if part]
    sentence = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    bounds = f"{fraction(winner['score'])} ({interval_text(winner.get('interval'))})".replace(" ()", "")
    figures = [
        _figure(percent(kept), f"of the teacher’s {metric}", f"{bounds} against {fraction(rows[0]['score'])}"),
        speed and _figure(f"{speed[0]}×", speed[1], _change(rows[0], winner, "latency_p50_ms", significant, "ms, median")),
        size and _figure(f"{size[0]}×", size[1], _change(rows[0], winner, "bytes", megabytes, "MB on disk")),
    ]
    return element(
        "header",
        kicker,
        element("h1", element("em", winner["candidate"]), f" {sentence}"),
        floor,
        element("div", *figures, class_="figures"),
    )


def comparison(report: Mapping[str, Any], winner: str | None) -> Html:
    """All candidates with all that was measured."""
    rows = report["rows"]
    others = other_figures(report)
    header = ["candidate", metric_name(report["metric"]), "kept", *map(metric_name, others), *COLUMNS]
    best = next((position for position, row in enumerate(rows) if row["candidate"] == winner), None)
    cells = (_cells(row, others, _roles(row, position == 0, position == best)) for position, row in enumerate(rows))
    body = table(header, cells, best=best)
    cut = max((row.get("texts_cut", 0.0) for row in rows), default=0.0)
    read = f" Of the texts {percent(cut)} are longer than a candidate reads: their rest is cut." if cut else ""
    note = f"Measured: {conditions_sentence(report)}.{read}"
    return section("Candidates", element("p", note, class_="note"), body)


def trade_off(report: Mapping[str, Any], winner: str | None, budget: Mapping[str, Any]) -> Html:
    """Quality against latency, once for a wide screen and once for a narrow one."""
    kept = budget.get("minimum_kept")
    floor = report.get("floor")
    wide = plots.quality_plot(report["rows"], metric_of(report), winner, kept, floor=floor)
    narrow = plots.quality_plot(report["rows"], metric_of(report), winner, kept, NARROW_SIZE, "quality-narrow", floor)
    note = "Bubbles grow with size on disk. Faint ones are beaten: another candidate is at least as good, fast and small."
    note += f" The square is the floor: {floor['what']}; the dotted line is at its score." if floor else ""
    return section("Quality against latency", element("p", note, class_="note"), _both(Html(wide), Html(narrow)))


def verdicts(details: Mapping[str, Any]) -> Html | None:
    """What the budget asked for and what it said about each candidate."""
    if not details.get("verdicts"):
        return None
    asked = [f"{key.replace('_', ' ')} {value}" for key, value in (details.get("budget") or {}).items() if value is not None]
    rows = (
        [verdict["candidate"], _mark(verdict["qualifies"], "qualifies", "rejected"), "; ".join(verdict.get("reasons") or [])]
        for verdict in details["verdicts"]
    )
    note = element("p", f"Asked for: {', '.join(asked)}.", class_="note") if asked else None
    return section("Budget", note, table(["candidate", "verdict", "why"], rows, class_="words"))


def learning(artifacts: Mapping[str, Artifact], metric: str) -> Html | None:
    """The learning curve of each step that trained."""
    curves = {name: curve for name, artifact in artifacts.items() if (curve := artifact.manifest.details.get("curve"))}
    drawn = {name: Html(plots.curves_plot(name, curve, metric)) for name, curve in curves.items()}
    panels = [element("figure", element("figcaption", name), svg) for name, svg in drawn.items()]
    return section("Learning curves", element("div", *panels, class_="panels")) if panels else None


def searches(artifacts: Mapping[str, Artifact]) -> Html | None:
    """For each step that was searched: score against every searched value, and the table of trials."""
    parts = []
    for name, artifact in artifacts.items():
        details = artifact.manifest.details
        if trials := details.get("trials"):
            parts += _search(name, trials, details.get("mode", "max"), details.get("best_trial"))
            parts += _course(details.get("schedule") or [])
    note = "Hollow marks are trials that did not come to their end."
    return section("Searches", element("p", note, class_="note"), *parts) if parts else None


def confusion(report: Mapping[str, Any], winner: str | None) -> Html | None:
    """Confusion matrices of the teacher and of the winner."""
    rows = report["rows"]
    shown = [row for row in rows if row.get("confusion") and (row is rows[0] or row["candidate"] == winner)]
    panels = []
    for row in shown:
        drawn = plots.confusion_plot(row["candidate"], report["labels"], row["confusion"])
        panels.append(element("figure", element("figcaption", row["candidate"]), Html(drawn)))
    return section("Where they err", element("div", *panels, class_="panels pair")) if panels else None


def figures(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html | None:
    """A table under a title, for what only a kind of task has to tell."""
    return section(title, table(header, rows)) if rows else None


def doubtful(artifacts: Mapping[str, Artifact]) -> Html | None:
    """What a person must know of the models: texts that were cut, and what validation did not show."""
    told = [[name, one] for name, artifact in artifacts.items() if (one := artifact.manifest.details.get(DOUBTFUL))]
    return section("To know of the models", table(["step", ""], told, class_="words")) if told else None


def under(title: str, parts: Sequence[Html | None]) -> Html | None:
    """Sections that belong together, under a title."""
    there = [part for part in parts if part is not None]
    return section(title, *there) if there else None


def steadiness(report: Mapping[str, Any]) -> Html | None:
    """How far confidence can be believed, where there is some, and how much answers move with what they are batched with."""
    shown = {key: column for columns in (SURE, STEADY) for key, column in columns.items()}
    rows = [row for row in report["rows"] if any(key in row for key in shown)]
    if not rows:
        return None
    sure = any(key in row for row in rows for key in SURE)
    shown = shown if sure else STEADY
    cells = ([row["candidate"], *(as_text(row.get(key)) for key, (_, as_text) in shown.items())] for row in rows)
    table_of = table(["candidate", *(head for head, _ in shown.values())], cells)
    title = "How sure, how steady" if sure else "How steady"
    return section(title, element("p", f"{CONFIDENCE if sure else ''}{CHANGES}", class_="note"), table_of)


def answers(details: Mapping[str, Any], fields: Sequence[str] = ("text",)) -> Html | None:
    """Items that were asked over HTTP once the winner was deployed, by their fields, and what it answered."""
    rows = [_as_now(answer) for answer in details.get("answers") or []]
    if not rows:
        return None
    outside = {*fields, "asked", "said", "expected", "right"}
    more = dict.fromkeys(key for row in rows for key, value in row.items() if key not in outside and value != row["said"])
    cells = (
        [*(element("q", str(row.get(name, NO_VALUE))) for name in fields), row["said"]]
        + [_brief(key, row.get(key)) for key in more]
        + ["" if row.get("expected") is None else _mark(row["right"], "as expected", f"expected {row['expected']}")]
        for row in rows
    )
    note = element(
        "p", "Asked over HTTP at ", element("code", details.get("url", NO_VALUE)), " after the deployment.", class_="note"
    )
    return section("Questions and answers", note, table([*fields, "answer", *more, ""], cells, class_="words"))


def lineage(artifacts: Mapping[str, Artifact], winner_step: str | None) -> Html:
    """What was made from what: the graph, and every step's record."""
    by_uri = {artifact.uri: name for name, artifact in artifacts.items()}
    by_content = {artifact.fingerprint: name for name, artifact in artifacts.items()}
    parents = {}
    for name, artifact in artifacts.items():
        made_from = [parent for group in artifact.manifest.parents.values() for parent in group]
        found = (by_uri.get(parent.uri) or by_content.get(parent.fingerprint) for parent in made_from)
        parents[name] = list(dict.fromkeys(parent for parent in found if parent is not None and parent != name))
    steps = {name: (artifact.manifest.stage, artifact.manifest.seconds) for name, artifact in artifacts.items()}
    graphs = _both(lineage_graph(steps, parents, winner_step), lineage_graph(steps, parents, winner_step, down=True))
    total = duration(sum(seconds for _, seconds in steps.values()))
    said = f"{len(steps)} steps, {total} of work. Each opens to its record, from which it can be made again."
    note = element("p", said, class_="note")
    return section("Lineage", note, graphs, *(_record(name, artifact, parents[name]) for name, artifact in artifacts.items()))


def left_out(artifacts: Mapping[str, Artifact]) -> Html | None:
    """Rows that are no examples and no text, by step: how many for each reason, and the first that have a fault; and what went
    as a near duplicate."""
    parts: list[Html] = []
    for name, artifact in artifacts.items():
        parts += _bad_rows(name, artifact) + _near_duplicates(name, artifact)
    return section("Rows that were left out", *parts) if parts else None


def reasons(found: Mapping[str, Any], read: float) -> list[Html]:
    """Why rows were left out of so many that were read, and the first of them."""
    counts = [[reason, f"{number:,}", percent(number / read)] for reason, number in found["by_reason"].items()]
    parts = [table(["reason", f"of {read:,.0f} rows", "share"], counts)]
    rows = [[one["file"], str(one.get("line") or one["row"]), f"{one['reason']}: {one['detail']}"] for one in found["first"]]
    return parts + ([table(["file", "line or row", "what is wrong"], rows, class_="words")] if rows else [])


def _bad_rows(name: str, artifact: Artifact) -> list[Html]:
    details = artifact.manifest.details
    if not (found := details.get("bad_rows")):
        return []
    found = found | {"first": [*found["first"], *details.get("sifted_rows", ())]}
    return [element("h3", name), *reasons(found, artifact.manifest.metrics.get("rows_read", 0))]


def _near_duplicates(name: str, artifact: Artifact) -> list[Html]:
    samples = artifact.manifest.details.get("near_duplicates")
    if not samples:
        return []
    heading = f"{name}: {artifact.manifest.metrics['rows_near_duplicate']:,.0f} near duplicates"
    rows = [[one["dropped"], one["kept"], f"{one['similarity']:.2f}"] for one in samples]
    return [element("h3", heading), table(["some that went", "what stays", "similarity"], rows, class_="words")]


def hardware(artifacts: Mapping[str, Artifact]) -> Html | None:
    """On what the steps ran; steps that ran on the same are named together."""
    groups: dict[str, list[str]] = {}
    for name, artifact in artifacts.items():
        present = {key: value for key, value in artifact.manifest.hardware.items() if value not in (None, "", [], {})}
        if present:
            said = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in present.items())
            groups.setdefault(said, []).append(name)
    rows = ([", ".join(names), said] for said, names in groups.items())
    return section("Hardware", table(["steps", "ran on"], rows, class_="words")) if groups else None


def _both(wide: Html, narrow: Html) -> Html:
    return element("figure", element("div", wide, class_="wide"), element("div", narrow, class_="narrow"))


def _figure(number: str, word: str, small: str) -> Html:
    return element("div", element("strong", number), element("span", word), element("small", small), class_="figure")


def _compared(ratio: float | None, more: str, less: str) -> tuple[str, str] | None:
    """A ratio to the teacher in words; one below 1 is turned round, so that no one reads 0.5 times faster."""
    if not ratio:
        return None
    return (times(ratio)[:-1], more) if ratio >= 1 else (times(1 / ratio)[:-1], less)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str, written: Any, unit: str) -> str:
    return f"{written(before.get(key))} → {written(after.get(key))} {unit}"


def _roles(row: Mapping[str, Any], teacher: bool, won: bool) -> str:
    return ", ".join(word for word, held in (("teacher", teacher), ("floor", row.get("floor")), ("winner", won)) if held)


def _cells(row: Mapping[str, Any], others: Iterable[str], roles: str) -> list[str]:
    role = element("span", roles, class_="role") if roles else None
    score = join_html([fraction(row["score"]), element("small", f" {interval_text(row.get('interval'))}")])
    numbers = [percent(row.get("kept")), *(fraction(row.get(name)) for name in others)]
    numbers += [significant(row.get(key)) for key in ("latency_p50_ms", "latency_p95_ms", "texts_per_second")]
    numbers += [megabytes(row.get("bytes")), count(row.get("parameters")), percent(row.get("agreement"))]
    return [join_html([row["candidate"], role]), score, *numbers, times(row.get("speedup")), times(row.get("size_ratio"))]


def _search(step: str, trials: Sequence[Mapping[str, Any]], mode: str, best: str | None) -> list[Html]:
    """Plots and table of a search; the best trial first, whatever a stopped one may have scored on its way."""
    paths = list(dict.fromkeys(path for trial in trials for path in trial["values"]))
    drawn = [plots.trials_plot(step, path, trials, mode, best) for path in paths]
    panels = [element("figure", Html(svg)) for svg in drawn if svg]
    sign = -1 if mode == "max" else 1

    def rank(trial: Mapping[str, Any]) -> tuple[bool, bool, float]:
        score = trial.get("score")
        return trial["name"] != best, score is None, 0 if score is None else sign * score

    ranked = sorted(trials, key=rank)
    rows = (_trial(trial, paths) for trial in ranked)
    found = best is not None or ranked[0].get("score") is not None
    body = table(["trial", "score", *paths, "status", "evaluations", "time"], rows, best=0 if found else None)
    failed = [trial for trial in trials if trial.get("error")]
    told = [element("p", f"{trial['name']} failed: {trial['error']}", class_="note") for trial in failed]
    summary = element("summary", f"All {len(trials)} trials of {step}")
    return [element("h3", step), element("div", *panels, class_="panels"), element("details", summary, body, *told)]


def _trial(trial: Mapping[str, Any], paths: Iterable[str]) -> list[str]:
    """A row; where the values changed on the way (population-based training) all of them, one after another."""
    stretches = trial.get("schedule") or [{"values": trial["values"]}]
    values = []
    for path in paths:
        course = [_plain(stretch["values"].get(path, NO_VALUE)) for stretch in stretches]
        values.append(" → ".join(value for value, _ in groupby(course)))
    time = duration(trial["seconds"]) if trial.get("seconds") is not None else NO_VALUE
    fate = [str(trial.get(key, NO_VALUE)) for key in ("status", "reports")]
    return [str(trial["name"]), fraction(trial.get("score")), *values, *fate, time]


def _course(schedule: Sequence[Mapping[str, Any]]) -> list[Html]:
    """What the published model went through, where that is more than one trial's values."""
    if len(schedule) < 2:
        return []
    paths = list(dict.fromkeys(path for stretch in schedule for path in stretch["values"]))
    rows = (
        [f"{stretch['from']}–{stretch['until']}", str(stretch["trial"]), fraction(stretch["score"])]
        + [_plain(stretch["values"].get(path, NO_VALUE)) for path in paths]
        for stretch in schedule
    )
    said = "The published weights went from trial to trial, under these values between these evaluations:"
    return [element("p", said, class_="note"), table(["evaluations", "trial", "score after", *paths], rows)]


def _mark(good: bool, yes: str, no: str) -> Html:
    return element("span", f"✓ {yes}" if good else f"✗ {no}", class_="yes" if good else "no")


def _as_now(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """A question's row; older ones have a label for what was said."""
    if "said" in answer:
        return answer
    said = str(answer["label"])
    return {**answer, "said": said, "right": said == str(answer.get("expected"))}


def _brief(key: str, value: Any) -> str:
    """One of an answer's main values."""
    if isinstance(value, float):
        return percent(value) if key == "probability" else significant(value)
    return NO_VALUE if value is None else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _record(name: str, artifact: Artifact, parents: Sequence[str]) -> Html:
    """One step's manifest, folded."""
    manifest = artifact.manifest
    figures = ", ".join(f"{key} {fraction(value)}" for key, value in list(manifest.metrics.items())[:3])
    facts = {"made": f"{manifest.created:%Y-%m-%d %H:%M %Z} by stage {manifest.stage}, version {manifest.stage_version}"}
    facts |= {"uri": artifact.uri, "fingerprint": manifest.fingerprint, "made from": ", ".join(parents)}
    facts |= {"outside sources": ", ".join(f"{source} ({content})" for source, content in manifest.sources.items())}
    facts |= {"versions": ", ".join(f"{key} {value}" for key, value in manifest.versions.items())}
    facts |= {"metrics": ", ".join(f"{key} {_plain(value)}" for key, value in manifest.metrics.items())}
    listed = [child for key, value in facts.items() if value for child in (element("dt", key), element("dd", value))]
    config = element("pre", json.dumps(manifest.config, indent=2, ensure_ascii=False, default=str))
    inside = element("div", element("dl", *listed), element("details", element("summary", "config"), config), class_="record")
    summary = [
        element("b", name),
        element("span", manifest.stage),
        element("span", duration(manifest.seconds)),
        element("span", figures),
    ]
    return element("details", element("summary", *summary), inside, class_="step")
