"""BENCH=pairs: two texts classified together, fine-tuned as a recipe does it and by the plain loop of an example script.

    DATA=DIRECTORY make bench BENCH=pairs                       SICK (Marelli et al. 2014): train.tsv.gz and trial.tsv
    DATA=DIRECTORY python -m tests.benchmarks.pairs loop 0      one side, one seed: which test pairs it gets right, as JSON

Both sides have the same initial weights, order of examples, steps and rates; each cuts and pads texts itself.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = (0, 1, 2)
SIDES = ("recipe", "loop")
MODEL, MAX_LENGTH, BATCH = "sample:minilm_l6", 64, 32
EPOCHS, RATE, HELD = 1, 1e-4, 0.05
FILES = {"train": "train.tsv.gz", "test": "trial.tsv"}
FIRST, SECOND, LABEL = "sentence_A", "sentence_B", "entailment_judgment"
RESAMPLES = 10_000
POINTS = 0.5
"""Hundredths of accuracy by which the sides' means may differ."""


def measures() -> Iterator[dict[str, Any]]:
    """The mean difference of accuracy over the seeds, paired, with its 95 % interval."""
    if "DATA" not in os.environ:
        print("pairs: DATA is the directory of SICK's files; nothing was measured", file=sys.stderr)
        return
    right = {side: np.array([_run(side, seed) for seed in SEEDS], dtype=float) for side in SIDES}
    apart_N = 100 * (right["recipe"] - right["loop"]).mean(0)
    generator = np.random.default_rng(0)
    drawn = [apart_N[generator.integers(len(apart_N), size=len(apart_N))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5]).round(2).tolist()
    accuracies = {side: (100 * right[side].mean(1)).round(2).tolist() for side in SIDES}
    detail = {"interval": [low, high], "accuracy": accuracies, "test_pairs": len(apart_N), "seeds": list(SEEDS)}
    value = float(abs(apart_N.mean()).round(3))
    yield {"name": "pairs_against_loop", "value": value, "goal": POINTS, "better": "lower", "unit": "points", "detail": detail}


def _run(side: str, seed: int) -> list[bool]:
    command = [sys.executable, "-m", "tests.benchmarks.pairs", side, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(split: str) -> list[dict[str, str]]:
    """The pairs of a file, with their labels."""
    place = Path(os.environ["DATA"], FILES[split])
    with gzip.open(place, "rt", newline="") if place.suffix == ".gz" else open(place, newline="") as file:
        return [
            {name: row[name].strip() for name in (FIRST, SECOND, LABEL)}
            for row in csv.DictReader(file.read().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def prepared(place: Path) -> Any:
    """EXAMPLES as prepare makes them of the files."""
    from cluster.connection.connect import attach_or_start
    from jobs.core.recipe import parse_recipe
    from jobs.running.execute import execute

    for split in FILES:
        (place / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows(split)) + "\n")
    source = {split: str(place / f"{split}.jsonl") for split in FILES}
    step = {"stage": "prepare", "source": source, "text": FIRST, "split": {"validation": HELD}}
    step["task"] = {"label": LABEL, "pair": SECOND}
    with attach_or_start("local", cpus=2) as cluster:
        import ray

        ray.init(cluster.address, log_to_driver=False)
        try:
            return execute(parse_recipe({"name": "sick", "steps": {"pairs": step}}), "pairs", str(place))
        finally:
            ray.shutdown()


def recipe(examples: Any, seed: int) -> list[bool]:
    """As `jobs.finetune` trains it, answered by the serving engine."""
    from jobs.core.stage import Context, Inputs
    from jobs.data.training_rows import read_examples
    from jobs.finetune import FinetuneConfig, build
    from jobs.tasks import learning_of
    from jobs.training.ray_train import train_in_process
    from serve.engines.engine import load_engine
    from serve.tasks.protocol import Item

    with tempfile.TemporaryDirectory() as place:
        context = Context(place, "sick", "teacher", f"{place}/sick/teacher", "one", directory=Path(place))
        train_in_process(build, FinetuneConfig.model_validate(settings(seed)), Inputs(examples=[examples]), context)
        engine = load_engine(Path(place), "torch")
        columns = read_examples(examples, "test").to_pydict()
        items = [Item(texts) for texts in zip(columns["text"], columns["pair"], strict=True)]
        learning = learning_of(engine.task.kind)
        judged = learning.judged(engine.task, engine.settled(items), learning.truth(engine.task, columns))
        return [bool(good) for good in judged.goodness_N]


def settings(seed: int) -> dict[str, Any]:
    """What the recipe says of the training."""
    trained = {"epochs": EPOCHS, "batch_size": BATCH, "seed": seed, "optimizer": {"learning_rate": RATE}}
    return {"model": MODEL, "max_length": MAX_LENGTH, "keep": "last", "evaluations": 1, **trained}


def loop(examples: Any, seed: int) -> list[bool]:
    """The loop of an example script: transformers' model and tokenizer, torch's optimiser, batches padded to their longest."""
    import torch
    from transformers import AutoTokenizer

    from jobs.core.stage import Inputs
    from jobs.data.sources import model_directory
    from jobs.data.training_rows import read_examples
    from jobs.finetune import FinetuneConfig, build
    from jobs.training.optim import learning_rate_factor
    from jobs.training.parallel import resolve_precision

    config = FinetuneConfig.model_validate(settings(seed))
    torch.manual_seed(seed)
    model, objective = build(config, Inputs(examples=[examples]))  # for its initial weights and its order alone
    tokenizer = AutoTokenizer.from_pretrained(model_directory(MODEL))
    train, test = (read_examples(examples, split).to_pydict() for split in ("train", "test"))
    names = sorted(set(train["label"]))
    per_epoch = objective.steps_per_epoch(BATCH)
    half = resolve_precision("auto") == "bf16"
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=config.optimizer.weight_decay)

    def encoded(columns: Any, chosen: Any) -> Any:
        texts, pairs = ([columns[name][index] for index in chosen] for name in ("text", "pair"))
        return tokenizer(texts, pairs, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")

    for epoch in range(EPOCHS):
        for place, indices in enumerate(objective.epoch(epoch, BATCH, seed)):
            labels = torch.tensor([names.index(train["label"][index]) for index in indices])
            model.train()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = model(**encoded(train, indices), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or float("inf"))
            step, total = epoch * per_epoch + place, EPOCHS * per_epoch
            for group in optimizer.param_groups:
                group["lr"] = RATE * learning_rate_factor(step, total, config.schedule)
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    right = []
    with torch.inference_mode():
        for start in range(0, len(test["text"]), BATCH):
            chosen = range(start, min(start + BATCH, len(test["text"])))
            said = model(**encoded(test, chosen)).logits.argmax(-1).tolist()
            right += [names[one] == test["label"][index] for one, index in zip(said, chosen, strict=True)]
    return right


def main() -> None:
    """One side, one seed."""
    import torch

    torch.set_num_threads(2)
    side, seed = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as place:
        examples = prepared(Path(place))
        print(json.dumps((recipe if side == "recipe" else loop)(examples, seed)))


if __name__ == "__main__":
    main()
