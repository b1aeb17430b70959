"""From rows as they were read to items: texts cleaned, keyed and split, with their targets; and why other rows make none."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from jobs.core.config import Problem
from jobs.data.clean import Clean, clean_text, item_key, value_name
from jobs.data.dedup import Conflicts
from jobs.data.formats import Files
from jobs.data.lines import Fault
from jobs.data.pieces import Row
from jobs.data.splits import SPLITS, Split, divided, group_key, split_of
from jobs.data.values import is_absent, is_single, kind_of, value_at, with_words_joined, without_bytes, written_as

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SLICE = "slice_"
"""What the names of columns begin with that are kept for slices."""
UNLABELLED = "unlabelled"
"""The name of a source of a task whose texts have no label: they are in the training split, with a label of null."""
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
MOST_ROWS, MOST_CHARACTERS = 4_096, 16 << 20
"""What is made into items at once."""


class TargetMaker(Protocol):
    """What makes targets of rows: a kind of task with the settings that a recipe gives it (jobs/tasks/labelling.py)."""

    @property
    def fields(self) -> Mapping[str, str]:
        """The column of the source for each text of an item."""

    @property
    def paths(self) -> Mapping[str, str]:
        """Further columns that must be there, by the recipe's key that names each."""

    @property
    def lists(self) -> Sequence[str]:
        """Those of them whose columns may hold lists."""

    @property
    def types(self) -> "Mapping[str, pa.DataType]":
        """The target columns, with their types."""

    def targets(self, frame: "pd.DataFrame") -> tuple[dict[str, list[Any]], dict[int, str]]:
        """The target columns of rows, and the reason for each row whose target means nothing, by its place."""
        ...

    def statistics(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Of rows of one split, what adds up."""
        ...

    def check(self, statistics: Mapping[str, Mapping[str, float]]) -> list[Problem]:
        """What is wrong with the splits together, as far as they are known."""
        ...


class Sieve(Protocol):
    """Takes out texts, or something of them, once they are cleaned: what a recipe asks for beyond that."""

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """The texts as they go on, and why some do not, as `reason: detail`, by their place. `tally` counts under names of
        figures, `rows_…` or `texts_…`, what goes and what was changed."""
        ...


@dataclass(frozen=True)
class Reading:
    """How the rows of a source become items."""

    fields: Mapping[str, str]
    """The column of each text."""
    clean: Clean
    split: Split
    labelling: TargetMaker | None = None
    slices: Sequence[str] = ()
    """Columns that are kept for slices."""
    conflicts: Conflicts = "majority"
    files: Files = Files()
    """How files are written."""
    bad_rows: float = 0.01
    """The share of rows that cannot be read above which they are refused."""
    pages: Sequence[Sieve] = ()
    """What texts go through before they are cleaned, and cut: what is to be seen whole."""
    sieves: Sequence[Sieve] = ()
    """What texts go through once they are cleaned, in this order."""


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
        """Why rows are left out, the most frequent first; what sieves took out by what each of them counted."""
        reasons = Counter({reason: count for reason, count in self.by_reason.items() if reason != SIFTED})
        sifted = {name: count for name, count in self.tally.items() if name.startswith("rows_") and count}
        reasons.update({name.removeprefix("rows_").replace("_", " "): count for name, count in sifted.items()})
        return reasons.most_common()

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


def row_batches(rows: Iterator[Row], reading: Reading, first: int = 0) -> Iterator[tuple[int, list[Row]]]:
    """Rows, some thousand at a time and fewer long ones, with the number of the first of them."""
    column = next(iter(reading.fields.values()))
    taken: list[Row] = []
    size = 0
    for row in rows:
        taken.append(row)
        text = row.values.get(column)
        size += len(text) if isinstance(text, str) else 0
        if len(taken) >= MOST_ROWS or size > MOST_CHARACTERS:
            yield first, taken
            first, taken, size = first + len(taken), [], 0
    if taken:
        yield first, taken


@dataclass
class Values:
    """The columns of rows that items need, None where there is no value; and why rows make none, by their place."""

    columns: dict[str, list[Any]]
    targets: dict[str, list[Any]]
    splits: list[str | None] | None
    """Where a column says them."""
    faults: dict[int, Fault]


class Items:
    """Makes items of the rows of one of a step's sources, which is named for a split or not."""

    def __init__(self, reading: Reading, named: str, names: "frozenset[str] | set[str]") -> None:
        self.reading, self.named = reading, named
        self.rest = divided(reading.split, named, names)
        self.labelling = reading.labelling if named != UNLABELLED else None
        self.by = reading.split.by if reading.split.by != "hash" and named != UNLABELLED else None
        self.group = reading.split.group if named in ("", "train") else None
        self.slices = reading.slices if self.labelling is not None else ()
        paths = self.labelling.paths if self.labelling is not None else {}
        self.lists = {column for key, column in paths.items() if self.labelling is not None and key in self.labelling.lists}
        own = [*reading.fields.values(), *paths.values(), *self.slices]
        own += [column for column in (self.by, self.group) if column is not None]
        self.needed = list(dict.fromkeys(own))
        """The columns of the source that are read."""
        self.tally: Counter[str] = Counter()
        """What the sieves counted in the rows so far, and rows without a group."""

    def values(self, rows: Sequence[Row]) -> Values:
        """What rows have in the columns that are needed."""
        import pandas as pd

        faults = {place: row.fault for place, row in enumerate(rows) if row.fault is not None}
        columns = {column: self._column(rows, column, faults) for column in self.needed}
        for name, column in self.reading.fields.items():
            for place, value in enumerate(columns[column]):
                if value is None and place not in faults:
                    faults[place] = Fault(NO_TEXT, f"{name} is not there")
        splits = [_split_name(value) for value in columns[self.by]] if self.by is not None else None
        for place, split in enumerate(splits or ()):
            if split is None and self.by is not None:
                faults.setdefault(place, Fault(NO_SPLIT, f"{self.by} is {columns[self.by][place]!r}"))
        found: dict[str, list[Any]] = {}
        if self.labelling is not None:
            frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
            found, wrong = self.labelling.targets(frame)
            for place, reason in wrong.items():
                faults.setdefault(place, Fault(WRONG_TARGET, reason))
            for place, row in enumerate(rows):
                if row.unlabelled or all(values[place] is None for values in found.values()):
                    faults.setdefault(place, Fault(NO_TARGET, "nothing says what it should be answered with"))
        return Values(columns, found, splits, faults)

    def _column(self, rows: Sequence[Row], column: str, faults: dict[int, Fault]) -> list[Any]:
        """A column's plain values; one that is no string, number or boolean is a fault of its row."""
        listed, found = column in self.lists, []
        joins = self.reading.clean.join_words and column in self.reading.fields.values()
        # Texts are cleaned as the recipe says; a label is the same however its accents are composed.
        form = _whole if column in self.reading.fields.values() else _composed
        for place, row in enumerate(rows):
            value = value_at(row.values, column) if row.fault is None else None
            value = with_words_joined(value) if joins else value
            if type(value) is str:
                value = None if is_absent(value) else value if value.isascii() else form(value)
            elif value is not None:
                value = _plain(without_bytes(value), form)
                if value is not None and not listed and not is_single(value):
                    faults.setdefault(
                        place, Fault(NESTED, f"{column} holds {kind_of(value)}, and single values are asked for")
                    )
                    value = None
            found.append(value)
        return found

    def frame(self, rows: Sequence[Row]) -> tuple["pd.DataFrame", dict[int, Fault]]:
        """Key, texts, (targets, slices,) split of the rows that make items; and why the others make none, by their place."""
        import pandas as pd

        made = self.values(rows)
        texts: dict[str, list[str]] = {}
        for name, column in self.reading.fields.items():
            texts[name] = [written_as(value) if value is not None else "" for value in made.columns[column]]
            self._sift(name, texts[name], made.faults, self.reading.pages)
            texts[name] = [clean_text(text, self.reading.clean) for text in texts[name]]
            self._sift(name, texts[name], made.faults, self.reading.sieves)
            for place, text in enumerate(texts[name]):
                if not text:
                    made.faults.setdefault(place, Fault(EMPTY, f"cleaning leaves nothing of {name}"))
        keys = [item_key(item) for item in zip(*texts.values(), strict=True)]
        columns: dict[str, Any] = {"key": _strings(keys)} | {name: _strings(found) for name, found in texts.items()}
        if self.reading.labelling is not None:
            for name, kind in self.reading.labelling.types.items():
                columns[name] = _typed(made.targets.get(name, [None] * len(rows)), kind)
        for name in self.reading.slices:
            given = made.columns[name] if name in self.slices else [None] * len(rows)
            columns[f"{SLICE}{name}"] = _strings([value_name(value) or None for value in given])
        columns["split"] = _strings(self._splits(keys, made))
        keep = [place not in made.faults for place in range(len(rows))]
        return pd.DataFrame(columns)[keep].reset_index(drop=True), made.faults

    def _sift(self, name: str, texts: list[str], faults: dict[int, Fault], sieves: Sequence[Sieve]) -> None:
        """Put the texts of rows without a fault through sieves, in place."""
        for sieve in sieves:
            places = [place for place, text in enumerate(texts) if text and place not in faults]
            sifted, gone = sieve.sift([texts[place] for place in places], self.tally)
            for place, text in zip(places, sifted, strict=True):
                texts[place] = text
            for number, why in gone.items():
                faults[places[number]] = Fault(SIFTED, f"{name}: {why}")

    def _splits(self, keys: Sequence[str], made: Values) -> Sequence[str | None]:
        if self.named == UNLABELLED:
            return ["train"] * len(keys)
        if made.splits is not None:
            return made.splits
        if self.named in ("test", "validation"):
            return [self.named] * len(keys)
        if self.rest.stratify:
            return ["train"] * len(keys)  # Until it is known what there is of each label: jobs/data/stratified.py.
        if self.group is None:
            return [split_of(key, self.rest) for key in keys]
        groups = [value_name(value) for value in made.columns[self.group]]
        lacking = sum(not group and place not in made.faults for place, group in enumerate(groups))
        self.tally["texts_without_group"] += lacking
        return [split_of(group_key(group) if group else key, self.rest) for group, key in zip(groups, keys, strict=True)]


def _plain(value: Any, form: Callable[[str], str]) -> Any:
    """As a CSV file would have it: None where there is none, booleans as true and false."""
    if is_absent(value):
        return None
    if isinstance(value, str):
        return value if value.isascii() else form(value)
    return written_as(value) if isinstance(value, bool) else value


def _whole(text: str) -> str:
    """Without half characters, which JSON's escapes can leave behind and nothing can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="ignore").decode()
    return text


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", _whole(text))


def _strings(values: Sequence[str | None]) -> "pd.Series[Any]":
    import pandas as pd

    return pd.Series(values, dtype="str")


def _typed(values: Sequence[Any], kind: "pa.DataType") -> "pd.Series[Any]":
    """A column whose type does not hang on which values a batch happens to have."""
    import pandas as pd
    import pyarrow as pa

    return pd.Series(values, dtype="str" if pa.types.is_string(kind) else pd.ArrowDtype(kind))


def _split_name(value: Any) -> str | None:
    """The split that a value names, or None."""
    known = {"dev": "validation", "valid": "validation", "val": "validation"}
    name = written_as(value).strip().lower() if value is not None else ""
    name = known.get(name, name)
    return name if name in SPLITS else None
