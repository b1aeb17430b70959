"""What the data report says of a step's rows, as one value that JSON can hold; jobs/report/data_page.py draws it.

    found = data_report(Counted(metrics, details, documents), joined(parts), fields=["text"])

Nothing of it hangs on the cluster, the time or where files lie: equal data have an equal report. Counts are of all rows;
lengths, languages and samples are of those that were sampled (jobs/data/row_sample.py).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.data.languages import languages_of
from jobs.data.row_sample import CHARACTERS, WHOLE, WORD_COUNT
from jobs.tasks import learning_of
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    import pyarrow as pa

DATA_PAGE, DATA_RECORD = "data_report.html", "data_report.json"
SUSPICIOUS_ROWS = 50
SHOWN_CHARACTERS = 200
SHOWN_ROWS, SHOWN_PAIRS = 12, 20
"""Rows of a split that are shown, and pairs of near duplicates."""
LANGUAGE_ROWS = 2_000
"""Of each split: so many texts say what share a language has, to about two points."""
LENGTH_BINS = 28
PERCENTILES_SHOWN = {"median": 0.5, "95 %": 0.95, "99 %": 0.99}
REPORT_SPLITS = ("train", "validation", "test")
LEFT_OUT_PREFIX, CHANGED_PREFIX = "rows_", "texts_"
"""What names of figures begin with that count rows which are left out, and texts that something was done to."""
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
COMINGS = ("rows_read", "rows_made")
"""Those that count where rows come from."""
AMONG_OTHERS = ("rows_near_conflicting",)
"""Those whose rows another one counts too."""


@dataclass(frozen=True)
class Counted:
    """What a step has counted of all its rows."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    documents: Mapping[str, int]
    """Rows that are kept by split, those without a target too."""
    statistics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By split, what the kind of task sums up of its targets."""
    limited: bool = False
    """Whether no more rows were kept than a limit says."""


def data_report(counted: Counted, sample: "pa.Table", fields: Sequence[str], spec: Task | None = None) -> dict[str, Any]:
    """All that is told; `sample` is in the order of `joined`, `fields` are its columns of texts."""
    import pyarrow.compute as pc

    splits = np.array(sample["split"].to_pylist(), dtype=object)
    texts = list(zip(*(sample[name].to_pylist() for name in fields), strict=True))
    columns = sample.to_pydict() if spec is not None else {}
    places = {split: np.flatnonzero(splits == split) for split in _ordered(splits)}
    whole = sample.filter(sample[WHOLE])
    return {
        "rows": _rows(counted),
        "bad_rows": _bad_rows(counted.details),
        "targets": {} if spec is None else _target_sums(spec, counted.statistics),
        "tokens": _tokens(counted),
        "sampled": len(texts),
        "lengths": {unit: _lengths(np.array(sample[unit].to_pylist()), splits) for unit in (CHARACTERS, WORD_COUNT)},
        "languages": {split: _languages(texts, own) for split, own in places.items()},
        "near_duplicates": _near_duplicates(counted.details.get("near_duplicates") or []),
        "fields": list(fields),
        "samples": {split: _samples(spec, whole.filter(pc.equal(whole["split"], split)), fields) for split in places},
        "suspicious": None if spec is None else _suspicious(spec, columns, texts, np.flatnonzero(splits == "train")),
    }


def shown(text: str) -> str:
    """The text on one line, cut, without characters that would draw nothing or move what is beside them."""
    line = UNSEEN.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _ordered(splits: Any) -> list[str]:
    there = {str(split) for split in splits}
    return [split for split in REPORT_SPLITS if split in there]


def _rows(counted: Counted) -> dict[str, Any]:
    """Where the rows come from and what became of them: what is kept and what is left out are together all of them."""
    counts = {name: int(value) for name, value in counted.metrics.items()}
    metrics = {name: count for name, count in counts.items() if name.startswith((LEFT_OUT_PREFIX, CHANGED_PREFIX))}
    read, made = (metrics.pop(name, 0) for name in COMINGS)
    among = {name: metrics.pop(name) for name in AMONG_OTHERS if name in metrics}
    left_out = {name: metrics[name] for name in metrics if name.startswith(LEFT_OUT_PREFIX)}
    kept = {split: counted.documents[split] for split in _ordered(counted.documents)}
    rest = read + made - sum(left_out.values()) - sum(kept.values())
    if counted.limited and rest:
        left_out["rows_over_the_limit"] = rest
    return {
        "read": read,
        "made": made,
        "kept": kept,
        "targeted": {split: counts.get(f"{split}_rows", 0) for split in _ordered(counted.statistics)},
        "unlabelled": int(counted.metrics.get("unlabelled_rows", 0)),
        "left_out": left_out,
        "among_left_out": among,
        "changed": {name: metrics[name] for name in metrics if name.startswith(CHANGED_PREFIX)},
    }


def _bad_rows(details: Mapping[str, Any]) -> dict[str, Any]:
    """By reason, and the first: of their files the names alone, for data may be moved."""
    found = details.get("bad_rows") or {}
    named = [*found.get("first", ()), *details.get("sifted_rows", ())]
    first = [{**row, "file": str(row["file"]).rpartition("/")[2]} for row in named]
    return {"by_reason": dict(found.get("by_reason", {})), "first": first}


def _target_sums(spec: Task, statistics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What the kind says of its targets, by split."""
    learning = learning_of(spec.kind)
    return {split: dict(sorted(learning.summary(spec, statistics[split]).items())) for split in _ordered(statistics)}


def _tokens(counted: Counted) -> dict[str, dict[str, int]]:
    """Rows and tokens of TOKENS, by split."""
    names = ("rows", "tokens", "documents_left_out")
    return {
        split: {name: int(counted.metrics[key]) for name in names if (key := f"{split}_{name}") in counted.metrics}
        for split in REPORT_SPLITS
        if f"{split}_tokens" in counted.metrics
    }


def _lengths(lengths_N: np.ndarray, splits: np.ndarray) -> dict[str, Any]:
    """A histogram in steps that grow with the length, and the usual figures of each split."""
    if not len(lengths_N):
        return {"edges": [], "counts": [], "splits": {}}
    edges = np.unique(np.round(np.geomspace(max(1, lengths_N.min()), lengths_N.max() + 1, LENGTH_BINS + 1)).astype(int))
    counts, _ = np.histogram(np.maximum(lengths_N, 1), edges)
    by_split = {}
    for split in _ordered(splits):
        own_N = np.sort(lengths_N[splits == split])
        at = {name: int(own_N[int(share * (len(own_N) - 1))]) for name, share in PERCENTILES_SHOWN.items()}
        by_split[split] = {**at, "longest": int(own_N[-1])}
    return {"edges": edges.tolist(), "counts": counts.tolist(), "splits": by_split}


def _languages(texts: Sequence[tuple[str, ...]], own: np.ndarray) -> dict[str, int]:
    found = Counter(languages_of(["\n".join(texts[place]) for place in own[:LANGUAGE_ROWS]]))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _near_duplicates(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: shown(value) if isinstance(value, str) else value for name, value in pair.items()}
        for pair in pairs[:SHOWN_PAIRS]
    ]


def _samples(spec: Task | None, rows: "pa.Table", fields: Sequence[str]) -> list[dict[str, Any]]:
    """A few rows of a split, in turns from each target, of many from some that lie apart in their order. Texts are whole: a
    target may speak of all of one."""
    targets = _targets(spec, rows.to_pydict()) if spec is not None else [None] * rows.num_rows
    texts = list(zip(*(rows[name].to_pylist() for name in fields), strict=True))
    turns: dict[str | None, list[int]] = {}
    for place, target in enumerate(targets):
        turns.setdefault(target, []).append(place)
    groups = [turns[target] for target in sorted(turns, key=_by_name)]
    if len(groups) > SHOWN_ROWS:
        groups = [groups[int(place)] for place in np.linspace(0, len(groups) - 1, SHOWN_ROWS)]
    chosen = [group[turn] for turn in range(SHOWN_ROWS) for group in groups if turn < len(group)][:SHOWN_ROWS]
    return [
        {"texts": [shown(text) for text in texts[place]], "target": targets[place]}
        for place in sorted(chosen, key=lambda place: _by_name(targets[place]))
    ]


def _targets(spec: Task, columns: Mapping[str, Sequence[Any]]) -> list[str | None]:
    """Each row's target in words, None for one without."""
    learning = learning_of(spec.kind)
    truth = learning.truth(spec, columns)
    known = learning.known(truth)
    return [learning.expected(spec, target) if there else None for target, there in zip(truth, known, strict=True)]


def _by_name(target: str | None) -> tuple[bool, str]:
    """Targets by their words, and those without one at the end."""
    return target is None, target or ""


def _suspicious(
    spec: Task, columns: Mapping[str, Sequence[Any]], texts: Sequence[tuple[str, ...]], places: np.ndarray
) -> dict[str, Any] | None:
    """The training rows whose target looks wrong."""
    own = {name: [values[place] for place in places] for name, values in columns.items()}
    found = learning_of(spec.kind).suspicious(spec, own, SUSPICIOUS_ROWS)
    if found is None:
        return None
    rows = [
        {
            "texts": [shown(text) for text in texts[places[row.place]]],
            "given": row.given,
            "given_probability": round(row.given_probability, 3),
            "likely": row.likely,
            "likely_probability": round(row.likely_probability, 3),
        }
        for row in found.rows
    ]
    return {"how": found.how, "looked_at": found.looked_at, "found": found.found, "rows": rows}
