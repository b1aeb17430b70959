"""Losses between a student's and a teacher's answers.

B batch, C classes.
"""

from torch import Tensor
from torch.nn import functional


def forward_kl(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of the softened distributions, times T², summed over the batch.

    T² keeps the gradient's size independent of the temperature (Hinton et al. 2015, section 2).
    """
    student = functional.log_softmax(student_BC / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_BC / temperature, dim=-1)
    return functional.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2
