"""Tiny pairs of texts for the tests of jobs: two columns, and whether both are of one sort.

examples = publish_pairs(tmp_path, {"train": PAIRS[:60], "validation": PAIRS[60:]})
model = publish_pair_model(tmp_path, tokenizer)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.data.clean import item_key
from jobs.tasks.heads import inputs_of
from jobs.tasks.supervised import save_model
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from tests.jobs.tiny import MAX_LENGTH, MESSAGES, publish_directory, tiny_classifier

PAIR_TASK = Classification(labels=("mixed", "same"), pairs=True)
OTHERS = [*MESSAGES[3:], *MESSAGES[:3]]
PAIRS = [
    (text, other, "same" if label == of_other else "mixed")
    for (text, label), (other, of_other) in [
        *zip(MESSAGES, OTHERS, strict=True),
        *zip(MESSAGES, reversed(MESSAGES), strict=True),
    ]
]
"""160 pairs."""
ITEMS = [Item((text, other)) for text, other, _ in PAIRS]


def publish_pairs(root: Path, splits: Mapping[str, Sequence[tuple[str, str, str]]]) -> Artifact:
    """EXAMPLES with these (text, pair, label) rows."""
    draft = root / "pairs-draft"
    for split, rows in splits.items():
        (draft / split).mkdir(parents=True)
        columns = {
            "key": [item_key(row[:2]) for row in rows],
            "text": [text for text, _, _ in rows],
            "pair": [other for _, other, _ in rows],
            "label": [label for _, _, label in rows],
        }
        parquet.write_table(pa.table(columns), draft / split / "rows.parquet")
    (draft / "task.json").write_text(json.dumps(PAIR_TASK.model_dump(mode="json")))
    return publish_directory(draft, root / "pairs", Kind.EXAMPLES)


def publish_pair_model(root: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Artifact:
    """A random model that reads which text each token is of."""
    model = tiny_classifier("bert", 2, len(tokenizer), seed=seed)
    inputs = inputs_of(model, PAIR_TASK)
    assert "token_type_ids" in inputs
    save_model(model, tokenizer, PAIR_TASK, MAX_LENGTH, root / "pair-model-draft", inputs)
    return publish_directory(root / "pair-model-draft", root / "pair-model", Kind.MODEL)
