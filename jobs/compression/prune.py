"""Structured pruning: neurons, heads and layers really go, and stock `from_pretrained` loads what is left.

    pruner = Pruner(model, Prune(feed_forward=0.5, layers=2, steps=3))     # BadInput where something would do nothing
    for goal in pruner.goals:
        pruner.remove(goal, objective, batches)
        …                                                                  # train, to win back what was lost
    pruner.finish()

The same share goes from every layer, because stock configs have one width and one number of heads for all layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel

from jobs.architectures.depth import check_layers, remove_layers, removed_layers
from jobs.architectures.layout import Layout, head_size, key_value_groups, layout_of, queries_per_group, set_config, stacks_of
from jobs.compression.importance import magnitude, taylor
from jobs.compression.pruning_units import UnitGroup, feed_forward_groups, head_groups
from jobs.compression.settings import ROUNDED_TO, Prune, kept_neurons
from jobs.compression.sparsity import Sparsity, cubic, layer_matrices
from jobs.contracts.learning import Batch
from jobs.contracts.objective import Objective
from jobs.core.config import BadInput, Problem


@dataclass(frozen=True)
class Goal:
    """What is left after a step."""

    neurons: int | None
    """Of each layer; None where none are to go."""
    groups: int | None
    """Groups of heads of each attention."""
    depths: tuple[int, ...]
    """Layers of each stack."""
    zeros: float = 0.0
    """Share of the weights that are 0."""

    def like(self, other: "Goal") -> bool:
        """Whether the same units are left."""
        return replace(self, zeros=other.zeros) == other


def kept_groups(model: PreTrainedModel, layout: Layout, groups: int, share_removed: float) -> int:
    """How many of an attention's groups of heads stay: the nearest number that the config may say."""
    attention = layout.attention
    assert attention is not None
    queries = queries_per_group(model, attention)
    allowed = [
        count
        for count in range(1, groups + 1)
        if not attention.divides_hidden or model.config.hidden_size % (count * queries) == 0
    ]
    return min(allowed, key=lambda count: (abs(count - groups * (1 - share_removed)), count))


class Pruner:
    """Takes out of a model what the settings say, in steps."""

    def __init__(self, model: PreTrainedModel, settings: Prune) -> None:
        self.model, self.settings = model, settings
        asked = [key for key in ("feed_forward", "heads", "layers") if getattr(settings, key)]
        self.layout = layout_of(model, f"prune.{asked[0]}", getattr(settings, asked[0])) if asked else None
        self.sparsity = Sparsity(model) if settings.weights else None
        problems = self._problems()
        if problems:
            raise BadInput(problems)
        self.before = self._sizes()
        self.goals = self._goals()

    def _problems(self) -> list[Problem]:
        """Everything that would do nothing, or cannot be."""
        settings, kind, problems = self.settings, self.model.config.model_type, []
        sizes = [matrix.weight.numel() for matrix in layer_matrices(self.model).values()]
        if settings.weights and not sizes:
            reason = f"it is not known where the layers of {kind} are"
            problems.append(Problem("prune.weights", settings.weights, reason, "Leave it out for this model."))
        elif settings.weights and round(settings.weights * max(sizes)) == 0:
            reason = f"this share of the {max(sizes)} weights of {kind}'s largest matrix is less than half a weight"
            problems.append(Problem("prune.weights", settings.weights, reason, "Raise it, or leave it out."))
        if self.layout is None:
            return problems
        if settings.feed_forward:
            width = feed_forward_groups(self.model, self.layout)[0].units
            if kept_neurons(width, settings.feed_forward) == width:
                reason = f"{kind} has {width} neurons in a layer, and keeps a multiple of {ROUNDED_TO}: none would go"
                problems.append(Problem("prune.feed_forward", settings.feed_forward, reason, "Raise it, or leave it out."))
        if settings.heads:
            problems += self._heads_problems(self.layout)
        if settings.layers:
            problems += check_layers(self.model, self.layout, settings.layers)
        return problems

    def _heads_problems(self, layout: Layout) -> list[Problem]:
        kind, asked = self.model.config.model_type, self.settings.heads
        if layout.attention is None:
            reason = f"{kind} derives the size of a head from hidden / heads, so its config cannot say that heads are missing"
            remedy = "Prune feed_forward or layers, or distil into a model with fewer heads."
            return [Problem("prune.heads", asked, reason, remedy)]
        groups = key_value_groups(self.model, layout.attention)
        if kept_groups(self.model, layout, groups, asked) == groups:
            reason = f"the nearest number of {kind}'s {groups} groups of heads that may stay is {groups}: none would go"
            return [Problem("prune.heads", asked, reason, "Raise it, or leave it out.")]
        return []

    def _goals(self) -> list[Goal]:
        """What is left after each step; steps that would take nothing out are passed over."""
        settings, steps, goals = self.settings, self.settings.steps, [self.before]
        for step in range(1, steps + 1):
            done, before = step / steps, self.before
            neurons = None if before.neurons is None else kept_neurons(before.neurons, settings.feed_forward * done)
            groups = before.groups
            if groups is not None and self.layout is not None:
                groups = kept_groups(self.model, self.layout, groups, settings.heads * done)
            depths = tuple(depth - round(removed_layers(depth, settings.layers) * done) for depth in before.depths)
            goal = Goal(neurons, groups, depths, cubic(settings.weights, step, steps))
            if goal != goals[-1]:
                goals.append(goal)
        return goals[1:]

    def _sizes(self) -> Goal:
        settings, layout = self.settings, self.layout
        neurons, groups = None, None
        depths: tuple[int, ...] = ()
        if layout is not None:
            depths = tuple(len(layers) for _, layers in stacks_of(self.model, layout))
            neurons = feed_forward_groups(self.model, layout)[0].units if settings.feed_forward else None
            groups = key_value_groups(self.model, layout.attention) if settings.heads and layout.attention else None
        return Goal(neurons, groups, depths)

    def remove(self, goal: Goal, objective: Objective | None = None, batches: Iterable[Batch] = ()) -> None:
        """Take out the least important of what is there, down to the goal; magnitude needs neither objective nor batches."""
        self.model._compiled_call_impl = None  # What healing compiled is another model, and may pass hooks over.
        if self.layout is not None and not goal.like(self._sizes()):
            self._remove_units(self.layout, goal, objective, batches)
        if self.sparsity is not None:
            self.sparsity.raise_to(goal.zeros)

    def _remove_units(self, layout: Layout, goal: Goal, objective: Objective | None, batches: Iterable[Batch]) -> None:
        neurons = feed_forward_groups(self.model, layout) if goal.neurons is not None else []
        heads = head_groups(self.model, layout) if goal.groups is not None else []
        stacks = [layers for _, layers in stacks_of(self.model, layout)]
        flat = [layer for layers in stacks for layer in layers] if self.settings.layers else []
        if self.settings.importance == "taylor":
            assert objective is not None
            units, score_L = taylor(self.model, objective, batches, [*neurons, *heads], flat)
        else:
            units, score_L = magnitude([*neurons, *heads], flat)
        for group, score_U in zip(neurons, units[: len(neurons)], strict=True):
            _keep_best(group, score_U, goal.neurons)
        for group, score_U in zip(heads, units[len(neurons) :], strict=True):
            _keep_best(group, score_U, goal.groups)
        self._tell_config(layout, goal)
        if flat:
            removed = [len(layers) - depth for layers, depth in zip(stacks, goal.depths, strict=True)]
            remove_layers(self.model, layout, score_L.split([len(layers) for layers in stacks]), removed)

    def _tell_config(self, layout: Layout, goal: Goal) -> None:
        told: dict[str, int] = {}
        if goal.neurons is not None:
            told[layout.width] = goal.neurons
        attention = layout.attention
        if goal.groups is not None and attention is not None:
            # Qwen2 would derive the size of a head from their number.
            told[attention.head_size] = head_size(self.model, attention)
            told[attention.heads] = goal.groups * queries_per_group(self.model, attention)
            if attention.key_value_heads is not None:
                told[attention.key_value_heads] = goal.groups
        set_config(self.model, **told)

    def sizes(self) -> dict[str, float]:
        """How many there were of what is taken out, and how many are left."""
        before, after, figures = self.before, self._sizes(), dict[str, int]()
        if before.neurons is not None and after.neurons is not None:
            figures |= {"feed_forward_before": before.neurons, "feed_forward_kept": after.neurons}
        if before.groups is not None and after.groups is not None and self.layout and self.layout.attention:
            queries = queries_per_group(self.model, self.layout.attention)
            figures |= {"heads_before": before.groups * queries, "heads_kept": after.groups * queries}
        if self.settings.layers:
            figures |= {"layers_before": sum(before.depths), "layers_kept": sum(after.depths)}
        return {key: float(value) for key, value in figures.items()}

    def finish(self) -> dict[str, float]:
        """Let go of the zeros; the figures of what is left."""
        if self.sparsity is None:
            return self.sizes()
        self.sparsity.release()
        return self.sizes() | self.sparsity.metrics()


def _keep_best(group: UnitGroup, score_U: Tensor, count: int | None) -> None:
    if count is not None and count < group.units:
        group.keep(score_U.topk(count).indices.sort().values)
