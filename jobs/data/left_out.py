"""What became of rows that were read and are no items: how many, for which reason, and the first of them by name.

left_out = LeftOut()
left_out.add("rows.csv", first=0, rows=rows, faults={3: Fault(NO_TARGET, "label is empty")})
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.core.config import Problem
from jobs.data.lines import Fault
from jobs.data.pieces import Row

NO_TEXT, EMPTY, NO_TARGET, SIFTED = "no text", "empty after cleaning", "no target", "sifted out"
WITHOUT = {NO_TEXT: "rows_without_text", EMPTY: "rows_empty", NO_TARGET: "rows_without_target", SIFTED: "rows_sifted"}
"""Why rows are left out that were read well, with the names of their counts; all other reasons are faults of the data. What
the sieves take out they count by themselves."""
NESTED, NO_SPLIT, WRONG_TARGET = "no single value", "no name of a split", "wrong target"
TOLD = (NESTED, NO_SPLIT, WRONG_TARGET)
"""Faults of a row's values: a check refuses the first of them."""
NAMED_ROWS = 10
NAMED_SIFTED = 2
"""Rows that are named for each reason of a sieve."""


@dataclass
class LeftOut:
    """What became of rows that were read: how many there were, and which of them are no items, by reason."""

    read: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    """What the sieves counted, and texts without a group."""
    first: list[dict[str, Any]] = field(default_factory=list)
    """The first that have a fault, by file, row and line, the last two from 1."""
    sifted: list[dict[str, Any]] = field(default_factory=list)
    """The same of those that sieves took out, a few for each reason."""

    @classmethod
    def joined(cls, parts: Sequence[Mapping[str, Any]]) -> "LeftOut":
        """Of parts in their order, each as `as_json` gives it."""
        joined = cls()
        for part in parts:
            joined.read += part["read"]
            joined.by_reason.update(part["by_reason"])
            joined.tally.update(part["tally"])
            joined.first += part["first"][: NAMED_ROWS - len(joined.first)]
            for sample in part["sifted"]:
                joined._name_sifted(sample)
        return joined

    def add(self, file: str, first: int, rows: Sequence[Row], faults: Mapping[int, Fault]) -> None:
        """Count rows of a file; `first` is the number of the first of them, from 0."""
        self.read += len(rows)
        self.by_reason.update(fault.reason for fault in faults.values())
        for place, fault in sorted(faults.items()):
            sifted = fault.reason == SIFTED
            if (fault.reason in WITHOUT and not sifted) or len(self.sifted if sifted else self.first) >= NAMED_ROWS:
                continue
            line = rows[place].line
            where = {"file": file, "row": first + place + 1} | ({"line": line} if line else {})
            named = {**where, "reason": fault.reason, "detail": fault.detail}
            if sifted:
                self._name_sifted(named)
            else:
                self.first.append(named)

    def _name_sifted(self, named: dict[str, Any]) -> None:
        reason = _reason_of(named)
        if len(self.sifted) < NAMED_ROWS and sum(_reason_of(other) == reason for other in self.sifted) < NAMED_SIFTED:
            self.sifted.append(named)

    @property
    def count(self) -> int:
        """All of them."""
        return self.by_reason.total()

    @property
    def bad(self) -> int:
        """Those with a fault."""
        return self.count - sum(self.by_reason[reason] for reason in WITHOUT)

    @property
    def share(self) -> float:
        """Of those with a fault among all rows."""
        return self.bad / self.read if self.read else 0.0

    def counts(self) -> dict[str, int]:
        """As figures of a step."""
        without = {name: self.by_reason[reason] for reason, name in WITHOUT.items() if reason != SIFTED}
        return {"rows_read": self.read, "rows_bad": self.bad, **without, **dict(sorted(self.tally.items()))}

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        told = {"by_reason": dict(self.by_reason), "tally": dict(self.tally), "first": self.first, "sifted": self.sifted}
        return {"read": self.read, **told}

    def details(self) -> dict[str, Any]:
        """For the manifest; empty where no row is left out."""
        if not self.by_reason:
            return {}
        told = {"bad_rows": {"by_reason": dict(self._reasons()), "first": self.first}}
        return told | ({"sifted_rows": self.sifted} if self.sifted else {})

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self._reasons())

    def _reasons(self) -> list[tuple[str, int]]:
        """Why rows are left out, the most frequent first, of equals by name; what sieves took out by what each counted."""
        reasons = Counter({reason: count for reason, count in self.by_reason.items() if reason != SIFTED})
        sifted = {name: count for name, count in self.tally.items() if name.startswith("rows_") and count}
        reasons.update({name.removeprefix("rows_").replace("_", " "): count for name, count in sifted.items()})
        return sorted(reasons.items(), key=lambda one: (-one[1], one[0]))

    def problem(self, path: str, allowed: float, source: str, remedy: str = "") -> Problem:
        """That too many have a fault; the first is named."""
        first = self.first[0]
        line = f", line {first['line']}" if "line" in first else ""
        where = f"{first['file']}, row {first['row']}{line}: {first['reason']} ({first['detail']})"
        reason = f"{self.bad} of {self.read} rows that were read are bad, more than bad_rows: {allowed:g} allows; {where}"
        return Problem(path, source, reason, remedy or "Mend these rows, or raise bad_rows.")


def _reason_of(named: Mapping[str, Any]) -> str:
    """What a sieve has against a text: of `text: language: it is in fr` the second part."""
    return str(named["detail"]).split(": ")[1]
