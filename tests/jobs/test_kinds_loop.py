"""What BENCH=kinds compares is comparable: its loop takes the very steps that a recipe's training takes; its intervals hold.

pytest tests/jobs/test_kinds_loop.py
"""

import ast
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster.store.artifact import Artifact, Kind
from jobs.data.clean import text_key
from jobs.data.training_rows import read_examples
from jobs.tasks.heads import inputs_of
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.settings import Training
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.tasks.ordinal import Ordinal
from serve.tasks.regression import Regression
from tests.benchmarks import kinds_loop
from tests.benchmarks.kinds_loop import Given, Script
from tests.benchmarks.kinds_scores import MEASURES, apart, apart_by_seed
from tests.benchmarks.peers import Clock
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_directory, tiny_classifier, tiny_tokenizer

SCORES = [float(len(text) % 7) for text, _ in MESSAGES]
PRICES = Regression(mean=float(np.mean(SCORES)), deviation=float(np.std(SCORES)), least=0.0, greatest=6.0, pairs=True)
TASKS: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "classification": (Classification(labels=LABELS), {"label": [label for _, label in MESSAGES]}),
    "multi_label": (MultiLabel(labels=LABELS), {"labels": [[label] if len(text) % 3 else [] for text, label in MESSAGES]}),
    "regression": (PRICES, {"pair": [label for _, label in MESSAGES], "value": SCORES}),
    "ordinal": (Ordinal(labels=("0", "1", "2")), {"label": [str(len(text) % 3) for text, _ in MESSAGES]}),
}


def published(root: Path, task: Any, columns: dict[str, list[Any]]) -> Artifact:
    """EXAMPLES of any kind: the messages with these columns."""
    draft = root / "draft"
    (draft / "train").mkdir(parents=True)
    texts = {"key": [text_key(text) for text, _ in MESSAGES], "text": [text for text, _ in MESSAGES]}
    parquet.write_table(pa.table({**texts, **columns}), draft / "train" / "rows.parquet")
    (draft / "task.json").write_text(task.model_dump_json())
    return publish_directory(draft, root / "examples", Kind.EXAMPLES)


@pytest.mark.parametrize("kind", TASKS)
def test_without_dropout_both_sides_end_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    (task, targets), tokenizer = TASKS[kind], tiny_tokenizer(tmp_path / "tokenizer")
    model = tiny_classifier("bert", task.width, len(tokenizer))
    examples, inputs = published(tmp_path, task, targets), inputs_of(model, task)
    objective = Supervised(examples, tokenizer, task, MAX_LENGTH, inputs)
    training = Training(batch_size=8, epochs=2, seed=3, keep="last", precision="fp32")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    columns = read_examples(examples, "train").to_pydict()
    given = Given(
        kind=kind, names=getattr(task, "labels", ()), bounds=None, bf16=False, threads=1,
        order=[batch.tolist() for epoch in range(2) for batch in objective.epoch(epoch, 8, 3)], max_length=MAX_LENGTH, seed=3,
        rate=training.optimizer.learning_rate,
        warmup=training.schedule.warmup, weight_decay=training.optimizer.weight_decay, clip_norm=training.clip_norm,
    )  # fmt: skip
    (target,) = (columns[name] for name in targets if name != "pair")
    (tmp_path / "loop.json").write_text(json.dumps(asdict(given)))
    rows = {"train": {"texts": [columns[name] for name in task.fields], "target": target}}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    script = Script(tmp_path)
    before = {name: weight.clone() for name, weight in script.model.state_dict().items()}
    script.train()
    fit(model, objective, training, Clock())
    ours, theirs = model.state_dict(), script.model.state_dict()
    moved = sum(float((theirs[name] - weight).abs().sum()) for name, weight in before.items())
    apart_by = sum(float((theirs[name] - weight).abs().sum()) for name, weight in ours.items())
    # Adam makes whole steps of gradients that are all but 0: single weights may differ by rounding. Where one side has no
    # weight decay, the means are apart by 3.7e-3.
    assert moved > 1 and apart_by < 5e-4 * moved, (apart_by, moved)


def test_the_loop_is_no_part_of_what_it_is_compared_with() -> None:
    tree = ast.parse(Path(kinds_loop.__file__).read_text())
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert "transformers" in named and not [name for name in named if name.split(".")[0] in ("jobs", "serve", "cluster")]


@pytest.mark.parametrize("better", [1, -1])
def test_points_have_the_sign_of_the_better_side(better: int) -> None:
    """Where less is better too; the interval holds 0 where both sides are equally often right."""
    draw = np.random.default_rng(0)
    truth = draw.normal(size=300)
    near, far = truth + draw.normal(size=300), truth + 2 * draw.normal(size=300)
    measure = MEASURES["regression"]
    points, (low, high) = apart(measure, truth, [(near, far) if better > 0 else (far, near)] * 2)
    assert np.sign(points) == np.sign(low) == np.sign(high) == better and low < points < high
    each, (least, most) = apart_by_seed(measure, truth, [(near, far), (near, near), (far, near)])
    assert each[0] == -each[2] != 0 and each[1] == 0 and least == pytest.approx(-most) and most > each[0] * better
    points, (low, high) = apart(measure, truth, [(near, truth + draw.normal(size=300))])
    assert low < 0 < high and low < points < high
