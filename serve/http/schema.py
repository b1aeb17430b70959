"""Requests and replies over HTTP: what the application takes and gives, as a task has it. Limits stand in serve/settings.py.

    form = predict_form(task)
    wanted = parse_request(b'{"inputs": "Win a prize now", "top_k": 1}', form)      # Refusal names the wrong field
    wanted.items                                                                    # [Item(("Win a prize now",))]
    reply_form(task)(model=served, answers=task.answers(outputs, wanted.items, wanted))

A request is made of a task's fields and of its `Options` (or `Target`), whose type it has too. Of one field the inputs are a
text or a list of texts, of several an object or a list of objects. Field names in errors are dotted paths into the request;
`body` is the whole of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from serve.models.model import ServedModel
from serve.models.problems import FieldError, Refusal
from serve.settings import MAX_BODY_BYTES, MAX_CHARACTERS, MAX_TEXTS
from serve.tasks.protocol import Item, NoOptions, Task

# Tags of the two forms of inputs. No field has such a name, so that they can be left out of the paths in errors.
ONE_ITEM, MANY_ITEMS = "(one)", "(many)"
LIMITS = f"1 to {MAX_CHARACTERS:,} characters, not all whitespace."

R = TypeVar("R", bound=BaseModel)


def _has_content(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "The text is empty or only whitespace")
    return text


Text = Annotated[str, StringConstraints(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_has_content)]


class TextsRequest(BaseModel):
    """Texts for a model; the forms of tasks derive from it, and say what `inputs` are."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    inputs: Any
    model: str | None = None
    """One of the names in GET /v1/models; the default model when not given."""
    changing: ClassVar[tuple[str, ...]] = ()
    """Options that change what the model computes; those of a task say so."""

    @property
    def items(self) -> list[Item]:
        """The inputs as items."""
        changing = json.dumps({name: getattr(self, name) for name in self.changing}) if self.changing else ""
        return [_item(given, changing) for given in (self.inputs if isinstance(self.inputs, list) else [self.inputs])]


class Embedded(BaseModel):
    """The model that answered and one vector an item, in the items' order."""

    model: ServedModel
    embeddings: list[list[float]]


class ListedModel(ServedModel):
    """What a model can do."""

    default: bool
    """Whether it answers requests that name no model."""
    labels: Sequence[str]
    """What it may answer, where its answers are labels."""
    embeddings: bool
    """Whether POST /v1/embeddings takes it."""
    kind: str
    """The kind of its task."""
    fields: Sequence[str]
    """The texts of an item, by name; of a single one `inputs` is the text itself."""
    view: str
    """How an answer is best shown."""
    views: Mapping[str, str]
    """How each of several answers is, by name; empty where there is one."""
    explains: bool
    """Whether POST /v1/explain takes it."""
    feedback: bool
    """Whether POST /v1/feedback takes what people say is right."""
    choices: Sequence[str]
    """What they may name as right; empty where it is no choice."""


class FeedbackRequest(BaseModel):
    """What a person says is the right answer to an item of an earlier request."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    request_id: Annotated[str, Field(strict=True, min_length=1)]
    """The X-Request-Id of the reply."""
    index: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Which of the inputs is meant, from 0; may be left out where there was one."""
    right: Any
    """The right answer, in the words of the model's task: a label, a list of labels, a number. The last one counts."""


class FeedbackReply(BaseModel):
    """What was answered, and how good that was."""

    model: ServedModel
    """The model that had answered."""
    answer: Any
    """Its answer."""
    right: dict[str, Any]
    """What is kept as right."""
    goodness: float
    """Of the answer, in [0, 1]."""
    replaced: bool
    """Whether something else was said of it before, which no longer counts."""


class Listing(BaseModel):
    """The models of this application."""

    models: list[ListedModel]


class Health(BaseModel):
    """The model is loaded and answers."""

    status: str
    model: ServedModel


class Readiness(Health):
    """It is loaded and warm; and where it answers on another kind of processor than it was judged on, what that means."""

    judged_on: str | None = None
    warning: str | None = None


def predict_form(task: Task) -> type[TextsRequest]:
    """The requests of a task for answers; tasks that take the same have the same one."""
    return _form("PredictRequest", "Texts to answer for.", task.fields, task.Options)


def embeddings_form(task: Task) -> type[TextsRequest]:
    """Its requests for vectors."""
    return _form("TextsRequest", "Texts for a model.", task.fields, NoOptions)


def explain_form(task: Task) -> type[TextsRequest]:
    """Its requests to explain an answer: of a single item."""
    return _form(
        "ExplainRequest", "A text, or several together, to explain the answer of.", task.fields, task.Target, single=True
    )


def reply_form(task: Task) -> type[BaseModel]:
    """The model that answered and one answer an item, in the items' order."""
    return _reply(task.Answer)


def explanation_form(task: Task) -> type[BaseModel]:
    """The model that explains its own answer, what it says of the whole of it, and of each of the words."""
    assert task.Whole is not None, "the caller has looked"
    evidence: Any = task.Evidence
    return _explanation(task.Whole, evidence, len(task.fields) > 1)


def parse_request(body: bytes, form: type[R]) -> R:
    """A request's body, checked. Refusal: 400 where it is not JSON, 422 where its content does not fit."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [FieldError(field=_field(detail["loc"]), message=detail["msg"]) for detail in details]
    if details[0]["type"] == "json_invalid":
        raise Refusal(400, "The body is not JSON", errors)
    raise Refusal(422, "The request does not fit", errors)


def too_large() -> Refusal:
    """The refusal of a body over the limit."""
    message = f"Larger than {MAX_BODY_BYTES} bytes; send fewer or shorter texts in one request"
    return Refusal(413, "The body is too large", [FieldError(field="body", message=message)])


@cache
def _form(
    name: str, about: str, fields: tuple[str, ...], options: type[BaseModel], single: bool = False
) -> type[TextsRequest]:
    inputs, told = _text_inputs(single) if len(fields) == 1 else _object_inputs(fields, single)
    # Fields come from the last base on: first the inputs, then the options.
    bases: Any = (options, TextsRequest)
    made = create_model(name, __base__=bases, __doc__=about, inputs=(inputs, Field(description=told)))
    return cast(type[TextsRequest], made)


def _text_inputs(single: bool) -> tuple[Any, str]:
    """The type of inputs of one field, and what they are."""
    if single:
        return Text, f"A text of {LIMITS}"
    either = _one_or_many(Text, str, "Give a string or a list of strings")
    return either, f"A text, or a list of 1 to {MAX_TEXTS} texts; each of {LIMITS}"


def _object_inputs(fields: tuple[str, ...], single: bool) -> tuple[Any, str]:
    """The same of several fields."""
    texts: dict[str, Any] = dict.fromkeys(fields, (Text, ...))
    one = create_model("Item", __config__=TextsRequest.model_config, **texts)
    names = f"{', '.join(fields[:-1])} and {fields[-1]}"
    if single:
        return one, f"An object with {names}; each a text of {LIMITS}"
    either = _one_or_many(one, dict, f"Give an object with {names}, or a list of such objects")
    return either, f"An object with {names}, or a list of 1 to {MAX_TEXTS} such objects; each a text of {LIMITS}"


def _one_or_many(one: Any, kind: type, otherwise: str) -> Any:
    """One, or a list of them. It is told which was meant, so that errors are those of one form only."""

    def shape(value: Any) -> str | None:
        return ONE_ITEM if isinstance(value, kind) else MANY_ITEMS if isinstance(value, list) else None

    # One that is wrong ends the check: a body of 1 MiB can hold half a million wrong ones.
    many = Annotated[list[one], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True), Tag(MANY_ITEMS)]
    which = Discriminator(shape, custom_error_type="not_inputs", custom_error_message=otherwise)
    return Annotated[Annotated[one, Tag(ONE_ITEM)] | many, which]


def _item(given: Any, options: str) -> Item:
    if isinstance(given, str):
        return Item((given,), options)
    return Item(tuple(getattr(given, name) for name in type(given).model_fields), options)


@cache
def _reply(answer: type) -> type[BaseModel]:
    about = "The model that answered and one answer an item, in the items' order."
    return create_model("Reply", __doc__=about, model=(ServedModel, ...), answers=(Sequence[answer], ...))  # type: ignore[valid-type]


@cache
def _explanation(whole: Any, evidence: Any, several: bool) -> type[BaseModel]:
    place: dict[str, Any] = {"field": (str, ...)} if several else {}
    place |= {"start": (int, ...), "end": (int, ...), "text": (str, ...)}
    # Where it stands is text[start:end], in characters (code points).
    about = "A word, or a run of them in a long text, and what it does for the answer."
    word = create_model("Word", __doc__=about, **place, **_members(evidence))
    about = "The model that explains its own answer, what of it is explained, and each word's part in it."
    members = {"model": (ServedModel, ...), **_members(whole), "words": (Sequence[word], ...)}
    return create_model("Explanation", __doc__=about, **members)


def _members(kind: type) -> dict[str, Any]:
    """A dataclass's fields, as those of a model."""
    types = get_type_hints(kind)
    return {one.name: (types[one.name], ...) for one in fields(kind)}


def _field(location: tuple[int | str, ...]) -> str:
    """A dotted path such as inputs.3.pair, without the name of the form that was taken for it."""
    return ".".join(str(part) for part in location if part not in (ONE_ITEM, MANY_ITEMS)) or "body"
