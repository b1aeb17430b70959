"""Whether a model is ever judged on texts that it has learned from: the splits of prepare steps over the same data must nest.

A recipe may read one source twice, as text to pretrain on and as examples. Each step divides it for itself, by a hash of each
text or group, and what the second holds out for validation and test must not be in the first one's training split.

Local files are told by what is in them, under whatever names they lie. Not seen are the same texts in files of other bytes
(packed, in another order, among others) and in copies elsewhere: there `inputs: {exclude: …}` finds them.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from cluster.store import storage
from cluster.store.artifact import Kind
from cluster.store.hashes import sha256_of
from jobs.core.config import BadInput, Problem
from jobs.core.recipe import Recipe, Step
from jobs.data.hub import SPLIT_PART, hub_parts
from jobs.data.rows import UNLABELLED
from jobs.data.sources import each, resolve
from jobs.data.splits import Split, divided
from jobs.tasks.labelling import Labelling

if TYPE_CHECKING:
    from jobs.prepare import PrepareConfig

HELD = ("examples", "tokens")
"""The inputs whose held-out splits a step's model is judged on."""
EXCLUDE = "exclude"
"""The input of a prepare step whose held-out texts are taken out of it."""
MASKED = "personal.masked"
RENAMING = (
    *("clean.unicode", "clean.strip_tags", "clean.join_words", "clean.max_characters"),
    *("filters.html", "filters.boilerplate", MASKED),
)
"""What makes another text of one, which has another hash and falls into another split."""
UNDECIDING = {"slices", "bad_rows"}
"""The keys of a prepare step with a task that have no say in which rows fall into which split."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Data:
    """A file, a sample, or a part of a hub's data set: what two sources may have in common."""

    name: str
    """Of a local file: the hash of its content."""
    part: str = ""
    """Of a hub's data set: the split."""
    rows: tuple[float, float] = (0.0, float("inf"))
    """And of it the rows, or the percentage, from and up to which it goes."""
    unit: str = ""

    def shares(self, other: "Data") -> bool:
        """Whether some rows are in both, as far as their names say."""
        apart = self.unit == other.unit and (self.rows[0] >= other.rows[1] or other.rows[0] >= self.rows[1])
        return (self.name, self.part) == (other.name, other.part) and not apart


@dataclass(frozen=True)
class PreparedSource:
    """One of a prepare step's sources, and what of it never trains."""

    split: str
    """The split that it is named for; empty where it is the only source."""
    source: str
    data: tuple[Data, ...]
    rest: Split
    """How its rows are divided by their hash."""

    @property
    def column(self) -> str | None:
        """The column that divides it."""
        return None if self.rest.by == "hash" or self.split == UNLABELLED else self.rest.by

    @property
    def held(self) -> float:
        """The share that is held out, where no column says it."""
        if self.split in ("validation", "test"):
            return 1.0
        return 0.0 if self.split == UNLABELLED else self.rest.validation + self.rest.test

    def holds(self, other: "PreparedSource") -> bool:
        """Whether no text that the other holds out is in this one's training split."""
        if (self.column is None and self.held >= 1) or _nothing(other):
            return True
        if other.column is not None or self.column is not None:
            return self.column == other.column
        # What is stratified depends on all other rows: nothing but the same step once more divides like it.
        alike = self.rest.group == other.rest.group and not self.rest.stratify and not other.rest.stratify
        return alike and self.held + ROUNDING >= other.held


def nesting_problems(recipe: Recipe, names: Collection[str]) -> list[Problem]:
    """Splits that do not nest, as the models of the named steps meet them; each pair of prepare steps is told once."""
    found: dict[str, Problem] = {}
    look = partial(_parts, known={})
    for name in names:
        step, learned = recipe.steps[name], _prepared(recipe, name)
        judged = {one for key in HELD for one in step.inputs.get(key, ())}
        for held in judged:
            for taught in sorted(learned - {held}):
                for problem in _between(recipe.steps[taught], recipe.steps[held], look):
                    found.setdefault(str(problem), problem)
    return list(found.values())


def _prepared(recipe: Recipe, name: str) -> set[str]:
    """The prepare steps that a step's model has learned from. What a teacher is asked teaches a student only where it is the
    student's own input too."""
    step = recipe.steps[name]
    if step.stage.name == "prepare":
        return {name}
    keys = [key for key in step.inputs if step.stage.name != "predict" or key not in HELD]
    parents = {parent for key in keys for parent in step.inputs[key]}
    return set[str]().union(*(_prepared(recipe, parent) for parent in parents))


def _between(taught: Step, held: Step, look: Any) -> Iterator[Problem]:
    """What `held` holds out of the sources that it has in common with `taught`, and `taught` has in its training split."""
    learned: Any = taught.config
    judged: Any = held.config
    if not set(_texts(learned)) & set(_texts(judged)) or _same_division(taught, held):
        return
    there = look(learned)
    for part in look(judged):
        for same in _shared(there, part) if not _nothing(part) else ():
            yield from _learned_from(taught, held, same, part)


def _shared(there: Sequence[PreparedSource], part: PreparedSource) -> list[list[PreparedSource]]:
    """The other step's sources that have a file of this part too, or a part of a hub's; each combination of them once."""
    known: dict[tuple[str, str], list[tuple[Data, PreparedSource]]] = {}
    for one in there:
        for data in one.data:
            known.setdefault((data.name, data.part), []).append((data, one))
    found: dict[tuple[str, ...], list[PreparedSource]] = {}
    for data in part.data:
        same = {one.split: one for other, one in known.get((data.name, data.part), ()) if other.shares(data)}
        if same:
            found[tuple(same)] = list(same.values())
    return list(found.values())


def _learned_from(taught: Step, held: Step, same: Sequence[PreparedSource], part: PreparedSource) -> Iterator[Problem]:
    """What is held out of a part, and in the training split of these sources, which have it too."""
    if any(one.column is None and one.held >= 1 for one in same):
        return
    if held.name in taught.inputs.get(EXCLUDE, ()):
        yield from _renamed(taught, held)
        return
    # A text that is in several of a step's sources is held out if any of them holds it out.
    if not any(one.holds(part) for one in same):
        yield _unheld(taught, held, max(same, key=lambda one: one.held), part)
    elif part.column is None and part.held < 1:
        yield from _renamed(taught, held)
        if _texts(taught.config) != _texts(held.config):
            yield _keyed_otherwise(taught, held, part)


def _nothing(part: PreparedSource) -> bool:
    """Whether all of it trains."""
    return part.column is None and part.held == 0


def _same_division(taught: Step, held: Step) -> bool:
    """Whether both divide one and the same rows: they are one step but for keys that have no say in it."""
    own, other = (step.config.model_dump(exclude=UNDECIDING) for step in (taught, held))
    return own == other and taught.inputs == held.inputs


def _unheld(taught: Step, held: Step, there: PreparedSource, part: PreparedSource) -> Problem:
    path, name = f"steps.{taught.name}", held.name
    models = f"models that learn from {taught.name} are judged on {name}"
    excluding = _excluding(held)
    if part.column is not None:
        reason = f"{models}, which takes validation and test of the same texts ({part.source}) by the column {part.column}"
        return Problem(f"{path}.split", _written(taught), reason, f"Write split: {{by: {part.column}}}{excluding}.")
    if part.held >= 1:
        reason = f"{models}, whose {part.split} split has the same texts ({part.source}), and here they train"
        remedy = f"Name them as {name} does, source: {{…, {part.split}: {part.source}}}, or leave them out{excluding}."
        return Problem(f"{path}.source", there.source, reason, remedy)
    if part.rest.stratify:
        reason = f"{models}, which divides each label of the same texts ({part.source}) by itself, as no other step does"
        remedy = f"Write inputs: {{{EXCLUDE}: {name}}}, or divide {name} by a hash alone, without stratify."
        return Problem(f"{path}.split", _written(taught), reason, remedy)
    shares = {"test": part.rest.test, "validation": part.rest.validation}
    if there.split == "train":  # Of a source for train no test split is taken.
        shares = {"validation": part.held}
    group, what = ({}, "texts") if part.rest.group is None else ({"group": part.rest.group}, f"groups by {part.rest.group}")
    wanted = ", ".join([f"{key}: {of}" for key, of in group.items()] + [f"{key}: {of:g}" for key, of in shares.items() if of])
    reason = f"{models}, which holds out {part.held:.3g} of the same {what} ({part.source}), and some of these train here"
    remedy = f"Write split: {{{wanted}}}{excluding}."
    if there.split == "train" and there.rest.validation == 0:
        remedy = f"Write source and split as in {name}{excluding}."
    return Problem(f"{path}.split", _written(taught), reason, remedy)


def _excluding(held: Step) -> str:
    """The remedy that takes its texts out of whatever step reads them, where its texts can be read again."""
    return f", or inputs: {{{EXCLUDE}: {held.name}}}" if held.kind is Kind.EXAMPLES else ""


def _renamed(taught: Step, held: Step) -> Iterator[Problem]:
    """Texts that two steps clean otherwise are other texts in them: they fall into other splits, and are not found again."""
    learned: Any = taught.config
    judged: Any = held.config
    for place in RENAMING:
        value, other = attrgetter(place)(learned), attrgetter(place)(judged)
        path, _, key = place.rpartition(".")
        if value != other:
            reason = (
                f"{held.name} has {key}: {other} for the same texts, so that some are other texts here, and what it holds "
                f"out would train the models that are judged on it"
            )
            same = path if place == MASKED else f"e.g. {key}: {other}"
            yield Problem(
                f"steps.{taught.name}.{path if place == MASKED else place}", value, reason, f"Give both the same, {same}."
            )


def _keyed_otherwise(taught: Step, held: Step, part: PreparedSource) -> Problem:
    """Items of several texts are divided by the hash of all of them: no other division of these texts agrees with it."""
    reason = (
        f"models that learn from {taught.name} are judged on {held.name}, which divides {part.source} by other columns, "
        f"{' and '.join(_texts(held.config))} together: what it holds out would train here"
    )
    dividing = f"Divide both by a column that says the split (split.by){_excluding(held)}"
    remedy = f"{dividing}, or take the text from another source."
    return Problem(f"steps.{taught.name}.split", _written(taught), reason, remedy)


def _texts(config: Any) -> tuple[str, ...]:
    """The columns whose texts make an item."""
    return (config.text,) if config.task is None else tuple(Labelling.of(config.task, config.text).fields.values())


def _written(step: Step) -> Mapping[str, Any]:
    config: Any = step.config
    return config.split.model_dump(exclude_unset=True) or config.split.model_dump()


def _parts(config: "PrepareConfig", known: dict[str, tuple[Data, ...]]) -> list[PreparedSource]:
    sources = each(config.source)
    for source in sources.values():
        if source not in known:
            known[source] = _data(source)
    return [PreparedSource(name, one, known[one], divided(config.split, name, sources)) for name, one in sources.items()]


def _data(source: str) -> tuple[Data, ...]:
    """What a source is made of; nothing where it cannot be found, which prepare's own check tells."""
    if source.startswith("sample:"):
        return (Data(source),)
    if not source.startswith("hub:"):
        try:
            return tuple(Data(sha256_of(file) if storage.is_local(file) else file) for file in resolve(source))
        except (BadInput, storage.StorageError):
            return ()
    name, config, split = hub_parts(source)
    whole = f"hub:{os.path.realpath(name) if os.path.exists(name) else name}:{config or ''}"
    parts = [SPLIT_PART.fullmatch(part.strip()) for part in split.split("+")]
    return tuple(
        Data(
            whole, part["split"], (float(part["first"] or 0), float(part["last"] or "inf")), part["unit"] or part["end"] or ""
        )
        for part in parts
        if part is not None
    )
