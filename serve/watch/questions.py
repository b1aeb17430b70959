"""What the models of a replica were asked and answered, until it is with what keeps it for people to say what is right.

questions = Questions(models, settings)
questions.note(exchange)                 # once a request is answered; what it costs is done later
await keep(questions.take())
"""

import time
from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from threading import Lock

from pydantic import TypeAdapter

from serve.engines.reading import as_read
from serve.models.exchange import Exchange
from serve.models.model import Models
from serve.settings import FeedbackSettings
from serve.watch.feedback import Question


class Questions:
    """The newest requests; older ones go where nobody takes them. Any thread may take."""

    def __init__(self, models: Models, settings: FeedbackSettings) -> None:
        self._models = models
        self._forms = {
            name: TypeAdapter(list[model.task.Answer])  # type: ignore[name-defined]
            for name, model in models.by_name.items()
            if model.task.right_example() is not None
        }
        self._noted: deque[tuple[float, Exchange]] = deque(maxlen=settings.texts)
        self._made: deque[Question] = deque(maxlen=settings.texts)
        self._taking = Lock()

    def note(self, exchange: Exchange) -> None:
        """Take in a request, where it was answered and its kind of answer has a right one."""
        if exchange.outcome is not None and exchange.status == HTTPStatus.OK and exchange.model in self._forms:
            self._noted.append((time.time(), exchange))

    def take(self) -> list[Question]:
        """All that came since the last time."""
        with self._taking:
            while self._noted:
                self._made.append(self._question(*self._noted.popleft()))
            taken = list(self._made)
            self._made.clear()
        return taken

    def give_back(self, taken: Sequence[Question]) -> None:
        """These were not kept: they are taken again the next time."""
        with self._taking:
            self._made = deque([*taken, *self._made], self._made.maxlen)

    def _question(self, at: float, exchange: Exchange) -> Question:
        outcome, name = exchange.outcome, exchange.model
        assert outcome is not None and name is not None
        model = self._models.by_name[name]
        task, items = model.task, exchange.items
        answers = task.answers(outcome.outputs, items, task.Options())
        return Question(
            id=exchange.request_id,
            time=at,
            key=exchange.key,
            asked=name,
            model=outcome.model,
            inputs=[task.named(as_read(item, model.cleaning).item) for item in items],
            answers=self._forms[name].dump_python(answers, mode="json"),
        )
