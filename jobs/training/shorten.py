"""A student from some of a model's layers: the same architecture with fewer of them, and every weight copied.

    student = student_of(teacher, Shorten(every=2))

Embeddings, pooler and head come along; stock `from_pretrained` loads what is saved (so begins DistilBERT: Sanh et al. 2019).
"""

import copy
from collections.abc import Sequence

from transformers import PreTrainedModel

from jobs.core.config import BadInput, Problem
from jobs.training.layers import LAYER
from jobs.training.settings import Shorten


def student_of(base: PreTrainedModel, settings: Shorten) -> PreTrainedModel:
    """The layers that the settings name, with the base's weights or new ones; all neurons are still there."""
    student = base
    if settings.every is not None or settings.layers is not None:
        student = shortened(base, kept_layers(base, settings))
    return type(student)(student.config).train(base.training) if settings.weights == "random" else student


def kept_layers(model: PreTrainedModel, settings: Shorten) -> tuple[int, ...]:
    """The numbers of the layers that stay, from the bottom; BadInput where the model has no such layers."""
    count = _layer_count(model)
    if settings.every is not None:
        return tuple(range(0, count, settings.every))
    assert settings.layers is not None
    if settings.layers[-1] >= count:
        reason = f"the base has {count} layers, 0 to {count - 1}"
        raise BadInput([Problem("student.layers", list(settings.layers), reason, "Name layers that are there.")])
    return settings.layers


def shortened(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model of these layers alone; BadInput where a layer cannot stand in its new place."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    student = type(model)(config)
    places = {layer: place for place, layer in enumerate(layers)}
    weights = {}
    for name, weight in model.state_dict().items():
        found = LAYER.search(name)
        if found is None:
            weights[name] = weight
        elif int(found.group(1)) in places:
            start, end = found.span(1)
            weights[f"{name[:start]}{places[int(found.group(1))]}{name[end:]}"] = weight
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        reason = f"in {type(model).__name__} they are not all alike: {' '.join(str(error).split())[:200]}"
        raise BadInput([Problem("student", list(layers), reason, "Keep layer 0 as the first.")]) from error
    return student.train(model.training)


def _layer_count(model: PreTrainedModel) -> int:
    """How many layers the model has; BadInput where they are not laid out one after another."""
    count = getattr(model.config, "num_hidden_layers", None)
    numbers = {int(found.group(1)) for name in model.state_dict() if (found := LAYER.search(name))}
    if count is None or model.config.is_encoder_decoder or numbers != set(range(count)):
        reason = f"{type(model).__name__} has no single stack of layers of its own"
        raise BadInput([Problem("student", None, reason, "Leave student out, and give a smaller model.")])
    return count
