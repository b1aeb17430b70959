"""Rows in parts: written once, read when they are needed, never in the object store. `pytest tests/jobs/test_parts.py`"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.connection.connect import Cluster
from cluster.store import storage
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data import loading, parts
from jobs.data.clean import text_key
from jobs.data.loading import without_duplicates
from jobs.data.near_duplicates import NearDuplicates
from jobs.data.parts import PartWriter, RowPart, TrainTexts, limited, read_part
from jobs.prepare import PrepareConfig, reading_of, run


def frame_of(texts: list[str], split: str = "train") -> pd.DataFrame:
    return pd.DataFrame({"key": list(map(text_key, texts)), "text": texts, "split": split})


def written(place: str, *frames: pd.DataFrame) -> list[RowPart]:
    """A part of each."""
    made: list[RowPart] = []
    for number, frame in enumerate(frames):
        writer = PartWriter(place, number, [], ["text"])
        writer.add(frame)
        writer.close()
        made += writer.written
    return made


def test_a_part_is_sorted_by_key_and_what_goes_is_not_read(storage_uri: str) -> None:
    texts = [f"text {number}" for number in range(300)]
    (part,) = written(storage_uri, frame_of(texts))
    table = read_part(part)
    assert table["key"].to_pylist() == sorted(map(text_key, texts)) and set(table["text"].to_pylist()) == set(texts)
    halves = [(int(key[:16], 16), int(key[16:], 16)) for key in table["key"].to_pylist()]
    index = part.index()
    assert list(zip(index["high"].tolist(), index["low"].tolist(), strict=True)) == halves
    for first, end in ((0, 1), (0, 100), (100, 256), (255, 256)):
        assert part.index(first, end)["high"].tolist() == [high for high, _ in halves if first <= high >> 56 < end]
    stays = np.arange(300) % 3 == 0
    assert read_part(part.keeping(stays, 0)).equals(table.filter(stays.tolist()))


def test_parts_are_cut_by_rows_and_by_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    monkeypatch.setattr(parts, "PART_CHARACTERS", 1_000)
    writer = PartWriter(str(tmp_path), 0, [], ["text"])
    for length, rows in ((10, 6), (10, 6), (999, 1), (2_000, 1), (1, 1)):
        writer.add(frame_of(["x" * length] * rows))
    writer.close()
    writer.add(frame_of([]))
    writer.close()
    assert [len(part) for part in writer.written] == [10, 3, 1, 1]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.lists(st.integers(1, 20), min_size=1))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_of_the_same_rows_are_the_same_in_however_many_frames_these_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int], cuts: list[int]
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 7)
    monkeypatch.setattr(parts, "PART_CHARACTERS", 200)
    texts = [f"{number} ".ljust(length, "x") for number, length in enumerate(lengths)]
    found = []
    for name, sizes in (("whole", [len(texts)]), ("cut", cuts * len(texts))):
        writer, done = PartWriter(str(tmp_path / name), 0, [], ["text"]), 0
        for size in sizes:
            writer.add(frame_of(texts[done : done + size]))
            done += size
        writer.close()
        found.append([read_part(part) for part in writer.written])
    assert len(found[0]) == len(found[1]) and all(one.equals(other) for one, other in zip(*found, strict=True))


def test_a_tokenizer_learns_from_an_even_sample_of_the_training_texts(ray_driver: Cluster, tmp_path: Path) -> None:
    """A source that is sorted, of which the first part says nothing of the others."""
    frames = [frame_of([f"{name} {number:04d}" for number in range(1_000)]) for name in ("win", "ham", "see")]
    made, _ = without_duplicates(written(str(tmp_path), *frames, frame_of(["held out"], "test")), "majority")
    whole = TrainTexts(made, characters=10**6)
    assert sorted(whole) == sorted(text for frame in frames for text in frame["text"]) == sorted(whole), "as often as asked"
    some = list(TrainTexts(made, characters=3 * 8 * 100))
    assert [sum(text.startswith(name) for text in some) for name in ("win", "ham", "see")] == [100] * 3
    smallest = sorted(frames[0]["text"], key=text_key)[:100]
    assert [text for text in some if text.startswith("win")] == smallest


def test_a_limit_takes_the_smallest_keys_of_all(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(900)]
    made = written(str(tmp_path), *(frame_of(texts[start : start + 300]) for start in (0, 300, 600)))
    for limit in (1, 100, 900, 2_000):
        found = [text for part in limited(made, limit) for text in read_part(part)["text"].to_pylist()]
        assert set(found) == set(sorted(texts, key=text_key)[:limit])
        assert sum(part.train_characters for part in limited(made, limit)) == sum(map(len, found))


def prepared(place: Path, name: str, **settings: Any) -> Outcome:
    directory = place / name
    directory.mkdir()
    context = Context(str(place), "tiny", "rows", str(place / f"{name}-out"), "a", directory=directory)
    outcome = run(PrepareConfig.model_validate(settings), Inputs(), context)
    assert not storage.list_files(context.scratch), "what rows were written to is gone"
    return outcome


def kept_of(place: Path, name: str) -> list[tuple[str, ...]]:
    """Each row that was written, with its split."""
    files = [(path.parent.name, pd.read_parquet(path)) for path in (place / f"{name}-out").rglob("*.parquet")]
    return sorted((split, *row) for split, frame in files for row in frame.itertuples(index=False, name=None))


def test_the_outcome_does_not_hang_on_how_rows_are_cut_into_files_or_tasks(
    ray_driver: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    lines = [f"a text of number {draw.randrange(700)},{draw.choice(['ham', 'ham', 'spam'])}" for _ in range(2_000)]
    for number in range(8):
        (tmp_path / f"part-{number}.csv").write_text("\n".join(["text,label", *lines[number::8]]))
    (tmp_path / "whole.csv").write_text("\n".join(["text,label", *lines]))
    found = {}
    for name, source in (("one", "whole.csv"), ("many", "part-*.csv")):
        if name == "many":
            monkeypatch.setattr(loading, "ROWS_PER_DECISION", 100)
            monkeypatch.setattr(loading, "SLICE_BYTES", 1)
        outcome = prepared(tmp_path, name, source=str(tmp_path / source), task={}, split={"validation": 0.2})
        found[name] = kept_of(tmp_path, name), outcome.metrics
    assert found["one"] == found["many"] and found["one"][1]["rows_conflicting"] > 100 < found["one"][1]["rows_duplicate"]


def created_bytes() -> int:
    """What was put into the object store so far, all together."""
    import ray
    from ray._private.internal_api import node_stats

    (node,) = [node for node in ray.nodes() if node["Alive"]]  # Other tests' nodes have come and gone.
    return int(node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats.cumulative_created_bytes)


def test_no_text_goes_through_the_object_store(ray_driver: Cluster, tmp_path: Path) -> None:
    draw = random.Random(0)
    words = [f"word{number}" for number in range(2_000)]
    lines = [f"{' '.join(draw.choices(words, k=40))},{draw.choice(['ham', 'spam'])}" for _ in range(20_000)]
    lines += [f"{line.replace('word', 'sword', 1)}" for line in lines[:500]]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    size, before = (tmp_path / "rows.csv").stat().st_size, created_bytes()
    config = PrepareConfig.model_validate({"source": str(tmp_path / "rows.csv"), "task": {}})
    loaded = loading.load_rows(config.source, reading_of(config), str(tmp_path / "parts"), near=NearDuplicates(threshold=0.9))
    counted = loaded.rows.map_batches(lambda table: {"rows": [table.num_rows]}, batch_format="pyarrow", batch_size=None)
    assert sum(row["rows"] for row in counted.iter_rows()) == loaded.count == 20_000 and size > 6_000_000
    assert loaded.counts["rows_near_duplicate"] == 500
    assert created_bytes() - before < 0.05 * size


def test_a_step_of_which_nothing_stays_says_so(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nwin,ham\nwin,spam\n")
    with pytest.raises(Exception, match="label"):
        prepared(tmp_path, "none", source=str(tmp_path / "rows.csv"), task={}, split={"validation": 0})
    assert not storage.list_files(str(tmp_path / ".scratch"))
