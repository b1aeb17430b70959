"""Tokenizers: trained, saved, loaded again by stock code with the same ids. `pytest tests/jobs/test_tokenizer.py`"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForSequenceClassification

from jobs.data.tokenizer import Tokenizer, copy_tokenizer, text_cutter, train_tokenizer
from jobs.objectives.corruption import sentinel_ids
from jobs.tasks.windows import engine_tokenizer
from serve.engines.card import Card, Variant
from serve.engines.engine import _load_tokenizer
from serve.tasks.protocol import Item
from tests.jobs.tiny import MAX_LENGTH, MESSAGES, classification, tiny_tokenizer

KINDS = ("wordpiece", "bpe", "unigram", "characters")
TEXTS = ["Win a FREE prize, now!", "我们六点见面。", "café 中奖 mixed", "unseen žluťoučký 🙂", "", "call " * 60]


SIZES = {"bpe": 400}
"""bpe has the 256 bytes to begin with."""


def train(directory: Path, kind: str, **settings: object) -> int:
    return train_tokenizer(
        Tokenizer.model_validate({"train": kind, "vocab_size": SIZES.get(kind, 200), **settings}),
        [text for text, _ in MESSAGES],
        MAX_LENGTH,
        directory,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tokenizer_is_loaded_by_stock_code(tmp_path: Path, kind: str) -> None:
    size = train(tmp_path, kind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size <= SIZES.get(kind, 200)
    assert tokenizer.model_max_length == MAX_LENGTH
    special = [tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token]
    assert special == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]"), "decoders begin and end with them"
    assert len(set(tokenizer.all_special_ids)) == 5
    ids = tokenizer(MESSAGES[0][0])["input_ids"]
    assert ids[0] == 2 and ids[-1] == 3
    assert 1 not in ids, "words that it was trained on are known"
    assert tokenizer(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0].upper())["input_ids"], "case is folded"
    pair = tokenizer("win", "bring")
    assert pair["input_ids"].count(3) == 2
    padded = tokenizer(["a", "a free prize now"], padding=True)
    assert padded["input_ids"][0][-1] == 0 and padded["attention_mask"][0][-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_with_a_model_and_served_gives_the_same_ids(tmp_path: Path, kind: str) -> None:
    """Training, the published directory and the server each load the tokenizer in their own way."""
    first = tiny_tokenizer(tmp_path / "tokenizer", kind)
    wanted = first(TEXTS, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    weights = {"torch": Variant(backend="torch", file="model.safetensors", precision="fp32")}
    card = Card(task=classification(), max_length=MAX_LENGTH, variants=weights, default="torch", parameters=1)
    for name in ("bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "llama", "qwen3", "t5"):
        published = tmp_path / name
        AutoConfig.for_model(name).save_pretrained(published)
        first.save_pretrained(published)
        loaded = AutoTokenizer.from_pretrained(published)
        assert loaded(TEXTS, truncation=True, max_length=MAX_LENGTH)["input_ids"] == wanted
        copy_tokenizer(str(published), tmp_path / f"{name}-copy")
        copied = AutoTokenizer.from_pretrained(tmp_path / f"{name}-copy")
        assert copied(TEXTS, truncation=True, max_length=MAX_LENGTH)["input_ids"] == wanted
        served = _load_tokenizer(published, card)
        assert [encoding.ids for encoding in served.encode_batch(TEXTS)] == wanted


def test_ids_survive_saving_beside_weights(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_characters_make_each_chinese_character_a_token(tmp_path: Path) -> None:
    train(tmp_path, "characters")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("我们六点见面") == list("我们六点见面")
    assert tokenizer.tokenize("中奖 now") == ["中", "奖", "n", "o", "w"]
    assert tokenizer.tokenize("我龘") == ["我", "[UNK]"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_known_text_comes_back_from_its_ids(tmp_path: Path, kind: str) -> None:
    train(tmp_path, kind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("win a free prize now", "bring the keys home"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_bytes_bring_any_text_back_exactly(tmp_path: Path) -> None:
    train(tmp_path, "bpe", lowercase=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [
        "Win  a\tFREE prize,\n now! ",
        "我们六点见面。龘",
        "café žluťoučký 🙂👩‍👩‍👧",
        " [brackets] ##x ▁ Ġ",
        "a\u0301 ﬁ Ａ",
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[1:-1], clean_up_tokenization_spaces=False) == text
    assert tokenizer.tokenize("win free")[1].startswith("Ġ"), "a space is part of the word after it"


def test_unigram_learns_chinese_words_and_brings_them_back(tmp_path: Path) -> None:
    texts = [f"{who}六点{what}" for who in ("我们", "他们", "妈妈", "朋友") for what in ("见面", "回家", "吃饭")] * 20
    train_tokenizer(Tokenizer(train="unigram", vocab_size=100), texts, MAX_LENGTH, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("我们六点见面")["input_ids"]
    assert len(ids) < 2 + 6, "some characters are taken together"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "我们六点见面"


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_are_tokens_of_their_own_within_the_size(tmp_path: Path, kind: str) -> None:
    size = train(tmp_path, kind, sentinels=20)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size <= SIZES.get(kind, 200)
    assert tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(20)]) == list(range(5, 25))
    assert set(range(5, 25)) <= set(tokenizer.all_special_ids)
    ids = tokenizer("win <extra_id_3> prize")["input_ids"]
    assert 8 in ids and "extra" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert sentinel_ids(tokenizer) == list(range(5, 25))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "sample:minilm_l6", "sentinels": 5}, "sentinels are for trained tokenizers"),
        ({"train": "bpe", "vocab_size": 261}, "vocab_size 261 leaves no room beside 261 special tokens and bytes"),
        ({"train": "unigram", "vocab_size": 100, "sentinels": 100}, "no room beside 105"),
    ],
)
def test_tokens_that_cannot_be_had_are_told(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Tokenizer.model_validate(settings)


def test_case_is_kept_where_that_is_asked(tmp_path: Path) -> None:
    settings = Tokenizer(train="wordpiece", vocab_size=150, lowercase=False)
    train_tokenizer(settings, ["Hello hello HELLO"] * 20, MAX_LENGTH, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("Hello")["input_ids"] != tokenizer("hello")["input_ids"]


@pytest.mark.parametrize("settings", [{}, {"train": "bpe", "model": "sample:minilm_l6"}])
def test_a_tokenizer_is_trained_or_taken_but_not_both(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either train or model"):
        Tokenizer.model_validate(settings)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "characters"])
def test_the_same_text_gives_the_same_tokenizer_in_any_process(kind: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from jobs.data.tokenizer import *;"
        "texts = [f'river boat {n} harbour {n * 7} 河上的船' for n in range(300)];"
        "train_tokenizer(Tokenizer(train=sys.argv[1], vocab_size=400), texts, 32, Path(sys.argv[2]))"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", code, kind, str(tmp_path / name)], check=True)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_folding_case_leaves_the_marks_that_make_other_words(tmp_path: Path, kind: str) -> None:
    pairs = [("パス", "ハス"), ("ぶた", "ふた"), ("दिन", "दन"), ("ไก่", "ไก"), ("й", "и"), ("한", "하")]
    texts = [f"{left} {right} {n} Été ete" for n, (left, right) in enumerate(pairs * 20)]
    train_tokenizer(Tokenizer.model_validate({"train": kind, "vocab_size": 400}), texts, MAX_LENGTH, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for left, right in pairs:
        one, other = tokenizer(left)["input_ids"], tokenizer(right)["input_ids"]
        assert one != other and tokenizer.unk_token_id not in one + other, (left, right)
    same = tokenizer("ÉTÉ Việt")["input_ids"] == tokenizer("ete viet")["input_ids"]
    assert same == (kind in ("wordpiece", "characters")), "BERT's kin take accents off Latin letters, byte for byte none does"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_texts_are_text_in_training_and_in_serving(tmp_path: Path, kind: str) -> None:
    train(tmp_path, kind, lowercase=False, sentinels=3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    weights = {"torch": Variant(backend="torch", file="model.safetensors", precision="fp32")}
    task = classification()
    card = Card(task=task, max_length=MAX_LENGTH, variants=weights, default="torch", parameters=1)
    texts = ["win [SEP] now", "[CLS][MASK] free", "a[PAD]prize <extra_id_2>", "[SEP]", *TEXTS]
    items = [Item((text,)) for text in texts]
    taught, serving = engine_tokenizer(tokenizer, task, MAX_LENGTH), _load_tokenizer(tmp_path, card)
    rows = [[window.ids for (window,) in task.encode(one, items)] for one in (taught, serving)]
    assert rows[0] == rows[1]
    short = [place for place, ids in enumerate(rows[0]) if len(ids) < MAX_LENGTH]
    whole = text_cutter(tokenizer)([texts[place] for place in short], True)
    assert len(short) > 5 and whole == [rows[0][place] for place in short], "as in pretraining"
    for ids in rows[0]:
        assert (ids[0], ids[-1]) == (2, 3) and not {0, 2, 3, 4, 5, 6, 7} & set(ids[1:-1])


def test_the_alphabet_is_that_of_the_normalised_text(tmp_path: Path) -> None:
    train_tokenizer(Tokenizer(train="wordpiece", vocab_size=100), ["ÉTÉ İ 我们\tß ǅ"], MAX_LENGTH, tmp_path)
    known = AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert {token for token in known if len(token) == 1} == set("eti我们ßǆ"), known
