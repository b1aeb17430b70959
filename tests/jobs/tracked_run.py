"""A run in a process of its own, to be killed: python -m tests.jobs.tracked_run DIRECTORY SETTINGS FROM TO [wait]

It logs the steps FROM + 1 to TO, says so when they are on record, and ends, or waits for the kill.
"""

import json
import sys
import time

from jobs.core.tracking_settings import Tracking
from jobs.training.trackers import WANDB_FLUSH_SECONDS, WatchedRun
from jobs.training.tracking import Trackers, open_trackers

CONFIG = {"optimizer": {"name": "adamw", "learning_rate": 1e-3}, "epochs": 3.0}


def run_in(directory: str) -> WatchedRun:
    return WatchedRun(directory, "teacher-1a2b3c4d", "spam", "teacher", "s3://bucket/spam/teacher-1a2b3c4d", CONFIG)


def loss(step: int) -> float:
    return 1 / step


def train(trackers: Trackers, first: int, last: int, end: str) -> None:
    with trackers:
        for step in range(first + 1, last + 1):
            trackers.log(step, {"loss": loss(step), "learning_rate": 1e-3})
        trackers.flush()
        if end == "wait":
            time.sleep(WANDB_FLUSH_SECONDS + 0.5)
        print("logged", flush=True)
        if end == "wait":
            time.sleep(60)


if __name__ == "__main__":
    directory, settings, first, last, *end = sys.argv[1:]
    tracking = Tracking.model_validate(json.loads(settings))
    train(open_trackers(tracking, run_in(directory), int(first)), int(first), int(last), "".join(end))
