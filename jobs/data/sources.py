"""Where data comes from: files and globs (local or remote), `hub:` data sets, `sample:` data sets.

source: data/reviews-*.jsonl.gz            txt, json, csv, tsv, xlsx, parquet; gz, zip, …; a glob; any storage URI
source: {train: a.csv, test: b.csv}        splits by file
source: hub:imdb                           see jobs/data/hub.py
source: sample:sms_spam                    see jobs/data/samples.py
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from cluster.store import storage
from cluster.store.artifact import digest, digest_each
from jobs.core.config import BadInput, Problem
from jobs.data.formats import KNOWN_FORMATS, ZIP, file_format, is_hidden
from jobs.data.hub import hub_parts
from jobs.data.samples import fetch_sample, find_sample

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
    if any(character in source for character in GLOB_CHARACTERS) and not storage.exists(source):
        return _glob(source)
    if not storage.exists(source):
        raise BadInput([Problem("source", source, "no such file or directory", "Check the path; relative ones start here.")])
    files = [source]
    if storage.is_directory(source):
        below = [stat.path for stat in storage.list_files(source)]
        files = [storage.join(source, path) for path in below if file_format(path) and not is_hidden(path)]
    if not files:
        raise BadInput([Problem("source", source, "the directory has no data files", KNOWN_FORMATS)])
    unknown = [file for file in files if not file_format(file)]
    if unknown:
        raise BadInput([Problem("source", unknown[0], "no known kind of file", KNOWN_FORMATS)])
    return [storage.absolute(file) for file in files]


def _glob(pattern: str) -> list[str]:
    hidden = "/." in pattern
    root = re.split(r"[*?[]", storage.absolute(pattern), maxsplit=1)[0].rpartition("/")[0]
    found = [file for file in storage.glob(pattern) if file_format(file)]
    files = [file for file in found if hidden or not is_hidden(file.removeprefix(root))]
    if not files:
        raise BadInput([Problem("source", pattern, "no file matches this pattern", "Check the pattern and the place.")])
    return files


def of_one_kind(source: str, files: list[str]) -> list[str]:
    """The files of a step's source; BadInput where some are of one kind and some of another, as a README among tables."""
    kinds = {file_format(file): file for file in reversed(files)}
    if len(set(kinds) - {ZIP}) > 1:
        reason = f"files of different kinds in one source: {', '.join(sorted(kinds.values()))}"
        raise BadInput([Problem("source", source, reason, "Name those of one kind, e.g. by a pattern.")])
    return files


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
        return digest_each([Path(file).name, content_hash(file)] for file in files)
    parents = sorted({file.rpartition("/")[0] for file in files})
    stats = {storage.join(parent, stat.path): stat for parent in parents for stat in storage.list_files(parent)}
    return digest_each([file, stats[file].size, stats[file].modified] for file in files)


def content_hash(file: str) -> str:
    """The hash of a local file; a pipeline asks again before and after each step, so that of a large one is remembered."""
    stat = os.stat(storage.absolute(file))
    return storage.sha256(file) if stat.st_size < LARGE_BYTES else _hashed(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _hashed(file: str, size: int, modified: int) -> str:
    return storage.sha256(file)


def directory_contents(directory: str) -> list[list[str]]:
    """Path and hash of every file below a directory."""
    return [[stat.path, storage.sha256(storage.join(directory, stat.path))] for stat in storage.list_files(directory)]


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
