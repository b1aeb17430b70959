"""Losses between a student's and a teacher's answers where one label is right.

    loss = forward_kl(student_BC, teacher_BC, temperature=2.0)     # a sum over the batch

Logits go in. Divergences are those of the softened distributions times T², which keeps the gradient's size independent of
the temperature (Hinton et al. 2015, section 2). p is the teacher's distribution, q the student's.

B batch, C classes, K teachers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

UNLABELLED = -100
"""The label of an example that has none."""


def in_full(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are: sums of half precision's numbers would lose too much."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def softened(logits_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """Log-probabilities of the softened distribution."""
    return functional.log_softmax(in_full(logits_BC) / temperature, dim=-1)


def kl(target_BC: Tensor, other_BC: Tensor) -> Tensor:
    """KL(target ‖ other) of log-probabilities, summed over the batch."""
    return functional.kl_div(other_BC, target_BC, reduction="sum", log_target=True)


def forward_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """KL(p ‖ q): the student covers all that the teacher holds likely (Hinton et al. 2015)."""
    return kl(softened(teacher_BC, temperature), softened(student_BC, temperature)) * temperature**2


def reverse_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """KL(q ‖ p): the student avoids what the teacher holds unlikely (Gu et al. 2024, MiniLLM)."""
    return kl(softened(student_BC, temperature), softened(teacher_BC, temperature)) * temperature**2


def symmetric_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """The mean of both directions: half of Jeffreys' divergence (Jeffreys 1946)."""
    student, teacher = softened(student_BC, temperature), softened(teacher_BC, temperature)
    return (kl(teacher, student) + kl(student, teacher)) / 2 * temperature**2


def skewed_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor, skew: float = 0.1) -> Tensor:
    """KL(p ‖ skew · p + (1 − skew) · q): bounded where the student misses something (Lee 2001; Ko et al. 2024, DistiLLM)."""
    student, teacher = softened(student_BC, temperature), softened(teacher_BC, temperature)
    between = torch.logaddexp(teacher + math.log(skew), student + math.log1p(-skew))
    return kl(teacher, between) * temperature**2


def jensen_shannon(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """The mean of KL(p ‖ m) and KL(q ‖ m), m = (p + q) / 2: between 0 and T² ln 2 an example (Lin 1991)."""
    student, teacher = softened(student_BC, temperature), softened(teacher_BC, temperature)
    between = torch.logaddexp(teacher, student) - math.log(2)
    return (kl(teacher, between) + kl(student, between)) / 2 * temperature**2


def logit_mse(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Squared difference of the logits, a mean over classes (Ba & Caruana 2014); there is nothing to soften."""
    return (in_full(student_BC) - in_full(teacher_BC)).square().mean(-1).sum()


ANSWER_LOSSES: dict[str, Callable[[Tensor, Tensor, float | Tensor], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": symmetric_kl,
    "skewed_kl": skewed_kl,
    "jensen_shannon": jensen_shannon,
    "mse": logit_mse,
}
"""By the names that recipes have for them."""


def mixture(teachers_BKC: Tensor, weights_K: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits_BC that soften, at this temperature, to the weighted mean of the teachers' softened distributions.

    Weights sum to 1 (Hinton et al. 2015, section 3: an ensemble's arithmetic mean).
    """
    shares_BKC = softened(teachers_BKC, temperature) + weights_K.log()[:, None]
    return shares_BKC.logsumexp(1) * temperature


def with_labels(soft: Tensor, student_BC: Tensor, labels_B: Tensor, alpha: float | Tensor) -> Tensor:
    """alpha · soft + (1 − alpha) · cross-entropy, summed; those without a label have no cross-entropy (Hinton et al. 2015)."""
    hard = functional.cross_entropy(in_full(student_BC), labels_B, reduction="sum", ignore_index=UNLABELLED)
    return alpha * soft + (1 - alpha) * hard
