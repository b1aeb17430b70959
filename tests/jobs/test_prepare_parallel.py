"""Packing text in several processes: the same files as in one."""

from pathlib import Path

from cluster.connect import Cluster
from jobs.core.stage import Context, Resources
from jobs.prepare import PrepareConfig, run

SETTINGS = {"tokenizer": {"train": "wordpiece", "vocab_size": 300}, "split": {"validation": 0.1}, "max_length": 32}


def packed(directory: Path, workers: int) -> dict[str, str]:
    """The hash of every file of tokens that so many workers write."""
    output = str(directory / f"tokens-{workers}")
    context = Context(str(directory), "pack", "tokens", output, "one", Resources(workers=workers), report=lambda **_: None)
    config = PrepareConfig.model_validate({**SETTINGS, "source": {"train": str(directory / "*.txt")}})
    made = run(config, {}, context)
    assert all((Path(output) / path).is_file() for path in made.files)
    return {path: file.sha256 for path, file in made.files.items()}


def test_two_workers_write_the_files_of_one(ray_driver: Cluster, tmp_path: Path) -> None:
    for number in range(4):
        lines = [f"document {number} {line} says {line * number} words about nothing" for line in range(200)]
        (tmp_path / f"{number}.txt").write_text("\n".join(lines))
    alone = packed(tmp_path, 1)
    assert len([path for path in alone if path.startswith("train/")]) > 1
    assert packed(tmp_path, 2) == alone
