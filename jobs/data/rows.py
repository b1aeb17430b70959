"""A source's rows, cleaned, keyed, split and de-duplicated: what prepare does before it tokenises or publishes.

Also the checks of a source that can be made without running anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cluster.store import storage
from jobs.core.config import BadInput, Problem, nearest
from jobs.data.augment import Augment, augmenting
from jobs.data.clean import Clean, clean_text, item_key, value_name
from jobs.data.dedup import SPLITS, Conflicts, Split, deduplicate, divided, split_of
from jobs.data.sources import Sources, each, read_source, resolve, tables

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import ActorPoolStrategy, Dataset

CHECKED_BYTES = 512 << 20
"""Sources up to this size are read whole by the checks."""
SLICE = "slice_"
"""What the names of columns begin with that are kept for slices."""
UNLABELLED = "unlabelled"
"""The name of a source of a task whose texts have no label: they are in the training split, with a label of null."""


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


def load_rows(source: Sources, reading: Reading, augment: Augment | None = None) -> tuple["Dataset", dict[str, int]]:
    """Rows of key, texts, (targets, slices,) split: clean, without duplicates; and how many were read, made and kept."""
    parts: list[Dataset] = []
    read_count = 0
    for named, one in each(source).items():
        raw = read_source(one).materialize()
        read_count += raw.count()
        parts.append(raw.map_batches(keyed(reading, named, set(each(source))), batch_format="pandas"))
    rows = (parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]).materialize()
    clean_count = rows.count()
    if not clean_count:
        remedy = "Lower clean.min_characters or check the text column."
        raise BadInput([Problem("source", source, f"no text is left of {read_count} rows after cleaning", remedy)])
    counts = {"rows_read": read_count, "rows_empty": read_count - clean_count}
    count = clean_count
    if augment is not None:
        rows = rows.map_batches(augmenting(augment, tuple(reading.fields)), batch_format="pandas").materialize()
        count = rows.count()
        counts["rows_made"] = count - clean_count
    targets = list(reading.labelling.types) if reading.labelling is not None else []
    kept, conflicting = deduplicate(rows, count, targets, reading.conflicts)
    kept = kept.materialize()
    counts |= {"rows_conflicting": conflicting} if targets else {}
    return kept, counts | {"rows_duplicate": count - conflicting - kept.count()}


class TrainTexts:
    """Texts of the training split, block by block, up to so many characters, as often as they are asked for.

    Blocks hold texts by the hash of their key, so that the first ones are an even sample of all.
    """

    def __init__(self, blocks: list[Any], characters: int) -> None:
        self.blocks, self.characters = blocks, characters

    def __iter__(self) -> Iterator[str]:
        import ray

        left = self.characters
        for block in self.blocks:
            table: pa.Table = ray.get(block)
            for text, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True):
                if split == "train":
                    yield text
                    left -= len(text)
                    if left <= 0:
                        return


def as_many_as_fit(blocks: int) -> "ActorPoolStrategy":
    """Actors at once for all CPUs that are there, and more as they come: what the blocks become does not depend on it.

    A pool that grows by itself starts its second actor only when the first has long been at work.
    """
    import ray.data

    most = max(1, blocks)
    there = int(ray.cluster_resources().get("CPU", 1))
    return ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, min(most, there)))


def keyed(reading: Reading, named: str, splits: set[str]) -> Callable[["pd.DataFrame"], "pd.DataFrame"]:
    """The function that turns a batch of raw rows into key, texts, (targets, slices,) split."""
    rest = divided(reading.split, named, splits)
    labelling = reading.labelling if named != UNLABELLED else None

    def made(frame: "pd.DataFrame") -> "pd.DataFrame":
        import pandas as pd

        frame = _plain(frame[_needed(reading, named)])
        texts = {
            name: [clean_text("" if value is None else str(value), reading.clean) for value in frame[column]]
            for name, column in reading.fields.items()
        }
        columns: dict[str, Any] = {"key": [item_key(item) for item in zip(*texts.values(), strict=True)], **texts}
        keep = np.all([[text != "" for text in column] for column in texts.values()], axis=0)
        if labelling is not None:
            found, wrong = labelling.targets(frame)
            columns |= {name: _typed(values, labelling.types[name]) for name, values in found.items()}
            keep &= np.any([[value is not None for value in values] for values in found.values()], axis=0)
            keep[list(wrong)] = False
        elif reading.labelling is not None:
            columns |= {name: _typed([None] * len(frame), kind) for name, kind in reading.labelling.types.items()}
        for name in reading.slices:
            values = frame[name] if labelling is not None else [None] * len(frame)
            columns[f"{SLICE}{name}"] = pd.Series([value_name(value) or None for value in values], dtype="str")
        columns["split"] = _splits(frame, columns["key"], reading.split, rest, named)
        return pd.DataFrame(columns)[keep].reset_index(drop=True)

    return made


def _needed(reading: Reading, named: str) -> list[str]:
    """The columns of a source that are read; of texts without targets no others than these."""
    own = [*reading.fields.values()]
    if named != UNLABELLED:
        own += [*(reading.labelling.paths.values() if reading.labelling is not None else ()), *reading.slices]
        own += [reading.split.by] if reading.split.by != "hash" else []
    return list(dict.fromkeys(own))


def _plain(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The same with plain values, and None wherever there is none: Ray's batches have pandas' NA there, tables NaN, which as
    text would be words like any other."""
    return frame.astype(object).where(frame.notna(), None)


def _splits(frame: "pd.DataFrame", keys: Sequence[str], split: Split, rest: Split, named: str) -> list[str]:
    """The split of each row."""
    if named == UNLABELLED:
        return ["train"] * len(keys)
    if split.by != "hash":
        return [_split_name(value) for value in frame[split.by]]
    if named in ("test", "validation"):
        return [named] * len(keys)
    return [split_of(key, rest) for key in keys]


def _typed(values: Sequence[Any], kind: "pa.DataType") -> "pd.Series[Any]":
    """A column whose type does not hang on which values a batch happens to have."""
    import pandas as pd
    import pyarrow as pa

    return pd.Series(values, dtype="str" if pa.types.is_string(kind) else pd.ArrowDtype(kind))


def _split_name(value: Any) -> str:
    known = {"dev": "validation", "valid": "validation", "val": "validation"}
    name = known.get(str(value).lower(), str(value).lower())
    if name not in SPLITS:
        raise BadInput([Problem("split.by", value, "the column holds no name of a split", "Use train, validation, test.")])
    return name


@dataclass
class _Seen:
    """What a check has seen of the labelled rows."""

    statistics: dict[str, dict[str, float]] = field(default_factory=dict)
    """By split."""

    def add(self, split: str, statistics: Mapping[str, float]) -> None:
        """Take in rows of a split."""
        own = self.statistics.setdefault(split, {})
        for name, number in statistics.items():
            own[name] = own.get(name, 0) + number


def check_source(source: Sources, reading: Reading, columns: Mapping[str, str]) -> list[Problem]:
    """What is wrong with a source: missing or empty files, columns that are not there, targets that mean nothing.

    `columns` are those that must be there, by the recipe's key that names each.
    """
    problems = _twice(reading, columns)
    seen = _Seen()
    known = (*SPLITS, *([UNLABELLED] if reading.labelling is not None else []))
    for named, one in each(source).items():
        where = f"source.{named}" if named else "source"
        if named not in ("", *known):
            problems.append(Problem(where, one, "no such split", nearest(named, known)))
            continue
        if one.startswith(("hub:", "sample:")):
            problems += _check_named(one, where)
            continue
        try:
            problems += _check_tables(one, where, reading, columns, named, seen)
        except BadInput as error:
            problems += [Problem(where, p.value, p.reason, p.remedy) for p in error.problems]
        except storage.StorageError as error:
            problems.append(Problem(where, one, str(error), "Check the place and the credentials."))
    return problems + (reading.labelling.check(seen.statistics) if reading.labelling is not None else [])


def _twice(reading: Reading, columns: Mapping[str, str]) -> list[Problem]:
    """Texts of an item that are all from one column."""
    texts = list(reading.fields.values())
    again = {column for column in texts if texts.count(column) > 1}
    keys = {column: key for key, column in columns.items() if column in again}
    reason = "another text of the item has this column already"
    return [Problem(key, column, reason, "Name a column for each.") for column, key in keys.items()]


def _check_named(source: str, where: str) -> list[Problem]:
    if source.startswith("hub:"):
        return []
    from jobs.data.samples import find_sample

    try:
        find_sample(source.removeprefix("sample:"))
    except BadInput as error:
        return [Problem(where, p.value, p.reason, p.remedy) for p in error.problems]
    return []


def _check_tables(
    source: str, where: str, reading: Reading, columns: Mapping[str, str], named: str, seen: _Seen
) -> list[Problem]:
    wanted = dict(columns)
    if reading.split.by != "hash":
        wanted["split.by"] = reading.split.by
    if named == UNLABELLED:
        wanted = {key: column for key, column in wanted.items() if column in reading.fields.values()}
    rows, read_bytes = 0, 0
    for table in tables(source):
        if table.num_rows == 0:
            continue
        missing = [(key, column) for key, column in wanted.items() if column not in table.column_names]
        if missing:
            return [
                Problem(key, column, f"{source} has no such column", nearest(column, table.column_names))
                for key, column in missing
            ]
        if problems := _nested(table, source, reading, wanted):
            return problems
        if problems := _check_rows(table, source, rows, reading, named, wanted, seen):
            return problems
        rows += table.num_rows
        read_bytes += table.nbytes
        if read_bytes > CHECKED_BYTES:
            break
    if rows == 0:
        return [Problem(where, source, f"it has no rows ({len(resolve(source))} file)", "Give a file with data.")]
    return []


def _nested(table: "pa.Table", source: str, reading: Reading, wanted: Mapping[str, str]) -> list[Problem]:
    """Columns of lists or records, where a text, a label or a name is asked for."""
    import pyarrow as pa

    single = {key: column for key, column in wanted.items() if reading.labelling is None or key not in reading.labelling.lists}
    kinds = {key: table.schema.field(column).type for key, column in single.items()}
    return [
        Problem(key, single[key], f"in {source} it holds {kind}, and single values are asked for", "Name another column.")
        for key, kind in kinds.items()
        if pa.types.is_nested(kind)
    ]


def _check_rows(
    table: "pa.Table", source: str, before: int, reading: Reading, named: str, wanted: Mapping[str, str], seen: _Seen
) -> list[Problem]:
    """Rows of a table that make no item; `before` are the source's rows before it."""
    labelling = reading.labelling
    if labelling is None:
        return []
    problems = _one_sided(table, source, before, reading, wanted)
    if named == UNLABELLED or problems:
        return problems
    frame = _plain(table.select(list(dict.fromkeys(wanted.values()))).to_pandas())
    found, wrong = labelling.targets(frame)
    if wrong:
        first, more = min(wrong), f", and {len(wrong) - 1} rows more" if len(wrong) > 1 else ""
        reason = f"row {before + first + 1} of {source}{more}: {wrong[first]}"
        # Of a kind whose targets stand in its texts, the first of these.
        key = next((key for key in labelling.paths if wanted[key] not in reading.fields.values()), next(iter(wanted)))
        return [Problem(key, wanted[key], reason, "Mend these rows, or take them out.")]
    for split, places in _places(frame, reading.split, named).items():
        seen.add(split, labelling.statistics({name: [values[row] for row in places] for name, values in found.items()}))
    return []


def _one_sided(table: "pa.Table", source: str, before: int, reading: Reading, wanted: Mapping[str, str]) -> list[Problem]:
    """Rows that have some of an item's texts and lack others."""
    if len(reading.fields) < 2:
        return []
    there = {
        name: np.array([value is not None and str(value).strip() != "" for value in table[column].to_pylist()])
        for name, column in reading.fields.items()
    }
    some_N, all_N = np.any(list(there.values()), axis=0), np.all(list(there.values()), axis=0)
    rows = np.flatnonzero(some_N & ~all_N).tolist()
    if not rows:
        return []
    lacking = next(name for name, found_N in there.items() if not found_N[rows[0]])
    more = f", and {len(rows) - 1} rows more lack one" if len(rows) > 1 else ""
    reason = f"row {before + rows[0] + 1} of {source} has no {lacking}{more}"
    key = next(key for key, column in wanted.items() if column == reading.fields[lacking])
    return [Problem(key, reading.fields[lacking], reason, "Give each row all its texts, or take it out.")]


def _places(frame: "pd.DataFrame", split: Split, named: str) -> dict[str, Sequence[int]]:
    """The rows of each split, as far as it is known before they are hashed."""
    if split.by == "hash":
        return {named: range(len(frame))} if named else {}
    places: dict[str, list[int]] = {}
    for place, value in enumerate(frame[split.by]):
        places.setdefault(_split_name(value), []).append(place)
    return dict(places.items())
