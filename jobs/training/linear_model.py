"""The linear model of a task: its words and characters counted, its weights fitted, its MODEL written, in one process.

    outcome = linear_model(settings, inputs, context)                      # from the labels
    outcome = linear_model(settings, inputs, context, taught)              # from what teachers say too (taught.py)

How strongly weights are drawn to 0 is chosen on the validation split by the kind's own score, unless the settings say it.
K outputs or teachers, N items, R rows of the table.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.store.artifact import upload
from jobs.architectures.settings import LinearFit
from jobs.core.stage import Context, Inputs, Outcome
from jobs.tasks import cleaning_of, spec_of
from jobs.tasks.floors import row_width
from jobs.tasks.telling import TEXTS_CUT, told_of_model
from jobs.training.bag_rows import BagRows
from jobs.training.gram_choice import READ_CHARACTERS, GramChoice, as_json, as_matrix
from jobs.training.linear_fit import LinearProblem
from jobs.training.taught import Loss, Taught, of_labels
from serve.engines.bag import BIAS, IDF, Bag, BagModel
from serve.engines.bag_reading import GramCutter
from serve.engines.bag_table import packed
from serve.engines.card import BAG_FILE, GRAMS_FILE, Card, TrainingData, Variant, write_card
from serve.tasks.protocol import Fitted, Task
from serve.watch.drift import training_data

STRENGTHS = (1.0, 4.0, 16.0, 64.0)
"""What is tried, from small weights to large ones."""
USUAL_STRENGTH = 16.0
"""Where there is nothing to choose by."""
LEARNED_CHARACTERS = 6_000_000
"""Of all training texts: so much is counted and fitted in a minute on a core."""
FILES = {"numpy": ("bag.safetensors", "fp32"), "fp16": ("bag.fp16.safetensors", "fp16")}
"""The variants: the file of each, and its precision."""
OTHER_BYTES = 20_000
"""Card, bag.json and the heads of files."""


@dataclass
class FittedLinear:
    """What was fitted, and how it does on the validation split."""

    choice: GramChoice
    weights_RK: np.ndarray
    bias_K: np.ndarray
    strength: float
    figures: Mapping[str, float] = field(default_factory=dict)
    tried: list[dict[str, float]] = field(default_factory=list)

    def model(self, spec: Task, precision: str) -> tuple[BagModel, dict[str, np.ndarray]]:
        """What will answer, and its tensors."""
        tensors = {**packed(self.weights_RK, precision), IDF: self.choice.idf_F, BIAS: self.bias_K.astype(np.float32)}
        cutter = GramCutter(self.choice.features, self.choice.listed, READ_CHARACTERS)
        return BagModel(self.bag, cutter, tensors, len(spec.fields)), tensors

    @property
    def bag(self) -> Bag:
        """What its tensors mean."""
        return Bag(kind="linear", features=self.choice.features, weighting="tfidf", widths=(len(self.bias_K),))


def linear_model(settings: LinearFit, inputs: Inputs, context: Context, taught: Taught | None = None) -> Outcome:
    """Fit it in one task of the cluster, or right here inside a search, and publish it with its card."""
    if context.trial is not None:
        return make_here(settings, inputs, context, taught)
    import ray

    resources = context.resources
    context.report(state="fitting a linear model: one task, no training workers")
    remote = ray.remote(_made_elsewhere).options(num_cpus=resources.cpus, max_retries=resources.max_failures)
    outcome: Outcome = ray.get(remote.remote(settings, inputs, context, taught))
    return outcome


def _made_elsewhere(settings: LinearFit, inputs: Inputs, context: Context, taught: Taught | None) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        here = replace(context, directory=Path(directory))
        return replace(make_here(settings, inputs, here, taught), files=upload(here.directory, context.output))


def make_here(settings: LinearFit, inputs: Inputs, context: Context, taught: Taught | None) -> Outcome:
    """Fit it in this process, and leave it in the context's directory."""
    import torch

    torch.set_num_threads(max(1, int(context.resources.cpus)))
    examples = inputs.one("examples")
    spec = spec_of(examples)
    every = BagRows.read(examples, "train", spec, unlabelled=taught is not None)
    rows, told = _affordable(every)
    validation = BagRows.read(examples, "validation", spec)
    context.report(state=f"counting words and characters of {len(rows)} texts")
    choice = GramChoice.shared_by_two(rows.items)
    loss = (taught or of_labels)(rows)
    fitted, lengths, cut, dropped = _fitted(settings, choice, rows, validation, loss, context)
    if dropped:
        features = dropped + len(fitted.choice)
        told.append(f"{dropped} of {features} features are left out: it may take {settings.megabytes:g} MB")
    known = rows.at(np.flatnonzero(rows.learning.known(rows.truth)).tolist())
    answers = rows.learning.training_answers(spec, known.truth)
    training = training_data(answers, lengths) if answers else None
    fit, figures = _judged(fitted, validation)
    card = _card(spec, inputs, fitted, training, fit)
    _write(context.directory, spec, fitted, card, validation)
    for line in told:
        print(line, flush=True)
    metrics = {
        **fitted.figures,
        **figures,
        "parameters": float(card.parameters),
        "features": float(len(fitted.choice)),
        **({TEXTS_CUT: cut} if cut else {}),
    }
    details: dict[str, Any] = {"strength": fitted.strength, "tried": fitted.tried}
    details |= {"left_out": "; ".join(told)} if told else {}
    return Outcome(metrics=metrics, details=details | told_of_model(spec, metrics))


def _affordable(rows: BagRows) -> tuple[BagRows, list[str]]:
    """As many rows as a minute is enough for, drawn evenly, those with a target first; and what is left out, in words."""
    if rows.characters <= LEARNED_CHARACTERS:
        return rows, []
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[np.argsort(~rows.learning.known(rows.truth)[order], kind="stable")]
    sizes = np.cumsum([sum(min(READ_CHARACTERS, len(value)) for value in rows.items[place].values) for place in order])
    kept = np.sort(order[: max(1, int(np.searchsorted(sizes, LEARNED_CHARACTERS, side="right")))])
    if len(kept) == len(rows):
        return rows, []
    told = f"it learns from {len(kept)} of {len(rows)} rows: {LEARNED_CHARACTERS:,} characters are read in a minute"
    return rows.at(kept.tolist()), [told]


def _fitted(
    settings: LinearFit,
    choice: GramChoice,
    rows: BagRows,
    validation: BagRows,
    loss: Loss,
    context: Context,
) -> tuple[FittedLinear, Sequence[int], float, int]:
    """The best strength's model, the texts' lengths, the share of them that is cut, and how many features are left out."""
    width, fields, features = row_width(rows.spec), len(rows.spec.fields), len(choice)
    assert width is not None, "recipes with other kinds were refused"
    reader = choice.reader(fields)
    matrix_NR, lengths, cut = as_matrix(reader, rows.items)
    problem = LinearProblem(matrix_NR, loss, width)
    room = settings.megabytes * 1e6 - OTHER_BYTES
    fewer = choice.useful(matrix_NR, problem.slopes(problem.constant()), room)
    if len(fewer) < features:
        choice, reader = fewer, fewer.reader(fields)
        problem = LinearProblem(as_matrix(reader, rows.items)[0], loss, width)
    held_MR = as_matrix(reader, validation.items)[0]
    strengths = [settings.strength] if settings.strength else STRENGTHS if len(validation) else [USUAL_STRENGTH]
    metric, tried = rows.learning.metric(rows.spec, None), list[dict[str, float]]()
    best: FittedLinear | None = None
    for strength in strengths:
        context.report(state=f"fitting {len(choice)} features, strength {strength:g}")
        weights_RK, bias_K = problem.solve(strength)
        figures = _figures(validation, (held_MR @ weights_RK + bias_K).astype(np.float32))
        one = FittedLinear(choice, weights_RK.astype(np.float32), bias_K, strength, figures, tried)
        tried.append({"strength": strength} | {name: figures[name] for name in (metric.name,) if figures})
        if best is None or _better(one, best, metric.name, metric.mode):
            best = one
    assert best is not None
    return best, lengths, cut, features - len(choice)


def _better(one: FittedLinear, best: FittedLinear, name: str, mode: str) -> bool:
    """By the score, of equals by the loss."""
    sign = 1 if mode == "max" else -1
    ours, theirs = ((sign * each.figures.get(name, 0.0), -each.figures.get("validation_loss", 0.0)) for each in (one, best))
    return ours > theirs


def _figures(rows: BagRows, outputs_NK: np.ndarray) -> dict[str, float]:
    """The kind's figures on the validation split; none where there is no such split."""
    if not len(rows):
        return {}
    outputs = rows.spec.stacked(list(outputs_NK))
    return rows.learning.measured(rows.spec, [rows.learning.part(rows.spec, outputs, rows.truth)])


def _judged(fitted: FittedLinear, validation: BagRows) -> tuple[Fitted, dict[str, float]]:
    """What the kind fits on the validation split, and figures of that."""
    if not len(validation):
        return {}, {}
    outputs = _said(fitted, validation, "fp32")
    return validation.learning.fit(validation.spec, outputs, validation.truth)


def _said(fitted: FittedLinear, rows: BagRows, precision: str) -> Any:
    model, _ = fitted.model(rows.spec, precision)
    return rows.spec.stacked(list(model(model.reader([item.values for item in rows.items]))))


def _card(spec: Task, inputs: Inputs, fitted: FittedLinear, training: TrainingData | None, fit: Fitted) -> Card:
    file, precision = FILES["numpy"]
    return Card(
        task=spec,
        cleaning=cleaning_of(inputs.one("examples")),
        max_length=READ_CHARACTERS,
        inputs=(),
        variants={"numpy": Variant(backend="numpy", file=file, precision=precision, fitted=dict(fit))},
        default="numpy",
        parameters=fitted.weights_RK.size + fitted.bias_K.size,
        training=training,
    )


def _write(directory: Path, spec: Task, fitted: FittedLinear, card: Card, validation: BagRows) -> None:
    """The model's files; its half precision beside it, where that says the same."""
    from safetensors.numpy import save_file

    (directory / BAG_FILE).write_text(fitted.bag.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (directory / GRAMS_FILE).write_bytes(as_json(fitted.choice.listed))
    variants = dict(card.variants)
    for name, (file, precision) in FILES.items():
        if name not in variants and not _says_the_same(fitted, validation, variants["numpy"].fitted, precision):
            continue
        save_file(fitted.model(spec, precision)[1], directory / file)
        variants[name] = variants["numpy"].model_copy(update={"file": file, "precision": precision})
    write_card(directory, card.model_copy(update={"variants": variants}))


def _says_the_same(fitted: FittedLinear, validation: BagRows, fit: Fitted, precision: str) -> bool:
    if not len(validation):
        return False
    spec = validation.spec
    whole, other = (spec.settled(_said(fitted, validation, one), fit) for one in ("fp32", precision))
    return bool(spec.same(whole, other).all())
