"""Augmentation: training texts changed at random, without a label, for distilling to learn from.

    augment: {copies: 4}                       # in prepare, beside task; predict has the teacher answer for them too
    changed("Win a prize now", Augment(), random.Random(0))

Words are left out, change places with the next one, or all but a run of them goes (Wei & Zou 2019, "EDA"; n-gram sampling:
Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks"). What a changed text means is
the teacher's to say, so no label is kept. A Chinese character counts as a word.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from jobs.core.config import Config
from jobs.data.clean import item_key
from jobs.data.words import WORDS

if TYPE_CHECKING:
    import pandas as pd

LEAST_WORDS = 2
"""A text of fewer words is not changed, and no changed text has fewer."""


class Augment(Config):
    """How more training texts are made of those that are there."""

    copies: int = Field(2, ge=1, le=100)
    """Changed texts of each training text; those that come out like another text are dropped."""
    drop: float = Field(0.1, ge=0, lt=1)
    """Share of a text's words that are left out."""
    swap: float = Field(0.1, ge=0, lt=1)
    """Share of a text's words that change places with the next one."""
    cut: float = Field(0.25, ge=0, le=1)
    """Share of the copies of which only a run of words is kept, of any length from a quarter of the text on."""
    seed: int = 0
    """Another seed gives other texts."""


def changed(text: str, settings: Augment, rng: random.Random) -> str:
    """The text with words cut, dropped and swapped; the space between two places stays what it was."""
    found = list(WORDS.finditer(text))
    if len(found) < LEAST_WORDS:
        return text
    words = [match.group() for match in found]
    # What follows each word up to the next one: nothing in Chinese, mostly a space in English.
    gaps = [text[one.end() : other.start()] for one, other in zip(found, found[1:], strict=False)] + [""]
    first, last = 0, len(words)
    if rng.random() < settings.cut:
        length = rng.randint(max(LEAST_WORDS, len(words) // 4), len(words))
        first = rng.randint(0, len(words) - length)
        last = first + length
    kept = [place for place in range(first, last) if rng.random() >= settings.drop]
    if len(kept) < LEAST_WORDS:
        kept = sorted(rng.sample(range(first, last), LEAST_WORDS))
    order = list(kept)
    for place in range(len(order) - 1):
        if rng.random() < settings.swap:
            order[place], order[place + 1] = order[place + 1], order[place]
    return "".join(words[word] + gaps[place] for word, place in zip(order, kept, strict=True)).strip()


def augmenting(settings: Augment, fields: Sequence[str] = ("text",)) -> Callable[["pd.DataFrame"], "pd.DataFrame"]:
    """The function that puts changed texts behind the rows of a batch: of the training split, with no label or slice.

    What becomes of a text depends on it and the seed alone, not on its batch.
    """

    def augment(rows: "pd.DataFrame") -> "pd.DataFrame":
        import pandas as pd

        source = rows[rows["split"] == "train"]
        made: list[tuple[str, ...]] = []
        for key, *texts in zip(source["key"], *(source[name] for name in fields), strict=True):
            rng = random.Random(f"{settings.seed} {key}")
            for copy in ([changed(text, settings, rng) for text in texts] for _ in range(settings.copies)):
                if (new := item_key(copy)) != key:
                    made.append((new, *copy))
        columns = {
            str(name): pd.Series([None] * len(made), dtype=rows[name].dtype)
            for name in rows
            if name not in ("key", *fields, "split")
        }
        items = pd.DataFrame(made, columns=["key", *fields], dtype="str")
        added = items.assign(**columns, split="train")
        return pd.concat([rows, added[list(rows)]], ignore_index=True)

    return augment
