"""Runs that must come to the same weights: cut in parts, killed and gone on, one worker and two.

pytest tests/jobs/test_training_exact.py
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.embedded import free_ports
from jobs.objectives.language import LanguageObjective
from jobs.objectives.masked import MaskedObjective
from jobs.tasks.classification import Classification
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.language_runs import LANGUAGE, language_objective, publish_language
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_examples, publish_tokens, same_weights, tiny_tokenizer
from tests.jobs.training_runs import QUICK, Recorded, Scripted, new_model

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


WORKERS = """
import os, sys, torch
from pathlib import Path
from torch import multiprocessing
from transformers import AutoTokenizer
from cluster.artifact import open_artifact
from jobs.tasks.classification import Classification
from jobs.training.loop import fit
from jobs.objectives.masked import MaskedObjective
from jobs.training.settings import Training
from tests.jobs.training_runs import Recorded, new_model
from tests.jobs.language_runs import LANGUAGE, language_objective
from tests.jobs.tiny import LABELS, MAX_LENGTH

root, settings = Path(sys.argv[1]), Training.model_validate_json(sys.argv[2])

def work(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.distributed.init_process_group("gloo")
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    for kind, objective in (
        ("classification", Classification(open_artifact(str(root / "examples")), tokenizer, LABELS, MAX_LENGTH)),
        ("masked", MaskedObjective(open_artifact(str(root / "tokens")), tokenizer, 0.15)),
        *((kind, language_objective(kind, open_artifact(str(root / kind / "tokens")))) for kind in LANGUAGE),
    ):
        model = new_model(kind, objective.tokenizer, 0.0)
        fitted = fit(model, objective, settings, Recorded())
        torch.save({"weights": model.state_dict(), "metrics": fitted.metrics}, root / f"{kind}-{rank}.pt")
    torch.distributed.destroy_process_group()

# Forked, so that the libraries are imported once.
multiprocessing.start_processes(work, nprocs=2, start_method="fork")
"""


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    """Real processes over gloo on loopback; odd batches, accumulation, evaluation shared out."""
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    examples = publish_examples(tmp_path, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    tokens = publish_tokens(tmp_path, tokenizer)
    language = {kind: publish_language(tmp_path / kind, kind) for kind in LANGUAGE}
    settings = Training.model_validate({**PLAIN, "batch_size": 15, "gradient_accumulation": 2})
    port = free_ports(1)[0]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", WORKERS, str(tmp_path), settings.model_dump_json()]
    environment = {**os.environ, **shared}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as workers:
        try:
            _, told = workers.communicate(timeout=120)
            assert workers.returncode == 0, told[-2000:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(workers.pid, signal.SIGKILL)

    objectives: dict[str, Classification | LanguageObjective] = {
        "classification": Classification(examples, tokenizer, LABELS, MAX_LENGTH),
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
