"""Single values of rows: which of them are none, where a nested one stands, and how each is written as text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from serve.cleaning.joining import join_words

ABSENT = frozenset(("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "<NA>"))
"""What people and programs write where there is no value."""
LACKING = "lacking"
"""Of a frame's `attrs`: by column, which rows do not have it at all; others have it without a value."""
LONGEST_ABSENT = max(map(len, ABSENT))
SINGLE = (str, bool, int, float, Decimal)


def is_absent(value: Any) -> bool:
    """Whether a value says that there is none: null, NaN, nothing but white space, NA and the like."""
    if isinstance(value, str):
        bare = value.strip()
        return len(bare) <= LONGEST_ABSENT and bare in ABSENT
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_single(value: Any) -> bool:
    """Whether a value is a string, a number or a boolean: what a text, a label or a name can be."""
    return isinstance(value, SINGLE)


def value_at(values: Mapping[str, Any], column: str) -> Any:
    """A column of a row, None where it has none; `data.body` is the body in data, unless a column has just that name."""
    if column in values or "." not in column:
        return values.get(column)
    head, _, rest = column.partition(".")
    inside = values.get(head)
    return value_at(inside, rest) if isinstance(inside, Mapping) else None


def has_column(values: Mapping[str, Any], column: str) -> bool:
    """Whether a row has this column, with a value or without."""
    if column in values:
        return True
    head, dot, rest = column.partition(".")
    inside = values.get(head)
    return bool(dot) and isinstance(inside, Mapping) and has_column(inside, rest)


def written_as(value: Any) -> str:
    """A single value as people write it in a CSV file: 1 for 1.0, true for a boolean."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def with_words_joined(value: Any) -> Any:
    """A list of words as the text that they make; all else as it is."""
    if not isinstance(value, list | tuple):
        return value
    words = [without_bytes(word) for word in value]
    return join_words([written_as(word) for word in words]).text if all(map(is_single, words)) else value


def without_bytes(value: Any) -> Any:
    """Bytes as the UTF-8 text that they are, where they are: some writers of Parquet leave texts as bytes."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def kind_of(value: Any) -> str:
    """What a value is that is not single, in a word or two."""
    if isinstance(value, bytes):
        return "bytes that are not UTF-8"
    names: dict[type, str] = {list: "a list", tuple: "a list", dict: "a record"}
    return names.get(type(value), f"a {type(value).__name__}")


def without_column(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, list[bool]]:
    """Of each column, which rows do not even have it."""
    return {column: [not has_column(row, column) for row in rows] for column in dict.fromkeys(columns)}
