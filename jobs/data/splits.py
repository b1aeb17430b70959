"""Splits: which rows train, which validate, which test, where the source does not say.

split: {test: 0.1}                                   by a hash of each text
split: {by: part}                                    by a column that holds train, validation or test
split: {group: customer, test: 0.1}                  all rows of a customer are in one split
split: {stratify: true, test: 0.1}                   a tenth of each label, see jobs/data/stratified.py
"""

import hashlib
from collections.abc import Collection
from typing import Any

from pydantic import Field, model_validator

from jobs.core.config import Config
from jobs.data.values import written_as

SPLITS = ("test", "validation", "train")
"""In the order in which a text that is in several splits is kept."""


class Split(Config):
    """How rows are divided among train, validation and test where the source does not say."""

    by: str = "hash"
    """hash: by a hash of the text; else the name of a column that holds train, validation or test."""
    group: str | None = None
    """A column, such as customer or thread: all rows that have one value there fall into one split, by a hash of the value. A
    row without a value is a group by itself, by its text; texts_without_group counts these."""
    stratify: bool = False
    """With a task whose targets are labels: each label is divided by itself, so that the shares of its rows are exact."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the rows (by hash), of the groups, or of each label's rows (stratify); of train where the source has no
    validation split."""
    test: float = Field(0.0, ge=0, lt=1)
    """Share of the rows, of the groups, or of each label's rows."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self

    @model_validator(mode="after")
    def _divides_one_way(self) -> "Split":
        asked = ["group"] * (self.group is not None) + ["stratify"] * self.stratify
        if self.by != "hash" and asked:
            raise ValueError(f"the column {self.by} says each row's split, so that {asked[0]} divides nothing: leave one out")
        if len(asked) > 1:
            raise ValueError(
                "groups stay whole and have rows of several labels, so that no shares of each label can be exact: "
                "give group or stratify"
            )
        return self


def divided(settings: Split, named: str, names: Collection[str]) -> Split:
    """How the rows of one of a step's sources are divided by their hash: the source of the split `named` (empty: the only one)
    among those of `names`. A source that names a validation or test split needs none taken from train."""
    given = {str(name): 0.0 for name in ("validation", "test") if name in names} | ({"test": 0.0} if named == "train" else {})
    return settings.model_copy(update=given)


def split_of(key: str, settings: Split) -> str:
    """The split of a text or a group, from its key alone."""
    fraction = place_of(key) / 2**64
    if fraction < settings.test:
        return "test"
    return "validation" if fraction < settings.test + settings.validation else "train"


def place_of(key: str) -> int:
    """Where a key stands among all that there can be, in [0, 2⁶⁴)."""
    # The other half of the key than the one that rows are sorted (and limited) by.
    return int(key[16:], 16)


def group_key(value: str) -> str:
    """The key of a group, of the value that its rows share: each sign counts, for identifiers may differ in case alone."""
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def split_name(value: Any) -> str | None:
    """The split that a value names, or None."""
    known = {"dev": "validation", "valid": "validation", "val": "validation"}
    name = written_as(value).strip().lower() if value is not None else ""
    name = known.get(name, name)
    return name if name in SPLITS else None
