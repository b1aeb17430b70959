"""A kind of task with what a recipe says below `task`: what prepare asks of it, row by row and then over all of them.

labelling = Labelling.of(config.task, config.text)
labelling.targets(frame); labelling.spec(statistics)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self, Union

from pydantic import BeforeValidator, Discriminator, Tag

from jobs.contracts.learning import Learning, TaskSettings
from jobs.core.config import Problem, nearest
from jobs.tasks import learning_of, usual_kind
from serve.tasks import kinds
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Labelling:
    """Settings of a task, and where an item's texts come from."""

    settings: TaskSettings
    fields: Mapping[str, str]
    """The column of the source for each text of an item."""

    @classmethod
    def of(cls, settings: TaskSettings, text: str) -> Self:
        """Of the recipe's `task` and `text`."""
        return cls(settings, learning_of(settings.kind).fields(settings, text))

    @property
    def paths(self) -> dict[str, str]:
        """Further columns that must be there, by the recipe's key that names each."""
        return learning_of(self.settings.kind).paths(self.settings)

    @property
    def lists(self) -> tuple[str, ...]:
        """Those of them whose columns may hold lists."""
        return learning_of(self.settings.kind).lists_in(self.settings)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Keys of `paths`, of which a row needs the columns of one group alone; empty where it needs all."""
        return learning_of(self.settings.kind).groups(self.settings)

    @property
    def types(self) -> "dict[str, pa.DataType]":
        """The target columns, with their types."""
        return learning_of(self.settings.kind).types(self.settings)

    @property
    def stratum(self) -> str | None:
        """The target column by whose values rows can be stratified."""
        return learning_of(self.settings.kind).stratum(self.settings)

    def targets(self, frame: "pd.DataFrame") -> tuple[dict[str, list[Any]], dict[int, str]]:
        """The target columns of rows, and the reason for each row whose target means nothing, by its place."""
        found = learning_of(self.settings.kind).targets(self.settings, frame)
        return found.columns, found.wrong

    def statistics(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Of rows of one split, what adds up."""
        return learning_of(self.settings.kind).statistics(self.settings, columns)

    def check(self, statistics: Mapping[str, Mapping[str, float]]) -> list[Problem]:
        """What is wrong with the splits together, as far as they are known."""
        return learning_of(self.settings.kind).check(self.settings, statistics)

    def spec(self, statistics: Mapping[str, Mapping[str, float]]) -> Task:
        """The task that the rows make; BadInput where they make none."""
        return learning_of(self.settings.kind).spec(self.settings, statistics)


def settings_type() -> Any:
    """What `task` of a recipe may be: the settings of each kind that is installed, told apart by `kind`. One that cannot be
    loaded is told of where a recipe asks for it."""
    each = {kind: learning.Settings for kind in sorted(kinds()) if (learning := _loaded(kind)) is not None}
    tagged = [Annotated[settings, Tag(kind)] for kind, settings in each.items()]
    if len(tagged) == 1:
        only: Any = next(iter(each.values()))
        return Annotated[only, BeforeValidator(_loadable)]
    message = nearest("", each).removesuffix(".")
    choose = Discriminator(
        _kind_of, custom_error_type="kind", custom_error_message=f"There is no such kind of task. {message}"
    )
    told: Any = Annotated[Union[tuple(tagged)], choose]  # noqa: UP007  the kinds are not known here
    return Annotated[told, BeforeValidator(_loadable)]


def _loaded(kind: str) -> Learning | None:
    try:
        return learning_of(kind)
    except ValueError:
        return None  # `_loadable` says why.


def _loadable(raw: Any) -> Any:
    """ValueError where a kind is asked for that is installed and broken."""
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if isinstance(kind, str) and kind in kinds():
        learning_of(kind)
    return raw


def _kind_of(raw: Any) -> Any:
    if isinstance(raw, Mapping):
        return raw.get("kind", usual_kind())
    return getattr(raw, "kind", None)
