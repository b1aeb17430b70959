"""Splits: which rows train, which validate, which test, where the source does not say."""

from collections.abc import Collection

from pydantic import Field, model_validator

from jobs.core.config import Config

SPLITS = ("test", "validation", "train")
"""In the order in which a text that is in several splits is kept."""


class Split(Config):
    """How rows are divided among train, validation and test where the source does not say."""

    by: str = "hash"
    """hash: by a hash of the text; else the name of a column that holds train, validation or test."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the rows (by hash), or of train where the source has no validation split."""
    test: float = Field(0.0, ge=0, lt=1)
    """Share of the rows (by hash)."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


def divided(settings: Split, named: str, names: Collection[str]) -> Split:
    """How the rows of one of a step's sources are divided by their hash: the source of the split `named` (empty: the only one)
    among those of `names`. A source that names a validation or test split needs none taken from train."""
    given = {str(name): 0.0 for name in ("validation", "test") if name in names} | ({"test": 0.0} if named == "train" else {})
    return settings.model_copy(update=given)


def split_of(key: str, settings: Split) -> str:
    """The split of a text, from its key alone."""
    # The other half of the key than the one that rows are sorted (and limited) by.
    place = int(key[16:], 16) / 2**64
    if place < settings.test:
        return "test"
    return "validation" if place < settings.test + settings.validation else "train"
