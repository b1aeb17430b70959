"""Ctrl-C in the demo: its jobs are stopped, its cluster ends, nothing is half-published."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from cluster.connection.guard import MARK
from tests.story.running import ROOT
from tests.story.tiny_world import recipe, write_recipe, write_world


def embedded_clusters() -> set[str]:
    """The directories of the embedded clusters that have a process on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get(MARK, ""))
        except psutil.Error:
            continue  # another user's, or gone while it was looked at
    return found - {""}


def test_ctrl_c_ends_the_demo_and_all_that_it_started(tmp_path: Path) -> None:
    file = write_recipe(tmp_path / "tiny.yaml", recipe(write_world(tmp_path)))
    before = embedded_clusters()
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    demo = subprocess.Popen(
        [sys.executable, "-m", "jobs.demo", file, "--storage", str(tmp_path / "runs"), "--exit"],
        cwd=ROOT,
        env=alone | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "corpus" in line and "running" in line:
            break
    started = embedded_clusters() - before
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert "stopping" in said
    assert len(started) == 1
    assert not started & embedded_clusters(), "the cluster is gone"
    assert not list((tmp_path / "runs").glob("tiny/*/manifest.json"))
