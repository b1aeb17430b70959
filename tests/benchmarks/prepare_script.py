"""The peer of prepare's near duplicates: one script of datasets.map in two processes and datasketch's MinHash and MinHashLSH.

python -m tests.benchmarks.prepare_script FILE BANDS ROWS THRESHOLD      prints seconds and rows that stay, as JSON

The same steps: rows are read, cleaned and keyed, exact duplicates go, shingles of two words are hashed by as many functions,
bands are looked up, candidates compared exactly.
"""

import json
import sys
import tempfile
import time
from typing import Any

import datasets
import numpy as np
from datasketch import MinHash, MinHashLSH

from jobs.data.clean import Clean, clean_text, text_key

PROCESSES = 2


def shingles(text: str) -> list[bytes]:
    """Runs of two words."""
    words = text.casefold().split()
    return [" ".join(words[at : at + 2]).encode() for at in range(max(1, len(words) - 1))]


def cleaned(batch: dict[str, Any], functions: int) -> dict[str, Any]:
    """Clean texts, their keys and the least values of their shingles."""
    texts = [clean_text(text, Clean()) for text in batch["text"]]
    values = [made.hashvalues for made in MinHash.generator([shingles(text) for text in texts], num_perm=functions)]
    return {"text": texts, "key": [text_key(text) for text in texts], "values": values}


def main() -> None:
    """Measure from the file on."""
    file, bands, rows, threshold = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        read = datasets.load_dataset("csv", data_files=file, split="train", cache_dir=cache)
        made = read.map(cleaned, batched=True, num_proc=PROCESSES, fn_kwargs={"functions": bands * rows})
        index = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
        seen: set[str] = set()
        kept: dict[int, set[bytes]] = {}
        for number, row in enumerate(made):
            if row["key"] in seen:
                continue
            seen.add(row["key"])
            values = MinHash(num_perm=bands * rows, hashvalues=np.array(row["values"], dtype=np.uint64))
            own = set(shingles(row["text"]))
            if any(len(own & kept[other]) >= threshold * len(own | kept[other]) for other in index.query(values)):
                continue
            index.insert(number, values)
            kept[number] = own
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "kept": len(kept)}))


if __name__ == "__main__":
    main()
