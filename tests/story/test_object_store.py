"""Storage in an S3 bucket: Ray Data, Ray Train and Ray Tune all keep what they make there, and nothing locally."""

from pathlib import Path

import ray

from cluster.connection.connect import attach_or_start
from cluster.store import storage
from jobs.core.recipe import load_recipe
from jobs.running.execute import execute
from tests.story.tiny_world import recipe, write_recipe, write_world


def test_steps_over_an_object_store(s3_uri: str, tmp_path: Path) -> None:
    tree = recipe(write_world(tmp_path), base={"checkpoint_steps": 10})
    tree["steps"] = {
        name: tree["steps"][name] for name in ("corpus", "base", "messages", "teacher", "soft", "student", "small")
    }
    tree["steps"]["messages"]["near_duplicates"] = 0.9
    whole = load_recipe(write_recipe(tmp_path / "tiny.yaml", tree))
    # A cluster of its own: its nodes must have the bucket's address and keys in their environment.
    with attach_or_start("local", cpus=2) as cluster:
        ray.init(cluster.address, log_to_driver=False)
        try:
            made = {name: execute(whole, name, s3_uri) for name in whole.steps}
        finally:
            ray.shutdown()
    for artifact in made.values():
        assert artifact.uri.startswith("s3://")
        artifact.verify()
    assert not storage.list_files(storage.join(s3_uri, ".scratch")), "checkpoints and trials go when a step is done"
    assert made["messages"].manifest.metrics["rows_near_duplicate"] >= 0
    assert len(made["student"].manifest.details["trials"]) == 2
