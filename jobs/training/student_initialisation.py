"""A student from some of a model's layers: the same architecture with fewer of them, and every weight copied.

    student = initialise_student(teacher, StudentInitialisation(every=2))

Embeddings, pooler and head come along; stock `from_pretrained` loads what is saved (so begins DistilBERT: Sanh et al. 2019).
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from jobs.architectures.depth import keep_layers
from jobs.architectures.layers import STACK
from jobs.architectures.layout import LAYOUTS, Layout, Stack, part, stacks_of
from jobs.architectures.settings import StudentInitialisation
from jobs.core.config import BadInput, Problem


def initialise_student(base: PreTrainedModel, settings: StudentInitialisation) -> PreTrainedModel:
    """The layers that the settings name, with the base's weights or new ones; all neurons are still there."""
    student = base
    if settings.every is not None or settings.layers is not None:
        student = with_layers(base, kept_layers(base, settings))
    return type(student)(student.config).train(base.training) if settings.weights == "random" else student


def kept_layers(model: PreTrainedModel, settings: StudentInitialisation) -> tuple[int, ...]:
    """The numbers of the layers that stay, from the bottom; BadInput where the model has no such layers."""
    count = max(len(layers) for _, layers in stacks_of(model, _layout(model)))
    if settings.every is not None:
        return tuple(range(0, count, settings.every))
    assert settings.layers is not None
    if settings.layers[-1] >= count:
        reason = f"the base has {count} layers, 0 to {count - 1}"
        raise BadInput([Problem("student.layers", list(settings.layers), reason, "Name layers that are there.")])
    return settings.layers


def with_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model of these layers alone, of each stack those that it has; BadInput where one cannot stand in its new place."""
    student, layout = copy.deepcopy(model), _layout(model)
    kept = [[layer for layer in layers if layer < len(stack)] for _, stack in stacks_of(model, layout)]
    if not all(kept):
        reason = "one of its stacks has none of these layers"
        raise BadInput([Problem("student", list(layers), reason, "Keep layer 0.")])
    keep_layers(student, layout, kept)
    with torch.device("meta"):
        stock = type(student)(copy.deepcopy(student.config))
    wanted, found = _shapes(stock), _shapes(student)
    if wanted != found:
        names = ", ".join(sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[:4])
        reason = f"in {type(model).__name__} they are not all alike: {names}"
        raise BadInput([Problem("student", list(layers), reason, "Keep layer 0 as the first.")])
    return student


def _layout(model: PreTrainedModel) -> Layout:
    """Where the layers are: as the table of architectures says, else the one stack that there is."""
    if model.config.model_type in LAYOUTS:
        return LAYOUTS[model.config.model_type]
    named = model.base_model.named_modules()
    paths = [path for path, module in named if isinstance(module, nn.ModuleList) and STACK.search(path)]
    if len(paths) != 1 or len(part(model.base_model, paths[0])) != getattr(model.config, "num_hidden_layers", None):
        reason = f"{type(model).__name__} has no single stack of layers of its own"
        raise BadInput([Problem("student", None, reason, "Leave student out, and give a smaller model.")])
    return Layout((Stack(paths[0], "num_hidden_layers"),), (), "", "")


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in model.state_dict().items()}
