"""Refusals, all of one shape: application/problem+json (RFC 9457) that names the field.

raise Refusal(404, "No such model", [FieldError(field="model", message="there are spam, teacher")])
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from starlette.responses import Response

PROBLEM_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """An error after RFC 9457, with the fields that caused it."""

    title: str
    status: int
    errors: list[FieldError] = []


class Refusal(Exception):
    """A request that is not answered as it is."""

    def __init__(
        self, status: int, title: str, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        self.problem = Problem(title=title, status=status, errors=list(errors))
        self.headers = headers
        # All of it, so that it can be sent from one process to another.
        super().__init__(status, title, errors, headers)

    def __str__(self) -> str:
        return self.problem.title


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as an HTTP response."""
    return Response(problem.model_dump_json(), problem.status, headers, PROBLEM_TYPE)
