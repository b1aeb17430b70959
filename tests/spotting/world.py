"""A small world for spotting: a passage names an animal, a colour and a city among other words; a question asks for one.

examples = publish_rows(tmp_path, {"train": rows(200), "validation": rows(40, seed=1)})
tree = recipe(write_world(tmp_path), port=18000)
"""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.data.clean import item_key
from jobs.data.tokenizer import Tokenizer, train_tokenizer
from tests.jobs.tiny import publish_directory
from tests.spotting.installed import KIND

ASKED = {
    "animal": ("badger", "falcon", "otter", "spider", "donkey"),
    "colour": ("crimson", "turquoise", "yellow", "violet", "brown"),
    "city": ("Lisbon", "Kyoto", "Nairobi", "Quito", "Bergen"),
}
OTHERS = [
    "the",
    "a",
    "was",
    "once",
    "seen",
    "near",
    "some",
    "old",
    "house",
    "by",
    "two",
    "friends",
    "on",
    "their",
    "long",
    "way",
    "home",
    "after",
    "it",
    "rained",
    "all",
    "day",
    "and",
    "night",
]
MAX_LENGTH = 24
"""Tokens of a window: most passages have two."""


class Row(NamedTuple):
    """The number of the right word is from 1; None without one."""

    question: str
    passage: str
    answer: int | None


def rows(count: int, seed: int = 0, answered: bool = True) -> list[Row]:
    """So many rows, each passage of 12 to 27 words, now and then with a comma: in some windows there is nothing to find."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        words = draw.choices(OTHERS, k=draw.randint(9, 24))
        for named in draw.sample([draw.choice(names) for names in ASKED.values()], len(ASKED)):
            words.insert(draw.randrange(len(words) + 1), named)
        asked = draw.choice(list(ASKED))
        place = next(place for place, word in enumerate(words) if word in ASKED[asked])
        passage = " ".join(word + draw.choice(("", "", ",")) for word in words)
        made.append(Row(f"which {asked} is it?", passage, place + 1 if answered else None))
    return made


def publish_rows(root: Path, splits: Mapping[str, Sequence[Row]]) -> Artifact:
    """EXAMPLES of these rows."""
    draft = root / "rows-draft"
    for split, own in splits.items():
        (draft / split).mkdir(parents=True)
        columns = {name: [getattr(row, name) for row in own] for name in Row._fields}
        columns["key"] = [item_key(row[:2]) for row in own]
        parquet.write_table(pa.table(columns), draft / split / "rows.parquet")
    (draft / "task.json").write_text(json.dumps({"kind": KIND}))
    return publish_directory(draft, root / "rows", Kind.EXAMPLES)


def world_tokenizer(directory: Path, train: str = "wordpiece") -> PreTrainedTokenizerBase:
    """A tokenizer trained on the world."""
    texts = [text for row in rows(200) for text in row[:2]]
    settings = Tokenizer.model_validate({"train": train, "vocab_size": 400 if train == "bpe" else 150})
    train_tokenizer(settings, texts, MAX_LENGTH, directory)
    return AutoTokenizer.from_pretrained(directory)


def tiny_model(tokenizer: PreTrainedTokenizerBase, layers: int = 2, dropout: float = 0.0) -> PreTrainedModel:
    """A BERT of 48 units with random weights, which says one number a token."""
    import torch

    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 96, "max_position_embeddings": 64, "num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = AutoConfig.for_model("bert", **sizes, **rates, initializer_range=0.1)
    return AutoModelForTokenClassification.from_config(config).eval()


def write_world(directory: Path) -> dict[str, str]:
    """Write rows as CSV files and two bases that cut texts otherwise, a teacher's and a student's; their paths by name."""
    for name, some in {"train": rows(300), "unlabelled": rows(60, seed=1, answered=False), "test": rows(60, seed=2)}.items():
        with open(directory / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "context", *(["place"] if name != "unlabelled" else [])])
            writer.writerows([row.question, row.passage, *([row.answer] if row.answer else [])] for row in some)
    for name, train in {"teacher_base": "wordpiece", "student_base": "bpe"}.items():
        tiny_model(world_tokenizer(directory / name, train)).save_pretrained(directory / name)
    return {path.stem: str(path) for path in directory.iterdir()}


def recipe(paths: Mapping[str, str], port: int, **changes: Any) -> dict[str, Any]:
    """From rows to a service; `changes` replaces keys of steps."""
    inputs = {"examples": "rows"}
    training = {"max_length": MAX_LENGTH, "batch_size": 16, "epochs": 9, "optimizer": {"learning_rate": 3e-3}}
    steps: dict[str, Any] = {
        "rows": {"stage": "prepare", "source": {name: paths[name] for name in ("train", "unlabelled", "test")}}
        | {"text": "question", "task": {"kind": KIND, "passage": "context", "answer": "place"}, "split": {"validation": 0.2}},
        "teacher": {"stage": "finetune", "inputs": inputs, "model": paths["teacher_base"], "loss": {"others": 0.2}} | training,
        "soft": {"stage": "predict", "inputs": {**inputs, "model": "teacher"}},
        "student": {"stage": "distill", "inputs": {**inputs, "teacher": "soft"}, "model": paths["student_base"]}
        | {"loss": "listwise", "temperature": 1.0}
        | training,
        "small": {"stage": "compress", "inputs": {**inputs, "model": "student", "teacher": "soft"}, "quantize": "dynamic"},
        "judged": {"stage": "evaluate", "inputs": {**inputs, "teacher": "teacher", "candidates": "small"}}
        | {"latency_texts": 20, "resamples": 100},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.5, "prefer": "smallest"},
        "served": {"stage": "deploy", "inputs": {**inputs, "winner": "winner"}, "port": port, "cpus": 0},
    }
    for name, keys in changes.items():
        steps[name] = steps[name] | keys
    return {"name": KIND, "steps": steps}
