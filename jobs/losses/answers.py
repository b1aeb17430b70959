"""Losses between a student's and a teacher's answers: one label, several labels, a number, a label a token, a next token.

    loss = forward_kl(student_BC, teacher_BC, temperature=2.0)     # a sum over the batch

Logits go in. Divergences are those of the softened distributions times T², which keeps the gradient's size independent of
the temperature (Hinton et al. 2015, section 2). p is the teacher's distribution, q the student's.

B batch, C classes or labels, K teachers or, of a next token, likeliest tokens, T tokens, N tokens that count, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jobs.contracts.learning import MISSING

AnswerLoss = Callable[[Tensor, Tensor, float | Tensor], Tensor]


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


ANSWER_LOSSES: dict[str, AnswerLoss] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": symmetric_kl,
    "skewed_kl": skewed_kl,
    "jensen_shannon": jensen_shannon,
    "mse": logit_mse,
}
"""Those for one right label, by the names that recipes have for them."""


def mixture(teachers_BKC: Tensor, weights_K: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits_BC that soften, at this temperature, to the weighted mean of the teachers' softened distributions.

    Weights sum to 1 (Hinton et al. 2015, section 3: an ensemble's arithmetic mean).
    """
    shares_BKC = softened(teachers_BKC, temperature) + weights_K.log()[:, None]
    return shares_BKC.logsumexp(1) * temperature


def sigmoid_mixture(teachers_BKC: Tensor, weights_K: Tensor, temperature: float | Tensor) -> Tensor:
    """The same where several labels may be right: of each label's yes and no."""
    softened_BKC = in_full(teachers_BKC) / temperature
    weights_K1 = weights_K.log()[:, None]
    yes_BC = (functional.logsigmoid(softened_BKC) + weights_K1).logsumexp(1)
    no_BC = (functional.logsigmoid(-softened_BKC) + weights_K1).logsumexp(1)
    return (yes_BC - no_BC) * temperature


def with_labels(soft: Tensor, student_BC: Tensor, labels_B: Tensor, alpha: float | Tensor) -> Tensor:
    """alpha · soft + (1 − alpha) · cross-entropy, summed; those without a label have no cross-entropy (Hinton et al. 2015)."""
    hard = functional.cross_entropy(in_full(student_BC), labels_B, reduction="sum", ignore_index=MISSING)
    return alpha * soft + (1 - alpha) * hard


def sigmoid_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """Where several labels may be right: KL(p ‖ q) of each label's yes and no, times T², summed over labels and batch.

    Hinton et al. 2015 with a sigmoid for each label (Yang et al. 2023, L2D).
    """
    student, teacher = in_full(student_BC) / temperature, in_full(teacher_BC) / temperature
    yes = teacher.sigmoid() * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    no = (-teacher).sigmoid() * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return (yes + no).sum() * temperature**2


def sigmoid_mse(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Where several labels may be right: squared difference of the logits, summed over labels and batch."""
    return (in_full(student_BC) - in_full(teacher_BC)).square().sum()


def soft_bce(student_BC: Tensor, shares_BC: Tensor) -> Tensor:
    """Where several labels may be right: cross-entropy with the teacher's probability of each, summed over all of them."""
    return functional.binary_cross_entropy_with_logits(in_full(student_BC), in_full(shares_BC), reduction="sum")


def regression_mse(student_B: Tensor, teacher_B: Tensor) -> Tensor:
    """Where the answer is a number: squared difference from the teacher's, summed over the batch."""
    return (in_full(student_B) - in_full(teacher_B)).square().sum()


def over_tokens(
    student_BTC: Tensor,
    teacher_BTC: Tensor,
    mask_BT: Tensor,
    temperature: float | Tensor,
    loss: AnswerLoss = forward_kl,
) -> Tensor:
    """Where each token has an answer: the loss of all tokens that the mask has 1 for, summed over them."""
    counts_BT = mask_BT.bool()
    return loss(student_BTC[counts_BT], teacher_BTC[counts_BT], temperature)


def likeliest(teacher_NV: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The teacher's k likeliest tokens as softened log-probabilities_NK and ids_NK: what is kept for `top_k_kl`."""
    top = softened(teacher_NV, temperature).topk(k, dim=-1)
    return top.values, top.indices


def top_k_kl(
    student_NV: Tensor,
    likeliest_NK: Tensor,
    ids_NK: Tensor,
    temperature: float | Tensor,
    rest_N: Tensor | None = None,
) -> Tensor:
    """KL(p ‖ q) over the teacher's K likeliest tokens and, as one outcome more, all others together; times T², summed.

    `likeliest_NK` are log-probabilities softened at this same temperature, and `rest_N` that of all others together, where it
    was kept beside them (in half precision it follows from them only roughly). Without the outcome of the others the student
    would be free to put anything there; with it the loss is at most the whole KL, and equal to it at K = V (the log-sum
    inequality: Cover & Thomas 2006, theorem 2.7.1).
    """
    student_NV, teacher_NK = in_full(student_NV) / temperature, in_full(likeliest_NK)
    whole_N1 = student_NV.logsumexp(-1, keepdim=True)
    shares_NK = teacher_NK.exp()
    total = (shares_NK * (teacher_NK - (student_NV.gather(-1, ids_NK) - whole_N1))).sum()
    if ids_NK.shape[-1] < student_NV.shape[-1]:
        others_N1 = student_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1, keepdim=True) - whole_N1
        known_N1 = 1 - shares_NK.sum(-1, keepdim=True) if rest_N is None else in_full(rest_N).exp()[:, None]
        rest_N1 = known_N1.clamp(min=0)  # rounding may bring it below 0
        total = total + (torch.xlogy(rest_N1, rest_N1) - rest_N1 * others_N1).sum()
    return total * temperature**2
