"""What keeps the questions of an application and what people say of them: one process beside the replicas that answer.

    desk = serve.deployment(**FeedbackDesk.OPTIONS)(FeedbackDesk).bind(settings)
    feedback = RemoteFeedback(handle, settings, questions)         # in each replica

It is one process, so that a word that comes to one replica may be of a request that another one has answered, and counts once.
What it knows is on the disk too: the next one, where this one dies or a new version is deployed, goes on from there.
"""

import asyncio
import logging
from typing import Any, ClassVar

from ray.serve.handle import DeploymentHandle

from cluster.connection.connect import local_storage_problem
from cluster.store.storage import StorageError
from serve.deployment.chores import start_chore
from serve.settings import FeedbackSettings
from serve.watch.feedback import FeedbackBook, Question, Said, Score
from serve.watch.metrics import FeedbackMetrics
from serve.watch.questions import Questions

LOGGER = logging.getLogger("ray.serve")
HANDED_OVER_SECONDS = 1.0
"""How often replicas hand over what they were asked."""
WRITTEN_SECONDS = 5.0
"""How often it is written: a desk that is killed loses what was asked since."""
SHOWN_SECONDS = 10.0


class FeedbackDesk:
    """The only replica of its deployment."""

    OPTIONS: ClassVar[dict[str, Any]] = {
        "name": "feedback",
        "num_replicas": 1,
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": 1024,
    }

    def __init__(self, settings: FeedbackSettings) -> None:
        if problem := local_storage_problem(settings.place):
            raise StorageError(f"feedback.place: {problem}")
        self.book = FeedbackBook(settings)
        self.metrics = FeedbackMetrics()
        self._chores = [
            start_chore("What was asked", WRITTEN_SECONDS, self.book.flush),
            start_chore("The metrics of feedback", SHOWN_SECONDS, self._show),
        ]

    async def note(self, questions: list[Question]) -> None:
        """As FeedbackBook.note."""
        await self.book.note(questions)

    async def find(self, request_id: str) -> Question | None:
        """As Feedback.find."""
        return await self.book.find(request_id)

    async def keep(self, said: Said) -> bool:
        """As Feedback.keep."""
        return await self.book.keep(said)

    async def scores(self) -> list[Score]:
        """As Feedback.scores."""
        return await self.book.scores()

    async def _show(self) -> None:
        self.metrics.show(await self.book.scores())

    def __del__(self) -> None:
        """Serve's call at the end of a replica: what was asked last is not lost."""
        if book := getattr(self, "book", None):
            book.close()


class RemoteFeedback:
    """The desk as a replica sees it."""

    def __init__(self, handle: DeploymentHandle, settings: FeedbackSettings, questions: Questions) -> None:
        self.settings = settings
        self._handle, self._questions = handle, questions

    async def hand_over(self) -> None:
        """Give the desk what was asked since the last time."""
        # Made in a thread: of many long texts it takes a while, and answers go out meanwhile.
        taken = await asyncio.to_thread(self._questions.take)
        if not taken:
            return
        try:
            await self._handle.note.remote(taken)
        except BaseException:
            self._questions.give_back(taken)
            raise

    async def find(self, request_id: str) -> Question | None:
        """As Feedback.find; what another replica was asked a moment ago is waited for."""
        await self.hand_over()
        found: Question | None = await self._handle.find.remote(request_id)
        if found is None:
            await asyncio.sleep(1.5 * HANDED_OVER_SECONDS)
            found = await self._handle.find.remote(request_id)
        return found

    async def keep(self, said: Said) -> bool:
        """As Feedback.keep."""
        return bool(await self._handle.keep.remote(said))

    async def scores(self) -> list[Score]:
        """As Feedback.scores."""
        scores: list[Score] = await self._handle.scores.remote()
        return scores
