"""Exports of Label Studio and doccano: rows of them, and answers that go back as what annotators begin from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.connection.connect import Cluster
from jobs.core.config import BadInput
from jobs.data import records
from jobs.data.formats import Files
from jobs.data.records import opened_rows, parts_of, read, scan
from jobs.offline.answering import answer_files
from jobs.offline.request import Request
from jobs.prepare import PrepareConfig, check
from serve.engines.card import read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks.multi_label import MultiLabel
from tests.jobs.test_sifted import prepared
from tests.serve.tiny_model import LABELS, TEXTS, publish_tiny, texts_as_items

STUDIO, DOCCANO = Files(annotated_in="label_studio"), Files(annotated_in="doccano")
CONFIG = """<View><Text name="words" value="$text"/><Header value="Choose"/>
  <Choices name="topic" toName="words" choice="single">{choices}</Choices><Rating name="stars" toName="words"/></View>"""
PREDICTED = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "additionalProperties": False,
        "properties": {
            "data": {"type": "object", "minProperties": 1},
            "predictions": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["model_version", "result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "result": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["from_name", "to_name", "type", "value"],
                                "properties": {
                                    "type": {"const": "choices"},
                                    "value": {
                                        "type": "object",
                                        "required": ["choices"],
                                        "properties": {"choices": {"type": "array", "items": {"type": "string"}}},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What labelstud.io/guide/predictions asks of tasks with predictions, for choices."""


def result(kind: str, value: Any, name: str = "topic", **place: Any) -> dict[str, Any]:
    return {"id": "x", "from_name": name, "to_name": "words", "type": kind, "value": {**place, **value}}


def chosen(*names: str) -> dict[str, Any]:
    return result("choices", {"choices": list(names)})


def task(number: int, text: Any, *annotations: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    usual = {"was_cancelled": False, "ground_truth": False}
    made = [{"id": 10 * number + place, **usual, "result": list(one)} for place, one in enumerate(annotations)]
    guess = {"model_version": "one", "result": [chosen("guessed")]}
    return {"id": number, "data": {"text": text}, "annotations": made, "predictions": [guess], **more}


def write(file: Path, content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False) if file.suffix == ".json" else "\n".join(map(json.dumps, content))
    file.write_text(text, encoding="utf-8")
    return str(file)


def rows(file: str, written: Files) -> list[dict[str, Any]]:
    """All rows as one reads them; data, which is beside its own columns, is left out."""
    (part,) = parts_of(file)
    with opened_rows(part, written) as found:
        seen = list(found.rows)
    assert all(row.fault is None for row in seen), seen
    return [{name: value for name, value in row.values.items() if name != "data"} | (
        {"nobody": True} if row.unlabelled else {}
    ) for row in seen]  # fmt: skip


def test_each_control_of_label_studio_is_a_column_and_each_annotation_a_row(tmp_path: Path) -> None:
    first = [chosen("delivery"), result("rating", {"rating": 4}, "stars"), result("number", {"number": 2.5}, "weight")]
    second = [chosen("price", "delivery"), result("textarea", {"text": ["too dear"]}, "why")]
    spans = [result("labels", {"labels": ["PER"]}, "who", start=0, end=2), {"type": "relation", "from_id": "x", "to_id": "x"}]
    paths = [result("taxonomy", {"taxonomy": [["a", "b"], ["c"]]}, "tree"), result("pairwise", {"selected": "left"}, "better")]
    skipped = task(4, "skipped", [chosen("price")])
    skipped["annotations"][0]["was_cancelled"] = True
    golden = task(5, "golden", [chosen("price")], [chosen("delivery")])
    golden["annotations"][1]["ground_truth"] = True
    tasks = [
        task(1, "一号", first, second),
        task(2, "Ann came", spans),
        task(3, "nobody"),
        skipped,
        golden,
        task(6, "six", paths),
    ]
    expected = [
        {"text": "一号", "topic": "delivery", "stars": 4, "weight": 2.5},
        {"text": "一号", "topic": ["price", "delivery"], "why": "too dear"},
        {"text": "Ann came", "who": [[0, 2, "PER"]]},
        {"text": "nobody", "nobody": True},
        {"text": "skipped", "nobody": True},
        {"text": "golden", "topic": "delivery"},
        {"text": "six", "tree": ["a / b", "c"], "better": "left"},
    ]
    for name in ("export.json", "export.jsonl"):
        assert rows(write(tmp_path / name, tasks), STUDIO) == expected


def test_json_min_and_csv_of_label_studio_are_rows_already(tmp_path: Path) -> None:
    minimal = [{"id": 1, "text": "a", "topic": "price"}, {"id": 2, "text": "b", "topic": {"choices": ["price", "delivery"]}}]
    expected = [{"id": 1, "text": "a", "topic": "price"}, {"id": 2, "text": "b", "topic": ["price", "delivery"]}]
    assert rows(write(tmp_path / "min.json", minimal), STUDIO) == expected
    (tmp_path / "min.csv").write_text('id,text,topic\n1,a,price\n2,b,"{""choices"": [""price"", ""delivery""]}"\n')
    assert rows(str(tmp_path / "min.csv"), STUDIO) == [{**one, "id": str(one["id"])} for one in expected]


def test_lines_of_doccano_of_every_age(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"id": 1, "text": "一", "label": ["spam"], "Comments": []},
        {"id": 2, "text": "b", "label": ["spam", "ham"]},
        {"id": 3, "text": "c", "label": []},
        {"id": 4, "text": "d", "labels": [[0, 1, "LOC"]]},
        {"id": 5, "text": "e", "entities": [{"id": 7, "label": "LOC", "start_offset": 0, "end_offset": 1}], "relations": []},
        {"id": 6, "text": "f", "annotations": [{"label": 2, "user": 1}, {"label": 3, "user": 2}, {"label": 2, "user": 2}]},
        {"id": 7, "text": "g", "annotations": [{"label": 2, "start_offset": 0, "end_offset": 1, "user": 1}]},
        {"id": 8, "text": "h", "annotations": []},
    ]
    found = rows(write(tmp_path / "all.jsonl", lines), DOCCANO)
    assert [(row["id"], row.get("label", "nobody")) for row in found] == [
        (1, "spam"),
        (2, ["spam", "ham"]),
        (3, "nobody"),
        (4, [[0, 1, "LOC"]]),
        (5, [[0, 1, "LOC"]]),
        (6, 2),
        (6, [3, 2]),
        (7, [[0, 1, 2]]),
        (8, "nobody"),
    ]
    assert [row["id"] for row in found if row.get("nobody")] == [3, 8]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.sampled_from(["json", "jsonl"]))
def test_pieces_hold_each_annotation_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, annotators: list[int], ending: str
) -> None:
    monkeypatch.setattr(records, "SMALLEST_ROWS", 2)
    monkeypatch.setattr(records, "LARGEST_ROWS", 2)
    tasks = [task(number, f"text {number}", *[[chosen(f"by {one}")] for one in range(count)])
             for number, count in enumerate(annotators)]  # fmt: skip
    file = write(tmp_path / f"export.{ending}", tasks)
    expected = [(f"text {number}", f"by {one}" if count else None)
                for number, count in enumerate(annotators) for one in range(max(1, count))]  # fmt: skip
    pieces = scan(file, STUDIO).pieces
    found = [(row.values["text"], row.values.get("topic")) for piece in pieces for row in read(piece, STUDIO)]
    assert found == expected and sum(map(len, pieces)) == len(expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": None}, "task 1: it has no data"),
        ({"annotations": {}}, "task 1: its annotations are no list"),
        ({"annotations": [{"id": 1}]}, "task 1: an annotation has no list of results"),
        ({"annotations": [{"result": [{"type": "choices"}]}]}, "task 1: a result lacks its from_name"),
        ({"annotations": [{"result": [result("choices", {"rating": 1})]}]}, "task 1: topic is of type choices"),
        (
            {"annotations": [{"result": [chosen("a"), result("rating", {"rating": 1})]}]},
            "task 1: topic holds choices and rating",
        ),
    ],
)
def test_a_malformed_task_is_refused_by_file_and_number(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    file = write(tmp_path / "export.json", [task(1, "a", [chosen("price")]) | change, task(2, "b", [chosen("price")])])
    told = problems(file, "topic")
    assert len(told) == 1 and reason in told[0] and "export.json" in told[0], told


def test_what_is_no_such_control_or_no_single_value_is_told(tmp_path: Path) -> None:
    spans = [result("labels", {"labels": ["PER"]}, "who", start=0, end=2)]
    file = write(tmp_path / "export.json", [task(1, "a", [chosen("price"), *spans]), task(2, "b", [chosen("price")])])
    (missing,) = problems(file, "topics")
    assert "no such column" in missing and "topic" in missing
    (nested,) = problems(file, "who")
    assert "who holds a list" in nested and "row 1" in nested
    (plain,) = [told for told in problems(file, "topic", annotated_in=None) if "task.label" in told]
    assert "annotated_in: label_studio" in plain
    (idle,) = problems(write_text(tmp_path / "rows.txt"), None)
    assert "annotated_in" in idle


def write_text(file: Path) -> str:
    file.write_text("a text\nanother\n")
    return str(file)


def problems(source: str, label: str | None, annotated_in: str | None = "label_studio") -> list[str]:
    """What a recipe's check says."""
    made = {"task": {"label": label}} if label is not None else {"tokenizer": {"train": "wordpiece"}}
    config = PrepareConfig.model_validate({"source": source, "annotated_in": annotated_in, **made})
    return [f"{one.path} = {one.value}: {one.reason}. {one.remedy}" for one in check(config)]


def test_annotators_who_disagree_are_a_conflict_and_what_nobody_annotated_is_counted(
    ray_driver: Cluster, tmp_path: Path
) -> None:
    tasks = [task(number, f"text {number}", [chosen("ab"[number % 2])]) for number in range(30)]
    tasks += [task(100, "most say a", *[[chosen(one)] for one in "aab"]), task(101, "a tie", [chosen("a")], [chosen("b")])]
    tasks += [task(102 + number, f"nobody {number}") for number in range(5)]
    outcome, made = prepared(
        tmp_path, source=write(tmp_path / "export.json", tasks), annotated_in="label_studio", task={"label": "topic"},
        split={"validation": 0, "test": 0},
    )  # fmt: skip
    assert {row["text"]: row["label"] for row in made} == {f"text {number}": "ab"[number % 2] for number in range(30)} | {
        "most say a": "a"
    }
    counts = {name: outcome.metrics[name] for name in ("rows_read", "rows_without_target", "rows_bad", "rows_conflicting")}
    assert counts == {"rows_read": 40, "rows_without_target": 5, "rows_bad": 0, "rows_conflicting": 3}


def test_several_choices_are_several_labels_and_nobody_is_not_none(ray_driver: Cluster, tmp_path: Path) -> None:
    lines = [{"id": number, "text": f"text {number}", "label": [["a"], ["a", "b"], []][number % 3]} for number in range(30)]
    outcome, made = prepared(
        tmp_path, source=write(tmp_path / "all.jsonl", lines), annotated_in="doccano",
        task={"kind": "multi_label", "labels": "label"}, split={"validation": 0, "test": 0},
    )  # fmt: skip
    assert {row["text"]: list(row["labels"]) for row in made} == {
        line["text"]: line["label"] for line in lines if line["label"]
    }
    assert outcome.metrics["rows_without_target"] == 10
    unlabelled = {"train": str(tmp_path / "all.jsonl"), "unlabelled": write(tmp_path / "more.jsonl", lines[2::3])}
    (tmp_path / "again").mkdir()
    outcome, _ = prepared(
        tmp_path / "again", source=unlabelled, annotated_in="doccano", task={"kind": "multi_label", "labels": "label"},
        split={"validation": 0, "test": 0},
    )  # fmt: skip
    assert outcome.metrics["unlabelled_rows"] == 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("annotating") / "tiny"
    publish_tiny(directory)
    return directory


def answered(request: dict[str, Any], place: Path) -> Any:
    """What stands in the only part of the output."""
    summary = answer_files(Request.model_validate({**request, "output": str(place)}), str(place.parent), print)
    assert not summary["bad"]
    (part,) = place.glob("part-*")
    return (
        json.loads(part.read_text())
        if part.suffix == ".json"
        else [json.loads(line) for line in part.read_text().splitlines()]
    )


def test_predictions_go_back_to_label_studio_and_are_rows_once_they_are_accepted(
    ray_driver: Cluster, tmp_path: Path, model: Path
) -> None:
    texts = [f"{text} {number}" for number in range(6) for text in TEXTS]
    tasks = [task(number, text, *([[chosen("spam")]] if number == 0 else [])) for number, text in enumerate(texts)]
    asked = {
        "model": str(model),
        "input": (write(tmp_path / "tasks.json", tasks),),
        "column": "data.text",
        "format": "label_studio",
    }
    made = answered(asked, tmp_path / "out")
    jsonschema.validate(made, PREDICTED)
    engine = load_engine(model)
    expected = engine.answers(texts_as_items(texts))
    assert [one["data"] for one in made] == [{"text": text} for text in texts]
    for one, answer in zip(made, expected, strict=True):
        (prediction,) = one["predictions"]
        assert prediction["result"] == [
            {"from_name": "topic", "to_name": "words", "type": "choices", "value": {"choices": [answer.label]}}
        ], "the control is that of the annotation that there is"
        assert prediction["score"] == pytest.approx(answer.probability, abs=1e-4)
        assert prediction["model_version"] == "tiny onnx"
    accepted = [{"id": number, "data": one["data"], "annotations": [{"id": number, "result": one["predictions"][0]["result"]}]}
                for number, one in enumerate(made)]  # fmt: skip
    source = write(tmp_path / "accepted.json", accepted)
    settings = {"annotated_in": "label_studio", "task": {"label": "topic"}, "split": {"validation": 0, "test": 0}}
    _, read_again = prepared(tmp_path, source=source, **settings)
    told = {row["text"]: row["label"] for row in read_again}
    assert told == {text: answer.label for text, answer in zip(texts, expected, strict=True)}


def test_predictions_go_back_to_doccano_as_labels(ray_driver: Cluster, tmp_path: Path, model: Path) -> None:
    several = tmp_path / "several"
    publish_tiny(several)
    card = read_card(several)
    write_card(several, card.model_copy(update={"task": MultiLabel(labels=LABELS)}))
    lines = [{"id": number, "text": text, "label": [], "source": "mail"} for number, text in enumerate(TEXTS)]
    file = write(tmp_path / "lines.jsonl", lines)
    for place, directory in {"one": model, "many": several}.items():
        made = answered({"model": str(directory), "input": (file,), "format": "doccano"}, tmp_path / f"out-{place}")
        answers: list[Any] = load_engine(directory).answers(texts_as_items(TEXTS))
        labels = [[one.label] if place == "one" else list(one.labels) for one in answers]
        assert made == [{"text": text, "label": own, "source": "mail"} for text, own in zip(TEXTS, labels, strict=True)]
        back = rows(write(tmp_path / f"{place}.jsonl", made), DOCCANO)
        assert [one.get("label", []) for one in back] == [own[0] if len(own) == 1 else own for own in labels]


def test_where_answers_go_is_asked_of_the_labelling_config(ray_driver: Cluster, tmp_path: Path, model: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,order\na prize,1\n这部,2\n")
    config = tmp_path / "config.xml"
    request = {"model": str(model), "input": (str(tmp_path / "rows.csv"),), "format": "label_studio"}
    config.write_text(CONFIG.format(choices="".join(f'<Choice value="{label}"/>' for label in LABELS)), encoding="utf-8")
    made = answered({**request, "label_config": str(config)}, tmp_path / "out")
    assert [one["data"] for one in made] == [{"text": "a prize", "order": "1"}, {"text": "这部", "order": "2"}]
    assert made[0]["predictions"][0]["result"][0]["from_name"] == "topic"
    config.write_text(CONFIG.format(choices='<Choice value="ham"/><Choice value="spam"/>'), encoding="utf-8")
    for more, reason in (
        ({"label_config": str(config)}, "no choice '其他'"),
        ({"label_config": str(config), "from_name": "stars"}, "no such control"),
        ({"label_config": str(tmp_path / "none.xml")}, "cannot be read"),
        ({}, "nobody has annotated"),
        ({"format": "csv", "from_name": "topic"}, "it is for --format label_studio"),
    ):
        with pytest.raises(BadInput, match=reason):
            answer_files(
                Request.model_validate({**request, "output": str(tmp_path / "refused"), **more}), str(tmp_path), print
            )
