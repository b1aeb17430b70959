"""Distillation's losses of hidden states, attention and relations by hand. `pytest tests/jobs/test_losses_states.py`"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jobs.losses.relations import pairs, relation_kl, relation_mse, relations
from jobs.losses.states import hidden_cosine, hidden_mse

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_hidden_mse_by_hand() -> None:
    """Two tokens, of which one differs by (3, 4), and one token that differs by (0, 2): 25 / 2 / 2 + 4 / 2."""
    student = torch.tensor([[[3.0, 4.0], [1.0, 1.0]], [[0.0, 2.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [-9.0, 0.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert float(hidden_mse(student, teacher, mask)) == pytest.approx(6.25 + 2.0)
    assert float(hidden_mse(student, teacher, torch.ones(2, 2))) > 50, "padding would have counted"


def test_hidden_cosine_by_hand() -> None:
    """A right angle, the same direction at another length, and the opposite one: (1 + 0) / 2 + 2."""
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 5.0], [3.0, 3.0]], [[0.0, -1.0], [-9.0, 0.0]]])
    assert float(hidden_cosine(student, teacher, torch.tensor([[1, 1], [1, 0]]))) == pytest.approx(0.5 + 2.0)


def test_relations_by_hand() -> None:
    """Width 4 in two heads of 2: (1, 2) · (3, 1) / √2 and (0, 1) · (5, 2) / √2."""
    left, right = torch.tensor([[[1.0, 2.0, 0.0, 1.0]]]), torch.tensor([[[3.0, 1.0, 5.0, 2.0]]])
    assert relations(left, right, 2).flatten().tolist() == pytest.approx([5 / math.sqrt(2), 2 / math.sqrt(2)])
    assert relations(left, right, 1).flatten().tolist() == pytest.approx([7 / 2])
    assert relations(left, right, 4).flatten().tolist() == pytest.approx([3, 2, 0, 2])


def test_pairs() -> None:
    assert pairs(MASK).int().tolist() == [[[1, 1, 1]] * 3, [[1, 0, 0], [0, 0, 0], [0, 0, 0]]]
    assert pairs(MASK, causal=True).int().tolist()[0] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_relation_mse_by_hand() -> None:
    """Of four pairs of two heads two differ, by 2 and by 4: (4 + 16) / 8; then one pair, by 3 in one head: 9 / 2."""
    student, teacher = torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 2, 2)
    student[0, 0, 0, 1], student[0, 1, 1, 1], student[1, 0, 0, 0] = 2.0, 4.0, 3.0
    student[1, :, 1], student[1, :, :, 1] = 99.0, 99.0
    assert float(relation_mse(student, teacher, pairs(torch.tensor([[1, 1], [1, 0]])))) == pytest.approx(2.5 + 4.5)


def test_relation_kl_by_hand() -> None:
    """One head, two tokens; the teacher's first reads (3/4, 1/4), all else is even: 0.1308 / 2. Then with padding: nothing."""
    student, teacher = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    teacher[0, 0, 0, 0] = math.log(3.0)
    student[:, :, :, 2], student[:, :, 2] = 50.0, -50.0
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert float(relation_kl(student, teacher, pairs(mask))) == pytest.approx(0.130812 / 2, abs=1e-6)


def test_padding_more_changes_no_loss() -> None:
    """The same two texts beside a longer third: hidden states there are anything, and the gradient there is 0."""
    inner = {"student": draw(2, 3, 8), "teacher": draw(2, 3, 8, seed=1).detach()}
    padded = {name: functional.pad(value.detach(), (0, 0, 0, 2), value=7.0).requires_grad_() for name, value in inner.items()}
    longer = functional.pad(MASK, (0, 2))

    def losses(parts: dict[str, Tensor], mask: Tensor) -> list[Tensor]:
        student, teacher = parts["student"], parts["teacher"]
        scores = relations(student, student, 2), relations(teacher, teacher, 2)
        states = [hidden_mse(student, teacher, mask), hidden_cosine(student, teacher, mask)]
        return states + [
            loss(*scores, pairs(mask, causal)) for loss in (relation_mse, relation_kl) for causal in (False, True)
        ]

    found = losses(padded, longer)
    torch.testing.assert_close(found, losses(inner, MASK))
    (gradient,) = torch.autograd.grad(sum(found, torch.tensor(0.0)), padded["student"])
    assert (gradient[longer == 0] == 0).all() and (gradient[longer == 1] != 0).any(-1).all()


def test_self_attention_distributions_are_those_of_torch() -> None:
    """The scores of queries and keys are the ones that scaled_dot_product_attention turns into shares."""
    query, key, value = draw(2, 5, 12), draw(2, 5, 12, seed=1), draw(2, 5, 12, seed=2)
    heads = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (query, key, value)]
    wanted = functional.scaled_dot_product_attention(*heads)
    torch.testing.assert_close(relations(query, key, 3).softmax(-1) @ heads[2], wanted)


def test_heads_of_different_width_are_compared() -> None:
    """A student of 8 in 4 heads and a teacher of 12 in 3, both cut into 2 relation heads."""
    mask = pairs(MASK)
    ours, theirs = draw(2, 3, 8), draw(2, 3, 12, seed=1)
    found = relation_kl(relations(ours, ours, 2), relations(theirs, theirs, 2), mask)
    assert float(found.detach()) > 0
    same = relations(theirs, theirs, 2).detach()
    assert float(relation_kl(same, same, mask)) == pytest.approx(0, abs=1e-12)


def test_gradients() -> None:
    teacher = draw(2, 3, 4, seed=1).detach()
    mask, check = pairs(MASK), torch.autograd.gradcheck
    assert check(lambda states: hidden_mse(states, teacher, MASK), draw(2, 3, 4))
    assert check(lambda states: hidden_cosine(states, teacher, MASK), draw(2, 3, 4))
    scores = relations(teacher, teacher, 2)
    for loss in (relation_mse, relation_kl):
        assert check(lambda states, loss=loss: loss(relations(states, states, 2), scores, mask), draw(2, 3, 4))
        assert check(lambda found, loss=loss: loss(found, scores, mask), draw(2, 2, 3, 3))


def test_half_precision_is_reckoned_in_full() -> None:
    student, teacher = draw(2, 3, 8).detach().bfloat16(), draw(2, 3, 8, seed=1).detach().bfloat16()
    exact = relations(student.double(), student.double(), 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = relations(student, student, 2)
        assert (
            found.dtype
            == hidden_mse(student, teacher, MASK).dtype
            == hidden_cosine(student, teacher, MASK).dtype
            == torch.float32
        )
        assert relation_kl(found, found, pairs(MASK)).dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)
