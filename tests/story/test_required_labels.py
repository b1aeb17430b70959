"""One label a text, held to a precision, or none of these, of texts longer than the model reads at once: from CSV to HTTP."""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tokenizers import Tokenizer

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, open_artifact
from serve.tasks.shared.decisions import NONE_OF_THESE
from tests.story.running import SERVING_PORT, run_job
from tests.story.tiny_world import write_base, write_recipe

WISHES = {
    "refund": ("please send my money back", "I want to be paid back in full", "return what I paid"),
    "address": ("I moved to another street", "use my new address from now on", "deliver to our summer house"),
    "invoice": ("the bill never came", "send me the invoice once more", "my tax adviser needs the receipt"),
}
TALK = ("as I said on the phone", "by the way it rained all day", "my sister sends her regards", "to be honest with you")
MAX_LENGTH = 24
"""Tokens: most texts take two windows and more."""


@dataclass(frozen=True)
class Story:
    """A finished run."""

    directory: Path
    made: dict[str, Artifact]

    def report(self) -> dict[str, Any]:
        return dict(json.loads(Path(self.made["judged"].file("report.json")).read_text()))

    def asked(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """What the service answers."""
        reply = requests.post(str(self.made["served"].manifest.details["url"]), json={"inputs": list(texts)}, timeout=60)
        assert reply.status_code == 200, reply.text
        return list(reply.json()["answers"])


def letters(count: int, seed: int, wishes: Sequence[str | None]) -> list[tuple[str, str]]:
    """Texts with a wish somewhere among other talk, or with none."""
    draw, made = random.Random(seed), []
    for number in range(count):
        wish = draw.choice(list(wishes))
        parts = [draw.choice(TALK) for _ in range(draw.randint(3, 7))] + [f"letter {number}"]
        if wish is not None:
            parts.insert(draw.randrange(len(parts) + 1), ", ".join(draw.sample(WISHES[wish], 2)))
        made.append((", ".join(parts), wish or NONE_OF_THESE))
    return made


def write_letters(file: Path, rows: Sequence[tuple[str, str]]) -> str:
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "wish"), *rows])
    return str(file)


@pytest.fixture(scope="module")
def story(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory = tmp_path_factory.mktemp("letters")
    rows = {
        "train": letters(500, 0, list(WISHES)),
        "validation": letters(160, 1, list(WISHES)),
        "test": [*letters(80, 2, list(WISHES)), *letters(30, 3, [None])],
    }
    source = {name: write_letters(directory / f"{name}.csv", own) for name, own in rows.items()}
    write_base(directory / "base", [text for text, _ in rows["train"]])
    examples = {"examples": "rows"}
    task = {"label": "wish", "long": "windows", "require": {"refund": {"precision": 0.97}}, "none": {"keep": 0.95}}
    training = {"model": str(directory / "base"), "max_length": MAX_LENGTH, "batch_size": 32, "epochs": 6}
    training |= {"optimizer": {"learning_rate": 1e-3}, "evaluations": 1}
    steps = {
        "rows": {"stage": "prepare", "source": source, "task": {"kind": "classification", **task}},
        "teacher": {"stage": "finetune", "inputs": examples, **training},
        "small": {"stage": "compress", "inputs": {**examples, "model": "teacher"}, "max_length": MAX_LENGTH},
        "judged": {"stage": "evaluate", "inputs": {**examples, "teacher": "teacher", "candidates": "small"}}
        | {"latency_texts": 20, "resamples": 100, "metric": "recall refund"},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.5, "prefer": "smallest"}
        | {"requirements_hold": False},
        "served": {"stage": "deploy", "inputs": {**examples, "winner": "winner"}, "route": "/letters"}
        | {"port": SERVING_PORT, "cpus": 0},
    }
    # What is deployed is to be a transformer that reads by windows, and not a linear model, which is smaller.
    file = write_recipe(directory / "letters.yaml", {"name": "letters", "steps": steps, "floor": False})
    ran = run_job(serving_cluster, "jobs.pipeline", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    places = {name: next(Path(directory, "runs", "letters").glob(f"{name}-*")) for name in steps}
    return Story(directory, {name: open_artifact(str(place)) for name, place in places.items()})


def test_each_variant_has_its_thresholds_and_the_report_says_whether_they_hold(story: Story) -> None:
    card = json.loads((story.made["small"].local() / "raystill.json").read_text())
    assert card["task"]["require"] == {"refund": {"precision": 0.97, "recall": None, "sure": None}}
    for name, variant in card["variants"].items():
        assert set(variant["fitted"]) == {"temperature", "threshold refund", f"threshold {NONE_OF_THESE}"}, name
    report = story.report()
    assert report["metric"] == "recall refund" and report["labels"] == [*sorted(WISHES), NONE_OF_THESE]
    for row in report["rows"]:
        (held,) = row["requirements"]
        assert held["reached"] == next(one["precision"] for one in row["by_label"] if one["label"] == "refund")
        assert held["holds"] == (held["reached"] >= 0.97) and held["interval"][0] <= held["reached"] <= held["interval"][1]
        assert row["score"] == next(one["recall"] for one in row["by_label"] if one["label"] == "refund") > 0.5
        assert row["answered_accuracy"] > 0.7 and row["by_label"][-1]["support"] == 30
        assert "texts_cut" not in row, "all of each text is read"
    metrics = story.made["teacher"].manifest.metrics
    assert metrics["answered"] >= 0.9 and metrics["precision refund rows"] > 0
    assert "too few to be sure" in story.made["teacher"].manifest.details["doubtful"]


def test_a_wish_at_the_very_end_of_a_long_text_is_read(story: Story) -> None:
    talk = ", ".join([*TALK, *TALK])
    texts = {wish: f"{talk}, {says[0]}, {says[1]}" for wish, says in WISHES.items()}
    answers = story.asked(list(texts.values()))
    assert [answer["label"] for answer in answers] == list(texts)
    tokenizer = Tokenizer.from_file(str(story.made["small"].local() / "tokenizer.json"))
    assert len(tokenizer.encode(talk)) > 2 * MAX_LENGTH, "the wish stands behind what one window reads"


def test_what_is_none_of_these_is_said_over_http(story: Story) -> None:
    unknown = [text for text, _ in letters(30, 3, [None])]
    said = story.asked(unknown)
    left = [answer for answer in said if not answer["in_scope"]]
    assert len(left) > 10 and {answer["label"] for answer in left} == {NONE_OF_THESE}
    known = letters(60, 5, list(WISHES))
    answers = story.asked([text for text, _ in known])
    right = [answer["label"] == wish for answer, (_, wish) in zip(answers, known, strict=True)]
    assert sum(right) > 45
    root = str(story.made["served"].manifest.details["url"]).removesuffix("predict")
    (listed,) = requests.get(f"{root}models", timeout=60).json()["models"]
    assert listed["labels"] == [*sorted(WISHES), NONE_OF_THESE]
    explained = requests.post(f"{root}explain", json={"inputs": known[0][0]}, timeout=60)
    assert explained.status_code == 200 and explained.json()["label"] in WISHES
