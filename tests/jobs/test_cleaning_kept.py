"""How training texts were cleaned goes from EXAMPLES into the card of whatever learns from them.

pytest tests/jobs/test_cleaning_kept.py
"""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from jobs.compress import CompressConfig, _build, _checked
from jobs.core.config import BadInput
from jobs.core.recipe import parse_recipe
from jobs.core.stage import Inputs
from jobs.finetune import _cleaned_otherwise
from jobs.losses.settings import Mix
from jobs.running.parents import parent_problems
from jobs.tasks import cleaning_of
from jobs.tasks.multitask import Multitask, MultitaskModel
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import read_card
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    distilled,
    publish_classifier,
    publish_examples,
    publish_predictions,
    supervised,
    tiny_classifier,
)

SPLITS = {"train": MESSAGES[:40], "validation": MESSAGES[40:60]}
PLAIN, TAGS = Cleaning(), Cleaning(strip_tags=True, max_characters=500)


@pytest.mark.parametrize("cleaning", [TAGS, None])
def test_each_learner_keeps_it(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cleaning: Cleaning | None) -> None:
    examples = publish_examples(tmp_path / "own", SPLITS, cleaning=cleaning)
    other = publish_examples(tmp_path / "other", SPLITS, cleaning=PLAIN)
    assert cleaning_of(examples) == cleaning
    model, head = (tiny_classifier("bert", 2, len(tokenizer)) for _ in range(2))
    task = supervised(examples, tokenizer)
    soft = publish_predictions(tmp_path, {text: (0.5, 1.0) for text, _ in MESSAGES})
    both: Any = Multitask(task, {"other": supervised(other, tokenizer)}, 1.0)
    learners = {
        "finetuned": (task, model),
        "distilled": (distilled(examples, tokenizer, [soft], Mix()), model),
        "multitask": (both, MultitaskModel(model, [head])),
    }
    for name, (learner, learned) in learners.items():
        (tmp_path / name).mkdir()
        learner.save(learned, tmp_path / name)
        assert read_card(tmp_path / name).cleaning == cleaning, name


def test_a_model_is_compressed_on_texts_that_were_cleaned_as_its_own(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = publish_classifier(tmp_path, tokenizer, cleaning=TAGS)
    config = CompressConfig(max_length=24)
    for name, cleaning in {"alike": TAGS, "unsaid": None}.items():
        inputs = Inputs(model=[model], examples=[publish_examples(tmp_path / name, SPLITS, cleaning=cleaning)])
        _checked(config, inputs)
        assert _build(config, inputs)[1].cleaning == TAGS, "what the model says of itself, where the examples say nothing"
    otherwise = publish_examples(tmp_path / "otherwise", SPLITS, cleaning=PLAIN)
    with pytest.raises(BadInput) as refused:
        _checked(config, Inputs(model=[model], examples=[otherwise]))
    (problem,) = refused.value.problems
    assert problem.path == "inputs.examples"
    assert "strip_tags: false in place of true, max_characters: 100000 in place of 500" in problem.reason


def test_a_recipe_whose_model_is_compressed_on_texts_that_are_cleaned_otherwise_is_refused() -> None:
    rows = {"stage": "prepare", "source": "rows.csv", "task": {"kind": "classification"}}
    steps: dict[str, Any] = {
        "rows": rows | {"clean": {"strip_tags": True}},
        "others": rows,
        "teacher": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6"},
        "small": {"stage": "compress", "inputs": {"model": "teacher", "examples": "others"}},
        "smaller": {"stage": "compress", "inputs": {"model": "small", "examples": "others"}},
    }
    made = parse_recipe({"name": "tiny", "steps": steps})
    (problem,) = parent_problems(made, ["teacher", "small", "smaller"])
    assert (problem.path, problem.value) == ("steps.small.inputs.examples", "others")
    assert "strip_tags: false in place of true" in problem.reason
    steps["others"] = rows | {"clean": {"strip_tags": True, "min_characters": 9}}
    made = parse_recipe({"name": "tiny", "steps": steps})
    assert not parent_problems(made, ["teacher", "small", "smaller"]), "rows that are dropped are no matter of the model's"


def test_auxiliary_tasks_that_were_cleaned_otherwise_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, alike, otherwise, unsaid = (
        publish_examples(tmp_path / str(number), SPLITS, LABELS, cleaning)
        for number, cleaning in enumerate([TAGS, TAGS, PLAIN, None])
    )
    assert _cleaned_otherwise(Inputs(examples=[main], auxiliary=[alike, unsaid])) == {}
    told = _cleaned_otherwise(Inputs(examples=[main], auxiliary=[alike, otherwise]))
    assert "strip_tags: false in place of true" in told["cleaned_otherwise"]
    assert told["cleaned_otherwise"] in capsys.readouterr().out
