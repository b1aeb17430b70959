"""Config: frozen, typed, unknown keys forbidden; every error with its path, value, reason and remedy."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Tag, ValidationError
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails

SPEED_ONLY: JsonDict = {"speed_only": True}
"""A field's `json_schema_extra`: it changes how fast a step is or what memory it takes; in what comes out only rounding, and
what dropout draws. So it is no part of what the step is."""


class Config(BaseModel):
    """The settings of a stage or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave."""

    path: str
    value: Any
    reason: str
    remedy: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {_short(self.value)}"
        return f"{self.path}{shown}: {self.reason}. {self.remedy}"


class BadInput(Exception):
    """Everything wrong with what the user gave, found before any step has run. Exit code 2."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type["BadInput"], tuple[list[Problem]]]:
        return BadInput, (self.problems,)  # It comes back from other processes whole.


def problems_of(error: ValidationError, config: type[BaseModel], prefix: str) -> list[Problem]:
    """A validation error as problems, each with a remedy that fits."""
    return [_problem(detail, config, prefix) for detail in error.errors()]


def _problem(detail: ErrorDetails, config: type[BaseModel], prefix: str) -> Problem:
    location = _without_tags(config, [str(part) for part in detail["loc"]])
    path = ".".join(part for part in [prefix, *location] if part)
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, detail["input"], "no such key", nearest(location[-1], _keys(config, location[:-1])))
    if kind == "missing":
        return Problem(path, None, "this key is required and not there", "Add it to the step.")
    if "remedy" in context:
        return Problem(path, detail["input"], detail["msg"], context["remedy"])
    if kind == "value_error":
        return Problem(path, detail["input"], str(context.get("error", detail["msg"])), "See --help of the stage.")
    return Problem(path, detail["input"], detail["msg"][0].lower() + detail["msg"][1:], "Give a value that fits.")


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known: the closest known one, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(known)}." if known else "Remove it."


def _without_tags(config: type[BaseModel], location: list[str]) -> list[str]:
    """A location without what pydantic puts into it where one of several configs was chosen."""
    kept: list[str] = []
    for place, part in enumerate(location):
        field = config.model_fields.get(part)
        tagged = tagged_configs(field.annotation) if field is not None else {}
        if part and location[place + 1 : place + 2] and location[place + 1] in tagged:
            rest = location[place + 2 :]
            return [*kept, part, *_without_tags(tagged[location[place + 1]], rest)]
        kept.append(part)
    return kept


def _keys(config: type[BaseModel], location: list[str]) -> list[str]:
    """The keys of the config that stands at a location inside another."""
    parts = iter(location)
    for part in parts:
        field = config.model_fields.get(part)
        nested = nested_config(field.annotation) if field else None
        if field is not None and nested is None:
            nested, _ = named_configs(field.annotation), next(parts, None)
        if nested is None:
            return []
        config = nested
    return [field.alias or name for name, field in config.model_fields.items()]


def tagged_configs(annotation: Any) -> dict[str, type[BaseModel]]:
    """The Configs by their tags, where an annotation has several of which one is chosen."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        tags = [note.tag for note in notes if isinstance(note, Tag)]
        return {tags[0]: inner} if tags else tagged_configs(inner)
    if get_origin(annotation) in (Union, UnionType):
        return {tag: config for option in get_args(annotation) for tag, config in tagged_configs(option).items()}
    return {}


def nested_config(annotation: Any) -> type[BaseModel] | None:
    """The Config inside an annotation such as `Config | None`, or None; of several to choose from the first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Annotated:
        return nested_config(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((nested for option in get_args(annotation) if (nested := nested_config(option))), None)
    return None


def named_configs(annotation: Any) -> type[BaseModel] | None:
    """The Config of which an annotation such as `dict[str, Config]` holds some under names, or None."""
    return nested_config(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def identifying(tree: Mapping[str, Any], config: type[BaseModel]) -> dict[str, Any]:
    """A dumped config without what is SPEED_ONLY in it; a key that is searched stays: it is part of what the search is."""
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        field = config.model_fields.get(name)
        if not isinstance(value, Mapping):
            if field is None or field.json_schema_extra != SPEED_ONLY:
                kept[name] = value
        elif field is not None and (nested := nested_config(field.annotation)) is not None:
            kept[name] = identifying(value, nested)
        elif field is not None and (named := named_configs(field.annotation)) is not None:
            kept[name] = {own: identifying(part, named) if isinstance(part, Mapping) else part for own, part in value.items()}
        else:
            kept[name] = value
    return kept


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by their dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def describe_config(config: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Every key of a config, nested ones dotted, with NAME for names of one's own: (key, type, default, meaning)."""
    rows = []
    for name, field in config.model_fields.items():
        name, nested = field.alias or name, nested_config(field.annotation)
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        if nested is not None:
            rows.append(
                (prefix + name, "section", "" if default.startswith(nested.__name__) else default, field.description or "")
            )
            for each in tagged_configs(field.annotation).values() or [nested]:
                rows += describe_config(each, f"{prefix}{name}.")
        elif (named := named_configs(field.annotation)) is not None:
            rows.append((prefix + name, "sections", default, field.description or ""))
            rows += describe_config(named, f"{prefix}{name}.NAME.")
        else:
            bounds = "".join(f" {note}" for note in map(_bound, field.metadata) if note)
            rows.append((prefix + name, _type_name(field.annotation) + bounds, default, field.description or ""))
    return rows


def _bound(metadata: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(f"{sign} {getattr(metadata, key)}" for key, sign in signs.items() if hasattr(metadata, key))


def _type_name(annotation: Any) -> str:
    annotation = _bare(annotation)
    if get_origin(annotation) is not None:
        text = str(annotation).replace("typing.", "")
        return text.removeprefix("Literal").strip("[]").replace(", ", " | ") if text.startswith("Literal") else text
    return getattr(annotation, "__name__", str(annotation))


def _bare(annotation: Any) -> Any:
    """An annotation without what checks its values."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (tuple, list, dict):
        return GenericAlias(get_origin(annotation), tuple(map(_bare, get_args(annotation))))
    return annotation


def _short(value: Any, limit: int = 60) -> str:
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
