"""What the tests of jobs share: a tokenizer and two objectives over the tiny data, made once."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from jobs.objectives.language import LanguageObjective
    from jobs.objectives.masked import MaskedObjective
    from jobs.tasks.supervised import Supervised


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> "PreTrainedTokenizerBase":
    """A WordPiece tokenizer of at most 200 tokens."""
    from tests.jobs.tiny import tiny_tokenizer

    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def classification(tmp_path_factory: pytest.TempPathFactory, tokenizer: "PreTrainedTokenizerBase") -> "Supervised":
    """58 messages to train on, 22 to validate on."""
    from tests.jobs.tiny import MESSAGES, publish_examples, supervised

    root = tmp_path_factory.mktemp("classification")
    examples = publish_examples(root, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    return supervised(examples, tokenizer)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory, tokenizer: "PreTrainedTokenizerBase") -> "MaskedObjective":
    """All messages, packed into rows of 16 tokens."""
    from jobs.objectives.masked import MaskedObjective
    from tests.jobs.tiny import publish_tokens

    return MaskedObjective(publish_tokens(tmp_path_factory.mktemp("masked"), tokenizer), tokenizer, 0.15)


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> "LanguageObjective":
    """The next token of packed documents."""
    from tests.jobs.language_runs import language_objective, publish_language

    return language_objective("causal", publish_language(tmp_path_factory.mktemp("causal"), "causal"))


@pytest.fixture(scope="session")
def span_corruption(tmp_path_factory: pytest.TempPathFactory) -> "LanguageObjective":
    """Spans taken out of packed documents."""
    from tests.jobs.language_runs import language_objective, publish_language

    return language_objective("span_corruption", publish_language(tmp_path_factory.mktemp("spans"), "span_corruption"))


@pytest.fixture(scope="session")
def masked_sentence_order(tmp_path_factory: pytest.TempPathFactory) -> "LanguageObjective":
    """Pairs of segments, half of them exchanged."""
    from tests.jobs.language_runs import language_objective, publish_language

    place = publish_language(tmp_path_factory.mktemp("order"), "masked_sentence_order")
    return language_objective("masked_sentence_order", place)
