"""Which words and characters in a row a linear model knows: those that two training rows have, as many as it may hold.

    choice = GramChoice.shared_by_two(items)           # BadInput where nothing is
    choice.useful(matrix_NR, slopes_NK, columns, bytes_at_most=20_000_000)

F features, K outputs, N items, R rows of the table.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.core.config import BadInput, Problem
from serve.engines.bag_reading import BagReader, GramCutter, GramFeatures
from serve.tasks.protocol import Item

if TYPE_CHECKING:
    from scipy import sparse

READ_CHARACTERS = 10_000
"""Of each text, the first."""
IDF_BYTES = 4
FLOAT_BYTES = 4


@dataclass(frozen=True)
class GramChoice:
    """Listed grams by sort, with the idf of each."""

    features: GramFeatures
    listed: dict[str, list[str]]
    idf_F: np.ndarray

    @classmethod
    def shared_by_two(cls, items: Sequence[Item]) -> "GramChoice":
        """The grams that two texts have, with idf as scikit-learn's TfidfTransformer counts it."""
        features = GramFeatures()
        texts = [value[:READ_CHARACTERS] for item in items for value in item.values]
        found: dict[str, Counter[str]] = {sort: Counter() for sort in features.sorts}
        for text in texts:
            for sort, grams in features.cut(text).items():
                found[sort].update(set(grams))
        shared = {sort: {gram: count for gram, count in counts.items() if count > 1} for sort, counts in found.items()}
        if not any(shared.values()):
            reason = (
                f"no word and no characters in a row are in two of its {len(texts)} training texts: there is nothing to count"
            )
            raise BadInput([Problem("inputs.examples", None, reason, "Give prepare more rows.")])
        counts_F = np.array([count for counts in shared.values() for count in counts.values()], dtype=np.float64)
        idf_F = (np.log((1 + len(texts)) / (1 + counts_F)) + 1).astype(np.float32)
        return cls(features, {sort: list(counts) for sort, counts in shared.items()}, idf_F)

    def __len__(self) -> int:
        return len(self.idf_F)

    def reader(self, fields: int) -> BagReader:
        """What reads items so."""
        return BagReader(GramCutter(self.features, self.listed, READ_CHARACTERS), "tfidf", self.idf_F, fields, compared=True)

    def useful(self, matrix_NR: "sparse.csr_matrix", slopes_NK: np.ndarray, bytes_at_most: float) -> "GramChoice":
        """Those that fit into so many bytes: along which a loss with these slopes (d loss / d outputs) falls steepest.

        It is the first step of a fit that begins with no feature at all, and so asks the kind's own loss what a feature is
        worth.
        """
        slopes_RK = np.asarray(matrix_NR.T @ slopes_NK)
        rows = slopes_RK.shape[0] // len(self)
        steepness_F = np.sqrt((slopes_RK[: rows * len(self)] ** 2).sum(1).reshape(rows, -1).max(0))
        named = [gram for grams in self.listed.values() for gram in grams]
        written_F = np.array(
            [len(json.dumps(gram, ensure_ascii=False).encode("utf-8", "surrogatepass")) + 2 for gram in named]
        )
        order_F = np.argsort(-steepness_F, kind="stable")
        room_F = np.cumsum(written_F[order_F] + IDF_BYTES + FLOAT_BYTES * rows * slopes_NK.shape[1])
        kept = order_F[: int(np.searchsorted(room_F, bytes_at_most, side="right"))]
        if len(kept) == len(self):
            return self
        if not len(kept):
            reason = f"no feature with its {rows * slopes_NK.shape[1]} weights fits into it"
            raise BadInput([Problem("megabytes", bytes_at_most / 1e6, reason, "Raise it.")])
        stays = np.zeros(len(self), dtype=bool)
        stays[kept] = True
        listed, start = {}, 0
        for sort, grams in self.listed.items():
            own = stays[start : start + len(grams)]
            listed[sort] = [gram for gram, stay in zip(grams, own, strict=True) if stay]
            start += len(grams)
        return GramChoice(self.features, listed, self.idf_F[stays])


def as_json(listed: Any) -> bytes:
    """Grams as grams.json has them."""
    return json.dumps(listed, ensure_ascii=False).encode("utf-8", "surrogatepass")


def as_matrix(reader: BagReader, items: Sequence[Item]) -> tuple["sparse.csr_matrix", list[int], float]:
    """What each item has of each row of the table, float32 NR; the length of each, and the share that was not read whole."""
    from scipy.sparse import csr_matrix

    rows, weights, ends, lengths, cut = [], [], [0], [], 0
    for item in items:
        (window,) = reader([item.values])
        ((own_rows, own_weights),) = window.parts
        rows.append(own_rows.astype(np.int32))
        weights.append(own_weights)
        ends.append(ends[-1] + len(own_rows))
        lengths.append(len(window))
        cut += window.overflowing
    parts = (np.concatenate(weights), np.concatenate(rows), np.array(ends)) if items else ([], [], [0])
    return csr_matrix(parts, shape=(len(items), reader.rows), dtype=np.float32), lengths, cut / max(1, len(items))
