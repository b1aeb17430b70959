"""Numbers as people write them in files: `4.5`, ` 4.5 `, `４．５`, `1e3`, and what is none.

number_of("３")             # 3.0
number_of("3,5")           # ValueError: '3,5' is no number; …
"""

import math
from typing import Any

from jobs.data.values import is_absent, written_as

LARGEST_NUMBER = 1e150
"""The square of a larger one is no number any more."""
WIDE = str.maketrans("．＋－−ｅＥ", ".+--eE")
"""Signs beside digits, whose wide forms Python reads as they are."""


def number_of(value: Any) -> float | None:
    """The number that a single value of a file is, None where there is none; ValueError says why it is no number."""
    if is_absent(value):
        return None
    text = written_as(value).strip()
    try:
        number = math.nan if "_" in text else float(text.translate(WIDE))
    except ValueError:
        number = math.nan
    if math.isnan(number):
        remedy = f"write {text.replace(',', '.')}" if text.count(",") == 1 and "." not in text else "such are written as 4.5"
        raise ValueError(f"{text!r} is no number; {remedy}")
    if not abs(number) < LARGEST_NUMBER:
        raise ValueError(f"{text!r} is no finite number that sums can hold")
    return number
