"""Linear models of words and characters: fitted as scikit-learn fits them, for every kind that gives a row of numbers.

pytest tests/jobs/test_linear_models.py
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from cluster.store.artifact import Artifact, Kind
from jobs.architectures.settings import LinearFit
from jobs.core.config import BadInput
from jobs.core.recipe import parse_recipe
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data.clean import text_key
from jobs.distill import DistillConfig
from jobs.floor import FloorConfig
from jobs.floor import run as floor
from jobs.losses.settings import Mix
from jobs.running.parents import parent_problems
from jobs.tasks import learning_of
from jobs.tasks.floors import has_floor
from jobs.training.bag_rows import BagRows
from jobs.training.gram_choice import GramChoice, as_matrix
from jobs.training.linear_fit import LinearProblem
from jobs.training.linear_model import STRENGTHS, make_here
from jobs.training.taught import Taught
from serve.engines.base import Engine
from serve.engines.card import read_card, variant_files
from serve.engines.engine import load_engine
from serve.engines.grams import WORD
from serve.tasks import task_type
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.tasks.ordinal import Ordinal
from serve.tasks.protocol import Item, Task
from serve.tasks.regression import Regression
from serve.tasks.several import Head, Several
from tests.jobs.stars import installed
from tests.jobs.tiny import publish_directory, publish_predictions

COLOURS, THINGS = ("red", "green", "blue"), ("door", "boat", "lamp", "stone", "house", "river")
MOODS = ("very bad", "bad", "fair", "good", "very good")
ENDINGS = ("", "today", "by the old road", "and nothing else", "that I saw")


def sentences(openings: Sequence[str]) -> list[tuple[str, str]]:
    """Texts that an opening gives away, with it."""
    made = [(f"a {one} {thing} {end}".strip(), one) for one, thing, end in product(openings, THINGS, ENDINGS)]
    return [made[place] for place in np.random.default_rng(3).permutation(len(made))]


COLOURED = sentences(COLOURS)


def publish(root: Path, task: Task, rows: Mapping[str, Mapping[str, Sequence[Any]]]) -> Artifact:
    """EXAMPLES of a task: columns by split; without keys of their own, by their text."""
    draft = root / "draft"
    for split, columns in rows.items():
        (draft / split).mkdir(parents=True)
        keys = [text_key("\n".join(values)) for values in zip(*(columns[name] for name in task.fields), strict=True)]
        parquet.write_table(pa.table({"key": keys, **columns}), draft / split / "rows.parquet")
    (draft / "task.json").write_text(task.model_dump_json())
    return publish_directory(draft, root / "examples", Kind.EXAMPLES)


def split_up(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, list[Any]]]:
    """The last fifth to validate on."""
    count = len(next(iter(columns.values())))
    cuts = {"train": slice(0, 4 * count // 5), "validation": slice(4 * count // 5, count)}
    return {split: {name: list(values[cut]) for name, values in columns.items()} for split, cut in cuts.items()}


def made(root: Path, examples: Artifact, taught: Taught | None = None, **settings: Any) -> tuple[Outcome, Engine, Path]:
    """The model's outcome, its engine and its directory."""
    context = Context(str(root), "tiny", "floor", str(root / "floor"), "one")
    outcome = make_here(LinearFit(**settings), Inputs(examples=[examples]), context, taught)
    return outcome, load_engine(context.directory), context.directory


def coloured(root: Path, rows: Sequence[tuple[str, str]] = tuple(COLOURED), labels: Sequence[str] = COLOURS) -> Artifact:
    return publish(
        root,
        Classification(labels=tuple(labels)),
        split_up({"text": [text for text, _ in rows], "label": [label for _, label in rows]}),
    )


def counted(train: Sequence[str], texts: Sequence[str]) -> csr_matrix:
    """What scikit-learn's vectorizers make of texts."""
    kinds: list[dict[str, Any]] = [{"ngram_range": (1, 2), "token_pattern": WORD}, {"ngram_range": (2, 5), "analyzer": "char"}]
    each = [TfidfVectorizer(min_df=2, sublinear_tf=True, **one).fit(train).transform(texts) for one in kinds]
    return csr_matrix(hstack(each))


@pytest.mark.parametrize(("labels", "factor"), [(COLOURS, 1.0), (COLOURS[:2], 2.0)])
def test_it_is_scikit_learns_logistic_regression(tmp_path: Path, labels: tuple[str, ...], factor: float) -> None:
    """Of two labels, with a column for each, as strong as twice the number says."""
    rows = [(text, label) for text, label in COLOURED if label in labels]
    # Labels that texts give away at once would leave nothing to be compared.
    rows = [(text, labels[(labels.index(label) + (place % 7 == 0)) % len(labels)]) for place, (text, label) in enumerate(rows)]
    _, engine, directory = made(tmp_path, coloured(tmp_path, rows, labels), strength=2.0)
    train = rows[: 4 * len(rows) // 5]
    texts, fitted = [text for text, _ in train], LogisticRegression(C=2.0 * factor, tol=1e-8, max_iter=5000)
    fitted.fit(counted(texts, texts), [labels.index(label) for _, label in train])
    held = [text for text, _ in rows]
    outputs = np.asarray(engine.outputs([Item((text,)) for text in held]))
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, fitted.predict_proba(counted(texts, held)), atol=2e-3)
    tensors = load_file(directory / "bag.safetensors")
    wanted = np.sort(fitted.coef_.T, axis=0) if len(labels) > 2 else np.sort(fitted.coef_[0])
    found = tensors["table"] if len(labels) > 2 else tensors["table"][:, 1] - tensors["table"][:, 0]
    assert len(found) == fitted.coef_.shape[1]
    np.testing.assert_allclose(np.sort(found, axis=0), wanted, atol=2e-2)


def test_of_numbers_it_is_ridge(tmp_path: Path) -> None:
    values = [COLOURS.index(label) - 1 + 0.1 * len(text) / 30 for text, label in COLOURED]
    mean, deviation = float(np.mean(values)), float(np.std(values))
    task = Regression(mean=mean, deviation=deviation)
    texts = [text for text, _ in COLOURED]
    outcome, engine, _ = made(tmp_path, publish(tmp_path, task, split_up({"text": texts, "value": values})), strength=4.0)
    train = 4 * len(texts) // 5
    ridge = Ridge(alpha=1 / 8).fit(counted(texts[:train], texts[:train]), (np.array(values[:train]) - mean) / deviation)
    found = [answer.value for answer in engine.answers([Item((text,)) for text in texts])]
    wanted = mean + deviation * ridge.predict(counted(texts[:train], texts))
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert outcome.metrics["spearman"] > 0.9


PARTS = Several(
    heads=(
        Head(name="colour", task=Classification(labels=COLOURS)),
        Head(name="things", task=MultiLabel(labels=THINGS[:3])),
    )
)
KINDS: dict[str, tuple[Task, dict[str, list[Any]], str, float]] = {
    "chinese": (
        Classification(labels=("坏", "好")),
        {
            "text": [
                f"{item}{word}{end}"
                for word in ("很好", "太差")
                for item in "书店车饭电影"
                for end in ("", "了", "，谢谢", "！")
            ],
            "label": [label for label in ("好", "坏") for _ in range(24)],
        },
        "accuracy",
        1.0,
    ),
    "multi_label": (
        MultiLabel(labels=THINGS),
        {
            "text": [f"the {one} by the {other} {end}" for one, other, end in product(THINGS, THINGS, ENDINGS)],
            "labels": [sorted({one, other}) for one, other, _ in product(THINGS, THINGS, ENDINGS)],
        },
        "micro_f1",
        0.95,
    ),
    "ordinal": (
        Ordinal(labels=MOODS),
        {"text": [text for text, _ in sentences(MOODS)], "label": [label for _, label in sentences(MOODS)]},
        "quadratic_weighted_kappa",
        0.9,
    ),
    "several": (
        PARTS,
        {
            "text": [text for text, _ in COLOURED],
            "colour.label": [label for _, label in COLOURED],
            "things.labels": [[thing for thing in THINGS[:3] if thing in text] for text, _ in COLOURED],
        },
        "colour",
        0.9,
    ),
}


def shuffled(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    order = np.random.default_rng(5).permutation(len(next(iter(columns.values()))))
    return {name: [values[place] for place in order] for name, values in columns.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_gives_a_row_of_numbers_has_one(tmp_path: Path, kind: str) -> None:
    task, columns, figure, least = KINDS[kind]
    outcome, engine, directory = made(tmp_path, publish(tmp_path, task, split_up(shuffled(columns))))
    found = next(value for name, value in outcome.metrics.items() if name.startswith(figure))
    assert found >= least, dict(outcome.metrics)
    assert [one["strength"] for one in outcome.details["tried"]] == list(STRENGTHS)
    card = read_card(directory)
    assert card.task == task and card.training is not None and card.variants.keys() == {"numpy", "fp16"}
    sizes = [sum(file.stat().st_size for file in variant_files(directory, card, name)) for name in card.variants]
    assert sizes[1] < sizes[0]
    items = [Item((text,)) for text in columns["text"][:20]]
    halves = load_engine(directory, "fp16")
    assert task.distance(engine.settled(items), halves.settled(items)).max() < 0.01


def test_of_two_texts_it_sees_what_they_share(tmp_path: Path) -> None:
    """How many words two texts share cannot be seen from either of them; words of the test are not those of training."""
    generator = np.random.default_rng(0)
    words = [a + b + c for a, b, c in product("bdfgklm", "aeiou", "nrst")]

    def rows(known: Sequence[str], count: int) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"text": [], "pair": [], "value": []}
        for _ in range(count):
            drawn = list(generator.permutation(known))
            shared = int(generator.integers(0, 6))
            found["text"].append(" ".join(drawn[:5]))
            found["pair"].append(" ".join(generator.permutation([*drawn[:shared], *drawn[5 : 10 - shared]])))
            found["value"].append(float(shared))
        return found

    task = Regression(mean=2.5, deviation=1.7, pairs=True)
    examples = publish(tmp_path, task, {"train": rows(words[:70], 300), "validation": rows(words[70:], 60)})
    outcome, engine, _ = made(tmp_path, examples)
    assert outcome.metrics["spearman"] > 0.9, dict(outcome.metrics)
    same, other = engine.answers([Item((" ".join(words[:5]),) * 2), Item((" ".join(words[:5]), " ".join(words[80:85])))])
    assert same.value > other.value + 2


def test_a_text_of_unknown_words_is_answered(tmp_path: Path) -> None:
    _, engine, _ = made(tmp_path, coloured(tmp_path))
    answer = engine.answers([Item(("Ωψξ",))])[0]
    assert answer.label in COLOURS and 0 < answer.probability < 1


def test_nothing_to_count_is_told(tmp_path: Path) -> None:
    rows = [("αβ", "red"), ("γδ", "green"), ("εζ", "red"), ("ηθ", "green"), ("ικ", "red")]
    with pytest.raises(
        BadInput, match="no word and no characters in a row are in two of its 4 training texts.*Give prepare more"
    ):
        made(tmp_path, coloured(tmp_path, rows, ("green", "red")))


def test_what_does_not_fit_is_left_out_by_use_and_told(tmp_path: Path) -> None:
    whole, _, _ = made(tmp_path / "whole", coloured(tmp_path / "whole"))
    small, engine, directory = made(tmp_path / "small", coloured(tmp_path / "small"), megabytes=0.025)
    kept, there = small.metrics["features"], whole.metrics["features"]
    assert small.details["left_out"] == f"{int(there - kept)} of {int(there)} features are left out: it may take 0.025 MB"
    assert sum(file.stat().st_size for file in variant_files(directory, engine.card)) <= 25_000
    listed = json.loads((directory / "grams.json").read_text())
    assert set(COLOURS) <= set(listed["words"]) and small.metrics["accuracy"] == 1.0
    with pytest.raises(BadInput, match=r"megabytes = .*no feature with its 3 weights fits into it"):
        made(tmp_path / "none", coloured(tmp_path / "none"), megabytes=0.02)


def test_too_many_characters_are_cut_down_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.training.linear_model.LEARNED_CHARACTERS", 600)
    outcome, engine, _ = made(tmp_path, coloured(tmp_path))
    assert "of 72 rows: 600 characters are read in a minute" in outcome.details["left_out"]
    assert engine.answers([Item((COLOURED[0][0],))])[0].label in COLOURS


# From teachers


def test_soft_labels_teach_texts_without_a_label(tmp_path: Path) -> None:
    """The labels know two colours' rows alone; what the teacher says of the others is all there is of the third."""
    task, rows = (
        Classification(labels=COLOURS),
        split_up({"text": [t for t, _ in COLOURED], "label": [c for _, c in COLOURED]}),
    )
    hidden = [None if label == "blue" else label for label in rows["train"]["label"]]
    examples = publish(tmp_path, task, {**rows, "train": {**rows["train"], "label": hidden}})
    logits = {text: [4.0 * (colour == one) for one in COLOURS] for text, colour in COLOURED}
    teacher = publish_predictions(tmp_path, logits, COLOURS)
    taught, engine, _ = made(tmp_path, examples, Taught([teacher], Mix(alpha=0.9, temperature=2.0)))
    alone, _, _ = made(tmp_path, examples)
    assert taught.metrics["accuracy"] == 1.0 > alone.metrics["accuracy"]


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_mix_is_that_of_distillation(tmp_path: Path, alpha: float) -> None:
    import torch

    examples = coloured(tmp_path)
    rows = BagRows.read(examples, "train", Classification(labels=COLOURS))
    logits = {text: [1.0 * place, -0.5 * place, 0.2] for place, (text, _) in enumerate(COLOURED)}
    teacher = publish_predictions(tmp_path, logits, COLOURS)
    outputs = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(0))
    found = Taught([teacher], Mix(alpha=alpha, temperature=3.0))(rows)(outputs)
    wanted = torch.tensor([logits[item.values[0]] for item in rows.items])
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(outputs / 3, 1), torch.log_softmax(wanted / 3, 1), reduction="sum", log_target=True
    )
    hard = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(np.asarray(rows.truth)), reduction="sum")
    assert float(found) == pytest.approx(float(alpha * 9 * soft + (1 - alpha) * hard), rel=1e-4)


def test_a_solution_is_a_start_of_the_next_and_none_is_worse(tmp_path: Path) -> None:
    from jobs.training.taught import of_labels

    rows = BagRows.read(coloured(tmp_path), "train", Classification(labels=COLOURS))
    choice = GramChoice.shared_by_two(rows.items)
    matrix_NR, _, _ = as_matrix(choice.reader(1), rows.items)
    problem, again = (LinearProblem(matrix_NR, of_labels(rows), 3) for _ in range(2))
    problem.solve(1.0)
    warm, cold = problem.solve(4.0), again.solve(4.0)
    np.testing.assert_allclose(warm[0], cold[0], atol=2e-2)


@pytest.mark.parametrize(
    "student",
    [
        {"kind": "linear", "layers": [0]},
        {"kind": "linear", "feed_forward": 0.5},
        {"kind": "linaer"},
        {"kind": "linear", "strength": 0},
    ],
)
def test_keys_that_a_linear_student_does_not_have_are_refused(student: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DistillConfig.model_validate({"student": student})


# Kinds


@pytest.fixture
def stars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A kind whose outputs are no rows of numbers is installed."""
    with installed(tmp_path_factory.mktemp("installed")):
        yield


def test_a_kind_without_a_row_of_numbers_has_no_floor_but_its_own(
    stars: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert has_floor("classification") and has_floor("several") and not has_floor("stars")
    task = task_type("stars")(kind="stars")
    examples = publish(tmp_path, task, {"train": {name: ["a b", "c d"] for name in task.fields}})
    context = Context(str(tmp_path), "tiny", "floor", str(tmp_path / "floor"), "one")
    with pytest.raises(BadInput, match="for stars: what its model gives is not one row of numbers.*Leave the step out"):
        floor(FloorConfig(), Inputs(examples=[examples]), context)

    def own(self: Any, spec: Task, given: Artifact, directory: Path) -> dict[str, float]:
        (directory / "nearest.json").write_text(json.dumps({"fields": spec.fields, "step": given.manifest.step}))
        return {"mae": 1.5}

    monkeypatch.setattr(type(learning_of("stars")), "floor", own)
    assert has_floor("stars")
    outcome = floor(FloorConfig(), Inputs(examples=[examples]), context)
    assert outcome.metrics == {"mae": 1.5} and outcome.files.keys() == {"nearest.json"}
    assert json.loads(Path(context.output, "nearest.json").read_text())["step"] == "made"


def test_recipes_that_ask_for_one_all_the_same_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here of a kind whose losses take something else than a row of numbers."""
    monkeypatch.setattr(type(learning_of("ordinal")), "forward", lambda self, call, inputs: call(**inputs))
    made: dict[str, Any] = {
        "rows": {"stage": "prepare", "source": "rows.csv", "task": {"kind": "ordinal", "label": "stars"}},
        "large": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6"},
        "soft": {"stage": "predict", "inputs": {"model": "large", "examples": "rows"}},
        "cheap": {"stage": "floor", "inputs": {"examples": "rows"}},
        "words": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft"}, "student": {"kind": "linear"}},
    }
    recipe = parse_recipe({"name": "tiny", "steps": made})
    told = {problem.path: problem.reason for problem in parent_problems(recipe, ["cheap", "words"])}
    assert told.keys() == {"steps.cheap.inputs.examples", "steps.words.student.kind"}
    assert all("for ordinal: what its model gives is not one row of numbers" in reason for reason in told.values())


def test_help_lists_the_keys() -> None:
    told = subprocess.run([sys.executable, "-m", "jobs.floor", "--help"], capture_output=True, text=True, check=True).stdout
    assert "strength" in told and "megabytes" in told and "cheapest model" in told
