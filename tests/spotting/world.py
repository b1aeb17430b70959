"""A small world for spotting: a passage names an animal, a colour and a city among other words; a question asks for one.

examples = publish_rows(tmp_path, {"train": rows(200), "validation": rows(40, seed=1)})
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cluster.artifact import Artifact, Kind
from jobs.data.clean import item_key
from jobs.data.tokenizer import Tokenizer, train_tokenizer
from tests.jobs.tiny import publish_directory

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
    """So many rows, each passage of 12 to 20 words, now and then with a comma."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        words = draw.choices(OTHERS, k=draw.randint(9, 17))
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
    (draft / "task.json").write_text(json.dumps({"kind": "spotting"}))
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
