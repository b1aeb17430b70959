"""Bags of features: their grams are scikit-learn's, what they answer is what their tables say, in every precision.

pytest tests/serve/test_bag.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer

from serve.engines.bag import ACTIVATIONS, BIAS, IDF, Bag
from serve.engines.bag_reading import GramCutter, GramFeatures, TokenFeatures
from serve.engines.bag_table import Table, packed
from serve.engines.base import Engine
from serve.engines.card import BAG_FILE, GRAMS_FILE, TOKENIZER_FILE, Card, EngineError, Variant, write_card
from serve.engines.engine import load_engine
from serve.engines.grams import WORD, GramSettings
from serve.engines.tokens import as_text
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from tests.serve.tiny_model import CORPUS, LABELS, PAIRS, TEXTS, train_tokenizer

UNKNOWN = "Ωψ"
READ = 100
"""Characters of a text: one of TEXTS has more."""

lengths = st.tuples(st.integers(1, 4), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))
texts = st.text(st.one_of(st.characters(), st.sampled_from("aB ı İß\t\n我们🙂é'0_𠀀ひらカナ")), max_size=40)


@given(texts, lengths, lengths)
@settings(max_examples=300, deadline=None)
def test_grams_are_those_of_scikit_learn(text: str, words: tuple[int, int], characters: tuple[int, int]) -> None:
    found = GramSettings(words=words, characters=characters).cut(text)
    by_words = TfidfVectorizer(ngram_range=words, token_pattern=WORD).build_analyzer()
    by_characters = TfidfVectorizer(analyzer="char", ngram_range=characters).build_analyzer()
    assert found == {"words": by_words(text), "characters": by_characters(text)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Win a prize", ["win", "a", "prize", "win a", "a prize"]),
        ("我们win了", ["我", "们", "win", "了", "我 们", "们 win", "win 了"]),
    ],
)
def test_words_in_english_and_chinese(text: str, words: list[str]) -> None:
    assert GramSettings(characters=None).cut(text) == {"words": words}


def linear(directory: Path, pairs: bool = False, precision: str = "fp32") -> Engine:
    """A linear model with weights of its own for the grams of CORPUS."""
    features = GramFeatures()
    listed: dict[str, list[str]] = {sort: [] for sort in features.sorts}
    for text in CORPUS:
        for sort, grams in features.cut(text).items():
            listed[sort] += [gram for gram in dict.fromkeys(grams) if gram not in listed[sort]]
    generator, count = np.random.default_rng(1), sum(map(len, listed.values()))
    rows = 3 * count + 7 if pairs else count
    tensors = packed(generator.normal(size=(rows, len(LABELS))).astype(np.float32), precision)
    tensors |= {IDF: generator.uniform(1, 3, count).astype(np.float32), BIAS: np.array([0.1, -0.2, 0.3], np.float32)}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / BAG_FILE).write_text(Bag(kind="linear", features=features, weighting="tfidf", widths=(3,)).model_dump_json())
    (directory / GRAMS_FILE).write_text(json.dumps(listed))
    return published(directory, tensors, precision, pairs)


def published(directory: Path, tensors: dict[str, np.ndarray], precision: str, pairs: bool) -> Engine:
    """The bag with its card, loaded."""
    save_file(tensors, directory / "bag.safetensors")
    variants = {"numpy": Variant(backend="numpy", file="bag.safetensors", precision=precision)}
    task = Classification(labels=LABELS, pairs=pairs)
    write_card(directory, Card(task=task, max_length=READ, variants=variants, default="numpy", parameters=7))
    return load_engine(directory)


def test_a_linear_model_says_what_scikit_learn_would(tmp_path: Path) -> None:
    engine, (words, characters) = linear(tmp_path), json.loads((tmp_path / GRAMS_FILE).read_text()).values()
    model = engine.bag  # type: ignore[attr-defined]
    idf_F, ends = model.reader.weights_F, [0, len(words), len(words) + len(characters)]
    both = []
    for number, (listed, more) in enumerate(
        [
            (words, {"ngram_range": (1, 2), "token_pattern": WORD}),
            (characters, {"ngram_range": (2, 5), "analyzer": "char"}),
        ]
    ):
        vectorizer = TfidfVectorizer(vocabulary=listed, sublinear_tf=True, **more)
        vectorizer.idf_ = idf_F[ends[number] : ends[number + 1]]
        both.append(vectorizer.transform([text[:READ] for text in TEXTS]).toarray())
    wanted = np.concatenate(both, axis=1) @ model.table.table + model.bias_K
    np.testing.assert_allclose(np.asarray(engine.outputs([Item((text,)) for text in TEXTS])), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pairs", [False, True])
def test_windows_and_items_say_the_same_alone_and_together(tmp_path: Path, pairs: bool) -> None:
    engine = linear(tmp_path, pairs)
    items = [Item(pair) for pair in PAIRS] if pairs else [Item((text,)) for text in [*TEXTS, "", UNKNOWN]]
    together = np.asarray(engine.outputs(items))
    windows = engine.tokenise(items)
    assert [len(own) for own in windows] == [1] * len(items)
    assert len(windows[0][0]) == sum(min(READ, len(value)) for value in items[0].values)
    for item, own, row in zip(items, windows, together, strict=True):
        np.testing.assert_array_equal(engine.outputs([item])[0], row)
        np.testing.assert_array_equal(engine.joined(item, own, list(engine.run(own))), row)
    assert engine.describe(tmp_path) == {"shape": f"linear, {engine.bag.table.shape[0]:,} features", "parameters": 7}  # type: ignore[attr-defined]


def test_a_text_of_unknown_grams_alone_is_answered_by_the_bias(tmp_path: Path) -> None:
    engine = linear(tmp_path)
    answer = engine.answers([Item((UNKNOWN,))])[0]
    shares = np.exp([0.1, -0.2, 0.3]) / np.exp([0.1, -0.2, 0.3]).sum()
    assert (answer.label, answer.probability) == (LABELS[2], pytest.approx(shares[2], rel=1e-5))


def test_two_texts_are_compared(tmp_path: Path) -> None:
    """Rows of the first, of the second, of both by the lower weight, then figures that are 1 for a text with itself."""
    model = linear(tmp_path, pairs=True).bag  # type: ignore[attr-defined]
    ((rows, weights),) = model.reader([(TEXTS[0], TEXTS[0])])[0].parts
    count = (len(rows) - 7) // 3
    np.testing.assert_allclose(weights[-7:], np.ones(7), rtol=1e-5)
    np.testing.assert_array_equal(np.sort(weights[:count]), np.sort(weights[2 * count : 3 * count]))
    ((_, apart),) = model.reader([("the film", UNKNOWN)])[0].parts
    np.testing.assert_allclose(apart[-7:], [0, 0, 0, 0, 0, 0, 2 / 8])


def test_hashed_grams_all_have_a_row() -> None:
    cutter = GramCutter(GramFeatures(hashed=50), None, 100)
    (text,) = cutter(["Win 我们 🙂"], whole=False)
    (words, counts), (characters, _) = text.found
    assert set(words) <= set(range(50)) and set(characters) <= set(range(50, 100))
    assert counts.sum() == len(GramSettings().cut("Win 我们 🙂")["words"])


@pytest.mark.parametrize(
    ("precision", "group", "largest"),
    [
        ("fp32", None, 0),
        ("fp16", None, 2e-3),
        ("int8", None, 0.02),
        ("int8", 4, 0.02),
        ("int4", None, 0.3),
        ("int4", 4, 0.3),
    ],
)
def test_a_table_of_each_precision(precision: str, group: int | None, largest: float) -> None:
    table_FD = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    table_FD[3] = 0
    tensors = packed(table_FD, precision, group)
    table, places = Table(tensors), np.array([3, 39, 3, 0])
    assert table.shape == (40, 8)
    assert sum(one.nbytes for one in tensors.values()) <= {"fp32": 1280, "fp16": 640, "int8": 480, "int4": 320}[precision]
    found = table.rows(places)
    assert found.dtype == np.float32
    assert np.abs(found - table_FD[places]).max() <= largest
    np.testing.assert_array_equal(found[0], np.zeros(8))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("weighting", ["mean", "learned"])
def test_a_static_model(tmp_path: Path, pairs: bool, weighting: str) -> None:
    train_tokenizer().backend_tokenizer.save(str(tmp_path / TOKENIZER_FILE))
    tokenizer = as_text(Tokenizer.from_file(str(tmp_path / TOKENIZER_FILE)))
    generator, count = np.random.default_rng(2), tokenizer.get_vocab_size()
    inputs = 16 if pairs else 4
    tensors = packed(generator.normal(size=(count, 4)).astype(np.float32), "fp32")
    sizes = {"head.0.weight": (inputs, 5), "head.0.bias": (5,), "head.1.weight": (5, 3), "head.1.bias": (3,)}
    tensors |= {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    weights_F = generator.uniform(0.5, 2, count).astype(np.float32) if weighting == "learned" else np.ones(count, np.float32)
    tensors |= {"weights": weights_F} if weighting == "learned" else {}
    bag = Bag(kind="static", features=TokenFeatures(), weighting=weighting, widths=(4, 5, 3), activation="relu")
    (tmp_path / BAG_FILE).write_text(bag.model_dump_json())
    engine = published(tmp_path, tensors, "fp32", pairs)
    items = [Item(pair) for pair in PAIRS] if pairs else [Item((text,)) for text in TEXTS]
    for item, said in zip(items, engine.outputs(items), strict=True):
        vectors = []
        for value in item.values:
            ids = tokenizer.encode(value, add_special_tokens=False).ids
            vectors.append((tensors["table"][ids] * weights_F[ids, None]).sum(0) / weights_F[ids].sum())
        if pairs:
            first, second = vectors
            vectors = [first, second, np.abs(first - second), first * second]
        hidden = ACTIVATIONS["relu"](np.concatenate(vectors) @ tensors["head.0.weight"] + tensors["head.0.bias"])
        np.testing.assert_allclose(said, hidden @ tensors["head.1.weight"] + tensors["head.1.bias"], rtol=1e-4, atol=1e-5)


def test_a_damaged_bag_is_told_by_name(tmp_path: Path) -> None:
    linear(tmp_path)
    listed = json.loads((tmp_path / GRAMS_FILE).read_text())
    (tmp_path / GRAMS_FILE).write_text(json.dumps(listed | {"words": listed["words"][1:]}))
    with pytest.raises(EngineError, match="bag.json or bag.safetensors is damaged .the table is .*publish the model again"):
        load_engine(tmp_path)
    (tmp_path / "bag.safetensors").unlink()
    with pytest.raises(EngineError, match="bag.safetensors: not there, and the variant numpy needs it"):
        load_engine(tmp_path)


@pytest.mark.parametrize(
    ("file", "backend", "reason"),
    [("model.safetensors", "numpy", "is named bag.safetensors"), ("bag.onnx", "numpy", "is named bag.safetensors")],
)
def test_files_of_a_numpy_variant(file: str, backend: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Variant.model_validate({"backend": backend, "file": file, "precision": "fp32"})


def test_no_model_is_a_bag_and_a_transformer(tmp_path: Path) -> None:
    card = linear(tmp_path).card
    both = {"torch": Variant(backend="torch", file="model.safetensors", precision="fp32"), **card.variants}
    with pytest.raises(ValueError, match="no model is both"):
        Card.model_validate({**card.model_dump(), "variants": {name: one.model_dump() for name, one in both.items()}})
