"""compress: a MODEL becomes a smaller one: what it can do without taken out, healed, exported to ONNX, quantised to int8.

    ray job submit --working-dir . -- python -m jobs.compress jobs/recipes/spam.yaml --step small prune.feed_forward=0.5

The result holds several candidates: `torch` (what is left after pruning), `onnx`, and one for each kind in `quantize`.
A language model (from pretrain: causal, span_corruption) is exported with its cache and quantised; nothing is taken out of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cluster.store.artifact import Artifact, Kind, other_place, upload
from jobs.architectures.models import learned_of, read_base
from jobs.compression.settings import COMPRESS_RULES, Factorize, Heal, Prune, Quantization
from jobs.core.config import BadInput, Problem
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Preflight, Stage
from jobs.judging.controls import MADE_FROM
from jobs.losses.settings import Mix
from jobs.running.cli import main
from jobs.tasks import cleaning_of, spec_of
from jobs.tasks.checks import cleaned_otherwise
from jobs.tasks.resolved import task_metrics
from jobs.tasks.telling import told_of_model
from serve.engines.card import read_card

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from jobs.compression.heal import Healing
    from jobs.contracts.objective import Learner
    from jobs.tasks.supervised import Supervised
    from serve.engines.base import Engine


class CompressConfig(Quantization):
    """What is done to the model, in this order: vocabulary, prune and heal, factorise and heal, export, quantise."""

    vocabulary: Literal["used"] | None = None
    """used: only the tokens stay that occur in the training and validation texts, with special tokens and single characters;
    these texts get the same answers as before, others may be cut into smaller pieces (the test split says what that costs)."""
    vocabulary_min_count: int = Field(1, ge=1)
    """Tokens that occur less often in these texts go too; then some of these texts are cut otherwise than before."""
    prune: Prune = Prune()
    """What is taken out."""
    factorize: Factorize | None = None
    """Matrices that become products of two thin ones in the ONNX variants; the torch variant has them whole, multiplied."""
    heal: Heal = Heal()
    """Training after each step of pruning and after factorising; skipped where there was none."""
    max_length: int | None = Field(None, ge=8)
    """Longer texts are cut to so many tokens, here and where the result is served (default: as the model was trained with)."""

    @model_validator(mode="after")
    def _fitting_together(self) -> "CompressConfig":
        if self.factorize is not None and self.prune.weights:
            raise ValueError("the thin matrices of factorize have none of the zeros of prune.weights: choose one")
        if self.allowed_loss is not None and self.prune.weights:
            raise ValueError("allowed_loss may train on, and what prune.weights set to 0 would grow: choose one")
        if self.vocabulary is None and self.vocabulary_min_count > 1:
            raise ValueError("vocabulary_min_count is for vocabulary: used")
        return self


def run(config: CompressConfig, inputs: Inputs, context: Context) -> Outcome:
    """Do it all for each model, each in a worker process of the cluster."""
    import ray

    parts = [Inputs({**inputs, "model": [model]}) for model in inputs["model"]]
    works = [_checked(config, part) for part in parts]
    resources = context.resources
    jobs = []
    for number, (work, part) in enumerate(zip(works, parts, strict=True), 1):
        remote = ray.remote(work).options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=resources.max_failures)
        output = context.output if number == 1 else other_place(context.output, number)
        jobs.append(remote.remote(config, part, replace(context, output=output)))
    made = zip(inputs["model"], ray.get(jobs), strict=True)
    first, *others = (replace(one, details={**one.details, MADE_FROM: model.uri}) for model, one in made)
    return replace(first, others=tuple(others))


def _checked(config: CompressConfig, inputs: Inputs) -> Callable[[CompressConfig, Inputs, Context], Outcome]:
    """What is to be done, by what kind of model it is; BadInput where that cannot be."""
    model, examples = inputs.one("model"), inputs.maybe("examples")
    language = learned_of(model).language
    if language is not None and language.writes:
        from jobs.compression.compress_language import check_language, compress_language

        asked = {key: getattr(config, key) for key in ("vocabulary", "prune", "factorize")}
        untouched = "nothing is taken out of a language model here"
        problems = [
            Problem(key, value if isinstance(value, str) else None, untouched, "Leave it out: export and quantize are done.")
            for key, value in asked.items()
            if value not in (None, Prune())
        ]
        if problems := problems + check_language(config, inputs):
            raise BadInput(problems)
        return compress_language
    if examples is None:
        reason = "a model of a task is compressed on its rows"
        raise BadInput([Problem("inputs.examples", None, reason, "Name the step that prepared them.")])
    _length(config, model)
    learned, given = learned_of(model).cleaning, cleaning_of(examples)
    if learned is not None and given is not None:
        problems = list(cleaned_otherwise(model.manifest.step, learned, examples.manifest.step, given))
        if problems:
            raise BadInput(problems)
    if inputs.maybe("teacher") is None and (mixed := sorted(config.heal.model_fields_set & Mix.model_fields.keys())):
        reason = "there are no soft labels to weigh: the labels alone heal"
        problems = [Problem(f"heal.{key}", getattr(config.heal, key), reason, "Give inputs.teacher.") for key in mixed]
        raise BadInput(problems)
    if config.allowed_loss is not None and not examples.files("validation/", ".parquet"):
        remedy = "Give prepare a validation split (split.validation), or leave allowed_loss out."
        raise BadInput([Problem("allowed_loss", config.allowed_loss, "there is nothing to measure the loss on", remedy)])
    return _compress


def _length(config: CompressConfig, model: Artifact) -> int:
    """Tokens at which texts are cut; BadInput for more than the model has learned to read."""
    reach = read_base(model).reach
    length = reach.length(config.max_length)
    if (problem := reach.beyond_training(length)) is not None:
        raise BadInput([problem])
    return length


def _compress(config: CompressConfig, inputs: Inputs, context: Context) -> Outcome:
    import tempfile

    import torch

    from jobs.compression.factorize import factorize, multiplied, ranks_of
    from jobs.compression.heal import Healing

    torch.set_num_threads(max(1, int(context.resources.cpus)))
    torch.manual_seed(config.heal.seed)
    model, task, learner, metrics = _build(config, inputs)
    healing = Healing(config.heal, learner, context)
    if config.factorize is not None:
        ranks_of(model, config.factorize.energy)  # refused now, not after hours of healing
    if config.prune.asked:
        metrics |= _prune(config, model, learner, healing)
    if config.factorize is not None:
        metrics |= factorize(model, config.factorize.energy)
        context.report(state="factorized", **metrics)
        metrics |= healing.heal(model)
    details: dict[str, object] = {"curve": healing.curve} if healing.curve else {}
    with tempfile.TemporaryDirectory() as directory:
        here = replace(context, directory=Path(directory))
        metrics |= learner.save(model if config.factorize is None else multiplied(model), here.directory)
        context.report(state="exporting")
        figures, more = _export(config, model, task, healing, here)
        metrics = metrics | figures
        details |= more | told_of_model(task.spec, metrics, read_card(here.directory).variants)
        return Outcome(metrics=metrics, details=details, files=upload(here.directory, context.output))


def _build(config: CompressConfig, inputs: Inputs) -> tuple["PreTrainedModel", "Supervised", "Learner", dict[str, float]]:
    """The model, its task, what heals it, and figures of its vocabulary."""
    from jobs.tasks.distilled import Distilled
    from jobs.tasks.heads import inputs_of, load_head
    from jobs.tasks.supervised import Supervised

    examples, teacher = inputs.one("examples"), inputs.maybe("teacher")
    spec, length = spec_of(examples), _length(config, inputs.one("model"))
    model, tokenizer = load_head(inputs.one("model"), spec)
    figures: dict[str, float] = {}
    if config.vocabulary is not None:
        tokenizer, figures = _only_used_tokens(config, model, tokenizer, examples, spec.fields)
    task = Supervised(examples, tokenizer, spec, length, inputs_of(model, spec), unlabelled=teacher is not None)
    task.cleaning = learned_of(inputs.one("model")).cleaning or task.cleaning
    return model, task, task if teacher is None else Distilled(task, [teacher], config.heal), figures


def _only_used_tokens(
    config: CompressConfig,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    examples: Artifact,
    fields: Sequence[str],
) -> tuple["PreTrainedTokenizerBase", dict[str, float]]:
    """Cut the vocabulary to the texts of train and validation; the test split stays unseen, and is measured."""
    from jobs.compression.vocabulary import changed_share, prune_vocabulary
    from jobs.data.training_rows import read_examples

    tables = {split: read_examples(examples, split) for split in ("train", "validation", "test")}
    texts = {split: [text for name in fields for text in table[name].to_pylist()] for split, table in tables.items()}
    used = [*texts["train"], *texts["validation"]]
    smaller, figures = prune_vocabulary(model, tokenizer, used, config.vocabulary_min_count)
    if texts["test"]:
        figures["vocabulary_test_changed"] = changed_share(tokenizer, smaller, texts["test"])
    return smaller, figures


def _prune(config: CompressConfig, model: "PreTrainedModel", learner: "Learner", healing: "Healing") -> dict[str, float]:
    """Take out and heal, step by step."""
    from jobs.compression.prune import Pruner
    from jobs.data.training_rows import epoch_batches

    pruner, metrics = Pruner(model, config.prune), dict[str, float]()
    size = min(config.heal.batch_size, learner.size)
    chosen = list(islice(epoch_batches(learner.size, size, config.heal.seed, 0), config.prune.calibration_batches))
    for goal in pruner.goals:
        pruner.remove(goal, learner, (learner.batch(indices, config.heal.seed, 0) for indices in chosen))
        healing.context.report(state="pruned", **pruner.sizes())
        metrics |= healing.heal(model)
    return metrics | pruner.finish()


def _export(
    config: CompressConfig, model: "nn.Module", task: "Supervised", healing: "Healing", context: Context
) -> tuple[dict[str, float], dict[str, object]]:
    """Write the ONNX variants beside the torch weights and enter them in the card."""
    import copy

    import numpy as np
    from transformers import PreTrainedModel

    from jobs.compression.variants import Material, write_variants
    from jobs.data.training_rows import shuffled
    from jobs.judging.calibration import calibrate_variants

    assert isinstance(model, PreTrainedModel)

    def trained() -> PreTrainedModel:
        twin = copy.deepcopy(model)
        healing.heal_rounded(twin)
        return twin

    held, score = task.validation, task.learning.metric(task.spec, None)

    def judge(engine: "Engine") -> float:
        """With what would be fitted for it, as it would be served."""
        outputs = engine.outputs(held.items)
        fitted, _ = task.learning.fit(task.spec, outputs, held.truth)
        return task.learning.judged(task.spec, task.spec.settled(outputs, fitted), held.truth).figure(score.name)

    chosen = shuffled(np.arange(min(config.calibration.examples, task.size)), task.size, (config.heal.seed,))
    batches = (task.batch(np.array([number]), config.heal.seed, 0) for number in chosen)
    feeds = [{name: batch[name].numpy() for name in task.inputs} for batch in batches]
    figures, details = write_variants(model, context.directory, config, Material(feeds, judge, score, trained))
    made = [name for name in read_card(context.directory).variants if name != "torch"]  # that one is fitted as it is saved
    return figures | calibrate_variants(context.directory, made, held.items, held.truth), details


STAGE = Stage(
    name="compress",
    purpose="prune, heal, export to ONNX and quantise",
    config=CompressConfig,
    run=run,
    inputs={
        "model": Input(Kind.MODEL, "the student or a language model, or several: each becomes a model of its own", many=True),
        "examples": Input(Kind.EXAMPLES, "rows of the model's task, for importance and healing", optional=True),
        "teacher": Input(Kind.PREDICTIONS, "soft labels to heal from", optional=True),
        "tokens": Input(Kind.TOKENS, "text of a language model, to judge each variant on", optional=True),
    },
    output=Kind.MODEL,
    version=5,
    metrics=task_metrics,
    preflight=Preflight(rules=COMPRESS_RULES),
    completion=Completion(headline=("feed_forward_kept", "export_difference")),
)

if __name__ == "__main__":
    main(STAGE)
