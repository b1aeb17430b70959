"""kill -9 of a training worker in the middle of pretraining: the step ends with the weights of an undisturbed run."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

from cluster.artifact import Artifact
from cluster.connect import Cluster
from jobs.core.execute import locate
from jobs.core.recipe import load_recipe
from tests.story.running import run_job
from tests.story.tiny_world import recipe, write_recipe, write_world

STEPS = 400


def pretrained(file: str, storage: Path) -> Artifact:
    artifact = locate(load_recipe(file), str(storage))["base"].artifact
    assert artifact is not None
    return artifact


def losses(artifact: Artifact) -> dict[int, float]:
    curve: list[dict[str, Any]] = artifact.manifest.details["curve"]
    return {point["step"]: point["loss"] for point in curve if "loss" in point}


def kill_a_worker(cluster: Cluster, storage: Path, killed: list[int]) -> None:
    """Wait for the third checkpoint of the run, then kill -9 one of its two workers."""
    assert cluster._embedded is not None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(list(storage.glob(".scratch/*/*/checkpoints/step-*/state.json"))) >= 2:
            workers = [process for process in cluster._embedded.processes if "RayTrainWorker" in _title(process)]
            if workers:
                os.kill(workers[-1].pid, signal.SIGKILL)
                killed.append(workers[-1].pid)
                return
        time.sleep(0.05)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_a_killed_worker_changes_nothing(ray_cluster: Cluster, tmp_path: Path) -> None:
    base = {
        "max_steps": STEPS,
        "precision": "fp32",
        "checkpoint_steps": 40,
        "keep": "last",
        "evaluations": 2,
        "batch_size": 16,
    }
    base |= {"model": {"layers": 2, "hidden": 64, "heads": 2, "dropout": 0.1}}
    file = write_recipe(tmp_path / "tiny.yaml", recipe(write_world(tmp_path), base=base))
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for storage in (undisturbed, disturbed):
        assert run_job(ray_cluster, "jobs.prepare", file, "--step", "corpus", "--storage", str(storage)).exit_code == 0
    assert run_job(ray_cluster, "jobs.pretrain", file, "--storage", str(undisturbed)).exit_code == 0

    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(ray_cluster, disturbed, killed))
    killer.start()
    ran = run_job(ray_cluster, "jobs.pretrain", file, "--storage", str(disturbed))
    killer.join()

    assert killed, "no worker was killed: the run was over too soon"
    assert ran.exit_code == 0, ran.text
    whole, mended = pretrained(file, undisturbed), pretrained(file, disturbed)
    assert whole.uri.rsplit("/", 1)[-1] == mended.uri.rsplit("/", 1)[-1]
    assert abs(losses(whole)[STEPS] - losses(mended)[STEPS]) <= 1e-6
    assert losses(whole) == losses(mended), "every logged loss, also those after the kill"
    weights, same = (load_file(artifact.file("model.safetensors")) for artifact in (whole, mended))
    for name, weight in weights.items():
        assert (weight == same[name]).all(), name
    mended.verify()
