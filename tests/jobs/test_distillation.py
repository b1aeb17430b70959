"""Distilling from soft labels: the mix and how it moves, several teachers, texts without a label, half precision.

pytest tests/jobs/test_distillation.py
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.core.config import BadInput, describe_config
from jobs.core.recipe import load_recipe
from jobs.data.clean import text_key
from jobs.distill import DistillConfig
from jobs.losses.answers import ANSWER_LOSSES, forward_kl, mixture
from jobs.losses.settings import Mix, annealed
from jobs.tasks.distilled import Distilled
from jobs.tasks.soft_labels import DIRECTORY, LOST_IN_HALF, SUFFIX, TASK_DETAIL, SoftLabels, packed
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    classification,
    distilled,
    publish_directory,
    publish_examples,
    publish_predictions,
    same_weights,
    supervised,
    tiny_classifier,
)
from tests.jobs.training_runs import QUICK, Recorded

Answers = Mapping[str, Sequence[float]]


@pytest.fixture
def examples(tmp_path: Path) -> Artifact:
    return publish_examples(tmp_path, {"train": MESSAGES[:12], "validation": MESSAGES[12:20]})


def answers(rows: Sequence[tuple[str, Any]], scale: float = 1.0) -> dict[str, list[float]]:
    """Some logits of each text, its own."""
    return {text: [scale * number, -0.5 * number] for number, (text, _) in enumerate(rows)}


def predictions(root: Path, *teachers: Answers) -> list[Artifact]:
    return [publish_predictions(root / f"teacher-{number}", logits) for number, logits in enumerate(teachers)]


def of_texts(soft: Answers, numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor([soft[MESSAGES[number][0]] for number in numbers])


# The mix


@pytest.mark.parametrize("name", ANSWER_LOSSES)
@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 2.0), (1.0, 2.0), (0.25, 4.0)])
def test_the_mix_of_soft_and_hard_labels(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, alpha: float, temperature: float, name: Any
) -> None:
    # The teacher answered in another order, and for texts that are not in the training split too.
    soft = answers(list(reversed(MESSAGES[:20])))
    mix = Mix(loss=name, temperature=temperature, alpha=alpha)
    objective = distilled(examples, tokenizer, predictions(tmp_path, soft), mix)
    model = tiny_classifier("bert", 2, len(tokenizer))
    chosen = np.array([7, 0, 11])
    batch = objective.batch(chosen, 0, 0)
    with torch.inference_mode():
        logits_BC = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found = float(objective.loss(model, batch))
    labels = torch.tensor([LABELS.index(MESSAGES[number][1]) for number in chosen])
    hard = float(functional.cross_entropy(logits_BC, labels, reduction="sum"))
    apart = float(ANSWER_LOSSES[name](logits_BC, of_texts(soft, chosen.tolist()), temperature))
    assert found == pytest.approx(alpha * apart + (1 - alpha) * hard, rel=1e-4)


def test_the_recipes_skew_is_the_one_that_counts(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    made = predictions(tmp_path, answers(MESSAGES[:12]))
    losses = []
    for skew in (0.1, 0.9):
        mix = Mix(loss="skewed_kl", skew=skew, alpha=1.0)
        objective = distilled(examples, tokenizer, made, mix)
        losses.append(float(objective.of_answers(torch.zeros(4, 2), objective.batch(np.arange(4), 0, 0))))
    assert losses[1] < 0.2 * losses[0]


def test_a_training_text_without_a_soft_label_is_refused(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    made = predictions(tmp_path, answers(MESSAGES[:12]), answers(MESSAGES[:9]))
    with pytest.raises(BadInput, match="3 of 12 training examples have no soft label.*same examples") as caught:
        distilled(examples, tokenizer, made, Mix())
    assert (caught.value.problems[0].path, caught.value.problems[0].value) == ("inputs.teacher", made[1].uri)


def test_a_teacher_of_another_task_is_refused(examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    made = publish_predictions(tmp_path, {text: [0.0, 1.0, 2.0] for text, _ in MESSAGES}, (*LABELS, "eggs"))
    with pytest.raises(BadInput, match="the teacher's task is not the examples': only one of them has the label 'eggs'"):
        distilled(examples, tokenizer, [made], Mix())


def test_a_teacher_that_numbers_its_labels_otherwise_is_read_by_their_names(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    soft = answers(MESSAGES[:12])
    turned = publish_predictions(tmp_path, {text: row[::-1] for text, row in soft.items()}, LABELS[::-1])
    objective = distilled(examples, tokenizer, [turned], Mix())
    seen = objective.batch(np.arange(12), 0, 0)["teacher"][:, 0]
    assert torch.equal(seen, of_texts(soft, range(12)))


# Schedules


@pytest.mark.parametrize(
    ("how", "wanted"), [("linear", [8, 6.5, 5, 3.5, 2]), ("cosine", [8, 8 - 6 * (1 - math.sqrt(0.5)) / 2, 5, None, 2])]
)
def test_a_value_moves_from_its_start_to_its_end(how: Any, wanted: list[float | None]) -> None:
    found = [annealed(8.0, 2.0, how, progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert [f for f, w in zip(found, wanted, strict=True) if w is not None] == pytest.approx(
        [w for w in wanted if w is not None]
    )
    assert found == sorted(found, reverse=True)
    assert annealed(8.0, None, how, 0.7) == 8.0


def test_temperature_and_alpha_of_each_step_of_a_run(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """As the loop has them: the start at the first step, the end at the last, whatever was done before."""
    seen = []

    class Watched(Distilled):
        def loss(self, model: Any, batch: Any) -> Any:
            seen.append((float(batch["temperature"][0]), float(batch["alpha"][0])))
            return super().loss(model, batch)

    mix = Mix(temperature=5, temperature_end=1, alpha=1.0, alpha_end=0.2)
    made = predictions(tmp_path, answers(MESSAGES[:12]))
    objective = Watched(supervised(examples, tokenizer, unlabelled=True), made, mix)
    settings = Training.model_validate({**QUICK, "batch_size": 4, "max_steps": 5})
    fit(tiny_classifier("bert", 2, len(tokenizer)), objective, settings, Recorded())
    assert seen == [pytest.approx(now) for now in zip((5, 4, 3, 2, 1), (1, 0.8, 0.6, 0.4, 0.2), strict=True)]
    batch = objective.batch(np.arange(3), 0, 2)
    assert batch["temperature"].tolist() == [3.0] * 3
    target = torch.tensor([answers(MESSAGES[:12])[MESSAGES[number][0]] for number in range(3)])
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.0], [-1.0, 1.0]])
    hard = functional.cross_entropy(logits, batch["labels"], reduction="sum")
    wanted = 0.6 * float(forward_kl(logits, target, 3.0)) + 0.4 * float(hard)
    assert float(objective.of_answers(logits, batch)) == pytest.approx(wanted, rel=1e-5)


def test_a_killed_run_with_a_schedule_ends_with_the_same_weights(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    mix = Mix(temperature=8, temperature_end=1, alpha=1.0, alpha_end=0.0, annealing="cosine")
    made = predictions(tmp_path, answers(MESSAGES[:12], scale=0.2))
    objective = distilled(examples, tokenizer, made, mix)
    settings = Training.model_validate({**QUICK, "batch_size": 4, "max_steps": 9, "epochs": 9, "checkpoint_steps": 3})

    def run(hooks: Recorded) -> dict[str, torch.Tensor]:
        model = tiny_classifier("bert", 2, len(tokenizer), dropout=0.1)
        fit(model, objective, settings, hooks)
        return model.state_dict()

    whole = run(Recorded())
    with pytest.raises(KeyboardInterrupt):
        run(Recorded(tmp_path / "state.pt", dies_at=8))
    again = run(hooks := Recorded(tmp_path / "state.pt"))
    assert hooks.progressed[0]["step"] == 7
    assert same_weights(whole, again) == 0


# Several teachers


@pytest.mark.parametrize("name", ["forward_kl", "mse"])
@pytest.mark.parametrize("weights", [None, (3.0, 1.0)])
def test_several_teachers_are_weighed(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: Any, weights: tuple[float, float] | None
) -> None:
    one, other = answers(MESSAGES[:12], 0.25), answers(list(reversed(MESSAGES[:12])), -0.125)
    made = predictions(tmp_path, one, other)
    mix = Mix(loss=name, temperature=3.0, alpha=1.0)
    objective = distilled(examples, tokenizer, made, mix, weights)
    chosen = [3, 8, 1]
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.0], [-1.0, 1.0]])
    found = float(objective.of_answers(logits, objective.batch(np.array(chosen), 0, 0)))
    share = 0.5 if weights is None else 0.75
    first, second = of_texts(one, chosen), of_texts(other, chosen)
    if name == "mse":
        wanted = float((logits - share * first - (1 - share) * second).square().mean(-1).sum())
    else:
        shares = share * (first / 3).softmax(-1) + (1 - share) * (second / 3).softmax(-1)
        wanted = 9 * float((shares * (shares.log() - (logits / 3).log_softmax(-1))).sum())
    assert found == pytest.approx(wanted, rel=1e-5)


def test_weights_that_are_not_one_a_teacher_are_refused(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    made = predictions(tmp_path, answers(MESSAGES[:12]), answers(MESSAGES[:12]))
    with pytest.raises(BadInput, match=r"teacher_weights = \[1.0\]: 1 weights for 2 teachers"):
        distilled(examples, tokenizer, made, Mix(), [1.0])


def test_one_teacher_twice_is_one_teacher() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    twice = mixture(torch.stack([logits, logits], 1), torch.tensor([0.3, 0.7]), 2.0)
    assert float(forward_kl(twice, logits, 2.0)) == pytest.approx(0, abs=1e-6)


# Texts without a label


def test_texts_without_a_label_teach_by_the_teachers_answers_alone(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows: list[Any] = [(text, label if number % 3 else None) for number, (text, label) in enumerate(MESSAGES[:12])]
    examples = publish_examples(tmp_path, {"train": rows, "validation": [*MESSAGES[12:20], ("nobody knows", None)]})  # type: ignore[list-item]
    soft = answers(rows, 0.375)
    mix = Mix(temperature=2.0, alpha=0.3)
    objective = distilled(examples, tokenizer, predictions(tmp_path, soft), mix)
    assert (objective.size, objective.validation_size) == (12, 8)
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.0], [-1.0, 1.0], [0.5, 0.2]])
    batch = objective.batch(np.arange(4), 0, 0)
    assert batch["labels"].tolist() == [-100, 1, 0, -100] and objective.count(batch) == 4
    hard = functional.cross_entropy(logits[1:3], torch.tensor([1, 0]), reduction="sum")
    wanted = 0.3 * float(forward_kl(logits, of_texts(soft, range(4)), 2.0)) + 0.7 * float(hard)
    assert float(objective.of_answers(logits, batch)) == pytest.approx(wanted, rel=1e-5)
    plain = supervised(examples, tokenizer, class_weights="balanced")
    assert (plain.size, plain.validation_size) == (8, 8) and set(plain.train.truth) == {0, 1}


def test_a_student_learns_from_texts_without_labels(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """No training text has a label; what is right is known to the teacher alone."""
    rows: list[Any] = [(text, None) for text, _ in MESSAGES[:58]]
    examples = publish_examples(tmp_path, {"train": rows, "validation": MESSAGES[58:]})
    soft = {text: [4.0, -4.0] if label == "ham" else [-4.0, 4.0] for text, label in MESSAGES[:58]}
    objective = distilled(examples, tokenizer, predictions(tmp_path, soft), Mix(alpha=0.5))
    settings = Training.model_validate({**QUICK, "epochs": 10, "schedule": {"name": "constant"}})
    fitted = fit(tiny_classifier("bert", 2, len(tokenizer)), objective, settings, Recorded())
    assert fitted.metrics["accuracy"] > 0.9


# What predict keeps


def test_outputs_in_half_precision_move_no_answer(tmp_path: Path) -> None:
    """Two thousand answers, sure ones and doubtful ones, of two labels and of fifty."""
    generator = np.random.default_rng(0)
    for classes in (2, 50):
        logits = (generator.normal(size=(2_000, classes)) * generator.uniform(0.1, 5, (2_000, 1))).astype(np.float32)
        labels = [str(number) for number in range(classes)]
        kept, lost = through_a_file(tmp_path / str(classes), logits, labels)
        assert 0 < lost < LOST_IN_HALF and (kept == logits.astype(np.float16)).all()
        student = torch.from_numpy(generator.normal(size=logits.shape)).double()
        exact = float(forward_kl(student, torch.from_numpy(logits).double(), 2.0))
        assert float(forward_kl(student, torch.from_numpy(kept).double(), 2.0)) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("logits", [[[70000.0, 1.0]], [[0.0, -1e9], [1.0, 2.0]], [[900.0, 900.3]]])
def test_outputs_that_half_precision_would_spoil_stay_as_they_are(logits: list[list[float]], tmp_path: Path) -> None:
    kept, lost = through_a_file(tmp_path, np.array(logits, dtype=np.float32), LABELS)
    assert lost == 0.0 and (kept == np.array(logits, dtype=np.float32)).all()


def through_a_file(root: Path, logits: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, float]:
    """The logits as a student finds them, and what packing said that they lost."""
    task, keys = classification(labels), [f"{number:032x}" for number in range(len(logits))]
    content, lost = packed(task, keys, logits)
    (root / "draft" / DIRECTORY).mkdir(parents=True)
    (root / "draft" / DIRECTORY / f"block{SUFFIX}").write_bytes(content)
    details = {TASK_DETAIL: task.model_dump(mode="json")}
    made = publish_directory(root / "draft", root / "made", Kind.PREDICTIONS, details=details)
    return np.stack([*SoftLabels(made, keys, task)]), lost


def test_what_is_kept_is_what_the_student_sees(examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Two files, one in half precision and one not, in any order."""
    draft, task = tmp_path / "draft", classification()
    keys = [text_key(text) for text, _ in MESSAGES[:12]]
    logits = np.linspace(-7, 7, 24, dtype=np.float32).reshape(12, 2)
    logits[:6] += np.float32(900)
    (draft / DIRECTORY).mkdir(parents=True)
    for name, rows in (("b", slice(6, None)), ("a", slice(None, 6))):
        (draft / DIRECTORY / f"{name}{SUFFIX}").write_bytes(packed(task, keys[rows], logits[rows])[0])
    made = publish_directory(draft, tmp_path / "made", Kind.PREDICTIONS, details={TASK_DETAIL: task.model_dump(mode="json")})
    objective = distilled(examples, tokenizer, [made], Mix())
    seen = objective.batch(np.arange(12), 0, 0)["teacher"][:, 0]
    assert seen.dtype == torch.float32 and (seen.numpy()[:6] == logits[:6]).all()
    assert 0 < np.abs(seen.numpy() - logits).max() < 0.004


# The recipe


def test_what_does_not_go_together_is_refused() -> None:
    def refused(reason: str, **settings: Any) -> None:
        with pytest.raises(ValidationError, match=reason):
            DistillConfig.model_validate({"model": "x", **settings})

    refused("hidden is compared by mse or cosine, not by kl", match={"a": {"what": "hidden", "loss": "kl"}})
    refused("value_relation is compared by kl or mse", match={"a": {"what": "value_relation", "loss": "cosine"}})
    refused("relation_heads is for query_key", match={"a": {"what": "attention", "relation_heads": 2}})
    refused("a model has one embedding", match={"a": {"what": "embedding", "student": 0}})
    refused("compile hides", match={"a": {"what": "hidden"}}, compile=True)
    refused("either every or layers", student={"every": 2, "layers": [0]})
    refused("else the student is the base itself", student={})
    refused("named in their order", student={"layers": [3, 0]})
    refused("each of teacher_weights is above 0", teacher_weights=[1.0, 0.0])
    found = DistillConfig.model_validate(
        {"match": {"last": {"what": "value_relation"}, "low": {"what": "hidden", "student": 0}}}
    )
    assert [match.compared for match in found.match.values()] == ["kl", "mse"]


def test_matches_are_written_searched_and_explained_by_name() -> None:
    """Their keys have paths, so the command line and searches reach them, and a typo is told with the nearest key."""
    recipe = "jobs/recipes/spam.yaml"
    student = load_recipe(recipe, ["steps.student.match.a.what=hidden", "steps.student.match.a.weight={uniform: [0, 2]}"])
    assert student.steps["student"].spaces["match.a.weight"].values == (0, 2)
    with pytest.raises(BadInput, match=r"student\.match\.a\.wieght = 1: no such key\. Did you mean weight\?"):
        load_recipe(recipe, ["steps.student.match.a.what=hidden", "steps.student.match.a.wieght=1"])
    assert {"match.NAME.what", "match.NAME.weight", "student.every", "temperature_end"} <= {
        row[0] for row in describe_config(DistillConfig)
    }
