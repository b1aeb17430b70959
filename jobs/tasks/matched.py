"""Distilling from the teacher's inside too: states of chosen layers are to be like its own, as the recipe's `match` says.

    widths, causal = prepare_match(student, teacher, (tokenizer, its_tokenizer), matches)
    model = MatchedStudent(student, widths, matches)
    objective = Matched(Distilled(task, [soft], Mix()), teacher, causal, matches)

The teacher runs beside the student, frozen, on the same tokens; which text each is of is read by whichever of the two has
learned to. Where their widths differ, the student's states go through a linear map that learns with it; it is not part of what
is published.

B batch, T tokens, D width, M matches.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from jobs.architectures.introspection import InnerStates, forward_with_states, is_causal, record_attention
from jobs.contracts.learning import Batch
from jobs.contracts.objective import Wrapping
from jobs.core.config import BadInput, Problem
from jobs.losses.relations import pairs, relation_kl, relation_mse, relations
from jobs.losses.settings import Match, annealed
from jobs.losses.states import hidden_cosine, hidden_mse
from jobs.tasks.distilled import Distilled
from jobs.tasks.heads import inputs_of

STATE_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mse": hidden_mse, "cosine": hidden_cosine}
RELATION_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mse": relation_mse, "kl": relation_kl}
OF_STATES = ("hidden", "embedding")


class MatchedStudent(nn.Module):
    """The student with the linear maps to the teacher's widths."""

    def __init__(self, student: nn.Module, widths: tuple[int, int], matches: Mapping[str, Match]) -> None:
        super().__init__()
        self.student, self.matches = student, matches
        self.apart = [name for name, match in matches.items() if match.what in OF_STATES and widths[0] != widths[1]]
        self.projections = nn.ModuleList([nn.Linear(*widths, bias=False) for _ in self.apart])

    def forward(self, inside: bool = False, **inputs: Tensor) -> Any:
        """The student's output; with `inside` it and, by match, the state or the two sides of a relation (BTD)."""
        if not inside:
            return self.student(**inputs)
        output, inner = forward_with_states(self.student, **inputs)
        parts = {name: _look_at(match, inner, match.student) for name, match in self.matches.items()}
        for name, projection in zip(self.apart, self.projections, strict=True):
            parts[name] = (projection(parts[name][0]),)
        return output, parts


class Matched(Wrapping):
    """The loss of distillation, and for each match weight · loss of the states."""

    def __init__(self, answers: Distilled, teacher: PreTrainedModel, causal: bool, matches: Mapping[str, Match]) -> None:
        super().__init__(answers)
        self.answers, self.matches, self.causal = answers, matches, causal
        self.teacher = teacher.eval().requires_grad_(False)
        self.read = inputs_of(teacher, answers.task.spec)

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The windows as for distillation, and the step's weights of the matches beside each."""
        how, progress = self.answers.mix.annealing, self.answers.progress(step)
        now_M = torch.tensor([annealed(m.weight, m.weight_end, how, progress) for m in self.matches.values()])
        batch = self.answers.batch(indices, seed, step)
        lacking = [name for name in self.read if name not in batch]
        theirs = self.answers.task.train.batch(indices, lacking) if lacking else {}
        return {**theirs, **batch, "match": now_M.expand(len(indices), -1)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mixed loss and those of the matches, summed over the batch."""
        parts: dict[str, tuple[Tensor, ...]] = {}

        def student(**inputs: Tensor) -> Any:
            output, found = model(inside=True, **inputs)
            parts.update(found)
            return output

        outputs = self.answers.task.forward(student, batch)
        mask_BT = batch["attention_mask"]
        read = {name: batch[name] for name in self.read}
        with torch.no_grad():
            _, inner = forward_with_states(self.teacher.to(mask_BT.device), **read)
        total = self.answers.of_answers(outputs, batch)
        for weight, (name, match) in zip(batch["match"][0], self.matches.items(), strict=True):
            total = total + weight * self._apart(match, parts[name], _look_at(match, inner, match.teacher), mask_BT)
        return total

    def _apart(self, match: Match, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], mask_BT: Tensor) -> Tensor:
        """How far one match's two sides are apart, summed over the batch."""
        if match.what in OF_STATES:
            return STATE_LOSSES[match.compared](ours[0], theirs[0], mask_BT)
        heads = _heads(match, self.teacher.config)
        scores = [relations(left, right, heads) for left, right in (ours, theirs)]
        return RELATION_LOSSES[match.compared](scores[0], scores[1], pairs(mask_BT, self.causal))

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write the student alone."""
        assert isinstance(model, MatchedStudent)
        return self.answers.save(model.student, directory)


def prepare_match(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    matches: Mapping[str, Match],
) -> tuple[tuple[int, int], bool]:
    """Make both sides fit to be compared; BadInput with everything in `match` that they cannot do.

    Returns the widths of their hidden states, and whether tokens are to be compared with earlier ones alone.
    """
    problems = _check_vocabulary(*tokenizers)
    for name, match in matches.items():
        sides = [] if match.what == "embedding" else [("student", match.student, student), ("teacher", match.teacher, teacher)]
        for side, layer, model in sides:
            problems += _check_layer(f"match.{name}.{side}", layer, side, model.config.num_hidden_layers)
        if match.what not in OF_STATES:
            problems += _check_heads(f"match.{name}", match, student.config, teacher.config)
    if problems:
        raise BadInput(problems)
    if any(match.what not in OF_STATES for match in matches.values()):
        record_attention(student)
        record_attention(teacher)
    return (student.config.hidden_size, teacher.config.hidden_size), is_causal(student) or is_causal(teacher)


def _look_at(match: Match, inner: InnerStates, layer: int) -> tuple[Tensor, ...]:
    if match.what == "embedding":
        return (inner.embedding,)
    if match.what == "hidden":
        return (inner.hidden[layer],)
    heads = inner.heads[layer]
    return (heads.value, heads.value) if match.what == "value_relation" else (heads.query, heads.key)


def _heads(match: Match, teacher: PreTrainedConfig) -> int:
    return match.relation_heads or teacher.num_attention_heads


def _check_layer(path: str, layer: int, side: str, count: int) -> list[Problem]:
    if -count <= layer < count:
        return []
    reason = f"the {side} has {count} layers: 0 to {count - 1} from the bottom, -1 to -{count} from the top"
    return [Problem(path, layer, reason, "Name a layer that is there.")]


def _check_heads(path: str, match: Match, student: PreTrainedConfig, teacher: PreTrainedConfig) -> list[Problem]:
    """Whether both sides can be cut into the same heads."""
    ours, theirs = student.num_attention_heads, teacher.num_attention_heads
    if match.what == "attention" and ours != theirs:
        reason = f"the student has {ours} heads, the teacher {theirs}"
        return [Problem(f"{path}.what", match.what, reason, "Use query_key, which cuts both into relation_heads.")]
    heads, widths = _heads(match, teacher), (_attention_width(student), _attention_width(teacher))
    if any(width % heads for width in widths):
        fitting = [str(number) for number in range(1, min(widths) + 1) if not any(width % number for width in widths)]
        reason = f"{heads} heads do not divide the widths {widths[0]} (student) and {widths[1]} (teacher)"
        return [Problem(f"{path}.relation_heads", match.relation_heads, reason, f"Give one of {', '.join(fitting)}.")]
    return []


def _attention_width(config: PreTrainedConfig) -> int:
    each = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(each * config.num_attention_heads)


def _check_vocabulary(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> list[Problem]:
    """The teacher reads the student's ids: each must mean the same to both."""
    student, teacher = ours.get_vocab(), theirs.get_vocab()
    if student == teacher:
        return []
    apart = sorted(token for token in student.keys() | teacher.keys() if student.get(token) != teacher.get(token))
    reason = f"its vocabulary is not the student's: {len(apart)} tokens differ, such as {apart[0]!r}"
    remedy = "Match needs one tokenizer for both: start from a base with the teacher's (student.every makes one)."
    return [Problem("inputs.teacher_model", None, reason, remedy)]
