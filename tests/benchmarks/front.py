"""Where it pays: the front from a teacher to a linear model, of sets with few labels and many texts without.

    SET=imdb make bench BENCH=front
    DATA=DIRECTORY SET=banking77 make bench BENCH=front              # front_sets.py says which sets there are
    DATA=DIRECTORY SET=banking77 LIMIT=300 make bench BENCH=front    # so many other rows, an epoch: to see that it runs

Students learn once from the rows with a label alone, and once from the teacher's answers for all rows, as many steps of
either. Intervals are of paired resamples of the test rows. With STORAGE=DIRECTORY what is made is kept there, and found again.
A table of the lines is written to stderr.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.front_sets import SETS, FrontSet
from tests.benchmarks.kinds import cluster, with_table


def measures() -> Iterator[dict[str, Any]]:
    """The speeds of the models that are no transformers, and the lines of the set that is asked for."""
    from tests.benchmarks.front_speed import speeds

    yield from speeds()
    asked = os.environ.get("SET", "")
    if asked not in SETS:
        print(f"front: SET={asked or '…'}: SET is one of {', '.join(SETS)}; no front was measured", file=sys.stderr)
        return
    yield from with_table("front", _of_set(asked, SETS[asked]))


def _of_set(name: str, found: FrontSet) -> Iterator[dict[str, Any]]:
    from serve.engines.processor import described
    from tests.benchmarks.front_road import FrontRun

    limit = int(os.environ["LIMIT"]) if "LIMIT" in os.environ else None
    directory = Path(os.environ["DATA"]) if "DATA" in os.environ else None
    with tempfile.TemporaryDirectory() as scratch:
        # Of a place that stays, what is done is found again.
        place = os.environ.get("STORAGE", scratch)
        Path(place).mkdir(parents=True, exist_ok=True)
        source = found.write(directory, Path(place), limit)
        with cluster():
            run = FrontRun.of(name, found if limit is None else found.tried(), source, place)
            shared = {"set": name, "cpu": described(), **run.stated()}
            for line in run.lines():
                yield {**line, "detail": {**shared, **line["detail"]}}
