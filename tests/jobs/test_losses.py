"""Distillation's losses of answers against numbers reckoned by hand. `pytest tests/jobs/test_losses.py`"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from jobs.losses.answers import (
    ANSWER_LOSSES,
    forward_kl,
    jensen_shannon,
    likeliest,
    logit_mse,
    mixture,
    over_tokens,
    regression_mse,
    reverse_kl,
    sigmoid_kl,
    skewed_kl,
    soft_bce,
    softened,
    symmetric_kl,
    top_k_kl,
    with_labels,
)

STUDENT = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]
TEACHER = [[2.0, 0.0, -1.0], [0.5, 0.5, 4.0]]
TEMPERATURES = [0.5, 1.0, 2.0, 8.0]
Shares = Sequence[float]


def by_hand(logits: Sequence[float], temperature: float) -> list[float]:
    """Shares of the softened distribution."""
    raised = [math.exp(logit / temperature) for logit in logits]
    return [value / sum(raised) for value in raised]


def kl(left: Shares, right: Shares) -> float:
    return sum(p * math.log(p / q) for p, q in zip(left, right, strict=True))


def mean_of(left: Shares, right: Shares, share: float = 0.5) -> list[float]:
    return [share * p + (1 - share) * q for p, q in zip(left, right, strict=True)]


DEFINED: dict[str, Callable[[Shares, Shares], float]] = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "symmetric_kl": lambda p, q: (kl(p, q) + kl(q, p)) / 2,
    "skewed_kl": lambda p, q: kl(p, mean_of(p, q, 0.1)),
    "jensen_shannon": lambda p, q: (kl(p, mean_of(p, q)) + kl(q, mean_of(p, q))) / 2,
}
"""Each divergence of a teacher's shares p and a student's q, as its paper writes it."""


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", DEFINED)
def test_a_divergence_is_what_is_reckoned_by_hand_times_temperature_squared(name: str, temperature: float) -> None:
    rows = zip(TEACHER, STUDENT, strict=True)
    wanted = sum(DEFINED[name](by_hand(p, temperature), by_hand(q, temperature)) for p, q in rows)
    found = ANSWER_LOSSES[name](torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    assert found.shape == () and float(found) == pytest.approx(temperature**2 * wanted, rel=1e-5)
    turned = sum(
        DEFINED[name](by_hand(q, temperature), by_hand(p, temperature)) for p, q in zip(TEACHER, STUDENT, strict=True)
    )
    assert (abs(turned - wanted) < 1e-9) == (name in ("symmetric_kl", "jensen_shannon")), "the direction matters in the others"


def test_forward_kl_of_a_coin_by_hand() -> None:
    """p = (3/4, 1/4) and q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 = 0.1308; the other way 1/2 ln 2/3 + 1/2 ln 2 = 0.1438."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(forward_kl(student, teacher, 1.0)) == pytest.approx(0.130812, abs=1e-6)
    assert float(reverse_kl(student, teacher, 1.0)) == pytest.approx(0.143841, abs=1e-6)
    assert float(symmetric_kl(student, teacher, 1.0)) == pytest.approx(0.137327, abs=1e-6)
    # m = (5/8, 3/8): (3/4 ln 6/5 + 1/4 ln 2/3 + 1/2 ln 4/5 + 1/2 ln 4/3) / 2
    assert float(jensen_shannon(student, teacher, 1.0)) == pytest.approx(0.033822, abs=1e-6)
    # m = (21/40, 19/40): 3/4 ln 30/21 + 1/4 ln 10/19
    assert float(skewed_kl(student, teacher, 1.0)) == pytest.approx(0.107043, abs=1e-6)


def test_logit_mse_by_hand() -> None:
    """(1 + 4 + 2.25) / 3 and (0.25 + 6.25 + 25) / 3."""
    assert float(logit_mse(torch.tensor(STUDENT), torch.tensor(TEACHER))) == pytest.approx(7.25 / 3 + 31.5 / 3)
    assert float(logit_mse(torch.tensor(STUDENT), torch.tensor(STUDENT))) == 0


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "symmetric_kl"])
def test_temperature_does_not_change_the_size_of_the_gradient(name: str) -> None:
    """At high temperatures T² KL tends to |student − teacher|² / 2C of centred logits (Hinton et al. 2015, eq. 4)."""
    student, teacher = torch.tensor(STUDENT).double(), torch.tensor(TEACHER).double()
    gaps = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = float(gaps.square().sum()) / (2 * 3)
    assert float(ANSWER_LOSSES[name](student, teacher, 1000.0)) == pytest.approx(limit, rel=0.01)
    assert float(jensen_shannon(student, teacher, 1000.0)) == pytest.approx(limit / 4, rel=0.01)
    assert float(skewed_kl(student, teacher, 1000.0, 0.1)) == pytest.approx(limit * 0.81, rel=0.01)


@pytest.mark.parametrize("name", DEFINED)
def test_equal_answers_cost_nothing_and_far_ones_no_infinity(name: str) -> None:
    loss, logits = ANSWER_LOSSES[name], torch.tensor(STUDENT)
    assert float(loss(logits, logits, 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(loss(logits, logits + 5, 3.0)) == pytest.approx(0, abs=1e-5), "only differences between logits count"
    assert float(loss(torch.tensor(TEACHER), logits, 3.0)) > 0.05
    sure = torch.tensor([[200.0, -200.0]], requires_grad=True)
    found = loss(sure, -sure.detach(), 1.0)
    (gradient,) = torch.autograd.grad(found, sure)
    assert torch.isfinite(found) and torch.isfinite(gradient).all()
    if name == "jensen_shannon":
        assert float(found.detach()) == pytest.approx(math.log(2), rel=1e-6), "its bound"
    if name == "skewed_kl":
        assert float(found.detach()) == pytest.approx(-math.log(0.1), rel=1e-6), "its bound"


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_half_precision_is_reckoned_in_full(name: str) -> None:
    student, teacher = torch.tensor(STUDENT), torch.tensor(TEACHER)
    found = ANSWER_LOSSES[name](student.bfloat16(), teacher.half(), 2.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(ANSWER_LOSSES[name](student, teacher, 2.0)), rel=1e-5), (
        "halves of these are exact"
    )


# Gradients


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_gradients_of_answers(name: str, temperature: float) -> None:
    teacher = draw(4, 5, seed=1).detach()
    assert torch.autograd.gradcheck(lambda student: ANSWER_LOSSES[name](student, teacher, temperature), draw(4, 5))


def test_the_gradient_of_forward_kl_by_hand() -> None:
    """T (q − p): Hinton et al. 2015, eq. 2, times T²."""
    student, teacher = draw(3, 4), draw(3, 4, seed=1).detach()
    (found,) = torch.autograd.grad(forward_kl(student, teacher, 4.0), student)
    wanted = 4.0 * ((student / 4).softmax(-1) - (teacher / 4).softmax(-1))
    torch.testing.assert_close(found, wanted)


def test_gradients_of_other_answers() -> None:
    student, teacher = draw(4, 5), draw(4, 5, seed=1).detach()
    mask = torch.tensor([[1, 1], [1, 0]])
    values, ids = likeliest(teacher, 2, 2.0)
    whole, every = likeliest(teacher, 5, 2.0)
    check = torch.autograd.gradcheck
    assert check(lambda logits: sigmoid_kl(logits, teacher, 2.0), student)
    assert check(lambda logits: soft_bce(logits, teacher.sigmoid()), student)
    assert check(lambda numbers: regression_mse(numbers, teacher[:, 0]), draw(4))
    assert check(lambda logits: over_tokens(logits.reshape(2, 2, 5), teacher.reshape(2, 2, 5), mask, 2.0), student)
    assert check(lambda logits: top_k_kl(logits, values, ids, 2.0), student)
    assert check(lambda logits: top_k_kl(logits, whole, every, 2.0), student)
    labels = torch.tensor([0, -100, 3, -100])
    assert check(lambda logits: with_labels(forward_kl(logits, teacher, 2.0), logits, labels, 0.3), student)


# Labels and several teachers


def test_the_mix_with_labels_by_hand() -> None:
    """Cross-entropies −ln softmax: 0.4 and 3.0671 by hand; an example without a label adds none."""
    logits, soft = torch.tensor(STUDENT), torch.tensor(7.0)
    first, second = (-math.log(by_hand(row, 1.0)[label]) for row, label in zip(STUDENT, (0, 0), strict=True))
    assert second == pytest.approx(3.0660, abs=1e-3)
    assert float(with_labels(soft, logits, torch.tensor([0, 0]), 0.25)) == pytest.approx(
        0.25 * 7 + 0.75 * (first + second), rel=1e-5
    )
    assert float(with_labels(soft, logits, torch.tensor([-100, 0]), 0.25)) == pytest.approx(0.25 * 7 + 0.75 * second, rel=1e-5)
    assert float(with_labels(soft, logits, torch.tensor([-100, -100]), 0.25)) == pytest.approx(0.25 * 7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_mixture_of_teachers_is_the_mean_of_their_softened_answers(temperature: float) -> None:
    weights, other = (0.75, 0.25), [[-1.0, 1.0, 0.0], [3.0, -2.0, 0.5]]
    teachers_BKC = torch.tensor([[TEACHER[row], other[row]] for row in range(2)])
    found = softened(mixture(teachers_BKC, torch.tensor(weights), temperature), temperature).exp()
    for row in range(2):
        wanted = mean_of(by_hand(TEACHER[row], temperature), by_hand(other[row], temperature), weights[0])
        assert found[row].tolist() == pytest.approx(wanted, rel=1e-5)


# Other heads


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_sigmoid_kl_by_hand(temperature: float) -> None:
    total = 0.0
    for student, teacher in zip(sum(STUDENT, []), sum(TEACHER, []), strict=True):
        yes, ours = (1 / (1 + math.exp(-value / temperature)) for value in (teacher, student))
        total += kl([yes, 1 - yes], [ours, 1 - ours])
    found = sigmoid_kl(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    assert float(found) == pytest.approx(temperature**2 * total, rel=1e-4)


def test_soft_bce_is_the_kl_but_for_the_teachers_own_entropy() -> None:
    student, teacher = draw(3, 4), draw(3, 4, seed=1).detach()
    shares = teacher.sigmoid()
    entropy = -(shares * shares.log() + (1 - shares) * (1 - shares).log()).sum()
    torch.testing.assert_close(soft_bce(student, shares), sigmoid_kl(student, teacher, 1.0) + entropy)
    assert float(soft_bce(torch.tensor([[0.0]]), torch.tensor([[0.3]]))) == pytest.approx(math.log(2))


def test_regression_mse_by_hand() -> None:
    assert float(regression_mse(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0]))) == 0.25 + 9


def test_tokens_that_do_not_count_change_nothing() -> None:
    student, teacher = torch.tensor([STUDENT, STUDENT]), torch.tensor([TEACHER, TEACHER])
    mask = torch.tensor([[1, 0], [0, 1]])
    wanted = float(forward_kl(torch.tensor(STUDENT), torch.tensor(TEACHER), 2.0))
    assert float(over_tokens(student, teacher, mask, 2.0)) == pytest.approx(wanted, rel=1e-6)
    student[0, 1], student[1, 0] = math.nan, 1e9
    assert float(over_tokens(student, teacher, mask, 2.0)) == pytest.approx(wanted, rel=1e-6)
    assert float(over_tokens(student, teacher, mask, 2.0, logit_mse)) == pytest.approx((7.25 + 31.5) / 3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_top_k_kl_by_hand(temperature: float) -> None:
    """The teacher's likeliest of three, and the two others together."""
    values, ids = likeliest(torch.tensor(TEACHER), 1, temperature)
    assert ids.tolist() == [[0], [2]]
    wanted = 0.0
    for row, top in ((0, 0), (1, 2)):
        p, q = by_hand(TEACHER[row], temperature)[top], by_hand(STUDENT[row], temperature)[top]
        wanted += kl([p, 1 - p], [q, 1 - q])
    found = top_k_kl(torch.tensor(STUDENT), values, ids, temperature)
    assert float(found) == pytest.approx(temperature**2 * wanted, rel=1e-4)
    others = [math.log(1 - by_hand(TEACHER[row], temperature)[top]) for row, top in ((0, 0), (1, 2))]
    kept = top_k_kl(torch.tensor(STUDENT), values, ids, temperature, torch.tensor(others))
    assert float(kept) == pytest.approx(temperature**2 * wanted, rel=1e-4), "what was left for the others was kept too"


def test_top_k_kl_grows_to_the_whole_kl() -> None:
    student, teacher = 3 * draw(6, 40).detach(), 3 * draw(6, 40, seed=1).detach()
    found = [float(top_k_kl(student, *likeliest(teacher, k, 2.0), 2.0)) for k in (1, 5, 20, 39, 40)]
    whole = float(forward_kl(student, teacher, 2.0))
    assert all(less <= more + 1e-9 for less, more in zip(found, found[1:], strict=False))
    assert found[0] < 0.9 * whole and found[3] == pytest.approx(whole) == pytest.approx(found[4])
    half = top_k_kl(student, likeliest(teacher, 20, 2.0)[0].half(), likeliest(teacher, 20, 2.0)[1], 2.0)
    assert float(half) == pytest.approx(found[2], rel=1e-3), "kept in half precision"


def test_top_k_kl_holds_the_student_to_what_is_not_in_the_list() -> None:
    """Two students that agree on the list, but for what they leave to all others."""
    teacher = torch.tensor([[4.0, 3.0, -9.0, -9.0]])
    values, ids = likeliest(teacher, 2, 1.0)
    astray = torch.tensor([[4.0, 3.0, 6.0, -9.0]])
    assert float(top_k_kl(teacher, values, ids, 1.0)) == pytest.approx(0, abs=1e-6)
    assert float(top_k_kl(astray, values, ids, 1.0)) > 1.5
    sure = torch.tensor([[90.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = top_k_kl(sure, *likeliest(sure.detach(), 2, 1.0), 1.0)
    (gradient,) = torch.autograd.grad(loss, sure)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5) and torch.isfinite(gradient).all()
