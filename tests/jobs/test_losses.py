"""Distillation's losses against numbers reckoned by hand, and its mixed objective. `pytest tests/jobs/test_losses.py`"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from cluster.artifact import Artifact
from jobs.core.config import BadInput
from jobs.losses.distillation import forward_kl
from jobs.tasks.distillation import DistilledClassification
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_examples, publish_predictions, tiny_classifier

STUDENT = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]
TEACHER = [[2.0, 0.0, -1.0], [0.5, 0.5, 4.0]]


def softened(logits: Sequence[float], temperature: float) -> list[float]:
    raised = [math.exp(logit / temperature) for logit in logits]
    return [value / sum(raised) for value in raised]


def kl_by_hand(student: Sequence[Sequence[float]], teacher: Sequence[Sequence[float]], temperature: float) -> float:
    """T² Σ p ln(p / q), p the teacher's softened shares, q the student's."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        pairs = zip(softened(theirs, temperature), softened(ours, temperature), strict=True)
        total += sum(p * math.log(p / q) for p, q in pairs)
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_forward_kl_is_what_is_reckoned_by_hand(temperature: float) -> None:
    found = forward_kl(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    assert float(found) == pytest.approx(kl_by_hand(STUDENT, TEACHER, temperature), rel=1e-5)
    turned = kl_by_hand(TEACHER, STUDENT, temperature)
    assert abs(float(found) - turned) > 1e-3, "the teacher's shares weigh, not the student's"


def test_temperature_does_not_change_the_size_of_the_gradient() -> None:
    """At high temperatures T² KL tends to |student − teacher|² / 2C of centred logits (Hinton et al. 2015, eq. 4)."""
    student, teacher = torch.tensor(STUDENT), torch.tensor(TEACHER)
    gaps = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = float(gaps.square().sum()) / (2 * 3)
    assert float(forward_kl(student.double(), teacher.double(), 1000.0)) == pytest.approx(limit, rel=0.01)


def test_equal_answers_cost_nothing_and_others_something() -> None:
    logits = torch.tensor(STUDENT)
    assert float(forward_kl(logits, logits, 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(forward_kl(logits, logits + 5, 3.0)) == pytest.approx(0, abs=1e-5), "only differences between logits count"
    assert float(forward_kl(torch.tensor(TEACHER), logits, 3.0)) > 0.1
    sure = torch.tensor([[200.0, -200.0]])
    assert torch.isfinite(forward_kl(-sure, sure, 1.0)), "logits that are far apart must not make infinities"


@pytest.fixture
def examples(tmp_path: Path) -> Artifact:
    return publish_examples(tmp_path, {"train": MESSAGES[:12], "validation": MESSAGES[12:20]})


def answers(rows: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """Some logits of each text, its own."""
    return {text: [float(number), -0.5 * number] for number, (text, _) in enumerate(rows)}


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 2.0), (1.0, 2.0), (0.25, 4.0)])
def test_the_mix_of_soft_and_hard_labels(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, alpha: float, temperature: float
) -> None:
    # The teacher answered in another order, and for texts that are not in the training split too.
    soft = answers(list(reversed(MESSAGES[:20])))
    teacher = publish_predictions(tmp_path, soft)
    objective = DistilledClassification(examples, tokenizer, LABELS, MAX_LENGTH, teacher, temperature, alpha)
    model = tiny_classifier("bert", 2, len(tokenizer))
    chosen = np.array([7, 0, 11])
    batch = objective.batch(chosen, (0, 0))
    with torch.inference_mode():
        logits_BC = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found = float(objective.loss(model, batch))
    labels = torch.tensor([LABELS.index(MESSAGES[number][1]) for number in chosen])
    hard = float(functional.cross_entropy(logits_BC, labels, reduction="sum"))
    kl = kl_by_hand(logits_BC.tolist(), [soft[MESSAGES[number][0]] for number in chosen], temperature)
    assert found == pytest.approx(alpha * kl + (1 - alpha) * hard, rel=1e-4)


def test_a_training_text_without_a_soft_label_is_refused(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    teacher = publish_predictions(tmp_path, answers(MESSAGES[:9]))
    with pytest.raises(BadInput, match="3 of 12 training examples have no soft label.*same examples") as caught:
        DistilledClassification(examples, tokenizer, LABELS, MAX_LENGTH, teacher, 2.0, 0.5)
    assert caught.value.problems[0].path == "inputs.teacher"


def test_a_teacher_of_another_task_is_refused(examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    teacher = publish_predictions(tmp_path, {text: [0.0, 1.0, 2.0] for text, _ in MESSAGES})
    with pytest.raises(BadInput, match="the teacher knows 3 labels, the examples have 2"):
        DistilledClassification(examples, tokenizer, LABELS, MAX_LENGTH, teacher, 2.0, 0.5)
