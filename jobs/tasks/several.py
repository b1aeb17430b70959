"""Several answers for a text, by one encoder. How they are learned and judged: each head as its own kind does.

    task:
      kind: several
      heads:
        topic: {kind: classification, label: cat}
        sentiment: {kind: classification, label: stars}

The model is transformers' own, with a head of all columns. A row may lack the targets of some heads: it then counts for the
others. What a head has in EXAMPLES, among figures and in reports stands behind its name and a dot.

K columns of all heads, N items, S numbers of all heads' targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from jobs.contracts.learning import Blocks, Columns, Statistics, Targets, TaskSettings, Truth
from jobs.contracts.suspicions import Suspicions
from jobs.core.config import BadInput, Problem
from jobs.core.metric import Metric
from jobs.data.values import LACKING
from jobs.tasks.asked_of_heads import OWN_LOSS, AskedOfHeads
from jobs.tasks.head_losses import HeadLoss, HeadsCriterion, HeadsSoftCriterion, counted, shares
from jobs.tasks.head_settings import (
    checked_heads,
    each_setting,
    head_path,
    head_problem,
    splits_without_head,
    statistics_of_head,
)
from jobs.tasks.judged_heads import MEAN_SCORE, JudgedHead, JudgedHeads, mean_score
from jobs.tasks.known_heads import HEADS_KNOWN, asked_of, asked_of_heads, each_head, head_places, known_heads
from jobs.tasks.label_settings import label_numbers
from serve.tasks.protocol import Fitted, Item, Outputs
from serve.tasks.several import Head, Several
from serve.tasks.shared.by_head import OF, behind, of_head, said_together, side_by_side

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from tokenizers import Encoding
    from torch import Tensor
    from transformers import PreTrainedConfig

    from jobs.report.html import Html

CALIBRATION = ("calibration_error", "calibration_error_unscaled")


class SeveralSettings(TaskSettings):
    """What the labelled rows are for: several answers for a text, of one encoder."""

    kind: Literal["several"]
    """several: an answer of each head for a text, which is read once."""
    heads: Annotated[dict[str, SerializeAsAny[TaskSettings]], BeforeValidator(checked_heads)] = Field(min_length=1)
    """The answers by name, each a task of its own: {topic: {kind: classification, label: cat}, …}, of the same texts. The
    first is what is explained where nothing else is asked for, and what `split.stratify` divides by."""


class SeveralLearning(AskedOfHeads):
    """The jobs half."""

    kind: ClassVar = "several"
    Settings: ClassVar = SeveralSettings
    metrics: ClassVar = (Metric(MEAN_SCORE, short="mean"),)
    soft_losses: ClassVar = (OWN_LOSS,)

    # Rows to examples

    def fields(self, settings: Any, text: str) -> dict[str, str]:
        """Those of all heads."""
        _, learning, own = next(each_setting(settings))
        return learning.fields(own, text)

    def paths(self, settings: Any) -> dict[str, str]:
        """Those of each head."""
        each = ((name, learning.paths(own)) for name, learning, own in each_setting(settings))
        return {head_path(name, key): column for name, paths in each for key, column in paths.items()}

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """Those of each head, behind its name."""
        each = (behind(learning.types(own), name) for name, learning, own in each_setting(settings))
        return {column: kind for types in each for column, kind in types.items()}

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """Those of each head, behind its name; a row is wrong where one of its targets is."""
        columns, wrong = dict[str, list[Any]](), dict[int, str]()
        for name, learning, own in each_setting(settings):
            found, absent = learning.targets(own, frame), frame.attrs.get(LACKING, {})
            lacking = [absent[column] for column in learning.paths(own).values() if column in absent]
            columns |= behind({column: _but(values, lacking) for column, values in found.columns.items()}, name)
            for place, reason in found.wrong.items():
                wrong.setdefault(place, f"head {name}: {reason}")
        return Targets(columns, wrong)

    def groups(self, settings: Any) -> tuple[tuple[str, ...], ...]:
        """The columns of each head: a row may be of one alone."""
        return tuple(
            tuple(head_path(name, key) for key in learning.paths(own)) for name, learning, own in each_setting(settings)
        )

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """Those of each head, behind its name; under its name how many rows have a target of it."""
        found: dict[str, float] = {}
        for name, learning, own in each_setting(settings):
            targets = of_head(columns, name)
            rows = sum(any(value is not None for value in row) for row in zip(*targets.values(), strict=True))
            found |= ({name: rows} if rows else {}) | behind(learning.statistics(own, targets), name)
        return found

    def summary(self, spec: Any, statistics: Mapping[str, float]) -> dict[str, float]:
        """That of each head, behind its name."""
        each = (behind(learning.summary(task, of_head(statistics, name)), name) for name, learning, task in each_head(spec))
        return {key: value for own in each for key, value in own.items()}

    def stratum(self, settings: Any) -> str | None:
        """That of the first head; rows without a target of it stay in train."""
        name, learning, own = next(each_setting(settings))
        stratum = learning.stratum(own)
        return None if stratum is None else f"{name}{OF}{stratum}"

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """What is wrong for each head; a split that has no row of one."""
        found = splits_without_head(settings, statistics)
        for name, learning, own in each_setting(settings):
            problems = learning.check(own, statistics_of_head(statistics, name))
            found += [head_problem(problem, name, learning.paths(own), statistics) for problem in problems]
        return found

    def spec(self, settings: Any, statistics: Statistics) -> Several:
        """Each head's own task; BadInput with what is wrong for any of them."""
        problems, heads = splits_without_head(settings, statistics), list[Head]()
        for name, learning, own in each_setting(settings):
            try:
                heads.append(Head(name=name, task=learning.spec(own, statistics_of_head(statistics, name))))
            except BadInput as error:
                problems += [head_problem(problem, name, learning.paths(own), statistics) for problem in error.problems]
        if problems:
            raise BadInput(problems)
        try:
            return Several(heads=tuple(heads))
        except ValidationError as error:
            reasons = "; ".join(str(detail["msg"]) for detail in error.errors())
            raise BadInput([Problem("task.heads", list(settings.heads), reasons, "Take it out, or rename it.")]) from error

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """truth_N with a field a head, and under HEADS_KNOWN of which heads there is a target."""
        each, known = dict[str, np.ndarray](), []
        for name, learning, task in each_head(spec):
            each[name] = np.asarray(learning.truth(task, _columns(columns, name)))
            known.append(learning.known(each[name]))
        return side_by_side({**each, HEADS_KNOWN: np.stack(known, axis=-1)}, (len(known[0]),))

    def missing(self, spec: Any) -> np.ndarray:
        """That of each head."""
        each = {name: learning.missing(task) for name, learning, task in each_head(spec)}
        return side_by_side({**each, HEADS_KNOWN: np.zeros(len(each), dtype=bool)}, ())

    def known(self, truth: Truth) -> np.ndarray:
        """Those with a target of any head."""
        return np.asarray(np.asarray(truth)[HEADS_KNOWN].any(axis=-1))

    def taught(self, spec: Any, truth: Truth) -> np.ndarray:
        """Those that teach any head something."""
        taught_N = np.zeros(len(truth), dtype=bool)
        for own in known_heads(spec, truth):
            taught_N[own.known_N] |= own.learning.taught(own.task, own.truth)
        return taught_N

    def suspicious(self, spec: Any, columns: Columns, most: int) -> Suspicions | None:
        """In turns from each head that finds any."""
        found = []
        for name, learning, task in each_head(spec):
            own = learning.suspicious(task, _columns(columns, name), most)
            if own is not None:
                rows = [replace(row, given=f"{name}: {row.given}", likely=f"{name}: {row.likely}") for row in own.rows]
                found.append(replace(own, rows=tuple(rows)))
        if not found:
            return None
        turns = (own.rows[turn] for turn in range(most) for own in found if turn < len(own.rows))
        looked_at, how = max(own.looked_at for own in found), " ".join(dict.fromkeys(own.how for own in found))
        return Suspicions(tuple(islice(turns, most)), sum(own.found for own in found), looked_at, how)

    # Training

    def head(self, spec: Any) -> dict[str, Any]:
        """The columns of all heads by name, in their order."""
        return {**label_numbers(_column_names(spec)), "problem_type": None}

    def knows(self, spec: Any, config: "PreTrainedConfig") -> bool:
        """Whether the config names these columns, in this order."""
        return list((config.id2label or {}).values()) == _column_names(spec)

    def window_targets(self, spec: Any, target: Any, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """The numbers that all heads' losses take, one after another; float32 has whole ones up to 2^24."""
        own = [np.ravel(asked).astype(np.float32) for asked in asked_of_heads(spec, target, self.missing(spec))]
        return [np.concatenate(own)] * len(windows)

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> HeadsCriterion:
        """Each head's own, by its weight; BadInput with the head whose settings do not fit it."""
        rows, criteria, targets = int(self.known(truth).sum()), [], []
        for own in known_heads(spec, truth):
            try:
                taught = own.truth[own.learning.taught(own.task, own.truth)]
                criteria.append(own.learning.criterion(own.task, getattr(settings, own.name), taught))
            except BadInput as error:
                raise BadInput(replace(one, path=f"loss.{own.name}.{one.path}") for one in error.problems) from error
            targets.append(counted(criteria[-1], asked_of(own.learning, own.task, taught)))
        weights = [getattr(settings.weights, name) for name in spec.named_tasks]
        each = zip(head_places(spec, self.missing(spec)), criteria, shares(weights, targets, rows), strict=True)
        return HeadsCriterion([HeadLoss(*one) for one in each])

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> HeadsSoftCriterion:
        """Each head's own, all alike: by the way that all have, or each by its usual one."""
        criteria, targets = [], []
        for name, learning, task in each_head(spec):
            loss = learning.soft_losses_of(task)[0] if mix.loss == OWN_LOSS else mix.loss
            criteria.append(learning.soft_criterion(task, mix.model_copy(update={"loss": loss}), weights_K))
            one = self.missing(spec)[name][None]
            usual = learning.criterion(task, learning.loss_of(task)(), one[:0])
            targets.append(counted(usual, asked_of(learning, task, one)))
        each = zip(head_places(spec, self.missing(spec)), criteria, shares([1.0] * len(targets), targets, 1), strict=True)
        return HeadsSoftCriterion([HeadLoss(*one) for one in each])

    # Judging

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> JudgedHeads:
        """Each head by the items that have a target of it."""
        heads = {
            own.name: JudgedHead(
                own.learning.metrics_of(own.task)[0], own.learning.judged(own.task, own.outputs[0], own.truth), own.known_N
            )
            for own in known_heads(spec, truth, outputs)
        }
        return JudgedHeads(heads, len(truth))

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """The mean of an item's losses, over the heads that it has a target of."""
        losses_N, known_N = np.zeros(len(truth)), np.zeros(len(truth))
        for own in known_heads(spec, truth, outputs):
            taught = np.flatnonzero(own.known_N)[own.learning.taught(own.task, own.truth)]
            losses_N[taught] += own.learning.losses(own.task, own.outputs[0], own.truth)
            known_N[taught] += 1
        return losses_N[known_N > 0] / known_N[known_N > 0]

    def part(self, spec: Any, outputs: Outputs, truth: Truth) -> Any:
        """Each head's own, where it has any items."""
        return {
            own.name: own.learning.part(own.task, own.outputs[0], own.truth)
            for own in known_heads(spec, truth, outputs)
            if len(own.truth)
        }

    def measured(self, spec: Any, parts: Sequence[Any]) -> dict[str, float]:
        """Each head's figures behind its name, the mean of their scores, and that of their losses."""
        found, scores, losses = dict[str, float](), [], []
        for name, learning, task in each_head(spec):
            metrics, own = learning.metrics_of(task), [part[name] for part in parts if name in part]
            figures = learning.measured(task, own) if own else dict.fromkeys([metric.name for metric in metrics], 0.0)
            if own:
                losses.append(figures.pop("validation_loss"))
                scores.append((metrics[0], figures[metrics[0].name]))
            found |= behind(figures, name)
        return {MEAN_SCORE: mean_score(scores), **found, "validation_loss": float(np.mean(losses)) if losses else 0.0}

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """What each head fits, behind its name."""
        fitted, figures = dict[str, float](), dict[str, float]()
        for own in known_heads(spec, truth, outputs):
            if len(own.truth):
                found, told = own.learning.fit(own.task, own.outputs[0], own.truth)
                fitted, figures = fitted | behind(found, own.name), figures | behind(told, own.name)
        return fitted, figures

    def doubtful(self, spec: Any, figures: Mapping[str, float], named: str = "") -> list[str]:
        """What each head has to tell."""
        each = ((name, learning.doubtful(task, figures, f"{named}{name}{OF}")) for name, learning, task in each_head(spec))
        return [f"{name}: {one}" for name, told in each for one in told]

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """Each head's own behind its name; calibration errors also of the head that is worst."""
        found: dict[str, Any] = {}
        for own in known_heads(spec, truth, raw, settled):
            if len(own.truth):
                raw_N, settled_N = own.outputs
                found |= behind(own.learning.further(own.task, raw_N, settled_N, own.truth), own.name)
        each = {key: [value for name, value in found.items() if name.partition(OF)[2] == key] for key in CALIBRATION}
        return found | {key: max(values) for key, values in each.items() if values}

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Each head's own, behind its name."""
        found: dict[str, np.ndarray] = {}
        for own in known_heads(spec, truth):
            for name, mask_N in own.learning.slices(own.task, own.truth).items() if len(own.truth) else ():
                found[f"{own.name}: {name}"] = np.zeros(len(truth), dtype=bool)
                found[f"{own.name}: {name}"][own.known_N] = mask_N
        return found

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """Of items that teach all heads something that answers are counted by, what these would have been."""
        counting = [(name, *rest) for name, *rest in each_head(spec) if name in spec.counted]
        given = np.asarray(truth)
        whole_N = given[HEADS_KNOWN][:, : len(counting)].all(axis=-1)
        for name, learning, task in counting:
            whole_N &= learning.taught(task, given[name])
        whole = given[whole_N]
        each = [learning.training_answers(task, whole[name]) for name, learning, task in counting]
        return said_together(each) if all(len(own) == len(whole) for own in each) else []

    def expected(self, spec: Any, target: Any) -> str:
        """Each target behind its head's name."""
        each = zip(each_head(spec), target[HEADS_KNOWN], strict=True)
        return "; ".join(f"{name}: {own.expected(task, target[name])}" for (name, own, task), there in each if there)

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether each head is right that there is a target of."""
        each = zip(each_head(spec), target[HEADS_KNOWN], strict=True)
        return all(own.is_right(task, answer[name], target[name]) for (name, own, task), there in each if there)

    def questions(self, spec: Any, truth: Truth, count: int) -> list[int]:
        """Those of the first head that there is a target of, of items with targets of all heads where there are some."""
        given = np.asarray(truth)
        whole_N = given[HEADS_KNOWN].all(axis=-1)
        for place, (name, learning, task) in enumerate(each_head(spec)):
            places = np.flatnonzero(whole_N if whole_N.any() else given[HEADS_KNOWN][:, place])
            if len(places):
                return [int(places[one]) for one in learning.questions(task, given[name][places], count)]
        return []

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """Those of each head, under its name."""
        spec = Several.model_validate(report["task"])
        shown = []
        for name, learning, task in each_head(spec):
            score = f"{name}{OF}{learning.metrics_of(task)[0].name}"
            rows = [{**row, **of_head(row, name), "score": row[score]} for row in report["rows"]]
            own = {
                **report,
                "kind": task.kind,
                "task": task.model_dump(mode="json"),
                "labels": list(task.sayings),
                "rows": rows,
            }
            shown.append(blocks.under(f"Head {name}", learning.sections(own, winner, blocks)))
        return shown


LEARNING = SeveralLearning()


def _columns(columns: Columns, name: str) -> dict[str, Sequence[Any]]:
    """Those of a head without its name, and the texts."""
    return {column: values for column, values in columns.items() if OF not in column} | of_head(columns, name)


def _but(values: list[Any], lacking: Sequence[Sequence[bool]]) -> list[Any]:
    """The targets of rows, none of those that lack a column that these are made of."""
    without = [any(row) for row in zip(*lacking, strict=True)] or [False] * len(values)
    return [None if lacks else value for value, lacks in zip(values, without, strict=True)]


def _column_names(spec: Several) -> list[str]:
    """Of each head's labels behind its name, or its numbers where it has none."""
    found = list[str]()
    for name, learning, task in each_head(spec):
        labels = list(learning.head(task).get("id2label", {}).values())
        found += behind(dict.fromkeys(map(str, labels if len(labels) == task.width else range(task.width))), name)
    return found
