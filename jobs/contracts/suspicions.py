"""Rows whose target looks wrong, as a kind of task tells of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Suspicion:
    """A row whose target looks wrong."""

    place: int
    """Where it is among the rows."""
    given: str
    """Its target in words, as those of `expected`."""
    given_probability: float
    likely: str
    """What it looks like instead."""
    likely_probability: float


@dataclass(frozen=True)
class Suspicions:
    """What a look at the targets of rows has found."""

    rows: tuple[Suspicion, ...]
    """The most suspicious first, and no more than were asked for."""
    found: int
    """How many there are; where these are fewer than `rows`, doubtful ones follow them."""
    looked_at: int
    """In how many rows."""
    how: str = ""
    """By what, in a sentence for people."""
