"""Writing what prepare makes: a file of each split for every block of rows, under the name of its content.

    rows.map_batches(PackRows, fn_constructor_args=(…))               # TOKENS, by actors that hold the tokenizer
    rows.map_batches(WriteExamples(labelling, sampling, output).write)  # EXAMPLES

Each gives back what was written, a row a file, with what it counted and its part of the sample for the data report.
N rows, T tokens.
"""

import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.store.artifact import write_by_content
from jobs.data.row_sample import RowSampling
from jobs.data.rows import TargetMaker
from jobs.data.tokenizer import text_cutter

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from jobs.data.pack import Bounds


class PackRows:
    """Tokenises and lays out the documents of a block and writes them below the output, a file a split."""

    def __init__(
        self, tokenizer: dict[str, bytes], bounds: "Bounds", length: int, segments: str, sampling: RowSampling, output: str
    ) -> None:
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as scratch:
            for name, content in tokenizer.items():
                (Path(scratch) / name).write_bytes(content)
            self.tokenizer = AutoTokenizer.from_pretrained(scratch)
        self.cut = text_cutter(self.tokenizer)
        self.bounds, self.length, self.segments = bounds, length, segments
        self.sampling, self.output = sampling, output

    def __call__(self, frame: "pd.DataFrame") -> dict[str, np.ndarray]:
        import pyarrow as pa

        from jobs.data.pack import write_rows

        columns = ("path", "rows", "tokens", "documents_left_out", "documents", "size", "sha256", "sample")
        written: dict[str, list[Any]] = {name: [] for name in columns}
        for split, part in frame.groupby("split"):
            ids_NT, tokens, left_out = self._rows(part["text"].tolist())
            path, file = write_rows(ids_NT, self.output, str(split))
            sample = self.sampling.part(pa.Table.from_pandas(part, preserve_index=False))
            found = (path, len(ids_NT), tokens, left_out, len(part), file.size, file.sha256, sample)
            for key, value in zip(written, found, strict=True):
                written[key].append(value)
        # Bytes as objects: numpy's own type of them drops zeros at their end.
        return {key: np.array(values, dtype=object if key == "sample" else None) for key, values in written.items()}

    def _rows(self, texts: list[str]) -> tuple[np.ndarray, int, int]:
        """The rows ids_NT of these documents, their tokens, and how many documents gave no row."""
        from jobs.data.pack import documents_of, pack
        from jobs.data.segments import pad_rows, pair_frame, pair_rows, sentence_tokens

        if self.segments == "packed":
            documents = documents_of(texts, self.cut, self.bounds)
            ids_NT = pack(documents, self.length, self.bounds.pad, len(self.tokenizer))
            return ids_NT, sum(map(len, documents)), 0
        frame = pair_frame(self.tokenizer)
        rows, left_out = pair_rows((sentence_tokens(text, self.cut) for text in texts), self.length, frame)
        return pad_rows(rows, self.length, frame.pad, len(self.tokenizer)), sum(map(len, rows)), left_out


@dataclass(frozen=True)
class WriteExamples:
    """Writes the rows of a block below the output, a file a split."""

    labelling: TargetMaker
    sampling: RowSampling
    output: str

    def write(self, table: "pa.Table") -> "pa.Table":
        """What was written, a row a file."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as parquet

        types, written = self.labelling.types, []
        for split in pc.unique(table["split"]).to_pylist():
            part = table.filter(pc.equal(table["split"], split))
            for name, kind in types.items():
                part = part.set_column(part.column_names.index(name), name, part[name].cast(kind))
            sample, part = self.sampling.part(part), part.drop_columns(["split"])
            buffer = io.BytesIO()
            parquet.write_table(part, buffer)
            path, file = write_by_content(self.output, split, ".parquet", buffer.getvalue())
            targets = part.select(list(types)).to_pydict()
            known = sum(any(value is not None for value in row) for row in zip(*targets.values(), strict=True))
            statistics = json.dumps(self.labelling.statistics(targets))
            counted = {"rows": known, "unlabelled": part.num_rows - known, "statistics": statistics, "sample": sample}
            written.append({"path": path, "size": file.size, "sha256": file.sha256, **counted})
        return pa.Table.from_pylist(written)
