"""Packing: documents become one stream of tokens, the stream becomes rows of one length.

Each document begins with [CLS] and ends with [SEP], so that its bounds can be found again in a row.

N rows, T tokens.
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np

from cluster.artifact import File, write_by_content


def pack(documents: Iterable[Sequence[int]], length: int, pad: int, vocab_size: int) -> np.ndarray:
    """Rows ids_NT of the documents' tokens, end to end; only the last row is padded."""
    kind = np.uint16 if vocab_size <= 2**16 else np.int32
    parts = [np.asarray(document, dtype=kind) for document in documents]
    stream = np.concatenate(parts) if parts else np.empty(0, dtype=kind)
    rows = -(-len(stream) // length)
    ids_NT = np.full((rows, length), pad, dtype=kind)
    ids_NT.reshape(-1)[: len(stream)] = stream
    return ids_NT


def write_rows(ids_NT: np.ndarray, output: str, directory: str) -> tuple[str, File]:
    """Write rows as one .npy file below the output, named by its content: (relative path, size and hash)."""
    buffer = io.BytesIO()
    np.save(buffer, ids_NT)
    return write_by_content(output, directory, ".npy", buffer.getvalue())
