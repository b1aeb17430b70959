"""prepare: raw text becomes TOKENS to pretrain on, labelled rows become EXAMPLES to fine-tune on.

    ray job submit --working-dir . -- python -m jobs.prepare jobs/recipes/spam.yaml --step corpus

Ray Data reads, cleans, removes duplicates and splits. With `tokenizer` the text is packed into rows of tokens;
with `task` the labelled rows are written as Parquet.
"""

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from cluster.artifact import File, Kind, write_by_content
from jobs.core.cli import main
from jobs.core.config import BadInput, Config, Problem
from jobs.core.stage import Context, Inputs, Outcome, Stage
from jobs.data.clean import Clean
from jobs.data.dedup import Split
from jobs.data.rows import check_source, load_rows
from jobs.data.sources import each, fingerprint, model_fingerprint
from jobs.data.tokenizer import Tokenizer, copy_tokenizer, train_tokenizer
from jobs.tasks.settings import Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import Dataset

TOKENIZER = "tokenizer"


class PrepareConfig(Config):
    """What is read, how it is cleaned and split, and what it becomes."""

    source: str | dict[str, str]
    """A path, glob, sample:NAME or hub:NAME; or one of these for each of train, validation, test."""
    text: str = "text"
    """The column that holds the text (for plain text files always `text`)."""
    tokenizer: Tokenizer | None = None
    """Make TOKENS, cut with this tokenizer."""
    task: Task | None = None
    """Make EXAMPLES of this task."""
    clean: Clean = Clean()
    """How text is cleaned."""
    split: Split = Split()
    """How rows are divided where the source does not say."""
    max_length: int = Field(128, ge=8)
    """Tokens in a row of TOKENS."""
    limit: int | None = Field(None, ge=10)
    """Keep only so many rows, chosen by the hash of their text: for trying things out."""

    @model_validator(mode="after")
    def _one_output(self) -> "PrepareConfig":
        if (self.tokenizer is None) == (self.task is None):
            raise ValueError("give either tokenizer (to make tokens) or task (to make examples)")
        return self


def output_kind(config: PrepareConfig) -> Kind:
    """TOKENS or EXAMPLES."""
    return Kind.EXAMPLES if config.task is not None else Kind.TOKENS


def sources(config: PrepareConfig) -> dict[str, str]:
    """The fingerprints of the data, and of the model whose tokenizer is taken."""
    found = {f"source.{split}".rstrip("."): fingerprint(one) for split, one in each(config.source).items()}
    if config.tokenizer is not None and config.tokenizer.model is not None:
        found["tokenizer.model"] = model_fingerprint(config.tokenizer.model)
    return found


def check(config: PrepareConfig) -> list[Problem]:
    """Missing files, empty data, missing columns, labels that train lacks."""
    label = config.task.label if config.task else None
    return check_source(config.source, {"text": config.text, "task.label": label}, config.split)


def run(config: PrepareConfig, inputs: Inputs, context: Context) -> Outcome:
    """Read, clean, de-duplicate, split; then pack or write."""
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    rows, counts = load_rows(config.source, config.text, config.task, config.clean, config.split)
    if config.limit is not None:
        rows = rows.limit(config.limit).materialize()
    context.report(state="cleaned", rows=rows.count())
    if config.task is None:
        return _make_tokens(config, rows, counts, context)
    return _make_examples(config.task, rows, counts, context)


def _make_tokens(config: PrepareConfig, rows: "Dataset", counts: dict[str, int], context: Context) -> Outcome:
    import ray.data

    assert config.tokenizer is not None
    files: dict[str, File] = {}
    trained = ray.remote(_make_tokenizer).options(num_cpus=context.resources.cpus)
    contents: dict[str, bytes] = ray.get(trained.remote(config.tokenizer, config.max_length, rows.to_arrow_refs()))
    for name, content in contents.items():
        (context.directory / TOKENIZER).mkdir(exist_ok=True)
        (context.directory / TOKENIZER / name).write_bytes(content)
    context.report(state="tokenizer made")
    written = rows.map_batches(
        PackRows,
        fn_constructor_args=(contents, config.max_length, context.output),
        batch_format="pandas",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=1),
    ).take_all()
    metrics: dict[str, float] = dict(counts)
    for row in written:
        files[row["path"]] = File(size=row["size"], sha256=row["sha256"])
        split = row["path"].split("/")[0]
        metrics[f"{split}_rows"] = metrics.get(f"{split}_rows", 0) + row["rows"]
        metrics[f"{split}_tokens"] = metrics.get(f"{split}_tokens", 0) + row["tokens"]
    if not metrics.get("train_rows"):
        raise BadInput([Problem("source", config.source, "no training text is left", "Give more text or smaller splits.")])
    return Outcome(metrics=metrics, files=files, details={"max_length": config.max_length})


def _make_tokenizer(settings: Tokenizer, max_length: int, blocks: list[Any]) -> dict[str, bytes]:
    """The files of the tokenizer, trained on the training split or copied."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        if settings.model is not None:
            copy_tokenizer(settings.model, target)
        else:
            train_tokenizer(settings, TrainTexts(blocks), max_length, target)
        return {path.name: path.read_bytes() for path in target.iterdir()}


class TrainTexts:
    """The texts of the training split, block by block, as often as they are asked for."""

    def __init__(self, blocks: list[Any]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[str]:
        import ray

        for block in self.blocks:
            table: pa.Table = ray.get(block)
            for text, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True):
                if split == "train":
                    yield text


class PackRows:
    """Tokenises and packs the documents of a block and writes them below the output, a file a split."""

    def __init__(self, tokenizer: dict[str, bytes], length: int, output: str) -> None:
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as scratch:
            for name, content in tokenizer.items():
                (Path(scratch) / name).write_bytes(content)
            self.tokenizer = AutoTokenizer.from_pretrained(scratch)
        self.length, self.output = length, output

    def __call__(self, frame: "pd.DataFrame") -> dict[str, np.ndarray]:
        from jobs.data.pack import pack, write_rows

        written: dict[str, list[Any]] = {"path": [], "rows": [], "tokens": [], "size": [], "sha256": []}
        for split, part in frame.groupby("split"):
            documents = self.tokenizer(part["text"].tolist(), verbose=False)["input_ids"]
            ids_NT = pack(documents, self.length, self.tokenizer.pad_token_id, len(self.tokenizer))
            path, file = write_rows(ids_NT, self.output, str(split))
            for key, value in zip(written, (path, len(ids_NT), sum(map(len, documents)), file.size, file.sha256), strict=True):
                written[key].append(value)
        return {key: np.array(values) for key, values in written.items()}


def _make_examples(task: Task, rows: "Dataset", counts: dict[str, int], context: Context) -> Outcome:
    """Write rows as Parquet, a file a split and block, and the task's labels."""
    output = context.output

    def write(table: "pa.Table") -> "pa.Table":
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as parquet

        written = []
        for split in pc.unique(table["split"]).to_pylist():
            part = table.filter(pc.equal(table["split"], split)).drop_columns(["split"])
            buffer = io.BytesIO()
            parquet.write_table(part, buffer)
            path, file = write_by_content(output, split, ".parquet", buffer.getvalue())
            labels = {str(key): int(count) for key, count in zip(*part["label"].value_counts().flatten(), strict=True)}
            written.append({"path": path, "size": file.size, "sha256": file.sha256, "labels": json.dumps(labels)})
        return pa.Table.from_pylist(written)

    written = rows.map_batches(write, batch_format="pyarrow", batch_size=None).take_all()
    by_split: dict[str, dict[str, int]] = {}
    for row in written:
        labels = by_split.setdefault(row["path"].split("/")[0], {})
        for name, count in json.loads(row["labels"]).items():
            labels[name] = labels.get(name, 0) + count
    _check_labels(by_split)
    names = sorted(by_split["train"])
    (context.directory / "task.json").write_text(
        json.dumps({"kind": task.kind, "labels": names}, ensure_ascii=False, indent=1)
    )
    metrics: dict[str, float] = {**counts, **{f"{split}_rows": sum(labels.values()) for split, labels in by_split.items()}}
    files = {row["path"]: File(size=row["size"], sha256=row["sha256"]) for row in written}
    return Outcome(metrics=metrics, files=files, details={"labels": by_split})


def _check_labels(by_split: dict[str, dict[str, int]]) -> None:
    train = set(by_split.get("train", {}))
    if len(train) < 2:
        raise BadInput(
            [Problem("task.label", sorted(train), "the training split has fewer than two labels", "Give more rows.")]
        )
    problems = [
        Problem(split, label, "this label is not in the training split", "Give more rows, or split by column.")
        for split, labels in by_split.items()
        for label in sorted(set(labels) - train)
    ]
    if problems:
        raise BadInput(problems)


STAGE = Stage(
    name="prepare",
    purpose="clean, de-duplicate, split and tokenise text with Ray Data",
    config=PrepareConfig,
    run=run,
    output=output_kind,
    version=1,
    headline=("train_rows", "train_tokens", "validation_rows", "test_rows", "rows_duplicate"),
    sources=sources,
    check=check,
)

if __name__ == "__main__":
    main(STAGE)
