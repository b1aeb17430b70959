"""Near duplicates, against comparing every text with every other. `pytest tests/jobs/test_near_duplicates.py`"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.connection.connect import Cluster
from jobs.data import near_duplicates
from jobs.data.clean import text_key
from jobs.data.near_duplicates import NearDuplicates, connected, jaccard, without_near_duplicates
from jobs.data.parts import PartWriter, RowPart, read_part
from jobs.data.shingles import band_hashes, minhash, shingles
from jobs.prepare import PrepareConfig
from tests.jobs.test_parts import kept_of, prepared

ENGLISH = ["the", "old", "river", "carried", "a", "small", "boat", "past", "our", "town", "and", "nobody", "saw", "who", "was"]
CHINESE = [chr(ord("一") + number) for number in range(60)]


def plain_set(text: str, words: int, characters: int) -> set[tuple[str, ...]]:
    """A text's shingles, word by word; without spaces, character by character."""
    unspaced = not text.isascii()
    units = list(text.lower()) if unspaced else text.lower().split()
    width = characters if unspaced else words
    return {tuple(units[at : at + width]) for at in range(max(1, len(units) - width + 1))}


def plain_jaccard(one: str, other: str, words: int = 2, characters: int = 3) -> float:
    left, right = plain_set(one, words, characters), plain_set(other, words, characters)
    return len(left & right) / len(left | right)


def changed(units: Sequence[str], changes: int, draw: random.Random, glue: str = " ") -> str:
    """The text with some of its units replaced by others."""
    made = list(units)
    for place in draw.sample(range(len(made)), changes):
        made[place] = draw.choice("甲乙丙丁戊己庚辛壬癸") if not glue else f"other{draw.randrange(500)}"
    return glue.join(made)


def texts_of(draw: random.Random, families: int, members: int) -> list[str]:
    """English and Chinese families of texts, each member a change or two further away from the first."""
    made = []
    for family in range(families):
        words = [f"{chr(ord('a') + family // 2)}{number}" for number in range(40)]
        units, glue = (draw.sample(CHINESE, len(CHINESE)), "") if family % 2 else (words, " ")
        made += [changed(units, number * len(units) // 60, draw, glue) for number in range(members)]
    return list(dict.fromkeys(made))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.text("aB c中文本ไก่", min_size=1).filter(str.strip), min_size=1, max_size=9).map(" ".join), min_size=1
    ),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_shingles_are_those_of_a_plain_loop(texts: list[str], words: int, characters: int) -> None:
    unspaced = "中文本ไก่"

    def plain(text: str) -> tuple[int, list[tuple[str, ...]]]:
        units = [unit for word in text.casefold().split() for unit in _cut(word, unspaced)]
        width = characters if 2 * sum(unit in unspaced for unit in units) > len(units) else words
        return width, [tuple(units[at : at + width]) for at in range(max(1, len(units) - width + 1))]

    found = shingles([(text,) for text in texts], words, characters)
    expected = [shingle for text in texts for shingle in plain(text)[1]]
    assert len(found.hashes) == len(expected)
    assert found.starts.tolist() == np.cumsum([0, *(len(plain(text)[1]) for text in texts)])[:-1].tolist()
    assert len(set(zip(expected, found.hashes.tolist(), strict=True))) == len(set(expected)) == len(set(found.hashes.tolist()))
    whole = found.sets()
    ends = np.append(whole.starts[1:], len(whole.hashes))
    sets = [whole.hashes[start:end].tolist() for start, end in zip(whole.starts, ends, strict=True)]
    assert [len(own) for own in sets] == [len(set(plain(text)[1])) for text in texts] and all(
        sorted(own) == own for own in sets
    )


def _cut(word: str, unspaced: str) -> list[str]:
    made = [""]
    for one in word:
        if one in unspaced:
            made += [one, ""]
        else:
            made[-1] += one
    return [unit for unit in made if unit]


def test_texts_of_an_item_are_told_apart() -> None:
    found = shingles([("a b c", "d e"), ("d e", "a b c"), ("a b c", "d e")], 2, 3)
    one, other, same = np.split(found.hashes, found.starts[1:])
    assert one.tolist() == same.tolist() and not set(one.tolist()) & set(other.tolist())


def test_as_many_values_are_alike_as_shingles() -> None:
    draw = random.Random(1)
    wholes = [[f"{word}{number}" for word in ENGLISH * 3] for number in range(200)]
    pairs = [(" ".join(whole), changed(whole, draw.randrange(1, 20), draw)) for whole in wholes]
    mins_KN = minhash(shingles([(text,) for pair in pairs for text in pair], 2, 3), 256)
    apart = [(mins_KN[:, 2 * n] == mins_KN[:, 2 * n + 1]).mean() - plain_jaccard(*pair) for n, pair in enumerate(pairs)]
    # Of 256 draws a share has a standard deviation of 0.031 at most; the mean of 200 of 0.0022.
    assert abs(np.mean(apart)) < 0.009 and np.std(apart) < 0.04


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_bands_find_what_they_should(threshold: float) -> None:
    bands, rows = NearDuplicates(threshold=threshold).bands()
    assert 1 - (1 - min(threshold, 0.99) ** rows) ** bands >= near_duplicates.FOUND
    assert 1 - (1 - (threshold / 2) ** rows) ** bands <= near_duplicates.CHANCE
    mins_KN = np.random.default_rng(0).integers(2**32, size=(bands * rows, 3), dtype=np.uint32)
    mins_KN[:rows, 1] = mins_KN[:rows, 0]
    alike = band_hashes(mins_KN, rows)
    assert len(alike) == bands and (alike[:, 0] == alike[:, 1]).tolist() == [True] + [False] * (bands - 1)
    assert len(set(alike.ravel().tolist())) == 3 * bands - 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1))
def test_what_is_connected(pairs: list[tuple[int, int]]) -> None:
    least = {one: one for pair in pairs for one in pair}
    for _ in least:
        for pair in pairs:
            least |= dict.fromkeys(pair, min(least[one] for one in pair))
    assert connected(np.array(pairs)).tolist() == [[one, least[one]] for one in sorted(least)]


def written(place: Path, texts: Sequence[str], splits: Sequence[str], cut: int) -> list[RowPart]:
    """Parts of so many rows."""
    frame = pd.DataFrame({"key": list(map(text_key, texts)), "text": texts, "split": splits})
    made: list[RowPart] = []
    for number, start in enumerate(range(0, len(frame), cut)):
        writer = PartWriter(str(place / str(cut)), number, [], ["text"])
        writer.add(frame[start : start + cut])
        writer.close()
        made += writer.written
    return made


def greedily(texts: Sequence[str], splits: Sequence[str], threshold: float) -> set[str]:
    """What stays where every text is compared with all that stay before it."""
    rank = ("test", "validation", "train").index
    order = sorted(range(len(texts)), key=lambda at: (rank(splits[at]), text_key(texts[at])))
    stays: list[int] = []
    for at in order:
        if all(plain_jaccard(texts[at], texts[other]) < threshold for other in stays):
            stays.append(at)
    return {texts[at] for at in stays}


def test_what_stays_is_what_comparing_all_with_all_leaves(ray_driver: Cluster, tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = texts_of(draw, families=40, members=8)
    draw.shuffle(texts)
    splits = [draw.choice(["train", "train", "validation", "test"]) for _ in texts]
    found = {}
    for cut in (len(texts), 37):
        settings = NearDuplicates(threshold=0.8)
        parts, gone = without_near_duplicates(written(tmp_path, texts, splits, cut), settings, ["text"])
        rows = [row for part in parts for row in read_part(part).to_pylist()]
        found[cut] = {row["text"] for row in rows}, gone
        assert len(rows) + gone.count == len(texts)
        assert len(gone.samples) == 10
        for sample in gone.samples:
            assert sample["similarity"] == pytest.approx(plain_jaccard(sample["dropped"], sample["kept"]), abs=1e-3)
            assert sample["similarity"] >= 0.8 and sample["kept"] in found[cut][0] and sample["dropped"] not in found[cut][0]
    assert found[37] == found[len(texts)]
    assert found[37][0] == greedily(texts, splits, 0.8) and 50 < found[37][1].count < len(texts) - 50


def test_a_text_that_stands_there_a_thousand_times_nearly_the_same_is_not_compared_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [f"{' '.join(ENGLISH)} number {n}" for n in range(1_000)]
    compared = 0

    def counted(*arguments: Any) -> float:
        nonlocal compared
        compared += 1
        return jaccard(*arguments)

    monkeypatch.setattr(near_duplicates, "jaccard", counted)
    index, bands, sets = in_memory(made, NearDuplicates(threshold=0.8))
    assert len(near_duplicates.going(index, bands, sets, 0.8)) > 990 and compared < 2_000
    # Nor are all compared with all where none is near enough to go.
    compared = 0
    monkeypatch.setattr(near_duplicates, "MOST_KEPT", 5)
    bands[:] = np.arange(bands.shape[1])
    assert not near_duplicates.going(index, bands, sets, 0.99) and compared <= 5 * 1_000


def in_memory(texts: Sequence[str], settings: NearDuplicates) -> Any:
    """What is compared of texts."""
    from jobs.data.dedup import index_of

    frame = pd.DataFrame({"key": list(map(text_key, texts)), "text": texts, "split": "train"})
    found, hashes_BN = near_duplicates._signatures([(text,) for text in texts], settings)
    return index_of(frame), hashes_BN.T.copy(), found.sets()


@pytest.mark.parametrize("script", ["english", "chinese"])
def test_planted_near_duplicates_are_found_and_none_below_the_threshold_goes(script: str) -> None:
    draw = random.Random(2)
    alphabet = [f"w{n}" for n in range(5_000)] if script == "english" else [chr(0x4E00 + n) for n in range(3_000)]
    glue = " " if script == "english" else ""
    pairs = []
    for _ in range(1_500):
        units = draw.choices(alphabet, k=draw.randrange(40, 150))
        rate = draw.choice([0.01, 0.03, 0.06])
        other = [draw.choice(alphabet) if draw.random() < rate else unit for unit in units]
        pairs.append((glue.join(units), glue.join(other)))
    index, bands, sets = in_memory([text for pair in pairs for text in pair], NearDuplicates(threshold=0.8))
    gone = {frozenset((one, other)) for one, other, _ in near_duplicates.going(index, bands, sets, 0.8)}
    shares: dict[float, list[bool]] = {0.9: [], 0.8: [], 0.0: []}
    for number, pair in enumerate(pairs):
        similar = plain_jaccard(*pair)
        low = next(bound for bound in shares if similar >= bound)
        shares[low].append(frozenset((2 * number, 2 * number + 1)) in gone)
    assert min(len(found) for found in shares.values()) > 100
    assert np.mean(shares[0.9]) >= 0.99 and np.mean(shares[0.8]) >= 0.95 and not any(shares[0.0])
    assert len(gone) == sum(map(sum, shares.values())), "nothing goes for a text of another pair"


def test_prepare_counts_and_shows_what_goes(ray_driver: Cluster, tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [(text, "ham") for text in texts_of(draw, families=10, members=5)]
    rows += [(rows[0][0] + " indeed", "spam"), *((f"win prize {n} of {n * n}", "spam") for n in range(20))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *(",".join(row) for row in rows)]))
    source, split = str(tmp_path / "rows.csv"), {"validation": 0.2, "test": 0.2}
    outcome = prepared(tmp_path, "near", source=source, task={}, split=split, near_duplicates=0.8)
    metrics, samples = outcome.metrics, outcome.details["near_duplicates"]
    kept = kept_of(tmp_path, "near")
    assert metrics["rows_read"] == len(kept) + metrics["rows_near_duplicate"] + metrics["rows_duplicate"]
    assert metrics["rows_near_duplicate"] >= len(samples) == 10 and metrics["rows_near_conflicting"] >= 1
    texts = [(row[0], row[2]) for row in kept]
    for split_of, text in texts:
        assert all(own == split_of for own, other in texts if plain_jaccard(text, other) >= 0.8), "none straddles two splits"
    whole = prepared(tmp_path, "whole", source=source, task={}, split=split)
    assert "rows_near_duplicate" not in whole.metrics and "near_duplicates" not in whole.details


def test_settings_that_make_no_sense_are_refused() -> None:
    given = {"source": "x.csv", "task": {}}
    assert PrepareConfig.model_validate({**given, "near_duplicates": 0.9}).near_duplicates == NearDuplicates(threshold=0.9)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"near_duplicates": 1.5}, "less than or equal to 1"),
        ({"near_duplicates": 0.3}, "greater than or equal to 0.6"),
        ({"near_duplicates": 0.9, "augment": {}}, "augment makes near duplicates"),
    ]
    for wrong, why in refused:
        with pytest.raises(ValidationError, match=why):
            PrepareConfig.model_validate({**given, **wrong})
