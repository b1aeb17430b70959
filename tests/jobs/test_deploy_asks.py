"""What deploy asks of a service that runs, and how the demo prints it. `pytest tests/jobs/test_deploy_asks.py`"""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.demo import show
from jobs.deploy import _ask
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from tests.jobs.pairs import PAIRS, publish_pair_model, publish_pairs
from tests.jobs.tiny import MESSAGES, publish_classifier, publish_examples
from tests.serve.faces import local_model, serving


def said(model: Artifact, examples: Artifact, count: int, capsys: pytest.CaptureFixture[str]) -> tuple[list[Any], str, Any]:
    """What deploy keeps of the answers, what the demo prints of them, and what its curl line gets."""
    served = local_model(model.local(), "spam", "torch")
    with serving({"spam": served}, served) as url:
        answers = _ask(f"{url}/v1/predict", examples, count)
        show({"url": f"{url}/v1/predict", "answers": answers, "report": "report.html"})
        printed = capsys.readouterr().out
        (line,) = [line.strip() for line in printed.splitlines() if "curl" in line]
        ran = subprocess.run(shlex.split(line), capture_output=True, check=True, timeout=60)
    return answers, printed, json.loads(ran.stdout)["answers"]


def test_labels_are_asked_in_turns_with_the_users_own_texts(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = publish_classifier(tmp_path, tokenizer)
    test = [("it's a prize; don't miss", "spam"), *MESSAGES[:10]]
    answers, printed, again = said(model, publish_examples(tmp_path, {"train": MESSAGES, "test": test}), 4, capsys)
    assert [answer["expected"] for answer in answers] == ["ham", "spam", "ham", "spam"]
    assert [answer["text"] for answer in answers] == [MESSAGES[0][0], test[0][0], MESSAGES[2][0], MESSAGES[1][0]]
    wanted = load_engine(model.local()).answers([Item((answer["text"],)) for answer in answers])
    for answer, right in zip(answers, wanted, strict=True):
        assert answer["label"] == right.label and answer["probability"] == pytest.approx(right.probability, abs=1e-5)
        assert answer["right"] == (answer["label"] == answer["expected"]) and answer["asked"] == answer["text"]
        assert f"    → {answer['label']} ({answer['probability']:.1%}), labelled {answer['expected']}\n" in printed
    assert again[0]["label"] == answers[0]["label"]
    assert set(answers[0]) == {"text", "label", "probability", "asked", "said", "expected", "right"}


def test_of_pairs_both_texts_are_asked_by_name(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = publish_pair_model(tmp_path, tokenizer)
    examples = publish_pairs(
        tmp_path, {"train": PAIRS[:20], "test": [("it's six", "don't; see $HOME", "same"), *PAIRS[20:40]]}
    )
    answers, printed, again = said(model, examples, 3, capsys)
    assert [answer["expected"] for answer in answers] == ["mixed", "same", "mixed"]
    assert all(answer["asked"] == {"text": answer["text"], "pair": answer["pair"]} for answer in answers)
    assert answers[1]["text"] == "it's six" and '"it\'s six"  "don\'t; see $HOME"' in printed
    (right,) = load_engine(model.local()).answers([Item((answers[0]["text"], answers[0]["pair"]))])
    assert again[0]["probability"] == pytest.approx(right.probability, abs=1e-5)


def test_nothing_is_asked_where_there_is_nothing_to_ask(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = publish_examples(tmp_path, {"train": MESSAGES, "test": MESSAGES[:3]})
    assert _ask("http://nowhere", None, 4) == _ask("http://nowhere", examples, 0) == []
    show({"url": "http://127.0.0.1:8000/v1/predict", "answers": []})
    assert "it answers at http://127.0.0.1:8000/v1/predict" in capsys.readouterr().out
