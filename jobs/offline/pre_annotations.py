"""Answers as what annotators begin from: predictions of Label Studio's tasks, labels of doccano's lines.

    tool = tool_of(request, task, files)                     # BadInput where it cannot be told which control answers go to
    studio_task(tool, {"text": "…"}, "spam", 0.93, "small-1a2b3c4d int8")

A task of Label Studio keeps its `data`; of other files the columns that are kept are its data. Only answers that are a name,
several names or a number can be such: the first column of a kind's answers says which. Formats after
labelstud.io/guide/predictions and doccano's import of JSON Lines.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict

from cluster.store import storage
from jobs.core.config import BadInput, Problem, nearest
from jobs.data.formats import Files, parts_of
from jobs.data.records import opened_rows
from serve.tasks.protocol import Task

ANNOTATION_TOOLS = ("label_studio", "doccano")
CHOICES, NUMBER, RATING = "choices", "number", "rating"
CONTROLS: dict[type, tuple[str, ...]] = {str: (CHOICES,), list: (CHOICES,), float: (NUMBER, RATING), int: (NUMBER, RATING)}
"""The types of controls, as results name them, that an answer of a type can go to."""
ANNOTATED_ROWS = 1_000
"""Rows of a file in which an annotation is looked for."""
BY_HAND = "Give --label-config FILE, or --from-name and --to-name as the labelling config has them."


class Control(BaseModel):
    """The control of a labelling config that answers go to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    from_name: str
    to_name: str
    type: str


def answer_type(task: Task) -> tuple[str, type]:
    """The first column of a kind's answers and its type; BadInput where that can be no annotation."""
    name, kind = next(iter(task.columns(wide=False).items()))
    if kind not in CONTROLS:
        reason = f"an answer of this model is a {kind.__name__}, and annotations are names or numbers"
        raise BadInput([Problem("--format", None, reason, "Write another format.")])
    return name, kind


def control_of(
    task: Task, files: Sequence[str], written: Files, config: str | None, from_name: str | None, to_name: str | None
) -> Control:
    """The control: of the labelling config, as it is named, or that of the annotations that the files have."""
    types = CONTROLS[answer_type(task)[1]]
    if config is not None:
        return _of_config(config, types, from_name, task.choices)
    if from_name is not None and to_name is not None:
        return Control(from_name=from_name, to_name=to_name, type=types[0])
    found = {one for file in files for one in _of_annotations(file, written) if one.type in types}
    if from_name is not None:
        found = {one for one in found if one.from_name == from_name}
    if len(found) == 1:
        return found.pop()
    named = ", ".join(sorted(one.from_name for one in found))
    reason = f"annotations of {' or '.join(types)} are by several controls: {named}" if found else (
        f"nobody has annotated a {' or '.join(types)} in these files, so that nothing says which control answers go to"
    )  # fmt: skip
    remedy = f"Give --from-name, one of {named}." if found else BY_HAND
    raise BadInput([Problem("--from-name", from_name, reason, remedy)])


def studio_task(control: Control, row: Mapping[str, Any], answer: Any, score: float | None, version: str) -> dict[str, Any]:
    """A task with the answer as its prediction; `row` is a task, or its data."""
    data = row["data"] if isinstance(row.get("data"), Mapping) else row
    value: Any = answer
    if control.type == CHOICES:
        value = [answer] if isinstance(answer, str) else list(answer)
    elif control.type == RATING:
        value = round(answer)
    result = {"from_name": control.from_name, "to_name": control.to_name, "type": control.type}
    prediction: dict[str, Any] = {"model_version": version, "result": [{**result, "value": {control.type: value}}]}
    if score is not None:
        prediction["score"] = score
    return {"data": dict(data), "predictions": [prediction]}


def doccano_line(text: str, row: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """A line to import, with the answer as its label: of a text alone, what else is kept is its metadata."""
    names = [str(one) for one in answer] if isinstance(answer, list) else [str(answer)]
    kept = {name: value for name, value in row.items() if name not in ("text", "label", "id", "Comments")}
    return {"text": text, "label": names, **kept}


def _of_config(file: str, types: Sequence[str], from_name: str | None, choices: Sequence[str]) -> Control:
    """BadInput where no control of these types is there, or several, or one that lacks a label."""
    try:
        root = ElementTree.fromstring(storage.read_bytes(file))
    except (storage.StorageError, ElementTree.ParseError) as error:
        raise BadInput(
            [Problem("--label-config", file, f"it cannot be read ({error})", "Give the project's config.")]
        ) from error
    there = {node.get("name", ""): node for node in root.iter() if node.tag.lower() in types and node.get("toName")}
    if from_name is not None and from_name not in there:
        reason = f"{file} has no such control of {' or '.join(types)}"
        raise BadInput([Problem("--from-name", from_name, reason, nearest(from_name, there))])
    if from_name is None and len(there) != 1:
        reason = f"it has {len(there)} controls of {' or '.join(types)}: {', '.join(there) or 'none'}"
        raise BadInput([Problem("--label-config", file, reason, "Name one by --from-name.")])
    name = next(iter(there)) if from_name is None else from_name
    node = there[name]
    listed = {one.get("value") for one in node.iter() if one.tag == "Choice"}
    if node.tag.lower() == CHOICES and (unknown := [one for one in choices if one not in listed]):
        reason = f"{name} in {file} has no choice {unknown[0]!r}, which the model may answer"
        raise BadInput([Problem("--label-config", file, reason, "Add it there.")])
    return Control(from_name=name, to_name=str(node.get("toName")), type=node.tag.lower())


def _of_annotations(file: str, written: Files) -> Iterable[Control]:
    """The controls of the first annotations in a file."""
    for part in parts_of(file):
        if part.format not in ("json", "jsonl"):
            continue
        with opened_rows(part, written) as found:
            for row in islice(found.rows, ANNOTATED_ROWS):
                yield from _of_task(row.values)


def _of_task(task: Mapping[str, Any]) -> Iterable[Control]:
    given = task.get("annotations")
    for one in given if isinstance(given, list) else []:
        results = one.get("result") if isinstance(one, Mapping) else None
        for result in results if isinstance(results, list) else []:
            named = [result.get(key) for key in ("from_name", "to_name", "type")] if isinstance(result, Mapping) else [None]
            if all(isinstance(name, str) for name in named):
                yield Control(from_name=str(named[0]), to_name=str(named[1]), type=str(named[2]))
