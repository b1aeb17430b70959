"""Several answers for a text, by one encoder that reads it once. How it answers: a head's columns of the logits → its answer.

    task = Several(heads=(Head(name="topic", task=…), Head(name="sentiment", task=…)))
    task.answers(task.settled(logits_NK, {"topic.temperature": 1.3}), items)[0].topic       # as that head's kind answers

Each head is a task of its own, of any kind whose output is a row of numbers; what it says, it says by itself. A raw output has
the columns of all heads, in their order; in a settled one each head has its own output under its name. What is fitted for a
head stands behind its name and a dot. N items, K columns of all heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field, make_dataclass
from functools import cache, cached_property, reduce
from itertools import accumulate
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, Self, cast, get_type_hints

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, create_model, model_validator

from serve.tasks import task_of
from serve.tasks.protocol import Evidence as PartEvidence
from serve.tasks.protocol import Explained, Fitted, Item, NoOptions, Output, Outputs, Task, View
from serve.tasks.shared.by_head import OF, behind, of_head, said_together, side_by_side, wrong_head_name

MOST_SAYINGS = 40
"""Of no more kinds are what answers are counted by: chance alone moves drift's index by about (kinds - 1) / texts."""


class Head(BaseModel):
    """One of the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: str
    """What the answer is called."""
    task: Annotated[SerializeAsAny[Task], BeforeValidator(task_of)]
    """What it is the answer to."""


class Several(Task):
    """Several answers for a text."""

    kind: Literal["several"] = "several"
    heads: tuple[Head, ...] = Field(min_length=1)
    """In the order of their columns; the first is what is explained where nothing else is asked for."""

    view: ClassVar[View] = "heads"
    summary: ClassVar[str] = "Give texts all their answers"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(set(self.named_tasks)) < len(self.heads):
            raise ValueError("two heads have the same name")
        first = self.heads[0].task
        for name, task in self.named_tasks.items():
            if (wrong := wrong_head_name(name)) is not None:
                raise ValueError(f"the head {name!r}: {wrong}")
            if task.width is None or not task.dense or task.windows or task.per_token:
                raise ValueError(f"the head {name} gives no row of numbers for a text, as heads of one model do")
            if (task.auto_class, task.fields) != (first.auto_class, first.fields):
                raise ValueError(f"the head {name} reads other texts, or is of another class of models, than the first one")
        return self

    @cached_property
    def named_tasks(self) -> dict[str, Task]:
        """The task of each head by its name."""
        return {head.name: head.task for head in self.heads}

    @property
    def Options(self) -> type[BaseModel]:  # type: ignore[override]
        """A head's own options, by its name."""
        return _options(tuple((name, task.Options) for name, task in self.named_tasks.items()))

    @property
    def Answer(self) -> type:  # type: ignore[override]
        """A head's own answer, by its name."""
        return _answer(tuple((name, task.Answer) for name, task in self.named_tasks.items()))

    @property
    def Target(self) -> type[BaseModel]:  # type: ignore[override]
        """Which head's answer is explained, and what of it."""
        return _target(tuple((name, task.Target) for name, task in self.named_tasks.items()))

    @property
    def Whole(self) -> type | None:  # type: ignore[override]
        """A head's name, and what an explanation says of the whole of its answer; None where no head explains anything."""
        return _whole(tuple(dict.fromkeys(task.Whole for task in self._explained.values() if task.Whole is not None)))

    @property
    def Evidence(self) -> type[PartEvidence]:  # type: ignore[override]
        """What one of the heads says of each part; of another kind's it has nothing."""
        return _evidence(tuple(dict.fromkeys(task.Evidence for task in self._explained.values())))

    @property
    def auto_class(self) -> str:  # type: ignore[override]
        """That of all heads."""
        return self.heads[0].task.auto_class

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of all heads."""
        return self.heads[0].task.fields

    @property
    def graph_parts(self) -> tuple[tuple[str, int], ...]:
        """`logits_` and the name of each head, with its columns."""
        return tuple((f"logits_{name}", _columns_of(task)) for name, task in self.named_tasks.items())

    @property
    def views(self) -> Mapping[str, View]:
        """Each head's own."""
        return {name: task.view for name, task in self.named_tasks.items()}

    @cached_property
    def cuts(self) -> tuple[tuple[str, Task, slice], ...]:
        """Each head with its columns of a raw output."""
        ends = accumulate(columns for _, columns in self.graph_parts)
        each = zip(self.named_tasks.items(), self.graph_parts, ends, strict=True)
        return tuple((name, task, slice(end - columns, end)) for (name, task), (_, columns), end in each)

    def parted(self, outputs: Outputs) -> Iterator[tuple[str, Task, np.ndarray]]:
        """Each head with its own outputs, of one item or several: settled ones of settled outputs, raw ones of raw ones."""
        together = np.asarray(outputs)
        for name, task, columns in self.cuts:
            yield name, task, together[name] if together.dtype.names else together[..., columns]

    def stacked(self, outputs: Sequence[Output]) -> Outputs:
        """logits_NK, or settled ones with a field a head; be N 0."""
        return (
            np.stack(outputs) if len(outputs) else np.zeros((0, sum(columns for _, columns in self.graph_parts)), np.float32)
        )

    def wrong_output(self, output: Output) -> str | None:
        """Logits have the columns of all heads, and each head's are right."""
        columns = sum(columns for _, columns in self.graph_parts)
        if output.shape != (columns,):
            return f"it has the shape {output.shape}, and the heads {', '.join(self.named_tasks)} have {columns} columns"
        wrong = ((name, task.wrong_output(output[own])) for name, task, own in self.cuts)
        return next((f"of {name} {reason}" for name, reason in wrong if reason is not None), None)

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """What each head's may be."""
        known = {name for name in fitted if name.partition(OF)[0] in self.named_tasks and OF in name}
        if unknown := sorted(set(fitted) - known):
            return f"{unknown[0]} is of none of the heads {', '.join(self.named_tasks)}"
        wrong = ((name, task.wrong_fitted(of_head(fitted, name))) for name, task in self.named_tasks.items())
        return next((f"of {name} {reason}" for name, reason in wrong if reason is not None), None)

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """Each head's settled outputs under its name, in one array of the items."""
        settled = {name: np.asarray(task.settled(own, of_head(fitted, name))) for name, task, own in self.parted(outputs)}
        return side_by_side(settled, (len(outputs),))

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """An answer of each head."""
        if not len(outputs):
            return []
        answer, asked = self.Answer, isinstance(options, self.Options)
        said = [
            task.answers(own, items, getattr(options, name) if asked else None) for name, task, own in self.parted(outputs)
        ]
        return [answer(*each) for each in zip(*said, strict=True)]

    def confidence(self, outputs: Outputs) -> np.ndarray | None:
        """That of the head which is least sure, of those that say how sure they are."""
        given = outputs if len(outputs) else self.settled(outputs, {})  # of none it is not seen whether they are settled
        each = [task.confidence(own) for _, task, own in self.parted(given)]
        sure = [confidence_N for confidence_N in each if confidence_N is not None]
        return np.min(sure, axis=0) if sure else None

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether all heads say the same."""
        return np.logical_and.reduce([task.same(*two) for task, *two in self._two(left, right)])

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """That of the head which is farthest."""
        return np.asarray(np.max([task.distance(*two) for task, *two in self._two(left, right)], axis=0))

    def gap(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The mean of the heads' own."""
        return np.asarray(np.mean([task.gap(*two) for task, *two in self._two(left, right)], axis=0))

    def said(self, outputs: Outputs) -> list[str]:
        """What the first heads say, as many of them as are counted together."""
        counted = self.counted
        return said_together([task.said(own) for name, task, own in self.parted(outputs) if name in counted])

    @property
    def counted(self) -> tuple[str, ...]:
        """The heads that answers are counted by: the first, and those after it while what they may say together are no more
        than MOST_SAYINGS."""
        found, count = list[str](), 1
        for name, task in self.named_tasks.items():
            count *= len(task.sayings)
            if found and count > MOST_SAYINGS:
                break
            found.append(name)
        return tuple(found)

    @property
    def sayings(self) -> tuple[str, ...]:
        """Each that they may say together."""
        first, *others = (self.named_tasks[name].sayings for name in self.counted)
        return tuple(reduce(lambda before, own: [f"{one}, {other}" for one in before for other in own], others, list(first)))

    def unlike(self, other: Task) -> str | None:
        """The same heads, and labels of them, may stand in another order."""
        if not isinstance(other, Several) or other.fields != self.fields:
            return super().unlike(other)
        ours, theirs = self.named_tasks, other.named_tasks
        if apart := sorted(set(ours) ^ set(theirs)):
            return f"only one of them has the head {apart[0]}"
        reasons = ((name, task.unlike(theirs[name])) for name, task in ours.items())
        return next((f"of the head {name} {reason}" for name, reason in reasons if reason is not None), None)

    def aligned(self, outputs: Outputs, other: Task) -> Outputs:
        """Heads, and labels of them, in the order of this task; of one output too."""
        assert isinstance(other, Several)
        if self == other:
            return outputs
        theirs = {name: (task, own) for name, task, own in other.parted(outputs)}
        each = {name: np.asarray(task.aligned(theirs[name][1], theirs[name][0])) for name, task in self.named_tasks.items()}
        given = np.asarray(outputs)
        return side_by_side(each, given.shape) if given.dtype.names else np.concatenate(list(each.values()), axis=-1)

    def wrong_target(self, target: BaseModel, item: Item) -> tuple[str, str] | None:
        """A head that is not there or explains nothing, and what is wrong for its own kind."""
        chosen, given = self._chosen(target)
        if chosen not in self._explained:
            reason = "explains nothing" if chosen in self.named_tasks else "is none of the model's heads"
            return "head", f"{chosen} {reason}; it can explain {', '.join(self._explained)}"
        if others := [name for name in given if name != chosen]:
            return others[0], f"The answer of {chosen} is explained; leave this out, or ask for it by `head`"
        wrong = self._explained[chosen].wrong_target(given[chosen], item) if given else None
        return wrong and (f"{chosen}.{wrong[0]}", wrong[1])

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """That of the head which is asked for, or of the first that explains anything."""
        chosen, given = self._chosen(target)
        task, evidence = self._explained[chosen], self.Evidence
        own = next(own for name, _, own in self.parted(outputs) if name == chosen)
        explained = task.evidence(own, items, given.get(chosen) or task.Target())
        assert task.Whole is not None, "it is one of those that explain"
        whole = {"head": chosen, "whole": task.Whole(**explained.whole)}
        parts = explained.parts if evidence is task.Evidence else [evidence(**asdict(part)) for part in explained.parts]
        return Explained(whole, parts)

    def right_example(self) -> Any:
        """Each head's own by its name; None unless all of them have one."""
        found = {name: task.right_example() for name, task in self.named_tasks.items()}
        return None if None in found.values() else found

    def right(self, said: Any) -> dict[str, Any]:
        """Of each head that something is said of, what is right, under its name."""
        heads = ", ".join(self.named_tasks)
        if not isinstance(said, Mapping) or not said:
            raise ValueError(f"Give what is right for a head by its name, or for several; there are {heads}")
        if unknown := sorted(set(map(str, said)) - set(self.named_tasks)):
            raise ValueError(f"{unknown[0]} is none of the heads {heads}")
        return {name: task.right(said[name]) for name, task in self.named_tasks.items() if name in said}

    def goodness(self, answer: Mapping[str, Any], right: Mapping[str, Any]) -> float:
        """The mean over the heads that something is said of."""
        each = [self.named_tasks[name].goodness(answer[name], own) for name, own in right.items()]
        return sum(each) / len(each)

    def columns(self, wide: bool) -> dict[str, type]:
        """Each head's own, behind its name."""
        each = (behind(task.columns(wide), name) for name, task in self.named_tasks.items())
        return {column: kind for columns in each for column, kind in columns.items()}

    def cells(self, answer: Any, wide: bool) -> dict[str, Any]:
        """As the columns say."""
        each = (behind(task.cells(getattr(answer, name), wide), name) for name, task in self.named_tasks.items())
        return {column: value for cells in each for column, value in cells.items()}

    def brief(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Each head's own, behind its name."""
        each = (behind(task.brief(answer[name]), name) for name, task in self.named_tasks.items())
        return {key: value for values in each for key, value in values.items()}

    def told(self, answer: Mapping[str, Any]) -> str:
        """What each head says, behind its name."""
        return "; ".join(f"{name}: {task.told(answer[name])}" for name, task in self.named_tasks.items())

    def examples(self) -> list[Item]:
        """Those of the first head."""
        return self.heads[0].task.examples()

    @property
    def _explained(self) -> dict[str, Task]:
        """The heads that explain their answers."""
        return {name: task for name, task in self.named_tasks.items() if task.Whole is not None}

    def _chosen(self, target: BaseModel) -> tuple[str, dict[str, BaseModel]]:
        """The head whose answer is explained; and what is asked of each head's answer, by name."""
        asked = isinstance(target, self.Target)
        given = {name: own for name in self._explained if asked and (own := getattr(target, name)) is not None}
        named = getattr(target, "head", None)
        return named or next(iter(given or self._explained)), given

    def _two(self, left: Outputs, right: Outputs) -> Iterator[tuple[Task, np.ndarray, np.ndarray]]:
        """Each head with its own outputs on both sides."""
        for (_, task, ours), (_, _, theirs) in zip(self.parted(left), self.parted(right), strict=True):
            yield task, ours, theirs


TASK = Several


def _columns_of(task: Task) -> int:
    assert task.width is not None, "heads have one"
    return task.width


@cache
def _options(each: tuple[tuple[str, type[BaseModel]], ...]) -> type[BaseModel]:
    about = "What may be asked of the answers, by head."
    own: dict[str, Any] = {
        name: (options, Field(options(), description=f"What may be asked of the answer of {name}: {_named(options)}."))
        for name, options in each
        if options.model_fields
    }
    return create_model("SeveralOptions", __config__=NoOptions.model_config, __doc__=about, **own)


@cache
def _target(each: tuple[tuple[str, type[BaseModel]], ...]) -> type[BaseModel]:
    told = "The head whose answer is explained; by default the one of which something is asked, or the first."
    own: dict[str, Any] = {
        name: (target | None, Field(None, description=f"What of the answer of {name} is explained: {_named(target)}."))
        for name, target in each
    }
    about = "What of the answers is explained."
    named: Any = (str | None, Field(None, description=told))
    return create_model("SeveralTarget", __config__=NoOptions.model_config, __doc__=about, head=named, **own)


def _named(asked: type[BaseModel]) -> str:
    return ", ".join(asked.model_fields)


@cache
def _answer(each: tuple[tuple[str, type], ...]) -> type[BaseModel]:
    return make_dataclass("SeveralAnswer", each, slots=True, namespace={"__doc__": "An answer of each head."})


@cache
def _whole(each: tuple[type, ...]) -> type | None:
    if not each:
        return None
    return make_dataclass("WholeHead", [("head", str), ("whole", reduce(or_, each))], frozen=True)


@cache
def _evidence(each: tuple[type[PartEvidence], ...]) -> type[PartEvidence]:
    if len(each) == 1:
        return each[0]
    types = {name: kind for one in each for name, kind in get_type_hints(one).items()}
    own = [(name, kind | None, field(default=None)) for name, kind in types.items() if name != "attribution"]
    return cast(type[PartEvidence], make_dataclass("HeadEvidence", own, bases=(PartEvidence,), frozen=True))
