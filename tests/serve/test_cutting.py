"""Pairs of long texts: the same tokens as a tokenizer keeps by itself, in little time."""

import random
import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from serve.settings import MAX_CHARACTERS
from serve.tasks.shared.cutting import cut_pair
from tests.serve.tiny_model import CORPUS, train_tokenizer

WORDS = ["the", "film", "was", "a", "joy", "prize", "质量太差，用了", "playing", "stations!", "unknownest", "🙂", "x"]


def word_pieces() -> Tokenizer:
    return train_tokenizer().backend_tokenizer


def byte_pairs() -> Tokenizer:
    """As RoBERTa's, with an odd number of special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


@pytest.mark.parametrize("made", [word_pieces, byte_pairs])
@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("limit", [9, 24, 33])
def test_the_same_tokens_are_kept(made: object, direction: str, limit: int) -> None:
    assert callable(made)
    tokenizer, chance, shorter = made(), random.Random(limit), 0
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit, direction=direction)
    for _ in range(200):
        first, second = (" ".join(chance.choices(WORDS, k=chance.choice([1, 3, 8, 40, 60, 61, 62]))) for _ in range(2))
        cut = cut_pair(tokenizer, (first, second))
        shorter += sum(map(len, cut)) < len(first) + len(second)
        expected, given = tokenizer.encode_batch([(first, second), cut])
        assert (given.ids, given.type_ids) == (expected.ids, expected.type_ids), (first, second)
    assert shorter > 50, "some are cut, or this says nothing"


def test_two_texts_at_the_limit_take_little_time() -> None:
    tokenizer = word_pieces()
    tokenizer.enable_truncation(24)
    text = "a b " * (MAX_CHARACTERS // 4)
    began = time.perf_counter()
    (whole,) = tokenizer.encode_batch([cut_pair(tokenizer, (text, text))])
    assert len(whole) == 24
    assert time.perf_counter() - began < 2, "by itself it takes a minute"
