"""What a job waits for, on a cluster that has none of it."""

import time

import pytest

from cluster.connection.connect import Cluster
from cluster.connection.jobs import Jobs
from cluster.connection.waiting import Waiting, describe, waited_for
from cluster.submit import stop, submit
from tests.cluster.flaky_dashboard import WELL, FlakyDashboard

ASKS = """
import sys, time, ray
from ray.util.placement_group import placement_group
ray.init(log_to_driver=False)

@ray.remote
class Held:
    def there(self): return True

busy = Held.options(num_cpus=1).remote() if "busy" in sys.argv else None
if busy: ray.get(busy.there.remote())
group = placement_group([{"GPU": 1}, {"GPU": 1, "CPU": 0.5}])
actor = Held.options(num_gpus=2, num_cpus=0).remote()
print("asked", flush=True)
time.sleep(60)
"""


def test_what_a_job_waits_for_and_since_when(ray_driver: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ray_driver.jobs()
    job = submit(client, ["python", "-c", ASKS])
    busy = submit(client, ["python", "-c", ASKS, "busy"])
    try:
        deadline = time.monotonic() + 60
        while waited_for(client, job) != {"GPU": 4.0, "CPU": 0.5}:
            assert time.monotonic() < deadline, waited_for(client, job)
            time.sleep(0.3)
        waiting = Waiting(client, job)
        assert waiting.look() is None, "not yet worth a word"
        assert waiting.since is not None
        waiting.since -= 45
        assert waiting.look() == "40 s for 4 GPU, 0.5 CPU (the cluster has 0 GPU, 2 CPU)"
        waiting.since -= 300
        assert (waiting.look() or "").startswith("5 min for 4 GPU")
        with FlakyDashboard(ray_driver.dashboard) as flaky, monkeypatch.context() as there:
            there.setenv("RAY_API_SERVER_ADDRESS", flaky.url)
            waiting.client = Jobs(flaky.url)
            for manner in ("500", "half", "other", WELL):
                flaky.answers(manner)
                assert (waiting.look() or "").startswith("5 min for 4 GPU"), manner
        while "asked" not in client.get_job_logs(busy):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        # An actor's state reaches the dashboard a little after the actor.
        while waited_for(client, busy) != {}:
            assert time.monotonic() < deadline, "some of its work has a place"
            time.sleep(0.3)
        assert describe({"TPU": 1}) == "1 TPU (the cluster has 0 TPU)"
    finally:
        stop(client, job)
        stop(client, busy)
