"""Where data comes from: files and globs (local or remote), `hub:` data sets, `sample:` data sets.

source: data/reviews-*.jsonl.gz            txt, jsonl, csv, tsv, parquet; gz; a glob; any storage URI
source: {train: a.csv, test: b.csv}        splits by file
source: hub:imdb                           `datasets.load_dataset`
source: sample:sms_spam                    see jobs/data/samples.py
"""

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.store import storage
from cluster.store.artifact import digest, digest_each
from jobs.core.config import BadInput, Problem
from jobs.data.samples import fetch_sample, find_sample

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv
    from ray.data import Dataset

FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
GLOB_CHARACTERS = "*?["
LARGE_BYTES = 1 << 20

Sources = str | Mapping[str, str]


def each(source: Sources) -> Mapping[str, str]:
    """The source of every split; one source without splits stands under the empty name."""
    return {"": source} if isinstance(source, str) else source


def resolve(source: str) -> list[str]:
    """The files behind a source, sorted; BadInput if there are none. Not for `hub:`."""
    if source.startswith("sample:"):
        directory = fetch_sample(source.removeprefix("sample:"))
        return sorted(str(path) for path in directory.iterdir() if file_format(path.name))
    if any(character in source for character in GLOB_CHARACTERS):
        return _glob(source)
    if not storage.exists(source):
        raise BadInput([Problem("source", source, "no such file or directory", "Check the path; relative ones start here.")])
    files = [source]
    if storage.is_directory(source):
        files = [storage.join(source, stat.path) for stat in storage.list_files(source) if file_format(stat.path)]
    if not files:
        raise BadInput([Problem("source", source, "the directory has no data files", f"Known: {', '.join(FORMATS)} (.gz).")])
    unknown = [file for file in files if not file_format(file)]
    if unknown:
        raise BadInput([Problem("source", unknown[0], "no known kind of file", f"Known: {', '.join(FORMATS)} (and .gz).")])
    return [storage.absolute(file) for file in files]


def _glob(pattern: str) -> list[str]:
    files = [file for file in storage.glob(pattern) if file_format(file)]
    if not files:
        raise BadInput([Problem("source", pattern, "no file matches this pattern", "Check the pattern and the place.")])
    return files


def file_format(path: str) -> str | None:
    """text, json, csv, tsv or parquet by the file's ending; None for others."""
    return FORMATS.get(Path(path.removesuffix(".gz")).suffix)


def fingerprint(source: str) -> str:
    """The identity of an outside source: by content where it is local, by size and time where it is remote."""
    if source.startswith("sample:"):
        return find_sample(source.removeprefix("sample:")).sha256
    if source.startswith("hub:"):
        name, _, _ = hub_parts(source)
        if not storage.exists(name):
            return _hub_revision(name, "dataset")
        return digest([source.removeprefix(f"hub:{name}"), directory_contents(name)])
    files = resolve(source)
    if all(storage.is_local(file) for file in files):
        return digest_each([Path(file).name, _content(file)] for file in files)
    parents = sorted({file.rpartition("/")[0] for file in files})
    stats = {storage.join(parent, stat.path): stat for parent in parents for stat in storage.list_files(parent)}
    return digest_each([file, stats[file].size, stats[file].modified] for file in files)


def _content(file: str) -> str:
    """The hash of a local file; a pipeline asks again before and after each step, so that of a large one is remembered."""
    stat = os.stat(storage.absolute(file))
    return storage.sha256(file) if stat.st_size < LARGE_BYTES else _hashed(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _hashed(file: str, size: int, modified: int) -> str:
    return storage.sha256(file)


def directory_contents(directory: str) -> list[list[str]]:
    """Path and hash of every file below a directory."""
    return [[stat.path, storage.sha256(storage.join(directory, stat.path))] for stat in storage.list_files(directory)]


def hub_parts(source: str) -> tuple[str, str | None, str]:
    """Name (or a local directory in the hub's format), config and split of `hub:NAME[:CONFIG][#SPLIT]`."""
    address, _, split = source.removeprefix("hub:").partition("#")
    name, _, config = address.partition(":")
    return name, config or None, split or "train"


def _hub_revision(name: str, kind: str) -> str:
    """The commit that a hub's name points at now."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(name) if kind == "dataset" else HfApi().model_info(name)
    except Exception as error:
        remedy = "Check the name and that this host reaches the hub, or give a local directory."
        raise BadInput([Problem("hub", name, f"the hub gave no revision ({type(error).__name__})", remedy)]) from error
    return str(info.sha)


def model_fingerprint(model: str) -> str:
    """The identity of a model named by `sample:`, a directory or a hub's name."""
    if model.startswith("sample:"):
        return find_sample(model.removeprefix("sample:")).sha256
    if storage.exists(model):
        return digest(directory_contents(model))
    return _hub_revision(model, "model")


def model_directory(model: str) -> str:
    """What `from_pretrained` takes for a model named by `sample:`, a directory or a hub's name."""
    return str(fetch_sample(model.removeprefix("sample:"))) if model.startswith("sample:") else model


def read_source(source: str) -> "Dataset":
    """A source as a Ray Dataset of rows."""
    import ray.data as data

    if source.startswith("hub:"):
        import datasets

        name, config, split = hub_parts(source)
        # Ray's own from_huggingface asks the hub again, also for what is here already.
        return data.from_arrow(datasets.load_dataset(name, config, split=split).with_format("arrow")[:])
    files = resolve(source)
    system = None if storage.is_local(files[0]) else storage.filesystem(files[0])[0]
    kind = file_format(files[0])
    if {file_format(file) for file in files} != {kind}:
        raise BadInput([Problem("source", source, "files of different kinds in one source", "Give one kind.")])
    if kind == "text":
        return data.read_text(files, filesystem=system, drop_empty_lines=True)
    if kind == "json":
        return data.read_json(files, filesystem=system)
    if kind == "parquet":
        return data.read_parquet(files, filesystem=system)
    return data.read_csv(files, filesystem=system, parse_options=_csv_options(kind))


def _csv_options(kind: str | None) -> "csv.ParseOptions":
    from pyarrow import csv

    return csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)


def tables(source: str) -> Iterator["pa.Table"]:
    """A source's files as Arrow tables, read here without Ray: for checks before anything runs."""
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    for file in resolve(source):
        kind = file_format(file)
        system, path = storage.filesystem(file)
        try:
            with system.open_input_stream(path, compression="gzip" if file.endswith(".gz") else None) as stream:
                if kind == "text":
                    lines = stream.read().decode("utf-8").splitlines()
                    yield pa.table({"text": pa.array([line for line in lines if line], pa.string())})
                elif kind == "json":
                    yield json.read_json(stream)
                elif kind == "parquet":
                    yield parquet.read_table(path, filesystem=system)
                else:
                    yield csv.read_csv(stream, parse_options=_csv_options(kind))
        except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
            if "Empty" in str(error):
                yield pa.table({})
                continue
            raise BadInput([Problem("source", file, f"it cannot be read as {kind}: {error}", "Mend or remove it.")]) from error
