"""From rows as they were read to items: texts cleaned, keyed and split, with their targets; and why other rows make none."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jobs.core.config import Problem
from jobs.data.clean import Clean, clean_text, item_key, value_name
from jobs.data.dedup import Conflicts
from jobs.data.formats import Files
from jobs.data.left_out import EMPTY, NESTED, NO_SPLIT, NO_TARGET, NO_TEXT, SIFTED, WRONG_TARGET
from jobs.data.lines import Fault
from jobs.data.pieces import Row
from jobs.data.splits import Split, divided, group_key, split_name, split_of
from jobs.data.values import (
    LACKING,
    is_absent,
    is_single,
    kind_of,
    value_at,
    with_words_joined,
    without_bytes,
    without_column,
    written_as,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SLICE = "slice_"
"""What the names of columns begin with that are kept for slices."""
UNLABELLED = "unlabelled"
"""The name of a source of a task whose texts have no label: they are in the training split, with a label of null."""
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
    def groups(self) -> Sequence[Sequence[str]]:
        """Keys of `paths`, of which a row needs the columns of one group alone; empty where it needs all."""

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
        splits = [split_name(value) for value in columns[self.by]] if self.by is not None else None
        for place, split in enumerate(splits or ()):
            if split is None and self.by is not None:
                faults.setdefault(place, Fault(NO_SPLIT, f"{self.by} is {columns[self.by][place]!r}"))
        found: dict[str, list[Any]] = {}
        if self.labelling is not None:
            frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
            if self.labelling.groups:
                frame.attrs[LACKING] = without_column([row.values for row in rows], self.labelling.paths.values())
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
