"""A smaller vocabulary cuts its texts as before, and other texts still. `pytest tests/jobs/test_vocabulary.py`"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Tokenizer,
)

from jobs.compression.tokenizer_pruning import partial_pieces
from jobs.compression.vocabulary import changed_share, changed_texts, prune_vocabulary, reduced_tokenizer
from jobs.core.config import BadInput
from tests.jobs.small_models import logits, parameters, reloaded, small_model
from tests.jobs.tiny import MESSAGES, tiny_tokenizer

TEXTS = [text for text, _ in MESSAGES]
USED = TEXTS[:12]
STRANGE = ["Zebras quickly jump over ice", "我们不认识这些字", "naïve 🙂 «text» ½", "", "x" * 50]


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram", "characters"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return tiny_tokenizer(tmp_path_factory.mktemp(request.param), request.param)


def padded(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def test_the_texts_get_the_same_answers_from_fewer_rows(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = small_model("bert", vocab_size=len(tokenizer))
    with torch.inference_mode():
        wanted_BC = logits(model, *padded(tokenizer, USED))
    before = parameters(model)
    smaller, figures = prune_vocabulary(model, tokenizer, USED)

    gone = len(tokenizer) - len(smaller)
    assert gone > 0 and figures["vocabulary_before"] - figures["vocabulary_kept"] == gone
    assert before - parameters(model) == gone * 32
    assert figures["vocabulary_mb_saved"] == pytest.approx(gone * 32 * 4 / 1e6)
    with torch.inference_mode():
        assert (logits(model, *padded(smaller, USED)) - wanted_BC).abs().max() < 1e-6
        loaded = reloaded(model, "bert", tmp_path)
        smaller.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert loaded.config.vocab_size == len(again) == len(smaller)
        assert (logits(loaded, *padded(again, USED)) - wanted_BC).abs().max() < 1e-6


def test_texts_are_cut_into_the_same_tokens_one_to_one(tokenizer: PreTrainedTokenizerBase) -> None:
    smaller, places = reduced_tokenizer(tokenizer, USED)
    for text in USED:
        old, new = tokenizer(text)["input_ids"], smaller(text)["input_ids"]
        assert [places[number] for number in old] == new
        assert tokenizer.convert_ids_to_tokens(old) == smaller.convert_ids_to_tokens(new)
    assert sorted(places.values()) == list(range(len(smaller)))
    assert smaller.all_special_tokens == tokenizer.all_special_tokens
    assert smaller(USED[0], USED[1])["input_ids"] == [places[n] for n in tokenizer(USED[0], USED[1])["input_ids"]]


def test_texts_that_were_not_seen_still_have_tokens(tokenizer: PreTrainedTokenizerBase, request: Any) -> None:
    smaller, _ = reduced_tokenizer(tokenizer, USED)
    kind = request.node.callspec.params["tokenizer"]
    for text in [*TEXTS, *STRANGE]:
        ids = smaller(text)["input_ids"]
        assert all(0 <= number < len(smaller) for number in ids)
        if kind == "bpe":
            assert smaller.decode(ids, skip_special_tokens=True) == tokenizer.decode(
                tokenizer(text)["input_ids"], skip_special_tokens=True
            ), "bytes say any text"
    # Letters that were seen say words that were not.
    words = "a pen that is not here" if kind != "characters" else USED[0][::-1]
    assert smaller.unk_token_id not in smaller(words)["input_ids"]


def test_rare_tokens_go_where_they_are_asked_to(tokenizer: PreTrainedTokenizerBase) -> None:
    model = small_model("bert", vocab_size=len(tokenizer))
    everything, _ = reduced_tokenizer(tokenizer, TEXTS)
    smaller, figures = prune_vocabulary(model, tokenizer, TEXTS, least=8)
    assert len(smaller) == figures["vocabulary_kept"] <= len(everything)
    assert smaller.unk_token_id not in smaller(USED[0])["input_ids"]
    share = changed_share(tokenizer, smaller, TEXTS)
    assert (share > 0) == (len(smaller) < len(everything))
    assert changed_share(tokenizer, everything, TEXTS) == 0


PLAIN = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "hello",
    "##s",
    "##o",
    "world",
    "wor",
    "##ld",
    "a",
    "##b",
    "ab",
    "##bx",
    "x",
]


def bert_tokenizer() -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab={token: number for number, token in enumerate(PLAIN)})


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("h", "e"),
        ("l", "l"),
        ("he", "ll"),
        ("hell", "o"),
        ("Ġ", "w"),
        ("o", "r"),
        ("Ġw", "or"),
        ("t", "h"),
        ("th", "e"),
    ]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, *("".join(pair) for pair in merges), "<mask>"]
    pairs: Any = merges
    return RobertaTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=pairs)


def t5_tokenizer() -> PreTrainedTokenizerBase:
    pieces = ["▁", "▁hello", "▁world", "h", "e", "l", "o", "w", "r", "d", "s", "lo", "▁the", "z"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -1.0 - place / 3) for place, piece in enumerate(pieces))]
    return T5Tokenizer(vocab=vocab, extra_ids=4)


def byte_fallback_tokenizer() -> PreTrainedTokenizerBase:
    """As Llama 2 has it: characters, and bytes for those that are not there."""
    import tokenizers
    from tokenizers import models, normalizers

    merges = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁he", "ll"), ("▁hell", "o"), ("o", "r"), ("w", "or")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁helowrdz"]
    vocab = {token: number for number, token in enumerate([*tokens, *("".join(pair) for pair in merges)])}
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer, t5_tokenizer, byte_fallback_tokenizer])
def test_tokenizers_of_known_models(make: Any, tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.add_tokens([AddedToken("<user>", special=False)])
    texts = ["hello world", "hello <user> hello"]
    smaller, places = reduced_tokenizer(tokenizer, texts)
    assert type(smaller) is type(tokenizer) and len(smaller) < len(tokenizer)
    assert changed_texts(tokenizer, smaller, places, texts) == []
    smaller.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts, *STRANGE]:
        assert again(text)["input_ids"] == smaller(text)["input_ids"]
    if make is byte_fallback_tokenizer:
        assert again.unk_token_id not in again("naïve 🙂")["input_ids"]
    for name in ("pad_token", "unk_token", "eos_token", "cls_token", "sep_token", "mask_token"):
        if getattr(tokenizer, name, None) is not None:
            assert places[getattr(tokenizer, f"{name}_id")] == getattr(again, f"{name}_id")
    assert again.get_vocab()["<user>"] == places[tokenizer.get_vocab()["<user>"]]


def test_a_word_that_wordpiece_gives_up_stays_unknown() -> None:
    """Without "ab", the word "abx" would be found as "a" and "##bx"."""
    tokenizer = bert_tokenizer()
    texts = ["abx", "a", "hello"]
    unknown = tokenizer.unk_token_id
    assert tokenizer("abx", add_special_tokens=False)["input_ids"] == [unknown]
    assert partial_pieces("abx", set(PLAIN), "##") == {"ab"}
    smaller, places = reduced_tokenizer(tokenizer, texts)
    assert changed_texts(tokenizer, smaller, places, texts) == []
    assert smaller("abx", add_special_tokens=False)["input_ids"] == [smaller.unk_token_id]


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("bert", "MaskedLM"),
        ("roberta", "MaskedLM"),
        ("distilbert", "MaskedLM"),
        ("gpt2", "CausalLM"),
        ("llama", "CausalLM"),
        ("t5", ""),
        ("roberta", "SequenceClassification"),
        ("electra", "SequenceClassification"),
        ("modernbert", "SequenceClassification"),
    ],
)
def test_tables_and_heads_shrink_together(architecture: str, task: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    model = small_model(architecture, task, vocab_size=len(tokenizer) + 5, pad_token_id=tokenizer.pad_token_id)
    if architecture == "roberta":
        setattr(model.get_input_embeddings(), "padding_idx", 0)  # noqa: B010
    whole = copy.deepcopy(model)
    smaller, _ = prune_vocabulary(model, tokenizer, USED)
    tied = model.get_output_embeddings() is not None and whole.config.tie_word_embeddings
    loaded = reloaded(model, architecture, tmp_path / "model", task)
    assert loaded.config.vocab_size == loaded.get_input_embeddings().num_embeddings == len(smaller)
    if tied:
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    kept = [tokenizer.convert_tokens_to_ids(token) for token in smaller.convert_ids_to_tokens(list(range(len(smaller))))]
    with torch.inference_mode():
        wanted = logits(whole, *padded(tokenizer, USED))
        if task != "SequenceClassification":
            wanted = wanted[..., kept]
        for found in (model, loaded):
            assert (logits(found, *padded(smaller, USED)) - wanted).abs().max() < 1e-5
    for key in ("pad_token_id", "eos_token_id"):
        old, new = getattr(whole.config, key), getattr(loaded.config, key)
        assert tokenizer.convert_ids_to_tokens(old) == smaller.convert_ids_to_tokens(new)


def test_a_roberta_whose_padding_would_move_is_refused(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    model = small_model("roberta", vocab_size=len(tokenizer), pad_token_id=PLAIN.index("world"))
    with pytest.raises(BadInput, match="roberta counts positions from its padding token's id, 8, which would change"):
        prune_vocabulary(model, tokenizer, ["hello a"])


def test_a_model_with_fewer_rows_than_its_tokenizer_has_tokens_is_refused() -> None:
    model = small_model("bert", vocab_size=10)
    with pytest.raises(BadInput, match=r"vocabulary = 'used': the model has 10 embeddings"):
        prune_vocabulary(model, bert_tokenizer(), ["x"])


def test_a_text_cut_off_by_an_earlier_call_counts_whole(tmp_path: Path) -> None:
    """The tokenizer remembers that texts were cut to a length, also in its file."""
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer(USED, truncation=True, max_length=3)
    smaller, places = reduced_tokenizer(tokenizer, USED)
    assert changed_texts(tokenizer, smaller, places, USED) == []
