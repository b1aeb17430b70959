"""Losses between a student's and a teacher's hidden states, token by token. Padding counts for nothing.

An example's loss is a mean over its own tokens, so that long texts do not count more; the batch's is the sum of them.

B batch, T tokens, D hidden.
"""

from torch import Tensor
from torch.nn import functional

from jobs.losses.answers import in_full


def hidden_mse(student_BTD: Tensor, teacher_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Squared difference, a mean over width and tokens (Romero et al. 2015; Jiao et al. 2020, TinyBERT)."""
    gaps_BT = (in_full(student_BTD) - in_full(teacher_BTD)).square().mean(-1)
    return _over_examples(gaps_BT, mask_BT)


def hidden_cosine(student_BTD: Tensor, teacher_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """1 − cosine of the angle between them, a mean over tokens (Sanh et al. 2019, DistilBERT)."""
    cosines_BT = functional.cosine_similarity(in_full(student_BTD), in_full(teacher_BTD), dim=-1)
    return _over_examples(1 - cosines_BT, mask_BT)


def _over_examples(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    mask_BT = mask_BT.to(values_BT.dtype)
    return ((values_BT * mask_BT).sum(-1) / mask_BT.sum(-1).clamp(min=1)).sum()
