"""Losses between a student's and a teacher's attention, and the relations among their queries, keys and values.

    loss = relation_kl(relations(q_BTD, k_BTD, 12), relations(teachers_q_BTE, teachers_k_BTE, 12), pairs(mask_BT))

Pairs with padding count for nothing. An example's loss is a mean over heads and its own tokens; the batch's is the sum.

B batch, T tokens, D width, R heads.
"""

import torch
from torch import Tensor

from jobs.losses.answers import in_full


def relations(left_BTD: Tensor, right_BTD: Tensor, heads: int) -> Tensor:
    """Scaled dot products_BRTT of all tokens' vectors, cut into so many heads: attention's scores where left are queries and
    right keys; with values on both sides MiniLM's value relation (Wang et al. 2020; relation heads: Wang et al. 2021).
    """
    left_BRTd, right_BRTd = (in_full(side).unflatten(-1, (heads, -1)).transpose(1, 2) for side in (left_BTD, right_BTD))
    with torch.autocast(left_BTD.device.type, enabled=False):
        return left_BRTd @ right_BRTd.transpose(-1, -2) / left_BRTd.shape[-1] ** 0.5


def pairs(mask_BT: Tensor, causal: bool = False) -> Tensor:
    """Which pairs of a reading and a read token count, bool_BTT: both real; where attention is causal, none read ahead."""
    real_BT = mask_BT.bool()
    pairs_BTT = real_BT[:, :, None] & real_BT[:, None, :]
    return pairs_BTT.tril() if causal else pairs_BTT


def relation_mse(student_BRTT: Tensor, teacher_BRTT: Tensor, pairs_BTT: Tensor) -> Tensor:
    """Squared difference of the scores before softmax, a mean over heads and pairs (Jiao et al. 2020, TinyBERT)."""
    gaps_BTT = (in_full(student_BRTT) - in_full(teacher_BRTT)).square().mean(1)
    return ((gaps_BTT * pairs_BTT).sum((-1, -2)) / pairs_BTT.sum((-1, -2)).clamp(min=1)).sum()


def relation_kl(student_BRTT: Tensor, teacher_BRTT: Tensor, pairs_BTT: Tensor) -> Tensor:
    """KL(teacher ‖ student) of what each token reads, a mean over heads and reading tokens (Wang et al. 2020, MiniLM)."""
    pairs_B1TT = pairs_BTT[:, None]
    # Finite, so that a row of padding alone makes no NaN; it is left out below.
    lowest = torch.finfo(torch.float32).min / 2
    student, teacher = (
        in_full(scores).masked_fill(~pairs_B1TT, lowest).log_softmax(-1) for scores in (student_BRTT, teacher_BRTT)
    )
    kl_BTT = (teacher.exp() * (teacher - student)).masked_fill(~pairs_B1TT, 0).mean(1)
    reading_B = pairs_BTT.any(-1).sum(-1).clamp(min=1)
    return (kl_BTT.sum((-1, -2)) / reading_B).sum()
