"""What the HTTP face takes and gives: requests and replies. All limits stand here.

    parse_request(b'{"inputs": "Win a prize now", "top_k": 1}', PredictRequest)      # Refusal names the wrong field

Field names in errors are dotted paths into the request; `body` is the whole of it.
"""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, ValidationError
from pydantic_core import PydanticCustomError

from serve.answers import Answer
from serve.models import ServedModel
from serve.problems import FieldError, Refusal

MAX_BODY_BYTES = 1 << 20
MAX_TEXTS = 256
MAX_CHARACTERS = 20_000
DEFAULT_TOP_K = 5


R = TypeVar("R", bound="TextsRequest")


def _has_content(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "The text is empty or only whitespace")
    return text


def _shape(value: Any) -> str | None:
    """Which of the two forms a value was meant to be, so that its errors are those of one form only."""
    return "text" if isinstance(value, str) else "texts" if isinstance(value, list) else None


Text = Annotated[str, StringConstraints(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_has_content)]
Inputs = Annotated[
    # One wrong text ends the check: a body of 1 MiB can hold half a million wrong ones.
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True), Tag("texts")],
    Discriminator(_shape, custom_error_type="not_text", custom_error_message="Give a string or a list of strings"),
]


class TextsRequest(BaseModel):
    """Texts for a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    inputs: Inputs
    """A text, or a list of 1 to 256 texts; each of 1 to 20,000 characters, not all whitespace."""
    model: str | None = None
    """One of the names in GET /v1/models; the default model when not given."""

    @property
    def texts(self) -> list[str]:
        """The inputs as a list."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs


class PredictRequest(TextsRequest):
    """Texts to classify."""

    top_k: Annotated[int, Field(strict=True, ge=1)] = DEFAULT_TOP_K
    """How many labels to list for each text, the most probable first; all when the model has fewer."""


class Reply(BaseModel):
    """The model that answered and one answer a text, in the texts' order."""

    model: ServedModel
    answers: Sequence[Answer]


class Embedded(BaseModel):
    """The model that answered and one vector a text, in the texts' order."""

    model: ServedModel
    embeddings: list[list[float]]


class ListedModel(ServedModel):
    """What a model can do."""

    default: bool
    """Whether it answers requests that name no model."""
    labels: Sequence[str]
    embeddings: bool
    """Whether POST /v1/embeddings takes it."""


class Listing(BaseModel):
    """The models of this application."""

    models: list[ListedModel]


class Health(BaseModel):
    """The model is loaded and answers."""

    status: str
    model: ServedModel


def parse_request(body: bytes, kind: type[R]) -> R:
    """A request's body, checked. Refusal: 400 where it is not JSON, 422 where its content does not fit."""
    try:
        return kind.model_validate_json(body)
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


def _field(location: tuple[int | str, ...]) -> str:
    """A dotted path such as inputs.3, without the name of the form that was taken for it."""
    parts = [str(part) for place, part in enumerate(location) if not (place == 1 and part in ("text", "texts"))]
    return ".".join(parts) or "body"
