"""What people say is right: of which request, what it was answered with, and how good the answers of each version are by it.

    book = FeedbackBook(settings)                        # of an application; what lies at settings.place is taken over
    await book.note(questions)                           # what was asked, from all replicas
    asked = await book.find("order-17")                  # None where nothing was asked under this id, or it is forgotten
    await book.keep(Said(asked.id, 0, asked.model, row, 1.0))
    (await book.scores())[0].right                       # 0.93, of the newest 1,000 answers of a version

Of an item of a request the last word counts, once: its row takes the place of the one before. Rows are on the disk before
anybody is told that they are kept.
"""

import asyncio
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import BaseModel

from cluster.store import storage
from serve.models.model import ServedModel
from serve.settings import FeedbackSettings
from serve.watch.line_parts import LineParts, LinePlace, write_all

ROWS, ASKED = "rows", "asked"
ABOUT = "feedback"
"""The column of a row that says where it is from; all others are for `prepare`."""
SCORED = 1000
"""Of a version, the newest answers that somebody has said something of."""
FILES_READ = 20
"""The newest files of rows that count when a service begins."""
LOOKED_UP_SECONDS = 1.0
"""What another process has written is looked for so often at most."""


class Question(BaseModel):
    """A request that was answered."""

    id: str
    time: float
    """Seconds since 1970."""
    key: str | None
    """The name of the API key that it came with."""
    asked: str
    """The name of the model that was asked."""
    model: ServedModel
    """The one that answered."""
    inputs: list[dict[str, str]]
    """The texts of each item by name, as the model read them."""
    answers: list[Any]
    """What was answered, as it goes out by default."""


class Said(BaseModel):
    """What somebody says is right of one item of a request."""

    id: str
    index: int
    model: ServedModel
    """Whose answer it was."""
    row: dict[str, Any]
    """The item's texts and the target, as `prepare` takes them."""
    answer: Any
    goodness: float
    """Of the answer, in [0, 1]."""


class Score(BaseModel):
    """How good the newest answers of a version are, by what people said of them."""

    model: ServedModel
    feedbacks: int
    """Answers that somebody has said something of, the newest 1,000 at most."""
    right: float
    """The mean of how good they are; where an answer is right or wrong, the share of those that are right."""
    low: float
    high: float
    """The interval of 95 % around it (Wilson 1927); where answers are partly right it is wider than it need be."""


class Feedback(Protocol):
    """What keeps the questions of an application and what is said of them, in this process or in another."""

    @property
    def settings(self) -> FeedbackSettings:
        """What is kept, and how long."""

    async def find(self, request_id: str) -> Question | None:
        """What was asked under an id."""

    async def keep(self, said: Said) -> bool:
        """Keep what somebody says, in the place of what was said before; whether there was something."""

    async def scores(self) -> list[Score]:
        """Of each version that something was said of, the newest words first."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What is remembered of what was said."""

    place: LinePlace
    model: tuple[str, str, str]
    goodness: float


class FeedbackBook:
    """The questions of an application and what was said of them. One process writes it; more than one may for a while, as when
    a service is replaced by the next."""

    def __init__(self, settings: FeedbackSettings) -> None:
        self.settings = settings
        self._rows = LineParts(storage.join(settings.place, ROWS))
        self._asked = LineParts(storage.join(settings.place, ASKED))
        self._questions: dict[str, tuple[Question, str]] = {}
        """By id, the oldest first, with the name of the file that each stands in."""
        self._words: dict[tuple[str, int], _Word] = {}
        """By request and item, the newest last."""
        self._texts = 0
        self._writing = asyncio.Lock()
        self._looked_up = 0.0
        storage.check_writable(settings.place)
        self._take_over(self._read_new())

    async def note(self, questions: Iterable[Question]) -> None:
        """Keep what was asked, and forget what is too old or too much."""
        self._forget({self._enter(one, self._asked.add(one.model_dump_json()).name) for one in questions})

    async def find(self, request_id: str) -> Question | None:
        """What was asked under an id; files of other processes are looked through before it is None."""
        self._forget()
        if request_id not in self._questions and time.monotonic() - self._looked_up > LOOKED_UP_SECONDS:
            self._looked_up = time.monotonic()
            self._take_over(await asyncio.to_thread(self._read_new))
        found = self._questions.get(request_id)
        return None if found is None else found[0]

    async def keep(self, said: Said) -> bool:
        """As Feedback.keep; StorageError where it cannot be written."""
        key, line = (said.id, said.index), _line(said)
        before = self._words.get(key)
        if before is None:
            place = self._rows.add(line)
        else:
            place = before.place
            async with self._writing:
                await asyncio.to_thread(self._rows.replace, place, line)
            self._words.pop(key, None)
        self._words[key] = _Word(place, _version(said.model), said.goodness)
        await self._write(self._rows)
        return before is not None

    async def scores(self) -> list[Score]:
        """As Feedback.scores."""
        newest: dict[tuple[str, str, str], list[float]] = {}
        for word in reversed(self._words.values()):
            own = newest.setdefault(word.model, [])
            if len(own) < SCORED:
                own.append(word.goodness)
        return [_score(model, goodness) for model, goodness in newest.items()]

    async def flush(self) -> None:
        """Write what was asked since the last time."""
        await self._write(self._asked)

    def close(self) -> None:
        """The same, for the last time."""
        write_all([*self._asked.changed(), *self._rows.changed()])

    async def _write(self, parts: LineParts) -> None:
        """What others have added while somebody wrote is written with the next."""
        async with self._writing:
            changes = parts.changed()
            try:
                await asyncio.to_thread(write_all, changes)
            except BaseException:
                parts.unwritten(changes)
                raise

    def _read_new(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The lines of files that are there and were not read yet: of what was asked, and of the newest rows."""
        asked = {name: self._asked.read(name) for name in self._asked.take()}
        return asked, {name: self._rows.read(name) for name in self._rows.take()[-FILES_READ:]}

    def _take_over(self, found: tuple[dict[str, list[str]], dict[str, list[str]]]) -> None:
        asked, rows = found
        for name, lines in asked.items():
            for line in lines:
                self._enter(Question.model_validate_json(line), name)
        self._questions = dict(sorted(self._questions.items(), key=lambda one: one[1][0].time))
        self._forget(set(asked))
        for name, lines in rows.items():
            for number, line in enumerate(lines):
                about = json.loads(line)[ABOUT]
                word = _Word(LinePlace(name, number), _version(ServedModel(**about["model"])), about["goodness"])
                self._words[about["request_id"], about["index"]] = word

    def _enter(self, question: Question, name: str) -> str:
        """Remember a question; the name of the file in which the one before under its id stands."""
        before = self._leave(question.id)
        self._questions[question.id] = question, name
        self._texts += len(question.inputs)
        return before

    def _leave(self, request_id: str) -> str:
        """Forget a question, if it is there; the name of its file."""
        question, name = self._questions.pop(request_id, (None, ""))
        self._texts -= 0 if question is None else len(question.inputs)
        return name

    def _forget(self, emptied: Iterable[str] = ()) -> None:
        """What is too old or too much goes, and with it the files in which nothing else is."""
        oldest, gone = time.time() - 3600 * self.settings.hours, set(emptied)
        while self._questions:
            request_id, (question, _) = next(iter(self._questions.items()))
            if question.time >= oldest and self._texts <= self.settings.texts:
                break
            gone.add(self._leave(request_id))
        if gone - {""}:
            for name in gone - {"", *(name for _, name in self._questions.values())}:
                self._asked.forget(name)
        for key in list(self._words)[: max(0, len(self._words) - max(self.settings.texts, 2 * SCORED))]:
            if key[0] not in self._questions:
                del self._words[key]


def wilson(share: float, count: int) -> tuple[float, float]:
    """The interval of 95 % around a share of so many (Wilson 1927)."""
    z = 1.959964
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def _score(model: tuple[str, str, str], goodness: Sequence[float]) -> Score:
    name, fingerprint, variant = model
    right = sum(goodness) / len(goodness)
    low, high = wilson(right, len(goodness))
    served = ServedModel(name=name, fingerprint=fingerprint, variant=variant)
    return Score(model=served, feedbacks=len(goodness), right=right, low=low, high=high)


def _version(model: ServedModel) -> tuple[str, str, str]:
    return model.name, model.fingerprint, model.variant


def _line(said: Said) -> str:
    """A row for `prepare`, with where it is from."""
    about = {
        "request_id": said.id,
        "index": said.index,
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "model": said.model.model_dump(),
        "answer": said.answer,
        "goodness": said.goodness,
    }
    return json.dumps({**said.row, ABOUT: about}, ensure_ascii=False)
