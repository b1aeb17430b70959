"""Ray's client of the jobs API, which gives up on a server that is silent."""

import logging
from typing import Any

import requests
from ray.job_submission import JobSubmissionClient

ANSWER_SECONDS = 60.0
# It tells of each log that has come to its end.
logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)


class Jobs(JobSubmissionClient):
    """A client whose questions are answered within ANSWER_SECONDS or raise requests.Timeout; Ray's waits for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        # Of Ray's private parts: see cluster/ray_private.py. An upload takes as long as it takes.
        if options.get("data") is None:
            options.setdefault("timeout", ANSWER_SECONDS)
        return super()._do_request(method, endpoint, **options)
