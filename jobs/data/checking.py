"""What is wrong with a step's sources, seen before anything runs: the same reader that the run has, over the first of each.

Nothing here needs Ray. What is told names file and row.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from cluster.store import storage
from jobs.core.config import BadInput, Problem, nearest
from jobs.data.formats import DELIMITED, FilePart, Files, encoding_remedy, idle_keys, parts_of
from jobs.data.hub import hub_columns, hub_rows, hub_shards
from jobs.data.left_out import NO_SPLIT, NO_TEXT, TOLD, WRONG_TARGET, LeftOut
from jobs.data.pieces import Row
from jobs.data.records import opened_rows
from jobs.data.rows import UNLABELLED, Items, Reading, Values, row_batches
from jobs.data.sources import Sources, each, of_one_kind, resolve
from jobs.data.splits import SPLITS
from jobs.data.values import has_column

CHECKED_BYTES = 64 << 20
"""So much of each source is read by a check, so many characters of the hub's."""
HUB_ROWS = 1_000
SHOWN_ROWS = 50
"""Rows by which a header is seen to be data."""
LONGEST_NAME = 60
NOT_YET_SPLIT = ""
"""Stands for the split of rows that are divided only when all are read."""
DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a bar", ",": "a comma"}


@dataclass
class _Seen:
    """What a check has seen of the labelled rows."""

    statistics: dict[str, dict[str, float]] = field(default_factory=dict)
    """By split."""
    whole: bool = True
    """Whether it has seen all of them: else a label may be in train that was not seen there."""
    columns: dict[str, set[str]] = field(default_factory=dict)
    """Of keys that not each file needs, the columns of the files that lack theirs; empty once one has it."""
    formats: set[str] = field(default_factory=set)
    """What the sources are written in."""

    def note(self, key: str, columns: Collection[str]) -> None:
        """Take in that a file has what a key names, or else which columns it has."""
        known = self.columns.setdefault(key, set(columns))
        self.columns[key] = known | set(columns) if known and columns else set()

    def add(self, split: str, statistics: Mapping[str, float]) -> None:
        """Take in rows of a split."""
        own = self.statistics.setdefault(split, {})
        for name, number in statistics.items():
            own[name] = own.get(name, 0) + number


@dataclass(frozen=True)
class _Table:
    """Rows that have the same columns."""

    name: str
    columns: tuple[str, ...] | None
    """None: each row has its own."""
    rows: Iterator[Row]
    twice: tuple[str, ...] = ()
    part: FilePart | None = None


def check_source(source: Sources, reading: Reading, columns: Mapping[str, str]) -> list[Problem]:
    """What is wrong with a source: missing or empty files, columns that are not there, rows that cannot be read, targets and
    splits that mean nothing.

    `columns` are those that must be there, by the recipe's key that names each.
    """
    problems = _twice(reading, columns)
    seen = _Seen()
    known = (*SPLITS, *([UNLABELLED] if reading.labelling is not None else []))
    names = set(each(source))
    for named, one in each(source).items():
        where = f"source.{named}" if named else "source"
        if named not in ("", *known):
            problems.append(Problem(where, one, "no such split", nearest(named, known)))
            continue
        try:
            problems += _Check(one, where, reading, columns, Items(reading, named, names), seen).problems()
        except BadInput as error:
            problems += [replace(problem, path=where) for problem in error.problems]
        except storage.StorageError as error:
            problems.append(Problem(where, one, str(error), "Check the place and the credentials."))
    problems += idle_keys(reading.files, seen.formats)
    nowhere = {key: there for key, there in seen.columns.items() if there}
    if nowhere and not problems:
        reason = "no file has such a column"
        return [Problem(key, columns[key], reason, nearest(columns[key], there)) for key, there in nowhere.items()]
    return problems + (reading.labelling.check(seen.statistics) if reading.labelling is not None and seen.whole else [])


def missing_remedy(column: str, columns: Sequence[str], rows: Sequence[Row], part: FilePart | None, files: Files) -> str:
    """What to do about a column that is not there."""
    if part is not None and part.format in DELIMITED and files.delimiter is None and len(columns) == 1:
        for sign, name in DELIMITERS.items():
            if sign in columns[0]:
                return f"The header has {name} in it: write delimiter: {sign!r} if that parts its columns."
    if files.annotated_in is None and {"data", "annotations"} <= set(columns):
        return "It looks like an export of Label Studio: if it is one, write annotated_in: label_studio."
    remedy = nearest(column, columns)
    headed = part is not None and part.format in (*DELIMITED, "xlsx") and files.columns is None
    if headed and not remedy.startswith("Did you mean") and _is_data(columns, rows):
        named = ", ".join(_made_up(column, columns))
        return f"The first row looks like data: if it is, name the columns, e.g. columns: [{named}]."
    return remedy


def _made_up(column: str, columns: Sequence[str]) -> list[str]:
    return [column, *(f"column_{place}" for place in range(2, len(columns) + 1))]


def _is_data(columns: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether names of columns look like values: long, numbers, or found again below."""
    if any(len(name) > LONGEST_NAME or re.fullmatch(r"[-+]?\d+([.,]\d+)?", name) for name in columns):
        return True
    return any(row.values.get(name) == name for row in rows for name in columns)


def _twice(reading: Reading, columns: Mapping[str, str]) -> list[Problem]:
    """Texts of an item that are all from one column."""
    texts = list(reading.fields.values())
    again = {column for column in texts if texts.count(column) > 1}
    keys = {column: key for key, column in columns.items() if column in again}
    reason = "another text of the item has this column already"
    return [Problem(key, column, reason, "Name a column for each.") for column, key in keys.items()]


class _Check:
    """The check of one source."""

    def __init__(
        self, source: str, where: str, reading: Reading, columns: Mapping[str, str], items: Items, seen: _Seen
    ) -> None:
        self.source, self.where, self.reading, self.items, self.seen = source, where, reading, items, seen
        dividing = {"split.by": items.by, "split.group": items.group}
        wanted = dict(columns) | {key: column for key, column in dividing.items() if column is not None}
        if items.named == UNLABELLED:
            wanted = {key: column for key, column in wanted.items() if column in reading.fields.values()}
        self.wanted = wanted
        """The columns that must be there, by the key that names each."""
        self.left_out = LeftOut()
        self.left = CHECKED_BYTES
        self.last = 0
        """Where in its file the last row ends that has a fault, for what its bytes may be."""

    def problems(self) -> list[Problem]:
        """What is wrong, the first kind of it."""
        for table in self._tables():
            if found := self._check(table):
                return found
            if self.left <= 0:
                self.seen.whole = False
                break
        if self.left_out.read == 0:
            return [Problem(self.where, self.source, f"it has no rows ({self._files()})", "Give a file with data.")]
        return []

    def _files(self) -> str:
        return "hub" if self.source.startswith("hub:") else f"{len(resolve(self.source))} file"

    def _tables(self) -> Iterator[_Table]:
        if self.source.startswith("hub:"):
            self.seen.formats.add("a hub's data set")
            shards = hub_shards(self.source)
            named = hub_columns(shards[0])
            for shard in shards:
                yield _Table(self.source, named, self._first_of_the_hub(hub_rows(shard)))
            return
        for file in of_one_kind(self.source, resolve(self.source)):
            for part in parts_of(file):
                self.seen.formats.add(part.format)
                with opened_rows(part, self.reading.files, columns=list(self.wanted.values())) as found:
                    columns = None if found.header is None else found.columns
                    yield _Table(part.name, columns, found.rows, found.twice, part)

    def _first_of_the_hub(self, rows: Iterator[Row]) -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            yield row
            if number >= HUB_ROWS:
                self.left = 0
                return

    def _check(self, table: _Table) -> list[Problem]:
        """What is wrong with the rows of one file."""
        first = list(islice(table.rows, SHOWN_ROWS)) if table.columns is not None else []
        if table.columns is not None and first and (found := self._columns(table, table.columns, first)):
            return found
        unseen = dict(self.wanted) if table.columns is None else {}
        columns: dict[str, None] = {}
        lacking: list[tuple[int, str]] = []
        told: dict[str, list[tuple[int, str]]] = {}
        for place, batch in row_batches(self._counted(chain(first, table.rows)), self.reading):
            unseen = {key: name for key, name in unseen.items() if not any(has_column(row.values, name) for row in batch)}
            columns.update(dict.fromkeys(name for row in batch[:SHOWN_ROWS] if row.fault is None for name in row.values))
            made = self.items.values(batch)
            lacking += [(place + row, name) for row, name in self._one_sided(made)]
            for row, fault in sorted(made.faults.items()):
                if fault.reason in TOLD:
                    told.setdefault(fault.reason, []).append((place + row, fault.detail))
            self.left_out.add(table.name, place, batch, made.faults)
            self._note(made)
        if columns and table.columns is None and (found := self._missing(table, tuple(columns), unseen)):
            return found
        return self._told(table, lacking, told) or self._too_many(table)

    def _columns(self, table: _Table, columns: tuple[str, ...], rows: Sequence[Row]) -> list[Problem]:
        """Columns that are not there, or several times."""
        missing = {
            key: column
            for key, column in self.wanted.items()
            if column not in columns and not any(has_column(row.values, column) for row in rows)
        }
        reason = f"{table.name} has several columns of this name"
        twice = {key: column for key, column in self.wanted.items() if column in table.twice}
        repeated = [Problem(key, column, reason, "Give each a name of its own.") for key, column in twice.items()]
        return self._missing(table, columns, missing, rows) or repeated

    def _counted(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Rows up to what a check reads of a source."""
        for row in rows:
            yield row
            self.left -= sum(len(value) for value in row.values.values() if isinstance(value, str))
            if row.fault is not None:
                self.last = row.end
            if self.left <= 0:
                return

    def _missing(
        self, table: _Table, columns: tuple[str, ...], missing: Mapping[str, str], rows: Sequence[Row] = ()
    ) -> list[Problem]:
        """Columns that are not there, by the key that names each, but for those that such a file may lack."""
        files, reason = self.reading.files, f"{table.name} has no such column"
        needless = self._needless(missing, columns)
        return [
            Problem(key, column, reason, missing_remedy(column, columns, rows, table.part, files))
            for key, column in missing.items()
            if key not in needless
        ]

    def _needless(self, missing: Collection[str], columns: Collection[str]) -> list[str]:
        """Keys whose columns a file may lack that has all of another group; which it has is noted, for some file must have
        each."""
        groups = self.items.labelling.groups if self.items.labelling is not None else ()
        keys = [key for group in groups for key in group]
        for key in keys:
            self.seen.note(key, columns if key in missing else ())
        return [] if all(set(group) & set(missing) for group in groups) else keys

    def _one_sided(self, made: Values) -> list[tuple[int, str]]:
        """Rows that have some of an item's texts and lack others, with one that they lack."""
        fields = self.reading.fields
        if len(fields) < 2:
            return []
        return [
            (place, next(name for name, column in fields.items() if made.columns[column][place] is None))
            for place, fault in made.faults.items()
            if fault.reason == NO_TEXT and any(made.columns[column][place] is not None for column in fields.values())
        ]

    def _told(
        self, table: _Table, lacking: Sequence[tuple[int, str]], told: Mapping[str, Sequence[tuple[int, str]]]
    ) -> list[Problem]:
        """The first row of those whose values mean nothing."""
        if lacking:
            row, name = lacking[0]
            more = f", and {len(lacking) - 1} rows more lack one" if len(lacking) > 1 else ""
            key = self._key_of(self.reading.fields[name])
            reason = f"row {row + 1} of {table.name} has no {name}{more}"
            return [Problem(key, self.wanted[key], reason, "Give each row all its texts, or take it out.")]
        for kind, rows in told.items():
            row, detail = rows[0]
            more = f", and {len(rows) - 1} rows more" if len(rows) > 1 else ""
            reason = f"row {row + 1} of {table.name}{more}: {detail}"
            if kind == NO_SPLIT:
                remedy = "It is no name of a split: use train, validation, test."
                return [Problem("split.by", self.items.by, reason, remedy)]
            if kind == WRONG_TARGET:
                key = self._target_key()
                return [Problem(key, self.wanted[key], reason, "Mend these rows, or take them out.")]
            key = next((key for key, column in self.wanted.items() if detail.startswith(f"{column} holds")), self.where)
            remedy = "Name another column, or mend these rows."
            if "holds a list" in detail and self.wanted.get(key) in self.reading.fields.values():
                remedy = "Name another column; if it has the words of texts, write clean: {join_words: true}."
            return [Problem(key, self.wanted.get(key), reason, remedy)]
        return []

    def _key_of(self, column: str) -> str:
        return next(key for key, own in self.wanted.items() if own == column)

    def _target_key(self) -> str:
        """Of a kind whose targets stand in its texts, the first of these."""
        paths = self.reading.labelling.paths if self.reading.labelling is not None else {}
        texts = self.reading.fields.values()
        return next((key for key in paths if self.wanted[key] not in texts), next(iter(self.wanted)))

    def _too_many(self, table: _Table) -> list[Problem]:
        """Rows that cannot be read, if they are more than are allowed."""
        if self.left_out.share <= self.reading.bad_rows:
            return []
        remedy = ""
        reason = self.left_out.first[0]["reason"]
        if reason.startswith("not ") and table.part is not None:
            remedy = encoding_remedy(table.part, self.last)
        elif reason == "stray quotation mark":
            remedy = "Mend these rows, or write quoting: none if quotation marks are signs like others."
        elif reason.startswith("no JSON") and table.part is not None and table.part.format == "jsonl":
            remedy = "Write a JSON object a line; one array is read from a file whose name ends in .json."
        return [self.left_out.problem(self.where, self.reading.bad_rows, self.source, remedy)]

    def _note(self, made: Values) -> None:
        """Keep what adds up of the labelled rows, by split, as far as it is known before they are hashed."""
        labelling = self.items.labelling
        if labelling is None:
            return
        places: dict[str, list[int]] = {}
        for place in range(len(next(iter(made.columns.values())))):
            split = made.splits[place] if made.splits is not None else self.items.named
            places.setdefault(split or NOT_YET_SPLIT, []).append(place)
        for split, rows in places.items():
            self.seen.add(
                split, labelling.statistics({name: [own[row] for row in rows] for name, own in made.targets.items()})
            )
