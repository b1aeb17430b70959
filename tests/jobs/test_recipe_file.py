"""A recipe that extends another one, and secrets that may be in neither."""

from pathlib import Path

import pytest

from jobs.core.config import BadInput
from jobs.core.recipe_file import merge, read_tree

BASE = """
name: base
steps:
  rows: {stage: prepare, source: data/*.csv, task: {kind: classification, text: text, label: label}}
  model:
    stage: finetune
    inputs: {examples: rows}
    optimizer: {learning_rate: {loguniform: [1.0e-5, 1.0e-3]}, weight_decay: 0.1}
    tune: {trials: 4}
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def read(directory: Path, text: str, *overrides: str) -> dict[str, object]:
    (directory / "own.yaml").write_text(text)
    return read_tree(str(directory / "own.yaml"), overrides)


def test_mappings_go_into_one_another_and_null_takes_away() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 4, "lr": {"loguniform": [1, 2]}}
    changed = merge(before, {"a": {"c": [3]}, "d": None, "lr": {"uniform": [0, 1]}})
    assert changed == {"a": {"b": 1, "c": [3]}, "lr": {"uniform": [0, 1]}}
    assert before["d"] == 4


def test_a_recipe_extends_the_one_beside_it_and_the_command_line_comes_last(write: Path) -> None:
    text = "extends: base.yaml\nname: own\nsteps: {model: {optimizer: {weight_decay: 0.2}, epochs: 2}}"
    tree = read(write, text, "steps.model.epochs=3")
    assert tree["name"] == "own"
    model = tree["steps"]["model"]  # type: ignore[index]
    assert model["optimizer"] == {"learning_rate": {"loguniform": [1.0e-5, 1.0e-3]}, "weight_decay": 0.2}
    assert (model["epochs"], model["tune"]) == (3, {"trials": 4})
    # The last search space is gone, and so is the search.
    searched = read(write, text, "steps.model.optimizer.learning_rate=0.001")
    assert "tune" not in searched["steps"]["model"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: none.yaml", "no such recipe file"),
        ("extends: own.yaml", "these recipes extend each other"),
        ("extends: [base.yaml]", "it names one recipe file"),
    ],
)
def test_what_cannot_be_extended_is_told(write: Path, text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        read(write, text)
    assert "own.yaml: extends" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_recipe_is_in_utf_8_or_in_utf_16_with_its_mark(write: Path, encoding: str) -> None:
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
    text = "extends: base.yaml\nname: 电影评论  # 只有名字不同\n"
    (write / "own.yaml").write_bytes(marks.get(encoding, b"") + text.encode(encoding))
    assert read_tree(str(write / "own.yaml"))["name"] == "电影评论"


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("gb18030", r"own\.yaml: it is not UTF-8: the byte 0xB5 at position 25 .* GB18030"),
        ("utf-16-le", r"own\.yaml: it is not UTF-8: the byte 0x\w\w at position \d+ .* UTF-16-LE"),
        ("utf-32", r"own\.yaml: it is not UTF-8: the byte 0xFF at position 0 .* UTF-32"),
    ],
)
def test_a_recipe_in_another_encoding_is_refused_with_what_would_fit(write: Path, encoding: str, told: str) -> None:
    text = "extends: base.yaml\nname: 电影评论  # 只有名字不同, 其余和上面的一样\n"
    (write / "own.yaml").write_bytes(text.encode(encoding))
    with pytest.raises(BadInput, match=told):
        read_tree(str(write / "own.yaml"))
    # A recipe that it extends is none the less named.
    (write / "base.yaml").write_bytes(text.encode(encoding))
    with pytest.raises(BadInput, match=r"base\.yaml: it is not UTF-8"):
        read(write, "extends: base.yaml")


def test_utf_16_that_ends_within_a_character_is_refused(write: Path) -> None:
    (write / "own.yaml").write_bytes("name: 电影".encode("utf-16")[:-1])
    with pytest.raises(BadInput, match=r"own\.yaml: it is not UTF-16: .* position 16"):
        read_tree(str(write / "own.yaml"))


def test_a_key_that_stands_twice_is_refused_by_name_and_line(write: Path) -> None:
    text = "extends: base.yaml\nsteps:\n  model: {epochs: 1}\n  rows:\n    limit: 10\n    'limit': 20\n  model: {epochs: 2}\n"
    with pytest.raises(BadInput) as caught:
        read(write, text)
    assert [(problem.path, problem.value, problem.reason) for problem in caught.value.problems] == [
        (f"{write / 'own.yaml'}: line 6", "limit", "this key stands twice, first in line 5"),
        (f"{write / 'own.yaml'}: line 7", "model", "this key stands twice, first in line 3"),
    ]
    with pytest.raises(BadInput, match="steps.model.optimizer: line 1 = 'a': this key stands twice, first in line 1"):
        read(write, "extends: base.yaml", "steps.model.optimizer={a: 1, a: 2}")


def test_keys_that_merges_bring_may_be_overridden(write: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, *a], y: 4, z: 5}\nd: {<<: *b}\n"
    tree = read(write, text)
    assert (tree["b"], tree["c"], tree["d"]) == ({"x": 1, "y": 3}, {"x": 1, "y": 4, "z": 5}, {"x": 1, "y": 3})


@pytest.mark.parametrize(
    ("written", "number"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("1.e-3", 1e-3), ("-2e3", -2e3), (".5e1", 5.0), ("1_0e2", 1e3), ("+3E+2", 300.0)],
)
def test_numbers_with_an_exponent_are_numbers_in_files_and_in_overrides(write: Path, written: str, number: float) -> None:
    for tree in (read(write, f"a: {{b: [{written}]}}"), read(write, "a: {b: [0]}", f"a.b=[{written}]")):
        (found,) = tree["a"]["b"]  # type: ignore[index]
        assert type(found) is float and found == number


def test_what_only_looks_like_such_a_number_stays_text(write: Path) -> None:
    tree = read(write, "{a: '1e-5', b: 1e, c: e5, d: 1e5a, e: 12-e5, f: ._e5}")
    assert tree == {"a": "1e-5", "b": "1e", "c": "e5", "d": "1e5a", "e": "12-e5", "f": "._e5"}


def test_a_secret_in_a_recipe_or_an_override_is_refused_and_not_repeated(write: Path) -> None:
    for text, overrides, place in (
        ("extends: base.yaml\nsteps: {rows: {source: 's3://key:hunter2hunter2@bucket/x.csv'}}", [], "steps.rows.source"),
        ("extends: base.yaml\ntracking: {wandb: {api_key: hunter2hunter2}}", [], "tracking.wandb.api_key"),
        ("extends: base.yaml", ["tracking.wandb.api_key=hunter2hunter2"], "tracking.wandb.api_key"),
    ):
        with pytest.raises(BadInput, match="credentials come from the environment") as caught:
            read(write, text, *overrides)
        assert [problem.path for problem in caught.value.problems] == [place]
        assert "hunter2" not in str(caught.value)
