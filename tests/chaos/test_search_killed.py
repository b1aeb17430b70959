"""The driver of a search is killed, or stopped, in the middle: the same command goes on, and repeats nothing that was done."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.connection.connect import Cluster, attach_or_start
from cluster.store.artifact import Artifact, find_artifact
from cluster.store.storage import join, list_directories, list_files
from cluster.submit import follow, result, stop, submit
from tests.chaos.faults import ROUNDS, kill, note, nothing_is_left, wait
from tests.chaos.second_node import Node, occupy_head, second_node
from tests.jobs.hill import climb, gain, marks
from tests.story.running import ROOT

RATE = "optimizer.learning_rate"
PROMPTLY = {"TUNE_GLOBAL_CHECKPOINT_S": "0"}
"""A snapshot at each turn of Tune's loop: with the usual one a second, what the last second brought may be done again."""


def start(cluster: Cluster, storage: str, asked: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    command = ["python", "-m", "tests.jobs.hill", storage, json.dumps(asked)]
    return submit(cluster.jobs(), command, working_dir=str(ROOT), environment=environment)


def run(cluster: Cluster, storage: str, asked: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    """Run to the end; returns what it said."""
    job = start(cluster, storage, asked, environment)
    said = "\n".join(follow(cluster.jobs(), job))
    assert result(cluster.jobs(), job).exit_code == 0, said
    return said


def found(storage: str) -> Artifact:
    names = [name for name in list_directories(join(storage, "hill")) if name.startswith("walk-")]
    artifact = find_artifact(join(storage, "hill", *names))
    assert artifact is not None
    return artifact


def finished(storage: str) -> set[str]:
    """The trials that have left their outcome."""
    paths = [stat.path.split("/") for stat in list_files(join(storage, ".scratch"))]
    return {parts[-2] for parts in paths if parts[-1] == "outcome.json"}


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The table without what cannot be the same twice, in the order in which the trials began."""
    made: list[dict[str, Any]] = artifact.manifest.details["trials"]
    return [{key: value for key, value in row.items() if key not in ("name", "seconds")} for row in made]


TPE_IN_A_ROW: dict[str, Any] = {"trials": 6, "max_concurrent": 1, "reduction_factor": 2}
"""TPE and asha one trial at a time, so that the whole search is a function of its seed."""


@pytest.fixture(scope="module")
def calm(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The search that nothing happens to."""
    ray.init(ray_cluster.address, log_to_driver=False)
    try:
        return climb(str(tmp_path_factory.mktemp("calm")), TPE_IN_A_ROW, evaluations=4)
    finally:
        ray.shutdown()


def lose_nothing(storage: str) -> None:
    """Tune had written what it knew."""


def lose_snapshot(storage: str) -> None:
    """The kill came before Tune had written anything."""
    places = list(Path(storage, ".scratch").glob("*/*/tune-*"))
    assert places
    for place in places:
        shutil.rmtree(place)


def cut_snapshot(storage: str) -> None:
    """The kill came while Tune was writing."""
    files = [file for place in Path(storage, ".scratch").glob("*/*/tune-*") for file in place.glob("search*")]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


LONG = pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it")


@pytest.mark.parametrize("lose", [lose_nothing, pytest.param(lose_snapshot, marks=LONG), cut_snapshot])
def test_a_killed_search_goes_on_as_if_nothing_had_been(
    ray_driver: Cluster, tmp_path: Path, calm: Artifact, lose: Callable[[str], None]
) -> None:
    settings = TPE_IN_A_ROW
    (tmp_path / "marks").mkdir()
    storage, asked = str(tmp_path / "runs"), {"evaluations": 4, "pause": 0.5, "marks": str(tmp_path / "marks")}
    job = start(ray_driver, storage, {"tune": settings, "config": asked}, PROMPTLY)
    wait(lambda: len(marks(tmp_path / "marks")) >= 4)
    time.sleep(0.3)
    before, done = marks(tmp_path / "marks"), finished(storage)
    kill(ray_driver, "tests.jobs.hill")
    wait(lambda: not any(psutil.pid_exists(mark["pid"]) for mark in before), 20)  # no trial outlives its search
    assert result(ray_driver.jobs(), job).exit_code != 0
    assert done, "the kill came too early"
    lose(storage)

    said = run(ray_driver, storage, {"tune": settings, "config": asked}, PROMPTLY)
    assert "going on with the search that was stopped" in said
    after = marks(tmp_path / "marks")[len(before) :]
    assert after[0]["trial"] == before[-1]["trial"], "the trial that was under way is run again"
    ended = {mark["trial"] for mark in before[:-1]}
    assert done <= ended and not ended & {mark["trial"] for mark in after}, "finished and stopped ones are not"
    assert len(before) + len(after) == settings["trials"] + 1
    assert rows(found(storage)) == rows(calm), "TPE and asha went on with what they knew"
    assert {"finished", "stopped"} == {row["status"] for row in rows(calm)}
    assert all(row["seconds"] > 0 for row in found(storage).manifest.details["trials"])


def once(marks: list[dict[str, Any]], lost: set[str]) -> bool:
    """Whether every trial began once, and those that were lost twice."""
    times = Counter(mark["trial"] for mark in marks)
    return all(number == 1 + (trial in lost) for trial, number in times.items()) and lost <= times.keys()


def test_a_trials_process(ray_driver: Cluster, tmp_path: Path) -> None:
    """The trial is run again, the others are not."""
    place = tmp_path / "marks"
    lost: list[str] = []
    place.mkdir()

    def strike() -> None:
        wait(lambda: len(marks(place)) >= 3)  # Two may begin at once.
        lost.append(marks(place)[-1]["trial"])
        os.kill(marks(place)[-1]["pid"], signal.SIGKILL)
        struck = time.monotonic()
        wait(lambda: [mark["trial"] for mark in marks(place)].count(lost[0]) == 2)
        note("a trial's process", "Ray Tune runs the trial again, and no other", time.monotonic() - struck)

    threading.Thread(target=strike, daemon=True).start()
    settings = {"trials": 4, "scheduler": "none", "max_concurrent": 2}
    artifact = climb(str(tmp_path / "runs"), settings, pause=0.5, marks=str(place))
    assert lost and once(marks(place), set(lost)), marks(place)
    assert [row["status"] for row in artifact.manifest.details["trials"]] == ["finished"] * 4
    artifact.verify()
    nothing_is_left(ray_driver, str(tmp_path))


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended may wait to be collected by its parent."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def node(ray_cluster: Cluster) -> Iterator[Node]:
    """A second node of one CPU; this process is connected to the cluster."""
    with second_node(ray_cluster, cpus=1) as node:
        ray.init(ray_cluster.address, log_to_driver=False)
        yield node
        ray.shutdown()


@LONG
def test_a_raylet(node: Node, ray_cluster: Cluster, tmp_path: Path) -> None:
    """Its node's trial is run again on the node that is left; the process that it was run in ends by itself."""
    place, storage = tmp_path / "marks", str(tmp_path / "runs")
    place.mkdir()
    given = {"pause": 1.0, "evaluations": 8, "marks": str(place)}
    occupant = occupy_head(1)
    job = start(ray_cluster, storage, {"tune": {"trials": 2, "scheduler": "none"}, "config": given})
    wait(lambda: len(marks(place)) == 2)
    (lost,) = [mark for mark in marks(place) if node.runs(mark["pid"])]
    node.kill_raylet()
    struck = time.monotonic()
    ray.kill(occupant)
    wait(lambda: not lives(lost["pid"]))
    note("a raylet", "what it had started ends by itself", time.monotonic() - struck)
    wait(lambda: len(marks(place)) == 3)
    note("the same", "Ray Tune runs its node's trial again elsewhere, and no other", time.monotonic() - struck)
    assert result(ray_cluster.jobs(), job).exit_code == 0, ray_cluster.jobs().get_job_logs(job)
    assert once(marks(place), {lost["trial"]}), marks(place)
    assert [row["status"] for row in found(storage).manifest.details["trials"]] == ["finished"] * 2
    found(storage).verify()
    nothing_is_left(ray_cluster, storage)


def kill_beside(cluster: Cluster, storage: str, asked: dict[str, Any], until: Callable[[], Any]) -> None:
    """A driver that is no job (that takes seconds less), killed once it is so far."""
    command = [sys.executable, "-m", "tests.jobs.hill", storage, json.dumps(asked)]
    driver = subprocess.Popen(command, cwd=ROOT, env=os.environ | cluster.environment | PROMPTLY, stderr=subprocess.DEVNULL)
    try:
        wait(until)
    finally:
        driver.kill()
    assert driver.wait(20) != 0


@pytest.fixture
def s3_cluster(s3_uri: str) -> Iterator[Cluster]:
    """A cluster of its own: its nodes have the bucket's address and keys in their environment, as a user's have."""
    assert s3_uri
    with attach_or_start("local", cpus=2) as cluster:
        yield cluster


def test_a_stopped_search_in_an_object_store_goes_on(s3_cluster: Cluster, s3_uri: str, tmp_path: Path) -> None:
    """`ray job stop` sends SIGTERM."""
    (tmp_path / "marks").mkdir()
    given = {"pause": 0.3, "marks": str(tmp_path / "marks")}
    asked = {"tune": {"trials": 4, "scheduler": "none"}, "config": given}
    job = start(s3_cluster, s3_uri, asked)
    wait(lambda: len(finished(s3_uri)) >= 2)
    stop(s3_cluster.jobs(), job)
    done, before = finished(s3_uri), marks(tmp_path / "marks")
    said = run(s3_cluster, s3_uri, asked)
    assert "going on with the search that was stopped" in said
    assert not done & {mark["trial"] for mark in marks(tmp_path / "marks")[len(before) :]}
    trials = found(s3_uri).manifest.details["trials"]
    assert done <= {row["name"] for row in trials} and len(trials) == 4
    assert {(row["status"], row["reports"]) for row in trials} == {("finished", 3)}
    for row in trials:
        assert row["score"] == pytest.approx(3 * gain(row["values"][RATE])) and row["seconds"] >= 0.9
    found(s3_uri).verify()


@pytest.mark.parametrize("lose", [pytest.param(lose_nothing, marks=LONG), lose_snapshot])
def test_a_killed_population_goes_on_from_its_states(ray_driver: Cluster, tmp_path: Path, lose: Callable[[str], None]) -> None:
    """Four trials on two CPUs."""
    (tmp_path / "marks").mkdir()
    given: dict[str, Any] = {"evaluations": 5, "pause": 0.3, "marks": str(tmp_path / "marks")}
    asked: dict[str, Any] = {"tune": {"trials": 4, "scheduler": "pbt", "resample_probability": 0.0}, "config": given}
    storage = str(tmp_path / "runs")
    kill_beside(ray_driver, storage, asked, lambda: len(marks(tmp_path / "marks")) >= 9)
    lose(storage)
    before = marks(tmp_path / "marks")
    artifact = climb(storage, asked["tune"], **given)
    assert len({mark["trial"] for mark in before}) == 4 == len({mark["trial"] for mark in marks(tmp_path / "marks")})
    first = {mark["trial"]: mark["rate"] for mark in reversed(before)}
    trials = artifact.manifest.details["trials"]
    assert [row["status"] for row in trials] == ["finished"] * 4
    for row in trials:
        assert row["schedule"][0]["values"][RATE] == first[row["schedule"][0]["trial"]]
        assert [stretch["from"] for stretch in row["schedule"]] == [0, *(stretch["until"] for stretch in row["schedule"][:-1])]
        height = 0.0
        for stretch in row["schedule"]:
            height += (stretch["until"] - stretch["from"]) * gain(stretch["values"][RATE])
            assert stretch["score"] == pytest.approx(height), "no step was left out or taken twice"
        assert row["schedule"][-1]["until"] == 5
    assert not Path(storage, ".scratch", "hill").exists() or not list(Path(storage, ".scratch", "hill").iterdir())


@pytest.mark.parametrize("lose", [pytest.param(lose_nothing, marks=LONG), lose_snapshot])
def test_a_killed_halving_goes_on_from_its_states(ray_driver: Cluster, tmp_path: Path, lose: Callable[[str], None]) -> None:
    """Four trials on two CPUs, killed when all have been at the first rung and one goes on. Then their steps are faster, which
    makes no other search of it."""
    (tmp_path / "marks").mkdir()
    given: dict[str, Any] = {"evaluations": 6, "pause": 0.3, "marks": str(tmp_path / "marks")}
    asked: dict[str, Any] = {"tune": {"trials": 4, "scheduler": "halving", "reduction_factor": 2}, "config": given}
    storage = str(tmp_path / "runs")
    kill_beside(ray_driver, storage, asked, lambda: len(marks(tmp_path / "marks")) >= 5)
    lose(storage)
    before = {mark["trial"] for mark in marks(tmp_path / "marks")}
    artifact = climb(storage, asked["tune"], **given | {"pause": 0.1})
    trials = artifact.manifest.details["trials"]
    assert {row["name"] for row in trials} == before and len(trials) == 4, "no trial was drawn anew"
    assert {row["status"] for row in trials} == {"finished", "stopped"}
    for row in trials:
        assert row["score"] == pytest.approx(row["reports"] * gain(row["values"][RATE])), "no step was left out or taken twice"
    best = next(row for row in trials if row["name"] == artifact.manifest.details["best_trial"])
    assert best["reports"] == 6 and gain(best["values"][RATE]) == max(gain(row["values"][RATE]) for row in trials)
