"""Rows of documents and of pairs, and the tokens that say where a document begins or ends. `pytest tests/jobs/test_pack.py`"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jobs.core.config import BadInput
from jobs.data.pack import Bounds, document_bounds, documents_of, pack
from jobs.data.segments import Frame, pad_rows, pair_frame, pair_rows, sentence_tokens, sentences
from jobs.data.tokenizer import text_cutter
from jobs.objectives.documents import document_numbers
from tests.jobs.language_runs import DOCUMENTS, publish_language
from tests.jobs.tiny import tiny_tokenizer

FRAME = Frame(cls=2, sep=3, pad=0)


def made(template: str | None, **special: str) -> PreTrainedTokenizerBase:
    """A tokenizer of single words that frames texts as the template says."""
    words = ["<s>", "</s>", "<pad>", "a", "b", "c"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="c"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        used = [(word, words.index(word)) for word in ("<s>", "</s>") if word in template]
        inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@pytest.mark.parametrize(
    ("template", "special", "bounds", "tokens"),
    [
        ("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, Bounds(0, 1, 2), [0, 3, 4, 1]),
        ("$A </s>", {"eos_token": "</s>", "pad_token": "<pad>"}, Bounds(None, 1, 2), [3, 4, 1]),
        ("<s> $A", {"bos_token": "<s>", "eos_token": "</s>"}, Bounds(0, None, 0), [0, 3, 4]),
        (None, {"eos_token": "</s>"}, Bounds(None, 1, 1, appended=True), [3, 4, 1]),
        (None, {"sep_token": "</s>", "pad_token": "<pad>"}, Bounds(None, 1, 2, appended=True), [3, 4, 1]),
    ],
)
def test_every_document_has_a_token_that_bounds_it(
    template: str | None, special: dict[str, str], bounds: Bounds, tokens: list[int]
) -> None:
    """As BERT, T5, Llama, GPT-2 and Qwen frame texts."""
    tokenizer = made(template, **special)
    assert document_bounds(tokenizer) == bounds == Bounds.from_details({"bounds": bounds.details()})
    cut = text_cutter(tokenizer)
    assert documents_of(["a b", "b"], cut, bounds)[0] == tokens
    assert documents_of([], cut, bounds) == []
    ids_NT = pack(documents_of(["a b", "b", "a a a"], cut, bounds), 16, bounds.pad, len(tokenizer))
    documents_T = document_numbers(ids_NT, bounds)[0]
    parts = [ids_NT[0][documents_T == number].tolist() for number in np.unique(documents_T[documents_T > 0])]
    assert [part for part in parts if len(part) > 1][:3] == documents_of(["a b", "b", "a a a"], cut, bounds)


def test_a_tokenizer_that_can_bound_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="marks neither the beginning nor the end of a text.*Set eos_token or sep_token"):
        document_bounds(made(None, pad_token="<pad>", unk_token="a"))
    with pytest.raises(BadInput, match="segments = 'pairs': the tokenizer has no cls_token, sep_token, pad_token"):
        pair_frame(made(None, eos_token="</s>"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "go." She left.', ['He said "go."', "She left."]),
        ("It costs 3.14 at a.b.c now. Yes", ["It costs 3.14 at a.b.c now.", "Yes"]),
        ("我们走吧。好！“是吗？”他说。", ["我们走吧。", "好！", "“是吗？”", "他说。"]),
        ("A line\nanother\n\n third… end", ["A line", "another", "third…", "end"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_of_english_and_chinese(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts
    assert "".join(parts).replace(" ", "") == text.replace(" ", "").replace("\n", "")


def test_pairs_by_hand() -> None:
    """Rows of 16: whole sentences up to 13 tokens, parted nearest the middle; one sentence makes no row."""
    document = [[10] * 4, [11] * 5, [12] * 3, [13] * 6, [14] * 2]
    rows, left_out = pair_rows([document, [[20] * 4]], 16, FRAME)
    assert rows == [
        [2, *[10] * 4, 3, *[11] * 5, *[12] * 3, 3],
        [2, *[13] * 6, 3, *[14] * 2, 3],
    ]
    assert left_out == 1
    assert pad_rows(rows[1:], 16, 0, 300).tolist() == [[*rows[1], *[0] * 5]]


def test_a_long_sentence_is_cut_and_a_last_one_gets_company() -> None:
    rows, left_out = pair_rows([[[10] * 15], [[11] * 3, [12] * 3, [13] * 3, [14] * 6]], 16, FRAME)
    assert rows[0] == [2, *[10] * 6, 3, *[10] * 6, 3], "parts of half a row count as sentences"
    assert rows[1:] == [[2, *[11] * 3, 3, *[12] * 3, 3], [2, *[13] * 3, 3, *[14] * 6, 3]] and left_out == 0


def test_no_pair_crosses_a_document_and_every_row_has_two_segments() -> None:
    generator = np.random.default_rng(0)
    documents = [
        [[10 + number] * int(size) for size in generator.integers(1, 40, generator.integers(1, 9))] for number in range(60)
    ]
    rows, left_out = pair_rows(documents, 32, FRAME)
    for row in rows:
        assert len(row) <= 32 and row[0] == 2 and row.count(3) == 2 and row[-1] == 3
        assert len(set(row) - {2, 3}) == 1
        first = row.index(3)
        assert 1 < first < len(row) - 2, "neither segment is empty"
    assert left_out == sum(sum(-(-len(one) // 14) for one in document) < 2 for document in documents)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "characters"])
def test_special_tokens_in_the_text_cannot_be_taken_for_bounds(kind: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path, kind)
    cut, bounds, text = text_cutter(tokenizer), document_bounds(tokenizer), "win [SEP] a prize[CLS] now. [PAD] [MASK]"
    (document,) = documents_of([text], cut, bounds)
    assert (document[0], document[-1]) == (bounds.begin, bounds.end)
    for tokens in (document[1:-1], *sentence_tokens(text, cut)):
        assert tokens and not {0, 2, 3, 4} & set(tokens)


def test_nor_can_those_that_are_words_of_their_own(tmp_path: Path) -> None:
    """As in a model that looks words up, and in a tokenizer that has no fast form."""
    tokenizer = made("<s> $A </s>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert documents_of(["a </s> b <pad>"], text_cutter(tokenizer), Bounds(0, 1, 2)) == [[0, 3, 5, 5, 4, 5, 5, 1]]
    slow: Any = ByT5Tokenizer()
    assert text_cutter(slow)(["a</s>"], True) == [[*(byte + 3 for byte in b"a</s>"), slow.eos_token_id]]


@pytest.mark.parametrize("objective", ["masked", "masked_next_sentence"])
def test_what_prepare_writes_holds_the_text(objective: str, tmp_path: Path) -> None:
    tokens = publish_language(tmp_path, objective)
    tokenizer: Any = AutoTokenizer.from_pretrained(tokens.local() / "tokenizer")
    (path,) = tokens.files("train/", ".npy")
    rows = np.load(tokens.local() / path)
    text = " ".join(DOCUMENTS).lower().replace(" ", "")
    assert tokenizer.decode(rows.reshape(-1), skip_special_tokens=True).replace(" ", "") == text
