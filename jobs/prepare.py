"""prepare: raw text becomes TOKENS to pretrain on, labelled rows become EXAMPLES to fine-tune on.

    ray job submit --working-dir . -- python -m jobs.prepare jobs/recipes/spam.yaml --step corpus

Ray Data reads, cleans, removes duplicates and splits. With `tokenizer` the text is packed into rows of tokens;
or, for objectives over pairs of segments, laid out as pairs; with `task` the labelled rows are written as Parquet. Beside
them stands a page about the data (data_report.html), and the same as JSON.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cluster.store.artifact import File, Kind
from cluster.store.storage import delete, join
from jobs.contracts.learning import TaskSettings
from jobs.core.config import SPEED_ONLY, BadInput, Problem
from jobs.core.idle import Rule
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Preflight, Stage
from jobs.data.augment import Augment
from jobs.data.checking import check_source
from jobs.data.clean import Clean
from jobs.data.cleaned_rows import CleanedRows
from jobs.data.dedup import Conflicts
from jobs.data.filters import Filters
from jobs.data.formats import Files
from jobs.data.growth import grown_since
from jobs.data.loading import Loaded, load_rows
from jobs.data.near_duplicates import NearDuplicates
from jobs.data.parts import RowPart, TrainTexts, as_many_as_fit
from jobs.data.personal import Personal
from jobs.data.row_sample import RowSampling
from jobs.data.rows import Reading
from jobs.data.sources import each, fingerprint, model_fingerprint
from jobs.data.splits import Split, divided
from jobs.data.stratified import stratify
from jobs.data.tokenizer import Tokenizer, copy_tokenizer, train_tokenizer
from jobs.data.writing import PackRows, WriteExamples
from jobs.judging.data_report import DATA_PAGE, Counted
from jobs.running.cli import main
from jobs.tasks import CLEANING_FILE, TASK_FILE, learning_of
from jobs.tasks.excluding import excluding
from jobs.tasks.labelling import Labelling, settings_type
from serve.cleaning.cleaning import Cleaning
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    from ray.data import Dataset

    from jobs.data.pack import Bounds

    AnyTask = TaskSettings
else:
    AnyTask = settings_type()

TOKENIZER = "tokenizer"
CLEANED = ("new_rows", "reused_rows")
"""Figures of how many rows were cleaned, and how many before."""
AFTER_CLEANING = {
    *("source", "tokenizer", "max_length", "segments", "conflicts", "near_duplicates", "limit", "bad_rows", "keep_cleaned")
}
"""Keys that decide nothing of what becomes of a single row."""
EXCLUDING = "documents that hold a text that these steps test or validate on, or 13 words of one, are left out"


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
    filters: Filters = Filters()
    """Which texts are kept: by language, length, quality, as pages of HTML. None is on unless it is asked for."""
    personal: Personal = Personal()
    """What becomes of personal data: masked or dropped, by kind. None unless it is asked for."""
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
    keep_cleaned: bool = Field(True, json_schema_extra=SPEED_ONLY)
    """Keep what was made of each row beside the runs, below {storage}/.rows: a run over a source that has grown cleans its new
    rows alone. It takes about the room of the texts, packed. false: all rows are cleaned each time."""
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
        if self.task is not None and not learning_of(self.task.kind).augments_in(self.task):
            moving = "augment" if self.augment is not None else self.filters.rewrites or self.personal.rewrites
            if moving is not None:
                raise ValueError(f"words of these texts mean nothing once they are moved: leave out {moving}")
        return self

    @model_validator(mode="after")
    def _can_be_stratified(self) -> "PrepareConfig":
        if not self.split.stratify:
            return self
        if self.task is None:
            raise ValueError("split.stratify divides rows by their labels, and text for tokens has none")
        if Labelling.of(self.task, self.text).stratum is None:
            raise ValueError(
                f"split.stratify divides rows by values that many of them share, and targets of {self.task.kind} have none: "
                "leave it out"
            )
        if self.augment is not None:
            raise ValueError(
                "augment changes training texts as they are read, and split.stratify says only when all are read which train: "
                "leave one out"
            )
        return self

    @property
    def cleaning(self) -> Cleaning:
        """How models that learn from it clean what they are asked."""
        return self.clean.kept(self.personal.masked, self.personal.regions)


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
    sieves = [*config.filters.sieves(), *config.personal.sieves()]
    return Reading(
        fields, config.clean, config.split, labelling, config.slices, config.conflicts, files, config.bad_rows,
        pages=config.filters.pages(), sieves=sieves,
    )  # fmt: skip


def divided_shares(config: PrepareConfig) -> Split:
    """How the rows of the only source are divided, or of that for train."""
    return divided(config.split, "" if isinstance(config.source, str) else "train", each(config.source))


def _divides(config: PrepareConfig, inputs: Collection[str]) -> bool:
    shares = divided_shares(config)
    return shares.validation + shares.test > 0 and (isinstance(config.source, str) or "train" in config.source)


PREPARE_RULES = tuple(
    Rule(
        f"split.{key}",
        ("source", "split"),
        _divides,
        "the sources name what validates and tests, and nothing is left to divide",
        "Leave it out, or give split.validation.",
    )
    for key in ("group", "stratify")
)


def run(config: PrepareConfig, inputs: Inputs, context: Context) -> Outcome:
    """Read, clean, de-duplicate, split; then pack or write."""
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    reading = reading_of(config)
    reading = replace(reading, sieves=(*reading.sieves, *excluding(inputs.get("exclude", []))))
    place = join(context.scratch, f"rows-{context.attempt}")
    try:
        cleaned = _cleaned_before(config, inputs, context)
        loaded = load_rows(config.source, reading, place, config.augment, config.near_duplicates, cleaned)
        told = {} if cleaned is None else {"cleaned": cleaned.name}
        if config.limit is not None:
            loaded = loaded.limited(config.limit)
        context.report(state="cleaned", rows=loaded.count)
        targets = reading.labelling.types if reading.labelling is not None else ()
        sampling = RowSampling.of(loaded.count, reading.fields, targets)
        if not isinstance(reading.labelling, Labelling):
            made = _make_tokens(config, loaded, sampling, context)
            return replace(made, details={**made.details, **told})
        rows = loaded.rows
        if config.split.stratify:
            assert reading.labelling.stratum is not None
            rows = stratify(rows, reading.labelling.stratum, divided_shares(config))
        made = _make_examples(config, reading.labelling, loaded, rows, sampling, context)
        return replace(made, details={**made.details, **told})
    finally:
        delete(place)


def _cleaned_before(config: PrepareConfig, inputs: Inputs, context: Context) -> CleanedRows | None:
    """Where rows are kept that were read and cleaned in this very way. Not with augment, whose texts follow their batch."""
    if config.augment is not None or not config.keep_cleaned:
        return None
    decides = config.model_dump(mode="json", exclude=AFTER_CLEANING) | {"version": STAGE.version}
    decides |= {"names": sorted(each(config.source)), "exclude": [one.fingerprint for one in inputs.get("exclude", [])]}
    return CleanedRows.of(context, decides)


def _make_tokens(config: PrepareConfig, loaded: Loaded, sampling: RowSampling, context: Context) -> Outcome:
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
        fn_constructor_args=(contents, bounds, config.max_length, config.segments, sampling, context.output),
        batch_format="pandas",
        batch_size=None,
        compute=as_many_as_fit(len(loaded.parts)),
    ).take_all()
    metrics: dict[str, float] = dict(loaded.counts)
    documents: Counter[str] = Counter()
    for row in written:
        documents[row["path"].split("/")[0]] += row["documents"]
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
    counted = Counted(metrics, loaded.left_out, documents, limited=config.limit is not None)
    _write_report(counted, [row["sample"] for row in written], sampling, None, context)
    return Outcome(metrics=metrics | loaded.cleaning, files=files, details=layout | loaded.left_out)


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


def _make_examples(
    config: PrepareConfig, labelling: Labelling, loaded: Loaded, rows: "Dataset", sampling: RowSampling, context: Context
) -> Outcome:
    """Write rows as Parquet, a file a split and block, the task that they make, and how their texts were cleaned."""
    written = rows.map_batches(
        WriteExamples(labelling, sampling, context.output).write, batch_format="pyarrow", batch_size=None
    ).take_all()
    by_split: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = dict(loaded.counts)
    documents: Counter[str] = Counter()
    unlabelled = 0
    for row in written:
        split = row["path"].split("/")[0]
        documents[split] += row["rows"] + row["unlabelled"]
        own = by_split.setdefault(split, {})
        for name, number in json.loads(row["statistics"]).items():
            own[name] = own.get(name, 0) + number
        metrics[f"{split}_rows"] = metrics.get(f"{split}_rows", 0) + row["rows"]
        unlabelled += row["unlabelled"]
    spec = labelling.spec(by_split)
    (context.directory / TASK_FILE).write_text(spec.model_dump_json(indent=1), encoding="utf-8")
    (context.directory / CLEANING_FILE).write_text(config.cleaning.model_dump_json(indent=1), encoding="utf-8")
    if unlabelled:
        metrics["unlabelled_rows"] = unlabelled
    files = {row["path"]: File(size=row["size"], sha256=row["sha256"]) for row in written}
    counted = Counted(metrics, loaded.left_out, documents, by_split, limited=config.limit is not None)
    _write_report(counted, [row["sample"] for row in written], sampling, spec, context)
    metrics |= loaded.cleaning | grown_since(files, sum(documents.values()), context)
    return Outcome(metrics=metrics, files=files, details={"labels": by_split} | loaded.left_out)


def _write_report(counted: Counted, parts: list[bytes], sampling: RowSampling, spec: Task | None, context: Context) -> None:
    """Put the data report into the step's directory, made by one task, so that the driver needs little memory."""
    import ray

    from jobs.report.data_page import data_report_files

    context.report(state="data report")
    made = ray.remote(data_report_files).options(num_cpus=1)
    files: dict[str, str] = ray.get(made.remote(counted, parts, sampling.fields, spec))
    for name, content in files.items():
        (context.directory / name).write_text(content, encoding="utf-8")


STAGE = Stage(
    name="prepare",
    purpose="clean, de-duplicate, split and tokenise text with Ray Data",
    config=PrepareConfig,
    run=run,
    output=output_kind,
    version=6,
    inputs={"exclude": Input(Kind.EXAMPLES, EXCLUDING, many=True, optional=True)},
    preflight=Preflight(sources, check, PREPARE_RULES),
    completion=Completion(
        headline=("train_rows", "train_tokens", "validation_rows", "test_rows", "rows_duplicate", *CLEANED),
        page=DATA_PAGE,
    ),
)

if __name__ == "__main__":
    main(STAGE)
