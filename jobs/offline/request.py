"""What a run over files will do, checked before a model is loaded: which model, which files, which columns, in which pieces.

plan = make_plan(Request(model="spam/production", input=("data/*.csv",), output="out"), storage)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.connection.connect import local_storage_problem
from cluster.store import registry, storage
from jobs.core.config import BadInput, Config, Problem, nearest
from jobs.data.checking import missing_remedy
from jobs.data.formats import Files, idle_keys
from jobs.data.pieces import Scanned
from jobs.data.records import scan
from jobs.data.sources import resolve
from jobs.offline.output_parts import Format, Plan, RunIdentity, read_identity
from jobs.offline.pre_annotations import ANNOTATION_TOOLS, Control, answer_type, control_of
from serve.engines.card import Card, EngineError
from serve.engines.published import Published, open_model
from serve.tasks.protocol import Task

OUTPUT_FORMATS: dict[str, Format] = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "xlsx": "csv"}
"""Of the output, by that of the input; JSON Lines for others."""


class Request(Config):
    """What is asked."""

    model: str
    """A published model's URI or directory, or an alias of the registry such as spam/production."""
    variant: str | None = None
    """Which form of it; by default the alias's or the card's."""
    input: tuple[str, ...] = Field(min_length=1)
    """Files, directories and patterns: Parquet, CSV, TSV, Excel, JSON, text; .gz, .zip and the like; local or remote."""
    column: str = "text"
    """The column of the text."""
    columns: dict[str, str] = {}
    """Of a model that reads several texts: the column of each by the text's name, as FIELD=COLUMN; by default its own name."""
    encoding: str | None = None
    """The encoding of text files without a mark, e.g. gb18030; by default UTF-8."""
    delimiter: str | None = None
    """What parts the columns of CSV and TSV files."""
    quoting: Literal["standard", "none"] | None = None
    """What quotation marks mean in CSV and TSV files: standard, as RFC 4180 says; none, they are signs like others."""
    file_columns: tuple[str, ...] | None = None
    """The columns of CSV, TSV and Excel files that do not name them in their first row."""
    output: str
    """A directory, local or remote."""
    keep: tuple[str, ...] | None = None
    """The columns that go to the output; by default all."""
    format: Format | None = None
    """Of the output; by default that of the input. label_studio, doccano: what annotators begin from, to import there."""
    label_config: str | None = None
    """With label_studio: the project's labelling config (XML), which says where answers go."""
    from_name: str | None = None
    """With label_studio: the control that answers go to, by its name; by default the one that the input's annotations or the
    labelling config have."""
    to_name: str | None = None
    """With label_studio: what that control is about, by its name in the labelling config."""
    probabilities: bool = False
    """Whether all that the model can say has columns: each label's probability."""
    workers: int | None = Field(None, ge=1)
    """Actors that answer side by side; by default as many as the cluster has room for."""
    cpus: int = Field(1, ge=1)
    """CPUs and threads of each."""
    gpus: float = Field(0, ge=0)
    """GPUs of each."""
    batch_size: int = Field(32, ge=1)
    """Rows, of like length, that go through the model together."""

    @model_validator(mode="after")
    def _files_are_sound(self) -> "Request":
        _ = self.files
        return self

    @property
    def files(self) -> Files:
        """How the files are written."""
        return Files(encoding=self.encoding, delimiter=self.delimiter, quoting=self.quoting, columns=self.file_columns)

    @field_validator("columns", mode="before")
    @classmethod
    def _by_field(cls, given: Any) -> Any:
        """As the command line has them."""
        if isinstance(given, Mapping):
            return given
        if wrong := [one for one in given if "=" not in one]:
            raise ValueError(f"{wrong[0]!r} is no FIELD=COLUMN")
        pairs = [tuple(one.split("=", 1)) for one in given]
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a text has two columns: name each once")
        return dict(pairs)


def make_plan(request: Request, runs: str) -> Plan:
    """The plan; BadInput says what is wrong. `runs` is the storage whose registry knows the aliases."""
    published, variant, card = _model(request, runs)
    task = card.task
    assert task is not None, "it has looked"
    columns = _columns(request, task)
    files = sorted({file for source in request.input for file in resolve(source)})
    problems = [
        Problem(option, place, problem, "Use a storage that all hosts reach.")
        for option, place in (("--input", files[0]), ("--output", request.output))
        if (problem := local_storage_problem(place)) is not None
    ]
    if problems:
        raise BadInput(problems)
    scanned = _scan(files, request.files)
    keep = _kept(request, columns, files, scanned)
    pieces = tuple(piece for one in scanned for piece in one.pieces)
    kinds = {piece.part.format for piece in pieces}
    if idle := idle_keys(request.files, kinds):
        options = {"columns": "--file-columns"}
        raise BadInput([replace(problem, path=options.get(problem.path, f"--{problem.path}")) for problem in idle])
    kind = request.format or (OUTPUT_FORMATS.get(next(iter(kinds)), "jsonl") if len(kinds) == 1 else "jsonl")
    identity = RunIdentity(
        control=_control(request, task, files),
        model=published.uri,
        fingerprint=published.fingerprint,
        variant=variant,
        column=columns if len(columns) > 1 else columns[task.fields[0]],
        keep=keep,
        format=kind,
        probabilities=request.probabilities,
        files_as=request.files,
        files=tuple((file, *_size_and_time(file)) for file in files),
    )
    typed = kinds == {"parquet"} and len({one.types for one in scanned}) == 1
    plan = Plan(identity, task, typed, pieces, card.cleaning is not None and card.cleaning.join_words)
    if not plan.annotates and (clash := sorted(set(identity.keep) & set(plan.answer_columns))):
        reason = "the answer has a column of this name too"
        raise BadInput([Problem("--keep", clash[0], reason, "Name the columns to keep, without it.")])
    if read_identity(request.output) not in (None, identity):
        reason = "the output of another run is there (other files, model or options)"
        raise BadInput([Problem("--output", request.output, reason, "Give another place, or remove what is there.")])
    return plan


def _model(request: Request, runs: str) -> tuple[Published, str, Card]:
    """The model, the variant's name and the card, which has a task."""
    uri, variant, fingerprint = request.model, request.variant, None
    if not storage.exists(uri):
        try:
            target = registry.read(runs, uri).target
        except registry.RegistryError as error:
            remedy = "Give a model's URI or directory, or an alias, with the --storage that has it."
            raise BadInput([Problem("--model", uri, f"no model is there, and {error}", remedy)]) from error
        uri, variant, fingerprint = target.uri, variant or target.variant, target.fingerprint
    try:
        published = open_model(storage.absolute(uri), fingerprint)
        card = published.card()
        chosen = card.variant(variant)[0]
    except EngineError as error:
        raise BadInput([Problem("--model", uri, str(error), "Give a model that was published.")]) from error
    if card.task is None:
        remedy = "Give one that was fine-tuned; python -m serve.generation writes."
        raise BadInput([Problem("--model", uri, "it is a language model, which answers for no task", remedy)])
    return published, chosen, card


def _columns(request: Request, task: Task) -> dict[str, str]:
    """The column of each of the task's texts; BadInput for what does not fit them."""
    fields = task.fields
    problems = [
        Problem("--columns", f"{field}={column}", f"the model reads no {field}", nearest(field, fields))
        for field, column in request.columns.items()
        if field not in fields
    ]
    if "column" in request.model_fields_set and len(fields) > 1:
        reason = f"the model reads {len(fields)} texts: {', '.join(fields)}"
        remedy = f"Write --columns {' '.join(f'{field}=COLUMN' for field in fields)}."
        problems.append(Problem("--column", request.column, reason, remedy))
    if problems:
        raise BadInput(problems)
    usual = {field: field for field in fields} if len(fields) > 1 else {fields[0]: request.column}
    return usual | request.columns


def _control(request: Request, task: Task, files: list[str]) -> Control | None:
    """Where answers go that are pre-annotations; BadInput where that cannot be told, or nothing is asked of it."""
    asked = {key: getattr(request, key) for key in ("label_config", "from_name", "to_name")}
    if request.format in ANNOTATION_TOOLS:
        answer_type(task)
    if request.format == "doccano" and len(task.fields) > 1:
        reason = f"the model reads {' and '.join(task.fields)}, and a line of doccano is one text"
        raise BadInput([Problem("--format", request.format, reason, "Write label_studio or another format.")])
    if request.format != "label_studio":
        if idle := [key for key, value in asked.items() if value is not None]:
            option = f"--{idle[0].replace('_', '-')}"
            raise BadInput([Problem(option, asked[idle[0]], "it is for --format label_studio", "Leave it out.")])
        return None
    return control_of(task, files, request.files, asked["label_config"], asked["from_name"], asked["to_name"])


def _scan(files: list[str], written: Files) -> list[Scanned]:
    """All files at once, each by a task: on a cluster the inputs may be many and far."""
    import ray

    try:
        return ray.get([ray.remote(scan).options(num_cpus=0.5).remote(file, written) for file in files])
    except BadInput as error:
        raise BadInput([replace(problem, path="--input") for problem in error.problems]) from error


def _kept(request: Request, texts: Mapping[str, str], files: list[str], scanned: list[Scanned]) -> tuple[str, ...]:
    """The columns of the output that come from the input, in its order; BadInput where a text or one of them is nowhere."""
    option = "--column" if len(texts) == 1 and not request.columns else "--columns"
    problems = [
        Problem(option, column, f"{file} has no such column", _remedy(column, one, request.files))
        for file, one in zip(files, scanned, strict=True)
        for column in texts.values()
        if one.pieces and column not in one.columns and column.partition(".")[0] not in one.columns
    ]
    columns = tuple(dict.fromkeys(name for one in scanned for name in one.columns))
    needed = {*texts.values(), *(columns if request.keep is None else request.keep)}
    problems += [
        Problem("--input", file, f"it has several columns named {name}", "Give each a name of its own, or do not --keep it.")
        for file, one in zip(files, scanned, strict=True)
        for name in one.twice
        if name in needed
    ]
    problems += [
        Problem("--keep", name, "no file has such a column", nearest(name, columns))
        for name in request.keep or ()
        if name not in columns
    ]
    if not any(one.pieces for one in scanned):
        problems.append(Problem("--input", list(request.input), "there are no rows in it", "Give files with data."))
    if problems:
        raise BadInput(problems)
    return columns if request.keep is None else request.keep


def _remedy(column: str, one: Scanned, written: Files) -> str:
    if {"data", "annotations"} <= set(one.columns):
        return f"The texts of Label Studio's tasks are below data: write --column data.{column}, or --columns FIELD=data.…"
    return missing_remedy(column, one.columns, (), one.pieces[0].part, written)


def _size_and_time(file: str) -> tuple[int, float]:
    system, path = storage.filesystem(file)
    info = system.get_file_info(path)
    return info.size, info.mtime.timestamp() if info.mtime else 0.0
