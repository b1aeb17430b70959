"""predict: a MODEL answers for all EXAMPLES or TOKENS once; its answers are the soft labels that every student learns from.

    ray job submit --working-dir . -- python -m jobs.predict jobs/recipes/spam.yaml --step soft

With --model it answers for files instead, see jobs/offline/command.py:

    ray job submit --working-dir . -- python -m jobs.predict --model spam/production --input s3://bucket/*.csv --output …

The serving engine runs on a pool of actors, `resources.workers` of them, each with `resources.gpus`. Each reads its own blocks
of rows and writes what the model says of them, in half precision unless that loses something
(jobs/tasks/soft_labels.py): the same files, however many workers there are. A language model's answers for TOKENS are the
likeliest ones at each target and what is left for all others (jobs/offline/soft_tokens.py).

Of examples only those are asked that this very model was not asked when the step last ran: the others keep their answers.

N targets.
"""

import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cluster.store.artifact import Artifact, ArtifactError, File, Kind, write_by_content
from cluster.store.storage import StorageError, filesystem
from cluster.store.verifying import Verifying
from jobs.core.config import BadInput, Config, Problem
from jobs.core.places import made_before
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Stage
from jobs.offline.actor_pool import answered_by
from jobs.running.cli import main
from jobs.tasks import spec_of
from jobs.tasks.soft_labels import DIRECTORY, SUFFIX, TASK_DETAIL, EarlierAnswers, packed
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST_ROWS, MOST_ROWS, BLOCKS = 512, 16_384, 512
"""Rows of a block: as many as make about so many blocks, within these bounds."""
TOKEN_ROWS_PER_FILE = 4_000
BLOCKS_PER_WORKER = 4


class SoftTokenSettings(Config):
    """What is asked of a language model, for each row of its training tokens."""

    top_k: int = Field(8, ge=1)
    """The likeliest tokens that are kept for each target."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Their logits are divided by it; the student learns at this same temperature."""
    mask_probability: float = Field(0.15, gt=0, lt=1)
    """masked: share of the tokens to predict, as in pretrain."""
    masking: Literal["tokens", "whole_words", "spans"] = "tokens"
    """masked: what is hidden at once, as in pretrain."""
    draws: int = Field(1, ge=1)
    """masked: so many maskings of each row are answered for; the student sees one of them each time."""
    seed: int = Field(0, ge=0)
    """masked: what the maskings are drawn from."""


class PredictConfig(Config):
    """What is asked of the model."""

    splits: tuple[str, ...] = ("train", "validation")
    """Examples: the splits to answer for. Of tokens only train is, as nothing else is learned from."""
    batch_size: int = Field(64, ge=1)
    """Items, or rows of tokens, that go through the model together."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What a model in torch computes in; auto: bf16 where the hardware does, as in training, else fp32."""
    language: SoftTokenSettings = SoftTokenSettings()
    """With inputs.tokens: what is asked of a language model."""


@dataclass(frozen=True)
class Block:
    """Rows that follow each other: of each file of the examples the first one's number, and how many."""

    parts: tuple[tuple[str, int, int], ...]


def blocks_of(files: Mapping[str, int]) -> list[Block]:
    """Blocks of the rows of these files, by the number of rows in each: they depend on nothing else."""
    rows = sum(files.values())
    size = min(MOST_ROWS, max(FEWEST_ROWS, -(-rows // BLOCKS)))
    made: list[list[tuple[str, int, int]]] = []
    left = 0
    for file, count in files.items():
        done = 0
        while done < count:
            if not left:
                made.append([])
                left = size
            taken = min(left, count - done)
            made[-1].append((file, done, taken))
            done, left = done + taken, left - taken
    return [Block(tuple(parts)) for parts in made]


class AnswerBlocks:
    """An actor that holds the model, answers for blocks of rows and writes what it says of them."""

    def __init__(
        self,
        model: Artifact,
        examples: Artifact,
        blocks: Sequence[Block],
        output: str,
        config: PredictConfig,
        threads: int,
        earlier: Artifact | None = None,
    ) -> None:
        from serve.engines.engine import load_engine

        self.examples, self.blocks, self.output, self.precision = examples, blocks, output, config.precision
        self.engine = load_engine(model.local(), threads=threads, max_batch=config.batch_size)
        self.earlier = None
        try:
            self.earlier = EarlierAnswers(earlier, self.engine.task) if earlier is not None else None
        except (ArtifactError, StorageError, OSError) as error:  # deleted meanwhile: it is no input of the step
            print(f"earlier answers are gone, and all rows are asked: {error}", flush=True)

    def answer(self, number: int) -> dict[str, Any]:
        """Answer for one block: the file that was written, its rows, how many of them were answered before, and the most that
        an output of them lost in half precision."""
        from jobs.training.parallel import computing_in
        from serve.tasks.protocol import Item

        task = self.engine.task
        rows = _rows(self.examples, self.blocks[number], ("key", *task.fields)).to_pydict()
        items = [Item(values) for values in zip(*(rows[name] for name in task.fields), strict=True)]
        known = self.earlier.find(items) if self.earlier is not None else {}
        unknown = [place for place in range(len(items)) if place not in known]
        with computing_in(self.precision):
            said = self.engine.outputs([items[place] for place in unknown]) if unknown else ()
        if known:
            every = known | dict(zip(unknown, said, strict=True))
            said = task.stacked([every[place] for place in range(len(items))])
        content, lost = packed(task, rows["key"], said, items)
        path, file = write_by_content(self.output, DIRECTORY.rstrip("/"), SUFFIX, content)
        counted = {"rows": len(items), "reused": len(known), "lost": lost}
        return {"path": path, "size": file.size, "sha256": file.sha256, **counted}


def _rows(examples: Artifact, block: Block, columns: Sequence[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parts = []
    for path, first, count in block.parts:
        with parquet.ParquetFile(examples.local([path]) / path) as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            starts = np.cumsum([0, *groups])
            wanted = [n for n in range(len(groups)) if starts[n] < first + count and starts[n + 1] > first]
            read = file.read_row_groups(wanted, columns=list(columns))
            parts.append(read.slice(first - int(starts[wanted[0]]), count))
    return pa.concat_tables(parts, promote_options="permissive")


def run(config: PredictConfig, inputs: Inputs, context: Context) -> Outcome:
    """Answer for the splits, or for tokens, and publish what was said."""
    given = [name for name in ("examples", "tokens") if inputs.get(name)]
    if len(given) != 1:
        reason = f"a model answers for examples or for tokens, and {len(given)} of them are given"
        raise BadInput([Problem("inputs", given, reason, "Give inputs.examples or inputs.tokens.")])
    answer = _answer_tokens if given == ["tokens"] else _answer_examples
    return answer(config, inputs, context)


def _answer_examples(config: PredictConfig, inputs: Inputs, context: Context) -> Outcome:
    """Answer for every row of the splits; nothing of it goes through this process."""
    examples, model = inputs.one("examples"), inputs.one("model")
    task = _task(model, spec_of(examples))
    files = [path for split in config.splits for path in examples.files(f"{split}/", ".parquet")]
    blocks = blocks_of({path: _count(examples.file(path)) for path in files})
    if not blocks:
        reason = f"{examples.manifest.step} has no rows in these splits"
        raise BadInput([Problem("splits", list(config.splits), reason, "Name splits that are there.")])
    earlier, asked = _earlier(config, model, context), context.resources
    answered = answered_by(
        AnswerBlocks,
        (model, examples, blocks, context.output, config, max(1, int(asked.cpus)), earlier),
        range(len(blocks)),
        asked.workers,
        num_cpus=asked.cpus,
        num_gpus=asked.gpus,
    )
    written: dict[str, File] = {}
    done, reused, lost = 0, 0, 0.0
    for _, row in answered:
        written[row["path"]] = File(size=row["size"], sha256=row["sha256"])
        done, reused, lost = done + int(row["rows"]), reused + int(row["reused"]), max(lost, float(row["lost"]))
        context.report(rows=done, answers_reused=reused)
    counted = {"rows": done, "answers_new": done - reused, "answers_reused": reused}
    details: dict[str, Any] = {TASK_DETAIL: task.model_dump(mode="json")}
    if earlier is not None:
        print(f"{reused} of {done} rows keep the answers of {earlier.uri}, by the same model", flush=True)
        details["earlier"] = earlier.uri
    return Outcome(metrics={**counted, "lost_in_half": lost}, files=written, details=details)


def _earlier(config: PredictConfig, model: Artifact, context: Context) -> Artifact | None:
    """What the step made when it last asked this very model; of several the one with the most rows, the newest of equals.

    None where it cannot be read: then all rows are asked, and the answers are the same.
    """
    same = [
        artifact
        for artifact in made_before(context.storage, context.recipe, context.step)
        if (artifact.manifest.stage, artifact.manifest.stage_version) == (STAGE.name, STAGE.version)
        and [parent.fingerprint for parent in artifact.manifest.parents.get("model", ())] == [model.fingerprint]
        and "examples" in artifact.manifest.parents
        and artifact.manifest.config.get("precision") == config.precision
    ]
    if not same:
        return None
    found = max(same, key=lambda artifact: artifact.manifest.metrics.get("rows", 0))
    try:
        found.local(found.files(DIRECTORY, SUFFIX))
        with Verifying([found], math.inf):
            return found
    except (ArtifactError, StorageError) as error:
        print(f"earlier answers are not used, and all rows are asked: {error}", flush=True)
        return None


def _task(model: Artifact, spec: Task) -> Task:
    """What the model answers for; BadInput unless that can be compared with the examples' task."""
    from jobs.architectures.models import learned_of

    task, named = learned_of(model).task, model.manifest.step
    if task is None:
        remedy = "Give a model that was fine-tuned or distilled, or inputs.tokens."
        raise BadInput([Problem("inputs.model", named, "a language model answers for no task", remedy)])
    reads, given = (" and ".join(one.fields) for one in (task, spec))
    reason = f"it reads {reads}, and the examples have {given}" if reads != given else spec.unlike(task)
    if reason is not None:
        raise BadInput([Problem("inputs.model", named, reason, "Use a model of the examples' task.")])
    return task


def _count(file: str) -> int:
    import pyarrow.parquet as parquet

    system, path = filesystem(file)
    return int(parquet.read_metadata(path, filesystem=system).num_rows)


def _answer_tokens(config: PredictConfig, inputs: Inputs, context: Context) -> Outcome:
    """Answer for every training row and write what is likely at each target."""
    import ray.data

    from jobs.data.training_rows import TokenRows
    from jobs.objectives.distilled_language import SOFT
    from jobs.offline.soft_tokens import AnswerTokens

    model, tokens, asked = inputs.one("model"), inputs.one("tokens"), config.language
    settings = {"objective": _objective(model, asked), **asked.model_dump()}
    if settings["objective"] == "causal":
        settings["draws"] = 1
    rows = len(TokenRows(tokens, "train")) * settings["draws"]
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    answered = ray.data.range(rows, override_num_blocks=BLOCKS_PER_WORKER * context.resources.workers).map_batches(
        AnswerTokens,
        fn_constructor_args=(model, tokens, settings, max(1, int(context.resources.cpus)), config.precision),
        batch_format="numpy",
        batch_size=config.batch_size,
        compute=ray.data.ActorPoolStrategy(size=context.resources.workers),
        num_cpus=context.resources.cpus,
        num_gpus=context.resources.gpus,
    )
    files: dict[str, File] = {}
    figures = {"rows": 0.0, "targets": 0.0, "left_out": 0.0}
    batch: Any
    for place, batch in enumerate(answered.iter_batches(batch_format="numpy", batch_size=TOKEN_ROWS_PER_FILE)):
        rest_N = np.concatenate(list(batch["log_rest"])).astype(np.float64)
        name, file = _write_table(batch, f"{SOFT}{place:05d}", context.output)
        files[name] = file
        for key, more in (("rows", len(batch["number"])), ("targets", len(rest_N)), ("left_out", np.exp(rest_N).sum())):
            figures[key] += float(more)
        context.report(**figures)
    figures["left_out"] /= max(1.0, figures["targets"])
    return Outcome(metrics=figures, files=files, details={"language": settings, "tokens": tokens.fingerprint})


def _objective(model: Artifact, asked: SoftTokenSettings) -> str:
    """By which objective the model answers; BadInput for one that does not answer for tokens."""
    from transformers import AutoConfig

    from jobs.architectures.language_models import ANSWERING_OBJECTIVES
    from jobs.architectures.models import learned_of

    config, language = AutoConfig.from_pretrained(model.local(["config.json"])), learned_of(model).language
    if language is None or language.objective not in ANSWERING_OBJECTIVES:
        named = next(iter(config.architectures or ()), config.model_type)
        reason = f"a {named} neither fills in hidden tokens nor says the next one"
        raise BadInput([Problem("inputs.model", model.manifest.step, reason, "Use a masked or a causal model from pretrain.")])
    if asked.top_k > config.vocab_size:
        reason = f"the model knows {config.vocab_size} tokens"
        raise BadInput([Problem("language.top_k", asked.top_k, reason, "Lower it: 8 to 64 are usual.")])
    return language.objective


def _write_table(batch: dict[str, np.ndarray], name: str, output: str) -> tuple[str, File]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    types = {"ids": pa.int32(), "log_shares": pa.float16(), "log_rest": pa.float16()}
    columns = {"number": pa.array(batch["number"])}
    for key, kind in types.items():
        starts = np.concatenate([[0], np.cumsum([len(values) for values in batch[key]])]).astype(np.int32)
        columns[key] = pa.ListArray.from_arrays(pa.array(starts), pa.array(np.concatenate(list(batch[key])), kind))
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return write_by_content(output, name, ".parquet", buffer.getvalue())


STAGE = Stage(
    name="predict",
    purpose="answer for a whole data set (soft labels), or with --model for files of your own",
    config=PredictConfig,
    run=run,
    inputs={
        "model": Input(Kind.MODEL, "the teacher"),
        "examples": Input(Kind.EXAMPLES, "the rows to answer for", optional=True),
        "tokens": Input(Kind.TOKENS, "text to answer for, in place of rows: a language model's", optional=True),
    },
    output=Kind.PREDICTIONS,
    version=5,
    completion=Completion(headline=("rows", "answers_new", "answers_reused")),
)

if __name__ == "__main__":
    if any(argument.split("=")[0] == "--model" for argument in sys.argv[1:]):
        from jobs.offline.command import main as answer_for_files

        answer_for_files(sys.argv[1:])
    main(STAGE)
