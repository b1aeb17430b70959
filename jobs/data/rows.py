"""A source's rows, cleaned, keyed, split and de-duplicated: what prepare does before it tokenises or publishes.

Also the checks of a source that can be made without running anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from cluster import storage
from jobs.core.config import BadInput, Problem, nearest
from jobs.data.augment import Augment, augmenting
from jobs.data.clean import Clean, clean_text, text_key
from jobs.data.dedup import SPLITS, Split, deduplicate, divided, split_of
from jobs.data.sources import Sources, each, read, resolve, tables
from jobs.tasks.settings import Task

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


def load_rows(
    source: Sources,
    text: str,
    task: Task | None,
    clean: Clean,
    split: Split,
    slices: Sequence[str] = (),
    augment: Augment | None = None,
) -> tuple["Dataset", dict[str, int]]:
    """Rows of key, text, (label, slices,) split: clean, without duplicates; and how many were read, made and kept."""
    parts: list[Dataset] = []
    read_count = 0
    for named, one in each(source).items():
        raw = read(one).materialize()
        read_count += raw.count()
        parts.append(
            raw.map_batches(_keyed(text, task, clean, split, named, set(each(source)), slices), batch_format="pandas")
        )
    rows = (parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]).materialize()
    clean_count = rows.count()
    if not clean_count:
        remedy = "Lower clean.min_characters or check the text column."
        raise BadInput([Problem("source", source, f"no text is left of {read_count} rows after cleaning", remedy)])
    counts = {"rows_read": read_count, "rows_empty": read_count - clean_count}
    count = clean_count
    if augment is not None:
        rows = rows.map_batches(augmenting(augment), batch_format="pandas").materialize()
        count = rows.count()
        counts["rows_made"] = count - clean_count
    kept = deduplicate(rows, count).materialize()
    return kept, counts | {"rows_duplicate": count - kept.count()}


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


def _keyed(
    text: str, task: Task | None, clean: Clean, split: Split, named: str, splits: set[str], slices: Sequence[str]
) -> Callable[["pd.DataFrame"], "pd.DataFrame"]:
    """The function that turns a batch of raw rows into key, text, (label, slices,) split."""
    rest = divided(split, named, splits)
    labelled = task is not None and named != UNLABELLED

    def keyed(frame: "pd.DataFrame") -> "pd.DataFrame":
        import pandas as pd

        texts = [clean_text("" if value is None else str(value), clean) for value in frame[text]]
        columns: dict[str, Any] = {"key": [text_key(one) for one in texts], "text": texts}
        if task is not None and not labelled:
            columns["label"] = pd.Series([None] * len(texts), dtype="str")
        elif task is not None:
            columns["label"] = [task.names.get(name, name) for name in map(_label_name, frame[task.label])]
        for name in slices:
            found = frame[name] if labelled else [None] * len(texts)
            columns[f"{SLICE}{name}"] = pd.Series([_label_name(value) or None for value in found], dtype="str")
        if named == UNLABELLED:
            columns["split"] = ["train"] * len(texts)
        elif split.by != "hash":
            columns["split"] = [_split_name(value) for value in frame[split.by]]
        elif named in ("test", "validation"):
            columns["split"] = [named] * len(texts)
        else:
            columns["split"] = [split_of(key, rest) for key in columns["key"]]
        made = pd.DataFrame(columns)
        keep = made["text"] != ""
        if labelled:
            keep &= made["label"] != ""
        return made[keep].reset_index(drop=True)

    return keyed


def _label_name(value: Any) -> str:
    """Labels are strings; whole numbers that came as floats lose their point."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _split_name(value: Any) -> str:
    known = {"dev": "validation", "valid": "validation", "val": "validation"}
    name = known.get(str(value).lower(), str(value).lower())
    if name not in SPLITS:
        raise BadInput([Problem("split.by", value, "the column holds no name of a split", "Use train, validation, test.")])
    return name


def check_source(source: Sources, columns: Mapping[str, str | None], split: Split) -> list[Problem]:
    """What is wrong with a source: missing or empty files, columns that are not there, labels unknown to train."""
    problems: list[Problem] = []
    labels: dict[str, set[str]] = {}
    known = (*SPLITS, *([UNLABELLED] if columns.get("task.label") is not None else []))
    for named, one in each(source).items():
        where = f"source.{named}" if named else "source"
        if named not in ("", *known):
            problems.append(Problem(where, one, "no such split", nearest(named, known)))
            continue
        if one.startswith(("hub:", "sample:")):
            problems += _check_named(one, where)
            continue
        try:
            problems += _check_tables(one, where, columns, split, named, labels)
        except BadInput as error:
            problems += [Problem(where, p.value, p.reason, p.remedy) for p in error.problems]
        except storage.StorageError as error:
            problems.append(Problem(where, one, str(error), "Check the place and the credentials."))
    unseen = {label: name for name, found in labels.items() if name != "train" for label in found - labels.get("train", set())}
    if "train" in labels:
        problems += [
            Problem(
                f"source.{name}", label, "this label is not in the training set", "Add such rows to train, or remove them."
            )
            for label, name in sorted(unseen.items())
        ]
    return problems


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
    source: str, where: str, columns: Mapping[str, str | None], split: Split, named: str, labels: dict[str, set[str]]
) -> list[Problem]:
    wanted = {key: column for key, column in columns.items() if column is not None}
    if split.by != "hash":
        wanted["split.by"] = split.by
    if named == UNLABELLED:
        wanted = {"text": wanted["text"]}
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
        rows += table.num_rows
        _collect_labels(table, wanted, split, named, labels)
        read_bytes += table.nbytes
        if read_bytes > CHECKED_BYTES:
            break
    if rows == 0:
        return [Problem(where, source, f"it has no rows ({len(resolve(source))} file)", "Give a file with data.")]
    return []


def _collect_labels(
    table: "pa.Table", wanted: Mapping[str, str], split: Split, named: str, labels: dict[str, set[str]]
) -> None:
    """The labels of each split; rows without a label are dropped later and count for nothing here."""
    label = wanted.get("task.label")
    if label is None:
        return
    if split.by == "hash":
        if named:
            names = {_label_name(value) for value in pc.unique(table[label]).to_pylist()}
            labels.setdefault(named, set()).update(names - {""})
        return
    pairs = table.select([split.by, label]).group_by([split.by, label]).aggregate([]).to_pydict()
    for place, value in zip(pairs[split.by], pairs[label], strict=True):
        labels.setdefault(_split_name(place), set()).update({_label_name(value)} - {""})
