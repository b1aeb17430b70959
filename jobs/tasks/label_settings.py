"""What kinds that learn labels have in common: names for them, labels that train lacks, what each weighs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import field_validator, model_validator

from jobs.contracts.learning import Statistics, TaskSettings
from jobs.core.config import BadInput, Problem
from jobs.data.clean import value_names
from jobs.data.values import is_single, written_as
from serve.tasks.shared.labels import Long, Pooling

if TYPE_CHECKING:
    from torch import Tensor


class LabelNames(TaskSettings):
    """Settings of a task whose labels may be renamed, and whose texts may be long."""

    names: dict[str, str] = {}
    """What labels in that column are called from here on, e.g. {0: ham, 1: spam} or {true: spam, false: ham}."""
    long: Long = "cut"
    """What becomes of texts longer than `max_length` of the model. cut: their rest is not read, and what share of them that is
    stands in each report. windows: all of a text is read, in windows that overlap by an eighth; each learns the text's
    labels."""
    pooling: Pooling = "mean"
    """With `long: windows`, how those of a text are taken together: mean, each counted by its tokens, or max, the highest of
    each label."""

    @model_validator(mode="after")
    def _pooled_where_there_are_windows(self) -> Self:
        if self.long == "cut" and "pooling" in self.model_fields_set and self.pooling != "mean":
            raise ValueError("pooling is of windows, and long texts are cut: write long: windows, or leave pooling out")
        return self

    @field_validator("names", mode="before")
    @classmethod
    def _as_in_files(cls, names: Any) -> Any:
        """Numbers and booleans as YAML has them, by the texts that files have for them."""
        if not isinstance(names, Mapping):
            return names
        return {written_as(label) if is_single(label) else label: name for label, name in names.items()}

    _as_read = field_validator("names")(value_names)


def in_windows(settings: LabelNames) -> str | None:
    """Why such a task needs a model to itself, where it reads long texts in windows."""
    return "it reads long texts in windows, and other heads would have to" if settings.long == "windows" else None


def labels_without_training(statistics: Statistics, none: Collection[str] = ()) -> list[Problem]:
    """Labels of other splits that train lacks, where train is known; `none` are no labels. Of rows whose split
    is not known yet nothing is said."""
    train = set(statistics.get("train", {}))
    remedy = "Add such rows to train, or remove them."
    return [
        Problem(f"source.{split}", label, "this label is not in the training set", remedy)
        for label, split in sorted((label, split) for split, own in statistics.items() if split for label in own)
        if "train" in statistics and label not in train and label not in none
    ]


def training_labels(statistics: Statistics, path: str, remedy: str, none: Collection[str] = ()) -> tuple[str, ...]:
    """The labels of the training split, by name; BadInput where they are fewer than two or another split has others."""
    train = set(statistics.get("train", {})) - set(none)
    if len(train) < 2:
        raise BadInput([Problem(path, sorted(train), "the training split has fewer than two labels", remedy)])
    problems = [
        Problem(split, label, "this label is not in the training split", "Give more rows, or split by column.")
        for split, own in statistics.items()
        for label in sorted(set(own) - train - set(none))
    ]
    if problems:
        raise BadInput(problems)
    return tuple(sorted(train))


def label_numbers(labels: Sequence[str]) -> dict[str, Any]:
    """What transformers' config says of labels, in their order."""
    numbered = dict(enumerate(labels))
    return {"id2label": numbered, "label2id": {label: number for number, label in numbered.items()}}


def in_turns(labels: "Sequence[str] | Sequence[int]", count: int) -> list[int]:
    """So many places, in turns from each label, in the order of these."""
    places: dict[Any, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    turns = [own[turn] for turn in range(count) for _, own in sorted(places.items()) if turn < len(own)]
    return turns[:count]


def label_weights(
    asked: Literal["balanced"] | Mapping[str, float] | None, labels: Sequence[str], balanced: "Callable[[], Tensor]"
) -> "Tensor | None":
    """What each label counts, 1 where nothing is said of it; BadInput for one that is not there."""
    import torch

    if asked is None:
        return None
    if asked == "balanced":
        return balanced()
    unknown = sorted(set(asked) - set(labels))
    if unknown:
        raise BadInput([Problem(f"class_weights.{unknown[0]}", None, "no such label", f"Labels: {', '.join(labels)}.")])
    return torch.tensor([asked.get(label, 1.0) for label in labels])
