"""Tracking: each service's own reader finds one run with each step once, also after kill -9; failures are only told."""

import json
import logging
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.store.storage import copy_file, join, list_files
from jobs.core.stage import Context, Resources
from jobs.core.tracking_settings import Mlflow, Tracking, Wandb, tracking_problems
from jobs.training import tracking
from jobs.training.trackers import Mirror, WatchedRun
from jobs.training.tracking import Background, Tracker, Trackers, open_trackers
from tests.jobs.tracked_run import CONFIG, loss, run_in

RUN = "spam/teacher-1a2b3c4d"
ROOT = Path(__file__).resolve().parents[2]


def start(directory: str, settings: Tracking, first: int, last: int, end: str = "") -> "subprocess.Popen[str]":
    """The run as a process, once it has logged its last step."""
    arguments = [directory, settings.model_dump_json(), str(first), str(last), *([end] if end else [])]
    command = [sys.executable, "-m", "tests.jobs.tracked_run", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "logged" in process.stdout.readline()
    return process


def kill_and_resume(directory: str, settings: Tracking) -> None:
    """Steps 1 to 12, a kill -9, then from a checkpoint at step 5 on to step 20."""
    killed = start(directory, settings, 0, 12, "wait")
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    assert start(directory, settings, 5, 20).wait(60) == 0
    assert psutil.wait_procs(children, timeout=10)[1] == [], "a tracker's process outlives the run"


def curves(directory: str, local: Path) -> dict[str, list[Any]]:
    """Every run that TensorBoard itself shows of a logdir, by its name: the points of its loss."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    for stat in list_files(directory):
        copy_file(join(directory, stat.path), str(local / stat.path))
    shown = EventMultiplexer().AddRunsFromDirectory(str(local))
    shown.Reload()
    return {name: shown.Scalars(name, "loss") for name in shown.Runs()}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage in which a run with all trackers was killed and went on."""
    root = tmp_path_factory.mktemp("storage")
    settings = Tracking(mlflow=Mlflow(uri=f"sqlite:///{root}/mlflow.db"), wandb=Wandb(project="p", mode="offline"))
    kill_and_resume(str(root / ".tracking" / RUN), settings)
    return root


def assert_one_run(directory: str, local: Path) -> None:
    """One run, all steps once and in order, those beyond the checkpoint from the second process."""
    shown = curves(directory, local)
    assert list(shown) == [RUN]
    assert [point.step for point in shown[RUN]] == list(range(1, 21))
    assert [point.value for point in shown[RUN]] == pytest.approx([loss(step) for step in range(1, 21)])
    files = [stat.path for stat in list_files(directory) if "tfevents" in stat.path]
    assert len(files) == 2, "one file for each process"


def test_tensorboard_after_a_kill(storage: Path, tmp_path: Path) -> None:
    assert_one_run(str(storage / ".tracking"), tmp_path)


def test_an_object_store_after_a_kill(s3_uri: str, tmp_path: Path) -> None:
    """What was flushed before the kill is in the store."""
    kill_and_resume(join(s3_uri, ".tracking", RUN), Tracking())
    assert_one_run(join(s3_uri, ".tracking"), tmp_path)


def test_tensorboard_from_the_beginning(tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint starts over in the same place."""
    for last in (7, 4):
        with open_trackers(Tracking(), run_in(str(tmp_path / "runs/a"))) as trackers:
            for step in range(1, last + 1):
                trackers.log(step, {"loss": 100 * last + step})
    points = curves(str(tmp_path / "runs"), tmp_path / "shown")["a"]
    assert [(point.step, point.value) for point in points] == [(step, 400 + step) for step in range(1, 5)]


def test_mlflow_after_a_kill(storage: Path, tmp_path: Path) -> None:
    """One MLflow run in a real database: parameters, tags, each step of each metric once, and how it ended."""
    from mlflow.tracking import MlflowClient

    settings = Tracking(tensorboard=False, mlflow=Mlflow(uri=f"sqlite:///{storage}/mlflow.db"))
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("spam")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "teacher-1a2b3c4d"
    assert run.data.params == {"optimizer.name": "adamw", "optimizer.learning_rate": "0.001", "epochs": "3.0"}
    assert run.data.tags["raystill.recipe"] == "spam" and run.data.tags["raystill.step"] == "teacher"
    assert run.data.tags["raystill.artifact"] == "s3://bucket/spam/teacher-1a2b3c4d"
    for key in ("loss", "learning_rate"):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, key)] == list(range(1, 21))

    with pytest.raises(FloatingPointError), open_trackers(settings, run_in(str(tmp_path / "other"))):
        raise FloatingPointError("the loss is nan")
    ended = [other.info.status for other in client.search_runs([experiment.experiment_id])]
    assert sorted(ended) == ["FAILED", "FINISHED"], "another directory is another run"


def test_wandb_after_a_kill(storage: Path) -> None:
    """Offline, two directories of one run's id, which `wandb sync` joins."""
    first, second = sorted((storage / ".tracking" / RUN / "wandb").glob("offline-run-*/run-*.wandb"))
    name = (storage / ".tracking" / RUN / "wandb.id").read_text()
    assert {first.name, second.name} == {f"run-{name}.wandb"}
    (before, _), (after, facts) = wandb_record(first), wandb_record(second)
    # W&B keeps the newest row open for more figures of its step, so the kill costs that one.
    assert before == [(step, pytest.approx(loss(step))) for step in range(1, 12)]
    assert after == [(step, pytest.approx(loss(step))) for step in range(6, 21)]
    assert facts["optimizer"] == CONFIG["optimizer"] and facts["raystill"]["recipe"] == "spam"


def wandb_record(file: Path) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """The history (step, loss) and the config in a file of W&B, in its own messages."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    history: list[tuple[int, float]] = []
    config: dict[str, Any] = {}
    for data in wandb_messages(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if "loss" in row:
            history.append((row["_step"], row["loss"]))
        for source in (record.run.config, record.config):
            config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in source.update}
    return history, config


def wandb_messages(data: bytes, header: int = 7, block: int = 32768) -> Iterator[bytes]:
    """The records of a LevelDB log, which a .wandb file is behind its header; wandb has no public reader of it."""
    assert data.startswith(b":W&B")
    place, message = header, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the only one, or the last
            yield message
            message = b""


def test_wandb_in_this_process_leaves_no_process(storage_uri: str, tmp_path: Path) -> None:
    """And its offline files stand in the storage."""
    with open_trackers(Tracking(tensorboard=False, wandb=Wandb(mode="offline")), run_in(storage_uri)) as trackers:
        trackers.log(1, {"loss": 1.0})
    names = [stat.path for stat in list_files(storage_uri)]
    (name,) = [name for name in names if name.startswith("wandb/offline-run-") and name.endswith(".wandb")]
    copy_file(join(storage_uri, name), str(tmp_path / "copy"))
    assert wandb_record(tmp_path / "copy")[0] == [(1, 1.0)]
    assert not [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]


def test_a_broken_tracker_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is down and a storage that cannot be written: the run goes on, each is told once, by name."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").write_text("not a directory")
    settings = Tracking(mlflow=Mlflow(uri="http://user:secret@127.0.0.1:9"))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, tracking.__name__):
        trackers = open_trackers(settings, run_in(str(tmp_path / "file/run")))
        for step in range(1, 100):
            trackers.log(step, {"loss": 1.0})
        assert time.monotonic() - began < 1, "logging waits for a service"
        trackers.close()
    told = [record.getMessage() for record in caplog.records if record.name == tracking.__name__]
    for name in ("tensorboard", "mlflow"):
        assert len([line for line in told if line.startswith(f"tracking: {name} failed (")]) == 1
        assert len([line for line in told if line.startswith(f"tracking: {name} misses")]) == 1
    assert not [line for line in told if "secret" in line]


def test_a_tracker_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """What failed is tried again."""
    seen: list[int] = []
    up: list[bool] = []

    class Flaky:
        def log(self, step: int, figures: Any) -> None:
            seen.append(step)

        def flush(self) -> None: ...

        def close(self, failed: bool = False) -> None: ...

    def opener() -> Flaky:
        if not up:
            raise ConnectionError("down")
        return Flaky()

    background = Background("flaky", opener, retry_seconds=0.2)
    background.log(1, {})
    while not background.lost:
        time.sleep(0.01)
    up.append(True)
    time.sleep(0.3)
    background.log(2, {})
    Trackers([background]).close()
    assert seen[-1] == 2
    assert "flaky failed (ConnectionError: down)" in caplog.text


def test_a_hanging_tracker_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "TRACKER_FLUSH_SECONDS", 0.2)

    def stuck() -> Tracker:
        time.sleep(3)
        raise AssertionError("nobody waits for this")

    began = time.monotonic()
    with Trackers([Background("stuck", stuck)]) as trackers:
        trackers.log(1, {"loss": 1.0})
        trackers.flush()
    assert time.monotonic() - began < 2
    assert "stuck failed (it did not end within" in caplog.text


def test_mirror_copies_at_most_so_often(s3_uri: str) -> None:
    mirror = Mirror(s3_uri, seconds=0.5)
    (mirror.path / "a").write_text("1")
    mirror.copy()
    assert list_files(s3_uri) == []
    time.sleep(0.6)
    mirror.copy()
    assert [stat.size for stat in list_files(s3_uri)] == [1]
    (mirror.path / "a").write_text("22")
    mirror.close()
    assert [stat.size for stat in list_files(s3_uri)] == [2] and not mirror.path.exists()


def test_run_of_a_context(tmp_path: Path) -> None:
    output = f"{tmp_path}/spam/teacher-1a2b3c4d"
    context = Context(str(tmp_path), "spam", "teacher", output, "x", Resources(), directory=tmp_path)
    run = WatchedRun.of(context, Tracking(), trial="t_0001")
    assert run.directory == f"{tmp_path}/.tracking/spam/teacher-1a2b3c4d/t_0001"
    assert run.name == "teacher-1a2b3c4d/t_0001"
    assert run.parameters()["tensorboard"] is True
    assert run.known_as("mlflow") == run.known_as("mlflow") != run.known_as("wandb")


def test_wrong_settings_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert tracking_problems(Tracking()) == []
    assert [problem.path for problem in tracking_problems(Tracking(mlflow=Mlflow(), wandb=Wandb()))] == [
        "tracking.mlflow.uri",
        "tracking.wandb.mode",
    ]
    for uri in ("mlruns", "file:///tmp/mlruns", "htp://server"):
        assert [problem.value for problem in tracking_problems(Tracking(mlflow=Mlflow(uri=uri)))] == [uri]
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_problems(Tracking(mlflow=Mlflow(), wandb=Wandb())) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Wandb().mode == "offline"


def test_a_missing_extra_is_refused() -> None:
    """As it is where the extras are not installed: a Python that finds neither package."""
    code = """
import sys
sys.modules["mlflow"] = sys.modules["wandb"] = None
import importlib.util as util
real = util.find_spec
util.find_spec = lambda name, *rest: None if name in ("mlflow", "wandb") else real(name, *rest)
from jobs.core.tracking_settings import Mlflow, Tracking, Wandb, tracking_problems
for problem in tracking_problems(Tracking(mlflow=Mlflow(uri="http://mlflow:5000"), wandb=Wandb(mode="offline"))):
    print(problem)
assert "torch" not in sys.modules
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "pip install 'raystill[mlflow]'" in told and "pip install 'raystill[wandb]'" in told
