"""How long the texts of each step's model may be, known from the recipe alone: before anything runs, and without weights.

reach = reach_of(recipe, recipe.steps["student"])
reach.positions, reach.trained
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.architectures.models import card_in, unreadable
from jobs.architectures.positions import LENGTH, Reach, longest_of_config
from jobs.core.config import Problem
from jobs.core.recipe import Recipe, Step
from jobs.running.bags import makes_bag
from jobs.running.sizing import named_config, named_shape
from serve.engines.card import EngineError


def length_problems(recipe: Recipe, step: Step) -> Iterator[Problem]:
    """Keys of a step that ask for longer texts than a model that it is given can read, by paths below the step."""
    if step.stage.name in ("pretrain", "predict") and "tokens" in step.inputs:
        yield from _rows_too_long(recipe, step)
    if makes_bag(step):
        return  # It has no positions: texts may be as long as one likes.
    for length in _lengths(step):
        for name in step.inputs.get("teacher_model", ()):  # It reads the same texts as its student.
            read = length or reach_of(recipe, step).usual
            if (problem := reach_of(recipe, recipe.steps[name], read).too_long(read)) is not None:
                yield problem
    for asked in (length for length in _lengths(step) if length is not None):
        for reach in bases_of(recipe, step, asked):
            served = step.stage.name == "compress"
            if (problem := reach.too_long(asked) or (reach.beyond_training(asked) if served else None)) is not None:
                yield problem


def reach_of(recipe: Recipe, step: Step, asked: int = LENGTH) -> Reach:
    """How far the model that a step makes can read; `asked` is what it will be compared with."""
    if step.stage.name == "pretrain":
        config: Any = step.config
        rows = _rows(recipe, step)
        if config.model is not None:
            return Reach(step.name, None if config.model.architecture == "t5" else rows, rows, answers=False)
        positions = next((base.positions for base in bases_of(recipe, step, asked)), None)
        return Reach(step.name, positions, rows, answers=False)
    bases = list(bases_of(recipe, step, asked))
    positions = min((base.positions for base in bases if base.positions is not None), default=None)
    own = max((length for length in _lengths(step) if length is not None), default=None)
    answers = step.stage.name != "compress" or all(base.answers for base in bases)
    return Reach(step.name, positions, own or min((base.usual for base in bases), default=None), answers)


def bases_of(recipe: Recipe, step: Step, asked: int) -> Iterator[Reach]:
    """The models that a step's own model is made from."""
    for config in step.named():
        values: Any = config
        outside = getattr(values, "base", None) or getattr(values, "model", None)
        if isinstance(outside, str):
            yield _outside(outside, asked)
    for key in ("init", "model"):
        yield from (reach_of(recipe, recipe.steps[name], asked) for name in step.inputs.get(key, ()))


def _rows_too_long(recipe: Recipe, step: Step) -> Iterator[Problem]:
    rows = _rows(recipe, step)
    config: Any = step.config
    for reach in bases_of(recipe, step, rows):
        if reach.positions is not None and rows > reach.positions:
            reason = f"it has {reach.positions} positions, and the rows of {step.inputs['tokens'][0]} are {rows} tokens long"
            remedy = f"Prepare tokens with max_length {reach.positions} at most."
            given = "inputs.model" if step.stage.name == "predict" else "inputs.init" if config.base is None else "base"
            yield Problem(given, reach.named, reason, remedy)


def _rows(recipe: Recipe, step: Step) -> int:
    """The tokens in a row of what a step pretrains on."""
    config: Any = recipe.steps[step.inputs["tokens"][0]].config
    return int(config.max_length)


def _lengths(step: Step) -> list[int | None]:
    """What a step says of its texts' length: one value, or all that a search may take."""
    space = step.spaces.get("max_length")
    return [getattr(step.config, "max_length", None)] if space is None else list(space.examples())


def _outside(name: str, asked: int) -> Reach:
    """A model from outside, as far as its files are on this machine.

    Only a model's own code knows whether positions are counted on from its padding token: it is asked where that decides, as
    it takes seconds to load.
    """
    settings = named_config(name)
    if settings is None:
        shape = named_shape(name)
        return Reach(name, None if shape is None else shape.positions or None)  # 0: they are not in a table.
    trained = _trained(name)
    rows = settings.get("max_position_embeddings") or settings.get("n_positions")
    if isinstance(rows, int) and asked + _reserved(settings) <= rows:
        return Reach(name, rows, trained)
    from transformers import AutoConfig

    try:
        return Reach(name, longest_of_config(AutoConfig.from_pretrained(name)), trained)
    except unreadable():  # It is told where the model is checked.
        return Reach(name, None, trained)


def _trained(name: str) -> int | None:
    """The tokens of the texts that a model from outside was trained on, where it has a card."""
    try:
        card = card_in(name)
    except EngineError:  # It is told where the model is read.
        return None
    return None if card is None else card.max_length


def _reserved(settings: Mapping[str, Any]) -> int:
    """The positions that no text has, where a model counts them on from its padding token."""
    padding = settings.get("pad_token_id")
    return 1 + (padding if isinstance(padding, int) else 0)
