"""prepare: raw text becomes TOKENS to pretrain on, labelled rows become EXAMPLES to fine-tune on.

    ray job submit --working-dir . -- python -m jobs.prepare jobs/recipes/spam.yaml --step corpus

Ray Data reads, cleans, removes duplicates and splits. With `tokenizer` the text is packed into rows of tokens;
or, for objectives over pairs of segments, laid out as pairs; with `task` the labelled rows are written as Parquet.
"""

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from cluster.store.artifact import File, Kind, write_by_content
from cluster.store.storage import delete, join
from jobs.contracts.learning import TaskSettings
from jobs.core.config import BadInput, Problem
from jobs.core.stage import Completion, Context, Inputs, Outcome, Preflight, Stage
from jobs.data.augment import Augment
from jobs.data.checking import check_source
from jobs.data.clean import Clean
from jobs.data.dedup import Conflicts
from jobs.data.formats import Files
from jobs.data.loading import Loaded, load_rows
from jobs.data.near_duplicates import NearDuplicates
from jobs.data.parts import RowPart, TrainTexts, as_many_as_fit
from jobs.data.rows import Reading
from jobs.data.sources import each, fingerprint, model_fingerprint
from jobs.data.splits import Split
from jobs.data.tokenizer import Tokenizer, copy_tokenizer, text_cutter, train_tokenizer
from jobs.running.cli import main
from jobs.tasks import TASK_FILE, learning_of
from jobs.tasks.labelling import Labelling, settings_type

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from jobs.data.pack import Bounds

    AnyTask = TaskSettings
else:
    AnyTask = settings_type()

TOKENIZER = "tokenizer"


class PrepareConfig(Files):
    """What is read, how it is cleaned and split, and what it becomes."""

    source: str | dict[str, str]
    """A path, glob, sample:NAME or hub:NAME; or one of these for each of train, validation, test, and with task unlabelled:
    texts without a label, from which distill learns what the teacher says of them."""
    text: str = "text"
    """The column that holds the text (for plain text files always `text`); data.body is the body in data of JSON."""
    tokenizer: Tokenizer | None = None
    """Make TOKENS, cut with this tokenizer."""
    task: AnyTask | None = None
    """Make EXAMPLES of this task: {kind: …} and the keys of its kind."""
    bad_rows: float = Field(0.01, ge=0, le=1)
    """The share of rows that cannot be read, or whose values mean nothing, above which the step refuses. Those that are left
    out are counted by reason, and the first of them named, in the manifest and the report. A row without a text or a target is
    none of them: it is left out and counted too, however many there are."""
    slices: tuple[str, ...] = ()
    """With task: columns to keep (source, country, …). evaluate looks at the texts of each of their values by themselves, and
    select can refuse a candidate that one of them pays for."""
    augment: Augment | None = None
    """With task: make more training texts, without a label; distill learns what the teacher says of them."""
    clean: Clean = Clean()
    """How text is cleaned."""
    split: Split = Split()
    """How rows are divided where the source does not say."""
    max_length: int = Field(128, ge=8)
    """Tokens in a row of TOKENS."""
    segments: Literal["packed", "pairs"] = "packed"
    """How TOKENS are laid out. packed: documents end to end. pairs: [CLS] A [SEP] B [SEP] of consecutive sentences, for
    masked_next_sentence and masked_sentence_order; documents of one sentence are left out."""
    conflicts: Conflicts = "majority"
    """With task: of a text that stands there with several targets, which rows stay. majority: those of the target that most of
    them have, none where two have equally many; drop: none. What goes is counted."""
    near_duplicates: NearDuplicates | None = None
    """Take out texts that are nearly the same as one that stays, so that none straddles two splits: 0.85, the least Jaccard
    similarity of their shingles, or {threshold: 0.85, words: 2, characters: 3}. What goes is counted; some of it is shown."""
    limit: int | None = Field(None, ge=10)
    """Keep only so many rows, chosen by the hash of their text: for trying things out."""

    @model_validator(mode="after")
    def _one_output(self) -> "PrepareConfig":
        if (self.tokenizer is None) == (self.task is None):
            raise ValueError("give either tokenizer (to make tokens) or task (to make examples)")
        if self.segments == "pairs" and self.task is not None:
            raise ValueError("segments is for TOKENS; examples of a task are whole texts")
        if self.slices and self.task is None:
            raise ValueError("slices are for examples of a task, which are judged; tokens are not")
        if self.augment is not None and self.task is None:
            raise ValueError("augment is for examples of a task; what is pretrained on has no need of a teacher's answers")
        if self.augment is not None and self.near_duplicates is not None:
            raise ValueError("augment makes near duplicates of each text, and near_duplicates takes them out: leave out one")
        if self.augment is not None and self.task is not None and not learning_of(self.task.kind).augments:
            raise ValueError("words of these texts mean nothing once they are moved: leave out augment")
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
    reading = reading_of(config)
    paths = reading.labelling.paths if reading.labelling is not None else {}
    slices = {f"slices.{number}": name for number, name in enumerate(config.slices)}
    return check_source(config.source, reading, {"text": config.text, **paths, **slices})


def reading_of(config: PrepareConfig) -> Reading:
    """How the source's rows become items."""
    labelling = None if config.task is None else Labelling.of(config.task, config.text)
    fields = {"text": config.text} if labelling is None else labelling.fields
    files = Files.model_validate(config.model_dump(include=set(Files.model_fields)))
    return Reading(fields, config.clean, config.split, labelling, config.slices, config.conflicts, files, config.bad_rows)


def run(config: PrepareConfig, inputs: Inputs, context: Context) -> Outcome:
    """Read, clean, de-duplicate, split; then pack or write."""
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    reading = reading_of(config)
    place = join(context.scratch, f"rows-{context.attempt}")
    try:
        loaded = load_rows(config.source, reading, place, config.augment, config.near_duplicates)
        if config.limit is not None:
            loaded = loaded.limited(config.limit)
        context.report(state="cleaned", rows=loaded.count)
        if not isinstance(reading.labelling, Labelling):
            return _make_tokens(config, loaded, context)
        return _make_examples(reading.labelling, loaded, context)
    finally:
        delete(place)


def _make_tokens(config: PrepareConfig, loaded: Loaded, context: Context) -> Outcome:
    import ray.data

    assert config.tokenizer is not None
    files: dict[str, File] = {}
    trained = ray.remote(_make_tokenizer).options(num_cpus=context.resources.cpus)
    contents: dict[str, bytes] = ray.get(trained.remote(config.tokenizer, config.max_length, loaded.parts))
    for name, content in contents.items():
        (context.directory / TOKENIZER).mkdir(exist_ok=True)
        (context.directory / TOKENIZER / name).write_bytes(content)
    bounds = _check_tokenizer(context.directory / TOKENIZER, config)
    context.report(state="tokenizer made")
    written = loaded.rows.map_batches(
        PackRows,
        fn_constructor_args=(contents, bounds, config.max_length, config.segments, context.output),
        batch_format="pandas",
        batch_size=None,
        compute=as_many_as_fit(len(loaded.parts)),
    ).take_all()
    metrics: dict[str, float] = dict(loaded.counts)
    for row in written:
        files[row["path"]] = File(size=row["size"], sha256=row["sha256"])
        split = row["path"].split("/")[0]
        for name in ("rows", "tokens", *(["documents_left_out"] if config.segments == "pairs" else [])):
            metrics[f"{split}_{name}"] = metrics.get(f"{split}_{name}", 0) + row[name]
    if not metrics.get("train_rows"):
        remedy = "Give more text or smaller splits."
        if metrics.get("train_documents_left_out"):
            remedy = "Pairs need documents of two sentences and more: give longer texts, or segments: packed."
        raise BadInput([Problem("source", config.source, "no training text is left", remedy)])
    layout = {"max_length": config.max_length, "segments": config.segments, "bounds": bounds.details()}
    return Outcome(metrics=metrics, files=files, details=layout | loaded.left_out)


def _check_tokenizer(directory: Path, config: PrepareConfig) -> "Bounds":
    """How the tokenizer frames documents; BadInput, here rather than in an actor, where it cannot do what is asked."""
    from transformers import AutoTokenizer

    from jobs.data.pack import document_bounds
    from jobs.data.segments import pair_frame

    tokenizer = AutoTokenizer.from_pretrained(directory)
    if config.segments == "pairs":
        pair_frame(tokenizer)
    return document_bounds(tokenizer)


def _make_tokenizer(settings: Tokenizer, max_length: int, parts: Sequence[RowPart]) -> dict[str, bytes]:
    """The files of the tokenizer, trained on the training split or copied."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        if settings.model is not None:
            copy_tokenizer(settings.model, target)
        else:
            train_tokenizer(settings, TrainTexts(parts, settings.train_characters), max_length, target)
        return {path.name: path.read_bytes() for path in target.iterdir()}


class PackRows:
    """Tokenises and lays out the documents of a block and writes them below the output, a file a split."""

    def __init__(self, tokenizer: dict[str, bytes], bounds: "Bounds", length: int, segments: str, output: str) -> None:
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as scratch:
            for name, content in tokenizer.items():
                (Path(scratch) / name).write_bytes(content)
            self.tokenizer = AutoTokenizer.from_pretrained(scratch)
        self.cut = text_cutter(self.tokenizer)
        self.bounds, self.length, self.segments, self.output = bounds, length, segments, output

    def __call__(self, frame: "pd.DataFrame") -> dict[str, np.ndarray]:
        from jobs.data.pack import write_rows

        columns = ("path", "rows", "tokens", "documents_left_out", "size", "sha256")
        written: dict[str, list[Any]] = {name: [] for name in columns}
        for split, part in frame.groupby("split"):
            ids_NT, tokens, left_out = self._rows(part["text"].tolist())
            path, file = write_rows(ids_NT, self.output, str(split))
            found = (path, len(ids_NT), tokens, left_out, file.size, file.sha256)
            for key, value in zip(written, found, strict=True):
                written[key].append(value)
        return {key: np.array(values) for key, values in written.items()}

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


def _make_examples(labelling: Labelling, loaded: Loaded, context: Context) -> Outcome:
    """Write rows as Parquet, a file a split and block, and the task that they make."""
    written = loaded.rows.map_batches(
        WriteExamples(labelling, context.output).write, batch_format="pyarrow", batch_size=None
    ).take_all()
    by_split: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = dict(loaded.counts)
    unlabelled = 0
    for row in written:
        split = row["path"].split("/")[0]
        own = by_split.setdefault(split, {})
        for name, number in json.loads(row["statistics"]).items():
            own[name] = own.get(name, 0) + number
        metrics[f"{split}_rows"] = metrics.get(f"{split}_rows", 0) + row["rows"]
        unlabelled += row["unlabelled"]
    spec = labelling.spec(by_split)
    (context.directory / TASK_FILE).write_text(spec.model_dump_json(indent=1), encoding="utf-8")
    if unlabelled:
        metrics["unlabelled_rows"] = unlabelled
    files = {row["path"]: File(size=row["size"], sha256=row["sha256"]) for row in written}
    return Outcome(metrics=metrics, files=files, details={"labels": by_split} | loaded.left_out)


@dataclass(frozen=True)
class WriteExamples:
    """Writes the rows of a block below the output, a file a split."""

    labelling: Labelling
    output: str

    def write(self, table: "pa.Table") -> "pa.Table":
        """What was written, a row a file."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as parquet

        types, written = self.labelling.types, []
        for split in pc.unique(table["split"]).to_pylist():
            part = table.filter(pc.equal(table["split"], split)).drop_columns(["split"])
            for name, kind in types.items():
                part = part.set_column(part.column_names.index(name), name, part[name].cast(kind))
            buffer = io.BytesIO()
            parquet.write_table(part, buffer)
            path, file = write_by_content(self.output, split, ".parquet", buffer.getvalue())
            targets = part.select(list(types)).to_pydict()
            known = sum(any(value is not None for value in row) for row in zip(*targets.values(), strict=True))
            statistics = json.dumps(self.labelling.statistics(targets))
            counted = {"rows": known, "unlabelled": part.num_rows - known, "statistics": statistics}
            written.append({"path": path, "size": file.size, "sha256": file.sha256, **counted})
        return pa.Table.from_pylist(written)


STAGE = Stage(
    name="prepare",
    purpose="clean, de-duplicate, split and tokenise text with Ray Data",
    config=PrepareConfig,
    run=run,
    output=output_kind,
    version=6,
    preflight=Preflight(sources, check),
    completion=Completion(headline=("train_rows", "train_tokens", "validation_rows", "test_rows", "rows_duplicate")),
)

if __name__ == "__main__":
    main(STAGE)
