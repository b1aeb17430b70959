"""Exports of annotation tools as rows: one for each time that somebody has annotated a text.

    source: export.json
    annotated_in: label_studio          # Label Studio 1.x (and 0.x): JSON, JSON-MIN, CSV
    annotated_in: doccano               # doccano 1.x: JSON Lines, CSV

Label Studio: the data of a task are columns, and so is each control of the labelling config by its name (`from_name`).
doccano: what is annotated is the column `label`. A single choice is a text, several are a list; numbers and ratings are
numbers; stretches of a text are lists of [start, end, label]. What models had predicted is no annotation. Formats after
labelstud.io/guide/task_format and doccano's own examples.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from jobs.data.lines import Fault
from jobs.data.pieces import UNREAD, Found, Row

Tool = Literal["label_studio", "doccano"]
"""As `Files.annotated_in` names them."""
NO_EXPORT = "no annotated task"
STRETCHES = frozenset({"labels", "hypertextlabels", "paragraphlabels"})
SEVERAL_VALUES = frozenset({"choices", "textarea", "taxonomy"})
VALUE_KEYS = {"textarea": "text", "pairwise": "selected"}
"""The key of the value, where it is not the control's type."""


class _Malformed(Exception):
    """What is wrong with a task."""


def annotated(found: Found, tool: Tool) -> Found:
    """What was opened, a row for each annotation. Then rows of JSON are not cut by bytes: several may be of one line."""
    own = _RULES[tool]
    return found._replace(rows=_plain(found.rows, own), by_bytes=found.by_bytes and found.header is not None)


def _plain(rows: Iterator[Row], own: Callable[[Mapping[str, Any]], Iterator[tuple[Mapping[str, Any], bool]]]) -> Iterator[Row]:
    for row in rows:
        if row.fault is not None:
            yield row
            continue
        try:
            for values, said in list(own(row.values)):
                yield row._replace(values=values, unlabelled=not said)
        except _Malformed as error:
            task = row.values.get("id")
            named = str(error) if task is None else f"task {task}: {error}"
            yield row._replace(
                values={UNREAD: json.dumps(row.values, ensure_ascii=False, default=str)}, fault=Fault(NO_EXPORT, named)
            )


def _label_studio(task: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """The rows of a task, and whether somebody has annotated it; in JSON-MIN and CSV a row is an annotation already."""
    given = task.get("annotations", task.get("completions"))
    if given is None and not isinstance(task.get("data"), Mapping):
        yield {name: _unpacked(value) for name, value in task.items()}, True
        return
    data = task.get("data")
    if not isinstance(data, Mapping):
        raise _Malformed("it has no data")
    given = [] if given is None else given
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise _Malformed("its annotations are no list of objects")
    finished = [one for one in given if not one.get("was_cancelled")]
    true = [one for one in finished if one.get("ground_truth")]
    for one in true or finished:
        yield {**data, "data": data, **_controls(one.get("result"))}, True
    if not finished:
        yield {**data, "data": data}, False


def _controls(results: Any) -> dict[str, Any]:
    """What an annotation has for each control, by its name."""
    if not isinstance(results, list):
        raise _Malformed("an annotation has no list of results")
    kinds: dict[str, str] = {}
    found: dict[str, list[Any]] = {}
    for result in results:
        kind, value = (result.get("type"), result.get("value")) if isinstance(result, Mapping) else (None, None)
        if kind == "relation":
            continue
        if not isinstance(kind, str) or not isinstance(value, Mapping) or not isinstance(result.get("from_name"), str):
            raise _Malformed("a result lacks its from_name, type or value")
        name = result["from_name"]
        if kinds.setdefault(name, kind) != kind:
            raise _Malformed(f"{name} holds {kinds[name]} and {kind}")
        found.setdefault(name, []).extend(_values(kind, value, name))
    return {name: _single(values) if kinds[name] not in STRETCHES else values for name, values in found.items()}


def _values(kind: str, value: Mapping[str, Any], name: str) -> Sequence[Any]:
    """What one result says."""
    said = value.get(VALUE_KEYS.get(kind, kind))
    if kind in STRETCHES:
        start, end = value.get("start"), value.get("end")
        if not isinstance(said, list) or start is None or end is None:
            raise _Malformed(f"{name} has a stretch without its place or its labels")
        return [[start, end, label] for label in said]
    if said is None:
        raise _Malformed(f"{name} is of type {kind}, and its value has no {VALUE_KEYS.get(kind, kind)}")
    if kind not in SEVERAL_VALUES:
        return [said]
    own = said if isinstance(said, list) else [said]
    return [" / ".join(map(str, one)) if isinstance(one, list) else one for one in own]


def _single(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _unpacked(value: Any) -> Any:
    """Several choices of JSON-MIN, {"choices": […]}, and of CSV, where that is a text, as a list."""
    if isinstance(value, str) and value.startswith('{"choices"'):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, Mapping) and set(value) == {"choices"}:
        return value["choices"]
    return value


def _doccano(line: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """The rows of a line, and whether somebody has annotated it."""
    if "annotations" in line:
        yield from _by_annotator(line)
        return
    rest = {name: value for name, value in line.items() if name not in ("label", "labels", "entities")}
    found = next((line[name] for name in ("label", "labels", "entities") if name in line), None)
    if found is None or found == []:
        yield rest, False
        return
    if not isinstance(found, list):
        yield {**rest, "label": found}, True
        return
    yield {**rest, "label": _labels(found)}, True


def _by_annotator(line: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Of old exports, whose labels are numbers and say who gave them."""
    rest, given = {name: value for name, value in line.items() if name != "annotations"}, line["annotations"]
    if not isinstance(given, list) or not all(isinstance(one, Mapping) and "label" in one for one in given):
        raise _Malformed("its annotations are no list of objects with a label")
    by_user: dict[Any, list[Any]] = {}
    for one in given:
        by_user.setdefault(one.get("user"), []).append(one if "start_offset" in one else one["label"])
    for own in by_user.values():
        yield {**rest, "label": _labels(own)}, True
    if not by_user:
        yield rest, False


def _labels(found: Sequence[Any]) -> Any:
    """A single label as it is, several as a list, stretches as [start, end, label]."""
    if all(isinstance(one, Mapping) and {"start_offset", "end_offset", "label"} <= set(one) for one in found):
        return [[one["start_offset"], one["end_offset"], one["label"]] for one in found]
    if all(isinstance(one, list) and len(one) == 3 for one in found):
        return list(found)
    if any(isinstance(one, list | Mapping) for one in found):
        raise _Malformed("its label holds some stretches of the text, and something else")
    return _single(found)


_RULES: dict[Tool, Callable[[Mapping[str, Any]], Iterator[tuple[Mapping[str, Any], bool]]]] = {
    "label_studio": _label_studio,
    "doccano": _doccano,
}
