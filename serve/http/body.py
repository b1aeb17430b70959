"""A request's body, up to the limit, and what it asks of which model.

reader = Reader(models, predict_form)
wanted, model = await reader.read(request)
"""

import codecs
from collections.abc import Callable

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from serve.http.schema import TextsRequest, parse_request, too_large
from serve.models.model import Model, Models
from serve.models.problems import FieldError, Refusal
from serve.settings import MAX_BODY_BYTES
from serve.tasks.protocol import Task


class Reader:
    """Reads the requests of one route, each as the task of the model that it names takes it."""

    def __init__(self, models: Models, form: Callable[[Task], type[TextsRequest]]) -> None:
        self._models = models
        self._forms = {name: form(model.task) for name, model in models.by_name.items()}
        # Where all models take the same, nothing has to be known before the body is read.
        self._only = self._forms[models.default] if len(set(self._forms.values())) == 1 else None

    async def read(self, request: Request) -> tuple[TextsRequest, Model]:
        """What is asked, and the model that is to answer; Refusal where the request does not fit or no model has the name."""
        body = await read_body(request)
        form = self._only if self._only is not None else self._form(body)
        wanted = parse_request(body, form)
        return wanted, self._models.get(wanted.model)

    def _form(self, body: bytes) -> type[TextsRequest]:
        name = _model_named(body)
        self._models.get(name)
        return self._forms[name or self._models.default]


async def read_body(request: Request) -> bytes:
    """The body, in UTF-8 and without a byte order mark. Refusal: 415 where it is packed, 400 where it is in another encoding,
    413 as soon as it is known to be over the limit: the rest is dropped, never kept or parsed."""
    headers = dict(request.scope["headers"])
    packed = headers.get(b"content-encoding", b"identity")
    if packed.strip().lower() not in (b"identity", b""):
        message = f"It is packed ({packed.decode('latin-1')!r}); send it as it is, without Content-Encoding"
        raise Refusal(415, "The body is packed", [FieldError(field="body", message=message)], {"accept-encoding": "identity"})
    declared = headers.get(b"content-length", b"")
    size = int(declared) if declared.isdigit() else 0
    chunks: list[bytes] = []
    received = 0
    if size <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            received += len(chunk)
            if received > MAX_BODY_BYTES:
                break
            chunks.append(chunk)
    if max(size, received) > MAX_BODY_BYTES:
        raise too_large()
    return _in_utf8(b"".join(chunks))


def _in_utf8(body: bytes) -> bytes:
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"It is not UTF-8: the byte 0x{body[error.start]:02X} at position {error.start} does not belong there"
        raise Refusal(400, "The body is not in UTF-8", [FieldError(field="body", message=message)]) from error
    return body


class _Named(BaseModel):
    """What of a request says whose it is."""

    model: str | None = None


def _model_named(body: bytes) -> str | None:
    """The name of the model that a body asks; None too where it cannot be read, which is told by whoever reads all of it."""
    try:
        return _Named.model_validate_json(body).model
    except ValidationError:
        return None
