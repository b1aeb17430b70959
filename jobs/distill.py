r"""distill: a student MODEL learns from the labels and from the soft labels of teachers, which were made once.

    ray job submit --working-dir . -- python -m jobs.distill jobs/recipes/spam.yaml --step student temperature=4

The student is a base of one's own (`inputs.init`, `model:`), or a part of one (`student: {every: 2, feed_forward: 0.5}`). With
`match` the teacher itself (`inputs.teacher_model`) shows its inner states too. A static student (`student: {kind: static}`)
has a vector a token, made by any of the three.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from cluster.store.artifact import Kind
from jobs.architectures.models import length_of, padding_told
from jobs.architectures.settings import LinearStudent, StaticStudent, Student, StudentInitialisation
from jobs.core.config import BadInput, Problem
from jobs.core.idle import Rule
from jobs.core.stage import CHANGEABLE, Completion, Context, Input, Inputs, Outcome, Preflight, Searchable, Stage
from jobs.losses.settings import MIX_RULES, Match, Mix
from jobs.running.cli import main
from jobs.tasks import spec_of
from jobs.tasks.heads import inputs_of, load_head
from jobs.tasks.resolved import task_metrics
from jobs.tasks.telling import told_of_model
from jobs.training.static_settings import STATIC_RULES, check_static, encoder_of, with_static_defaults
from jobs.training.task_config import TASK_RULES, TaskConfig, adapted, base_model, base_origin, check, sources
from jobs.training.task_config import shape as shape_of_base

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from jobs.contracts.objective import Learner
    from jobs.tasks.distilled import Distilled


class DistillConfig(Mix, TaskConfig):
    """How the student learns from the teachers."""

    student: Student | None = None
    """Take a part of the base: {every: 2} or {layers: [0, 3]}, and with feed_forward: 0.5 half of their neurons. Or what is no
    transformer: {kind: linear}, {kind: static}."""
    teacher_weights: tuple[float, ...] | None = None
    """With several teachers: what each one's answers count, in the order of inputs.teacher (default: alike)."""
    match: dict[str, Match] = {}
    """Inner states that are to be like the teacher's, under names of your own: {last: {what: hidden, student: -1, teacher: -1,
    loss: mse, weight: 1.0}}. what: hidden, embedding, attention, query_key, value_relation."""

    @model_validator(mode="before")
    @classmethod
    def _as_static_students_train(cls, given: Any) -> Any:
        return with_static_defaults(given)

    @model_validator(mode="after")
    def _goes_together(self) -> "DistillConfig":
        if self.teacher_weights is not None and min(self.teacher_weights, default=0.0) <= 0:
            raise ValueError("each of teacher_weights is above 0: leave a teacher out of inputs.teacher instead")
        if self.match and self.compile:
            raise ValueError("match looks into the model, which compile hides: leave out one of them")
        return self


def build(config: DistillConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    """The student with a head for the task, and the mixed objective."""
    from jobs.tasks.distilled import Distilled
    from jobs.tasks.supervised import Supervised
    from jobs.training.student_initialisation import initialise_student

    if isinstance(config.student, StaticStudent):
        return _static(config, config.student, inputs)
    examples = inputs.one("examples")
    spec = spec_of(examples)
    model, tokenizer = base_model(config, inputs, spec)
    length = length_of(base_origin(config, inputs), config.max_length)
    task = Supervised(examples, tokenizer, spec, length, inputs_of(model, spec), unlabelled=True)
    learner = Distilled(task, inputs["teacher"], config, config.teacher_weights)
    if isinstance(config.student, StudentInitialisation):
        model = initialise_student(model, config.student)
        _prune(model, config.student, config, learner)
    if not config.match:
        return adapted(config, model), learner
    return _matched(config, inputs, model, tokenizer, learner)


def _static(config: DistillConfig, student: StaticStudent, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    from jobs.compression.static_student import static_student
    from jobs.judging.calibration import calibrate_variants
    from jobs.tasks.distilled import Distilled

    encoder, examples = encoder_of(config.model, inputs), inputs.one("examples")
    model, task = static_student(student, examples, encoder, config.max_length, config.seed, calibrate_variants)
    return model, Distilled(task, inputs["teacher"], config, config.teacher_weights)


def _prune(
    model: "PreTrainedModel", student: StudentInitialisation, config: DistillConfig, learner: "Learner | None" = None
) -> None:
    """Take neurons out before the training that heals it: every worker, and a run that goes on, takes out the same.

    Those go that the loss would miss least; without a learner, those whose weights are shortest.
    """
    from jobs.compression.prune import Pruner
    from jobs.compression.settings import Prune
    from jobs.data.training_rows import epoch_batches

    if not student.feed_forward:
        return
    pruner = Pruner(model, Prune(feed_forward=student.feed_forward, importance="taylor" if learner else "magnitude"))
    for goal in pruner.goals:
        if learner is None:
            pruner.remove(goal)
            continue
        batches = epoch_batches(learner.size, min(config.batch_size, learner.size), config.seed, 0)
        chosen = islice(batches, pruner.settings.calibration_batches)
        pruner.remove(goal, learner, (learner.batch(indices, config.seed, 0) for indices in chosen))


def _matched(
    config: DistillConfig,
    inputs: Inputs,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    learner: "Distilled",
) -> tuple["nn.Module", "Learner"]:
    """The student beside its teacher."""
    from jobs.tasks.matched import Matched, MatchedStudent, prepare_match

    teacher, theirs = load_head(inputs.one("teacher_model"), learner.task.spec)
    widths, causal = prepare_match(model, teacher, (tokenizer, theirs), config.match)
    student = MatchedStudent(adapted(config, model), widths, config.match)
    return student, Matched(learner, teacher, causal, config.match)


def shape(config: DistillConfig, inputs: Inputs) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The student with random weights; which of its neurons went makes no difference to its speed."""
    from jobs.training.student_initialisation import initialise_student

    if isinstance(config.student, LinearStudent):
        reason = "shapes of transformers alone are timed before they are trained"
        raise BadInput([Problem("tune.budget", None, reason, "Leave it out: evaluate measures such a student.")])
    model, tokenizer = shape_of_base(config, inputs)
    if isinstance(config.student, StudentInitialisation):
        model = initialise_student(model, config.student)
        _prune(model, config.student, config)
    return model, tokenizer


def write_shape(config: DistillConfig, inputs: Inputs, directory: Path) -> bool:
    """A static student with random vectors, as it would be published; False of any other."""
    from jobs.compression.static_student import static_student

    if not isinstance(config.student, StaticStudent):
        return False
    student, encoder = config.student.model_copy(update={"weights": "random"}), encoder_of(config.model, inputs)
    model, task = static_student(student, inputs.one("examples"), encoder, config.max_length, config.seed, lambda *_: {})
    directory.mkdir(parents=True, exist_ok=True)
    task.save(model, directory)
    return True


def run(config: DistillConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train the student, and publish it with its tokenizer and card."""
    if isinstance(config.student, LinearStudent):
        from jobs.training.linear_model import linear_model
        from jobs.training.taught import Taught

        mix = Mix(**{key: getattr(config, key) for key in Mix.model_fields})
        return linear_model(config.student, inputs, context, Taught(inputs["teacher"], mix, config.teacher_weights))
    from jobs.training.ray_train import train

    if isinstance(config.student, StaticStudent):
        check_static(config.student, config.model, inputs, context.resources)
        padding = dict[str, str]()
    else:
        base = base_origin(config, inputs)
        _check_inputs(config, inputs, context, length_of(base, config.max_length))
        padding = padding_told(base)
    outcome = train(build, config, inputs, context)
    told = padding | told_of_model(spec_of(inputs.one("examples")), outcome.metrics)
    return replace(outcome, details={**outcome.details, **told})


def _check_inputs(config: DistillConfig, inputs: Inputs, context: Context, length: int) -> None:
    """BadInput where match and what it needs do not go together."""
    teacher = inputs.maybe("teacher_model")
    if not config.match and teacher is None:
        return
    problems = []
    if teacher is None:
        problems.append(Problem("inputs.teacher_model", None, "match looks into the teacher", "Name the teacher's step."))
    elif not config.match:
        reason = "nothing is to match, so the teacher itself would not be used"
        problems.append(Problem("inputs.teacher_model", teacher.manifest.step, reason, "Leave it out, or add match."))
    if config.match and context.resources.parallel == "tensor" and context.resources.workers > 1:
        reason = "workers that compute each matrix together have parts of the states that match looks at"
        problems.append(Problem("resources.parallel", "tensor", reason, "Use ddp or fsdp."))
    if problems or teacher is None:
        raise BadInput(problems)
    length_of(teacher, length)


NOTHING_MOVES = ("temperature_end", "alpha_end", "annealing")
"""Keys of what moves over a run."""
LINEAR_RULES = tuple(
    Rule(
        key,
        ("student",),
        lambda config, _: not isinstance(config.student, LinearStudent),
        "a linear student has neither a base nor layers: it is fitted at once, from all rows",
        "Leave it out, or leave out student.kind.",
    )
    for key in (
        *(key for key in TaskConfig.model_fields),
        *("match", *NOTHING_MOVES),
        *("inputs.init", "inputs.teacher_model"),
    )
)
"""What a linear student has no use for."""
DISTILL_RULES = (
    *TASK_RULES,
    *LINEAR_RULES,
    *MIX_RULES,
    Rule(
        "teacher_weights",
        (),
        lambda config, _: len(config.teacher_weights) > 1,
        "one teacher's answers are all there are, whatever they count",
        "Leave it out, or give one for each of several teachers.",
    ),
    Rule(
        "match",
        (),
        lambda _, inputs: "teacher_model" in inputs,
        "it looks into the teacher, and there is none",
        "Name the teacher's step in inputs.teacher_model.",
    ),
    Rule(
        "inputs.teacher_model",
        ("match", "student"),
        lambda config, _: bool(config.match) or isinstance(config.student, StaticStudent),
        "nothing is to match, so the teacher itself would not be used",
        "Leave it out, or add match.",
    ),
    *STATIC_RULES,
)
"""What keys need to do something."""

STAGE = Stage(
    name="distill",
    purpose="train a student on the soft labels of teachers",
    config=DistillConfig,
    run=run,
    inputs={
        "examples": Input(Kind.EXAMPLES, "rows from prepare; those without a label teach too"),
        "teacher": Input(Kind.PREDICTIONS, "a teacher's soft labels from predict, or several teachers'", many=True),
        "teacher_model": Input(Kind.MODEL, "the teacher itself, for match and for a static student's vectors", optional=True),
        "init": Input(Kind.MODEL, "the student's base, where model does not name one", optional=True),
    },
    output=Kind.MODEL,
    version=4,
    metrics=task_metrics,
    preflight=Preflight(sources, check, DISTILL_RULES),
    searchable=Searchable(
        (*CHANGEABLE, "dropout", "temperature", "temperature_end", "alpha", "alpha_end", "skew"),
        shaped_by=("model", "student"),
        shape=shape,
        write_shape=write_shape,
    ),
    completion=Completion(headline=("steps_per_second",)),
)

if __name__ == "__main__":
    main(STAGE)
