"""What the tests of the language objectives share: documents of a few sentences, tokens of them, objectives, models.

objective = language_objective("causal", publish_language(tmp_path, "causal"))
model = language_model("causal", objective.tokenizer, dropout=0.0)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.architectures.new import ARCHITECTURES_BY_OBJECTIVE, new_model
from jobs.core.stage import Inputs
from jobs.data.clean import text_key
from jobs.data.row_sample import RowSampling
from jobs.data.tokenizer import Tokenizer, train_tokenizer
from jobs.data.writing import PackRows
from jobs.objectives.language import LanguageObjective
from jobs.objectives.pretrained import wrapped
from jobs.objectives.target_head import HeadAtTargets
from jobs.pretrain import PretrainConfig, build
from tests.jobs.tiny import publish_directory

NOUNS = ("cat", "dog", "bird", "fish", "horse", "sheep")
STARTS = ("At first the {} sleeps at home.", "In the morning a {} wakes up.", "Then the {} wants to eat.")
ENDS = ("In the evening the {} comes back.", "At last every {} is tired.", "The {} says good night.")
DOCUMENTS = [
    " ".join(sentence.format(noun) for sentence in (*STARTS[skipped % 2 :], *ENDS[: 3 - skipped // 2]))
    for skipped in range(4)
    for noun in NOUNS
]
"""24 documents; each keeps to one animal, and its sentences to one order."""
ALIKE = [f"{noun} {noun}. {noun} {noun} {noun}." for noun in NOUNS[:4]] * 3 + [
    f"{noun} {noun} {noun}. {noun} {noun}." for noun in NOUNS[:4]
] * 3
"""Documents whose segments have nothing but the animal in common."""
LENGTH = 32
LANGUAGE = ("causal", "span_corruption", "masked_sentence_order")
"""Objectives whose batches differ from those of plain masking."""


def language_tokenizer(directory: Path, **settings: Any) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the documents; WordPiece with sentinels, unless the settings say otherwise."""
    asked = Tokenizer.model_validate({"train": "wordpiece", "vocab_size": 160, "sentinels": 8, **settings})
    train_tokenizer(asked, DOCUMENTS, LENGTH, directory)
    return AutoTokenizer.from_pretrained(directory)


def publish_language(
    root: Path,
    objective: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    length: int = LENGTH,
    documents: Sequence[str] = DOCUMENTS,
    **settings: Any,
) -> Artifact:
    """TOKENS of the documents, laid out for the objective by what prepare does in its actors."""
    import pandas as pd

    from jobs.data.pack import document_bounds

    draft, place = root / "draft", root / "made-tokenizer"
    tokenizer = tokenizer or language_tokenizer(place, **settings)
    tokenizer.save_pretrained(draft / "tokenizer")
    segments = "pairs" if "sentence" in objective else "packed"
    bounds = document_bounds(tokenizer)
    files = {path.name: path.read_bytes() for path in (draft / "tokenizer").iterdir()}
    held = documents[::3]
    splits = ["train"] * len(documents) + ["validation"] * len(held)
    texts = [*documents, *held]
    rows = pd.DataFrame({"key": [text_key(text) for text in texts], "text": texts, "split": splits})
    PackRows(files, bounds, length, segments, RowSampling.of(len(texts), ["text"]), str(draft))(rows)
    details = {"max_length": length, "segments": segments, "bounds": bounds.details()}
    return publish_directory(draft, root / "tokens", Kind.TOKENS, details=details)


def language_config(objective: str, dropout: float = 0.0, **settings: Any) -> PretrainConfig:
    """The settings of a tiny new model's pretraining."""
    shape = {
        "architecture": ARCHITECTURES_BY_OBJECTIVE[objective][0],
        "layers": 2,
        "hidden": 32,
        "heads": 2,
        "dropout": dropout,
    }
    return PretrainConfig.model_validate({"objective": objective, "model": shape, **settings})


def language_objective(objective: str, tokens: Artifact, **settings: Any) -> LanguageObjective:
    """The objective as pretrain builds it."""
    learner = build(language_config(objective, **settings), Inputs(tokens=[tokens]))[1]
    assert isinstance(learner, LanguageObjective)
    return learner


def language_model(objective: Any, tokenizer: PreTrainedTokenizerBase, dropout: float) -> HeadAtTargets:
    """A tiny new model, always the same."""
    torch.manual_seed(0)
    shape = language_config(objective, dropout).model
    assert shape is not None
    return wrapped(new_model(shape, objective, tokenizer, LENGTH), objective, LENGTH)
