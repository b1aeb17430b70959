"""`hub:` sources go through `datasets.load_dataset`; here over a directory in the hub's format, without a network."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster.connection.connect import Cluster
from jobs.data.sources import fingerprint, hub_parts, read_source


def test_a_split_of_a_data_set_is_read(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, texts in (("train", ["one", "two"]), ("test", ["三"])):
        parquet.write_table(pa.table({"text": texts}), tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert [row["text"] for row in read_source(f"hub:{tmp_path}#test").take_all()] == ["三"]
    assert [row["text"] for row in read_source(f"hub:{tmp_path}").take_all()] == ["one", "two"]
    before = fingerprint(f"hub:{tmp_path}")
    assert before != fingerprint(f"hub:{tmp_path}#test")
    parquet.write_table(pa.table({"text": ["other"]}), tmp_path / "data" / "train-00000-of-00001.parquet")
    assert fingerprint(f"hub:{tmp_path}") != before


@pytest.mark.parametrize(
    ("source", "parts"),
    [("hub:imdb", ("imdb", None, "train")), ("hub:nyu-mll/glue:sst2#validation", ("nyu-mll/glue", "sst2", "validation"))],
)
def test_how_a_hub_source_is_written(source: str, parts: tuple[str, str | None, str]) -> None:
    assert hub_parts(source) == parts
