"""Runs that must come to the same weights: cut in parts, killed and gone on, one worker and two.

pytest tests/jobs/test_training_exact.py
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from cluster.store.artifact import open_artifact
from jobs.contracts.objective import Preempted
from jobs.objectives.language import LanguageObjective
from jobs.objectives.masked import MaskedObjective
from jobs.tasks.supervised import Supervised
from jobs.training import timing
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.language_runs import LANGUAGE, language_objective, publish_language
from tests.jobs.tiny import (
    MESSAGES,
    publish_examples,
    publish_tokens,
    same_weights,
    supervised,
    tiny_tokenizer,
)
from tests.jobs.training_runs import QUICK, Recorded, Scripted, new_model
from tests.jobs.two_workers import together

# Adam divides by the gradient's size, so it makes much of rounding where a gradient is really zero.
PLAIN: dict[str, Any] = {**QUICK, "optimizer": {"name": "sgd", "learning_rate": 0.05}, "max_steps": 6, "epochs": 9}


KINDS = ("classification", "masked", *LANGUAGE)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_accumulation_changes_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    ends, tokenizer = [], request.getfixturevalue(kind).tokenizer
    for parts in (1, 4):
        model = new_model(kind, tokenizer, dropout=0.0)
        settings = Training.model_validate({**PLAIN, "gradient_accumulation": parts, "keep": "last"})
        fit(model, request.getfixturevalue(kind), settings, hooks := Recorded())
        ends.append((model.state_dict(), [figures["loss"] for figures in hooks.progressed]))
    assert same_weights(ends[0][0], ends[1][0]) < 1e-5
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)


# Going on after a death


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With dropout, masks and order drawn anew; the checkpoint lies in the middle of an epoch, before the death."""
    objective = request.getfixturevalue(kind)
    tokenizer = objective.tokenizer
    settings = Training.model_validate({**QUICK, "max_steps": 14, "epochs": 90, "checkpoint_steps": 5, "evaluations": 4})
    whole = new_model(kind, tokenizer, dropout=0.2)
    wanted = fit(whole, objective, settings, Recorded())

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(kind, tokenizer, dropout=0.2), objective, settings, Recorded(file, dies_at=12))
    again = new_model(kind, tokenizer, dropout=0.2)
    for weight in again.parameters():
        nn.init.normal_(weight)
    found = fit(again, objective, settings, hooks := Recorded(file))
    assert hooks.progressed[0]["step"] == 11, "it goes on from the checkpoint, not from the beginning"
    assert same_weights(whole.state_dict(), again.state_dict()) == 0
    assert [timeless(point) for point in found.curve] == [timeless(point) for point in wanted.curve]
    assert timeless(found.metrics) == timeless(wanted.metrics)


def test_a_run_that_must_leave_writes_a_checkpoint_at_once_and_no_step_is_done_twice(
    classification: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These steps are so short that it would be asked once in the whole run."""
    monkeypatch.setattr(timing, "PREEMPTION_POLL_SECONDS", 0.0)
    settings = Training.model_validate({**QUICK, "max_steps": 9, "epochs": 90})
    whole, left = (new_model("classification", classification.tokenizer, dropout=0.2) for _ in range(2))
    fit(whole, classification, settings, Recorded())
    file = tmp_path / "state.pt"
    with pytest.raises(Preempted, match="at step 4"):
        fit(left, classification, settings, before := Recorded(file, notice_at=4))
    fit(left, classification, settings, after := Recorded(file))
    assert [figures["step"] for figures in before.progressed + after.progressed] == list(range(1, 10))
    assert same_weights(whole.state_dict(), left.state_dict()) == 0


def timeless(figures: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if "second" not in key and "waited" not in key}


@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_that_dies_after_its_last_step_is_not_trained_on(patience: int | None, tmp_path: Path) -> None:
    objective = Scripted([0.9, 0.5, 0.4, 1.0, 1.0, 1.0])
    settings = Training.model_validate({**QUICK, "batch_size": 8, "epochs": 6, "evaluations": 6, "patience": patience})
    torch.manual_seed(0)
    model, hooks = nn.Linear(4, 1), Recorded(tmp_path / "state.pt")
    wanted = fit(model, objective, settings, hooks)
    again = nn.Linear(4, 1)
    found = fit(again, objective, settings, later := Recorded(tmp_path / "state.pt"))
    assert later.progressed == [] and len(objective.asked) == (6 if patience is None else 3)
    assert same_weights(model.state_dict(), again.state_dict()) == 0
    assert (found.metrics["grade"], found.stopped_early) == (wanted.metrics["grade"], wanted.stopped_early)
    assert found.metrics["train_loss"] == wanted.metrics["train_loss"]


# Two workers


def work(rank: int, root: str, settings: dict[str, Any]) -> None:
    """What each of two workers trains and leaves."""
    place = Path(root)
    tokenizer = AutoTokenizer.from_pretrained(place / "tokenizer")
    objectives: dict[str, Supervised | LanguageObjective] = {
        "classification": supervised(open_artifact(str(place / "examples")), tokenizer),
        "masked": MaskedObjective(open_artifact(str(place / "tokens")), tokenizer, 0.15),
        **{kind: language_objective(kind, open_artifact(str(place / kind / "tokens"))) for kind in LANGUAGE},
    }
    for kind, objective in objectives.items():
        model = new_model(kind, objective.tokenizer, 0.0)
        fitted = fit(model, objective, Training.model_validate(settings), Recorded())
        torch.save({"weights": model.state_dict(), "metrics": fitted.metrics}, place / f"{kind}-{rank}.pt")


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    """Real processes over gloo on loopback; odd batches, accumulation, evaluation shared out."""
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    examples = publish_examples(tmp_path, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    tokens = publish_tokens(tmp_path, tokenizer)
    language = {kind: publish_language(tmp_path / kind, kind) for kind in LANGUAGE}
    settings = Training.model_validate({**PLAIN, "batch_size": 15, "gradient_accumulation": 2})
    together("tests.jobs.test_training_exact", "work", root=str(tmp_path), settings=settings.model_dump())

    objectives: dict[str, Supervised | LanguageObjective] = {
        "classification": supervised(examples, tokenizer),
        "masked": MaskedObjective(tokens, tokenizer, 0.15),
        **{kind: language_objective(kind, made) for kind, made in language.items()},
    }
    for kind, objective in objectives.items():
        alone = new_model(kind, objective.tokenizer, 0.0)
        fitted = fit(alone, objective, settings, Recorded())
        first, second = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2))
        assert same_weights(first["weights"], second["weights"]) == 0
        assert same_weights(first["weights"], alone.state_dict()) < 1e-5
        wanted = timeless(fitted.metrics)
        assert timeless(first["metrics"]) == pytest.approx(wanted, abs=1e-4)
        assert timeless(second["metrics"]) == pytest.approx(wanted, abs=1e-4)
