"""What will not come about is told, and nothing is refused for it. `pytest tests/jobs/test_remarks.py`"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.core.places import locate
from jobs.core.recipe import Step, parse_recipe
from jobs.running.remarks import remarks
from jobs.training.loop import fit
from tests.jobs.tiny import MESSAGES, publish_directory, publish_examples, supervised, tiny_classifier
from tests.jobs.training_runs import QUICK, Recorded

ROOT = Path(__file__).parents[2]


def finetuned(**settings: Any) -> Step:
    rows = {"stage": "prepare", "source": "rows.csv", "task": {"kind": "classification"}}
    teacher = {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "rows"}, **settings}
    return parse_recipe({"name": "tiny", "steps": {"rows": rows, "teacher": teacher}}).steps["teacher"]


def counted(root: Path, **metrics: float) -> Artifact:
    (root / "made").mkdir()
    return publish_directory(root / "made", root / "rows", Kind.EXAMPLES, metrics=metrics)


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 8), (2.5, 8), (1, 100), (0.1, 32)])
def test_the_steps_that_are_told_are_those_that_are_made(
    epochs: float, batch_size: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    settings = {"epochs": epochs, "batch_size": batch_size, "max_steps": 400}
    step = finetuned(**settings)
    config: Any = step.config
    lines = remarks(step, {"examples": [counted(tmp_path, train_rows=58, unlabelled_rows=900)]})
    objective = supervised(publish_examples(tmp_path, {"train": MESSAGES[:58]}), tokenizer)
    training = config.model_copy(update={key: value for key, value in QUICK.items() if key in ("precision",)})
    made = int(fit(tiny_classifier("bert", 2, len(tokenizer)), objective, training, Recorded()).metrics["steps"])
    assert len(lines) == 1
    assert lines[0].startswith("teacher: max_steps 400 is more than epochs") and lines[0].endswith(
        f"{made} steps: epochs decides"
    )


@pytest.mark.parametrize(
    "settings", [{"epochs": 3}, {"epochs": 3, "max_steps": 21}, {"max_steps": 400, "epochs": {"uniform": [1, 3]}}]
)
def test_nothing_is_told_where_the_step_does_what_it_says(settings: dict[str, Any], tmp_path: Path) -> None:
    assert not remarks(finetuned(batch_size=8, **settings), {"examples": [counted(tmp_path, train_rows=58)]})


def test_the_plan_tells_it(tmp_path: Path) -> None:
    rows, storage = tmp_path / "rows.jsonl", str(tmp_path / "runs")
    rows.write_text('{"text": "hello", "label": "a"}\n{"text": "bye", "label": "b"}\n')
    steps: dict[str, Any] = {
        "rows": {"stage": "prepare", "source": str(rows), "task": {"kind": "classification"}},
        "teacher": {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "rows"}, "max_steps": 50},
    }
    tree = {"name": "tiny", "steps": steps}
    recipe = parse_recipe(tree)
    place = locate(recipe, storage)["rows"]
    assert place.uri is not None
    (tmp_path / "made").mkdir()
    publish_directory(tmp_path / "made", place.uri, Kind.EXAMPLES, "rows", {"train_rows": 64.0})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "jobs.pipeline", str(file), "--plan", "--storage", storage]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "teacher: max_steps 50 is more than epochs 3 over 64 rows in batches of 32 come to, 6 steps" in done.stdout
