"""Losses between a student's and a teacher's answers of other kinds: several labels, a number, a label a token, a next token.

B batch, C labels, T tokens, N tokens that count, V vocabulary, K the teacher's likeliest tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jobs.losses.answers import forward_kl, in_full, softened

AnswerLoss = Callable[[Tensor, Tensor, float | Tensor], Tensor]


def sigmoid_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """Where several labels may be right: KL(p ‖ q) of each label's yes and no, times T², summed over labels and batch.

    Hinton et al. 2015 with a sigmoid for each label (Yang et al. 2023, L2D).
    """
    student, teacher = in_full(student_BC) / temperature, in_full(teacher_BC) / temperature
    yes = teacher.sigmoid() * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    no = (-teacher).sigmoid() * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return (yes + no).sum() * temperature**2


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
