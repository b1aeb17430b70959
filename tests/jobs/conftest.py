"""What the tests of jobs share: a tokenizer and two objectives over the tiny data, made once."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from jobs.tasks.classification import Classification
    from jobs.training.masked import MaskedObjective


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> "PreTrainedTokenizerBase":
    """A WordPiece tokenizer of at most 200 tokens."""
    from tests.jobs.tiny import tiny_tokenizer

    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def classification(tmp_path_factory: pytest.TempPathFactory, tokenizer: "PreTrainedTokenizerBase") -> "Classification":
    """58 messages to train on, 22 to validate on."""
    from jobs.tasks.classification import Classification
    from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_examples

    root = tmp_path_factory.mktemp("classification")
    examples = publish_examples(root, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    return Classification(examples, tokenizer, LABELS, MAX_LENGTH)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory, tokenizer: "PreTrainedTokenizerBase") -> "MaskedObjective":
    """All messages, packed into rows of 16 tokens."""
    from jobs.training.masked import MaskedObjective
    from tests.jobs.tiny import publish_tokens

    return MaskedObjective(publish_tokens(tmp_path_factory.mktemp("masked"), tokenizer), tokenizer, 0.15)
