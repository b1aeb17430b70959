"""What is known of one request while it is answered: for the access log, the metrics and the limits.

exchange_of(request).note(model, items)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from serve.models.model import Model, ModelOutcome
from serve.tasks.protocol import Item, Task

KEY = "raystill.exchange"


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    request_id: str
    method: str
    path: str
    began: float = field(default_factory=time.perf_counter)
    key: str | None = None
    """The name of the API key that it came with."""
    model: str | None = None
    """The model that it asks."""
    task: Task | None = None
    """That model's."""
    items: Sequence[Item] = ()
    outcome: ModelOutcome | None = None
    """What the model gave, where it was asked for answers."""
    status: int = 0

    def note(self, model: Model, items: Sequence[Item]) -> None:
        """Which model is asked, and what."""
        self.model, self.task, self.items = model.served.name, model.task, items

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began


def exchange_of(request: Request) -> Exchange:
    """The exchange that the gate opened for this request."""
    exchange = request.scope[KEY]
    assert isinstance(exchange, Exchange)
    return exchange
