"""Data sets of the Hugging Face hub, or of a directory in its format: `hub:NAME[:CONFIG][#SPLIT]`, read as a stream.

    for shard in hub_shards("hub:nyu-mll/glue:sst2#validation"): list(hub_rows(shard))

Nothing is read before its rows are asked for. A class that is a number in the rows is given by its name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jobs.core.config import BadInput, Problem
from jobs.data.pieces import Row

SPLIT_PART = re.compile(r"(?P<split>[\w.-]+)(?:\[(?P<first>\d*)(?P<unit>%?):(?P<last>\d*)(?P<end>%?)\])?")
"""A split as `datasets` writes it, whole or some rows of it."""


@dataclass(frozen=True)
class Shard:
    """A part of a data set that one task reads."""

    source: str
    split: str
    number: int = 0
    of: int = 1
    first: int = 0
    last: int | None = None
    """Of a split that is not cut into shards: the rows from and up to which it goes."""

    @property
    def name(self) -> str:
        """How it is told."""
        return f"{self.source} (part {self.number + 1} of {self.of})" if self.of > 1 else self.source


def hub_parts(source: str) -> tuple[str, str | None, str]:
    """Name (or a local directory in the hub's format), config and split of `hub:NAME[:CONFIG][#SPLIT]`."""
    address, _, split = source.removeprefix("hub:").partition("#")
    name, _, config = address.partition(":")
    return name, config or None, split or "train"


def hub_shards(source: str) -> list[Shard]:
    """The parts of a source, in its order; a stretch of a split is one."""
    found: list[Shard] = []
    for part in hub_parts(source)[2].split("+"):
        matched = SPLIT_PART.fullmatch(part.strip())
        if matched is None:
            raise BadInput([Problem("source", source, f"{part} is no split", "Write #train, #train[:1000] or #train+test.")])
        split = matched["split"]
        stream = _stream(source, split)
        if matched["first"] is None:
            found += [Shard(source, split, number, stream.num_shards) for number in range(stream.num_shards)]
        else:
            first, last = _bounds(matched, source, stream)
            found.append(Shard(source, split, 0, 1, first, last))
    return found


def hub_rows(shard: Shard) -> Iterator[Row]:
    """The rows of a part."""
    stream = _stream(shard.source, shard.split)
    if shard.of > 1:
        stream = stream.shard(num_shards=shard.of, index=shard.number)
    names = _class_names(stream)
    with_names = (_named(values, names) for values in stream)
    yield from (Row(values) for values in islice(with_names, shard.first, shard.last))


def hub_columns(shard: Shard) -> tuple[str, ...]:
    """The columns of a part, which all of its source have; BadInput where it cannot be read."""
    stream = _stream(shard.source, shard.split)
    return tuple(stream.column_names or next(iter(stream), {}))


def _stream(source: str, split: str) -> Any:
    import datasets

    name, config, _ = hub_parts(source)
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        reason = f"the data set cannot be read ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        remedy = "Check the name, the configuration and the split, and that this host reaches the hub."
        raise BadInput([Problem("source", source, reason, remedy)]) from error


def _bounds(matched: "re.Match[str]", source: str, stream: Any) -> tuple[int, int | None]:
    """The first row of a stretch, and the one behind its last."""
    if not matched["unit"] and not matched["end"]:
        return int(matched["first"] or 0), int(matched["last"]) if matched["last"] else None
    known = (stream.info.splits or {}).get(matched["split"])
    total = known.num_examples if known is not None and known.num_examples else sum(1 for _ in stream)
    return round(total * int(matched["first"] or 0) / 100), round(total * int(matched["last"] or 100) / 100)


def _class_names(stream: Any) -> dict[str, list[str]]:
    """The names of classes, by the columns that have their numbers, or lists of them."""
    inner = {column: getattr(kind, "feature", kind) for column, kind in (stream.features or {}).items()}
    return {column: list(kind.names) for column, kind in inner.items() if hasattr(kind, "int2str")}


def _named(values: Mapping[str, Any], names: Mapping[str, list[str]]) -> Mapping[str, Any]:
    """A row with the names of its classes."""
    return {**values, **{column: _class_name(values.get(column), known) for column, known in names.items()}}


def _class_name(value: Any, known: list[str]) -> Any:
    """-1 is none, as the hub has it for rows that nobody has labelled."""
    if isinstance(value, list):
        return [_class_name(one, known) for one in value]
    if isinstance(value, int) and 0 <= value < len(known):
        return known[value]
    return None if value == -1 else value
