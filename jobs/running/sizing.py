"""What each step of a recipe asks of a cluster: workers, CPUs, GPUs, and how much memory that should take.

demands = recipe_demands(recipe)
demands["teacher"].memory

Models are sized from their shapes alone: nothing is fetched and no weights are loaded.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.fleet.placement import Demand
from jobs.architectures.positions import LENGTH
from jobs.compression.settings import kept_neurons
from jobs.core.config import Config
from jobs.core.recipe import Recipe, Step
from jobs.core.spaces import count_trials, shape_spaces
from jobs.running.bags import makes_bag
from jobs.running.training_memory import (
    CONTEXT_BYTES,
    FLOAT,
    PROCESS_BYTES,
    Load,
    ModelShape,
    inference_memory,
    training_memory,
)
from jobs.training.settings import Training

BERT_BASE = ModelShape(12, 768, 12, 3072, 30522)
KNOWN = {
    "sample:minilm_l6": ModelShape(6, 384, 12, 1536, 30522),
    "bert-base-uncased": BERT_BASE,
    "google-bert/bert-base-uncased": BERT_BASE,
    "google-bert/bert-large-uncased": ModelShape(24, 1024, 16, 4096, 30522),
    "google-bert/bert-base-chinese": ModelShape(12, 768, 12, 3072, 21128),
    "distilbert/distilbert-base-uncased": ModelShape(6, 768, 12, 3072, 30522),
    "FacebookAI/roberta-base": ModelShape(12, 768, 12, 3072, 50265, 514),
    "FacebookAI/roberta-large": ModelShape(24, 1024, 16, 4096, 50265, 514),
    "answerdotai/ModernBERT-base": ModelShape(22, 768, 12, 1152, 50368, 0, gated=True),
    "openai-community/gpt2": ModelShape(12, 768, 12, 3072, 50257, 1024),
}
"""Shapes of models that recipes often name, so that a plan needs no hub."""
KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "dim", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "feed_forward": ("intermediate_size", "n_inner", "hidden_dim", "d_ff"),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
    "decoder": ("num_decoder_layers", "decoder_layers"),
    "embedding": ("embedding_size",),
    "head_size": ("head_dim", "d_kv"),
    "key_value_heads": ("num_key_value_heads",),
}
"""What the architectures of transformers call these sizes."""
ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "modernbert")
"""Architectures that turn queries and keys by their positions, of which they have no table, and gate their neurons."""
SHAPED_BY = ("model", "base", "student")
"""The keys that say what a model's shape is."""
FLOOR_BYTES = 1 << 30
"""Counts of the words and characters of the training texts, and what a search for the weights above them holds."""
ADAPTED = 0.02
"""Share of the weights that learn with adapters."""


def recipe_demands(recipe: Recipe) -> dict[str, Demand]:
    """What every step asks for; memory is None where the model's shape cannot be known yet."""
    return {name: _demand(recipe, step) for name, step in recipe.steps.items()}


def shape_of_config(settings: Mapping[str, Any]) -> ModelShape | None:
    """A model's shape from its config.json; None where that does not say it."""
    found = {name: next((settings[key] for key in keys if settings.get(key)), 0) for name, keys in KEYS.items()}
    if not all(isinstance(size, int) for size in found.values()):
        return None  # A list has a size for each layer.
    layers, hidden, heads = found["layers"], found["hidden"], found["heads"]
    if min(layers, hidden, heads, found["vocabulary"]) <= 0:
        return None
    size, rotary = found["head_size"] or hidden // heads, settings.get("model_type") in ROTARY
    sharing, embedding = found["key_value_heads"] or heads, found["embedding"] or hidden
    return ModelShape(
        *(layers, hidden, heads, found["feed_forward"] or 4 * hidden, found["vocabulary"]),
        positions=0 if rotary else found["positions"],
        decoder=(found["decoder"] or layers) if settings.get("is_encoder_decoder") else 0,
        gated=rotary or str(settings.get("feed_forward_proj")).startswith("gated"),
        queries=heads * size if heads * size != hidden else None,
        keys=sharing * size if sharing != heads else None,
        embedding=embedding if embedding != hidden else None,
    )


def _demand(recipe: Recipe, step: Step) -> Demand:
    resources, config = step.resources, step.config
    if step.stage.name == "select":
        return Demand(step.name, cpus=0)  # It reads a report, in its own driver.
    if step.stage.name == "deploy":
        values = config.model_dump()
        return Demand(step.name, cpus=1 if values["cpus"] is None else values["cpus"], workers=values["replicas"])
    memory, gpu_memory = _memory(recipe, step, config)
    return Demand(
        step.name,
        cpus=resources.cpus,
        gpus=resources.gpus,
        workers=resources.workers,
        fewest=resources.min_workers,
        trials=count_trials(step.tune, step.spaces)[1] if step.spaces else 1,
        memory=memory,
        gpu_memory=gpu_memory,
    )


def _memory(recipe: Recipe, step: Step, config: Config) -> tuple[int | None, int | None]:
    """Bytes of a worker on its node and on its GPU."""
    if step.stage.name == "floor":
        return PROCESS_BYTES + FLOOR_BYTES, None
    training = config if isinstance(config, Training) else getattr(config, "heal", None)
    shape = model_shape(recipe, step)
    if shape is None:
        return None, None
    on_gpu = step.resources.gpus > 0
    if not isinstance(training, Training):
        answers = inference_memory(shape, _largest(step, "batch_size", 32), _length(recipe, step))
        return (PROCESS_BYTES, CONTEXT_BYTES + answers) if on_gpu else (PROCESS_BYTES + answers, None)
    memory = training_memory(shape, _load(recipe, step, training))
    extra = shape.parameters * FLOAT * ((training.average is not None) + (step.resources.workers > 1))
    extra += _teacher(recipe, step, training)
    # A checkpoint is copied to the node's memory before it is written.
    if on_gpu:
        return PROCESS_BYTES + memory.state, CONTEXT_BYTES + memory.total + extra
    return PROCESS_BYTES + memory.total + memory.state + extra, None


def _load(recipe: Recipe, step: Step, training: Training) -> Load:
    resources, on_gpu = step.resources, step.resources.gpus > 0
    values = training.model_dump()
    parts = training.gradient_accumulation * (1 if resources.parallel == "tensor" else resources.workers)
    objective = values.get("objective")
    return Load(
        batch=max(1, -(-_largest(step, "batch_size", training.batch_size) // parts)),
        tokens=_length(recipe, step),
        precision=training.precision if training.precision != "auto" else ("bf16" if on_gpu else "fp32"),
        optimizer=training.optimizer.name,
        predicted=0.0 if objective is None else 1.0 if objective == "causal" else values["mask_probability"],
        fused_attention=on_gpu,
        checkpointing=training.activation_checkpointing,
        trained=ADAPTED if values.get("adapter") else 1.0,
        shards=1 if resources.parallel == "ddp" else resources.workers,
    )


def _teacher(recipe: Recipe, step: Step, training: Training) -> int:
    """A teacher that shows its inner states answers beside its student."""
    names = step.inputs.get("teacher_model", ())
    shape = model_shape(recipe, recipe.steps[names[0]]) if names else None
    return inference_memory(shape, training.batch_size, _length(recipe, step)) if shape else 0


def model_shape(recipe: Recipe, step: Step) -> ModelShape | None:
    """The shape of the model that a step trains or asks, by its config or by the steps that make it.

    The largest where it is searched, or where there are several.
    """
    return _largest_shape(_shape(recipe, step, config.model_dump()) for config in _shaping(step))


def _shaping(step: Step) -> Iterator[Config]:
    """The configs of a step that differ in what makes a model's shape."""
    first = {path: space.examples()[0] for path, space in step.spaces.items()}
    spaces = shape_spaces(step.spaces, SHAPED_BY)
    for values in itertools.product(*(space.examples() for space in spaces.values())):
        try:
            yield step.configure({**first, **dict(zip(spaces, values, strict=True))})
        except ValidationError:
            continue  # Of keys that are searched by themselves not all values go together; no trial can have these.


def _largest_shape(shapes: Iterable[ModelShape | None]) -> ModelShape | None:
    """None where one of them is not known."""
    found = list(shapes)
    known = [shape for shape in found if shape is not None]
    return max(known, key=lambda shape: shape.parameters) if known and len(known) == len(found) else None


def _shape(recipe: Recipe, step: Step, values: Mapping[str, Any]) -> ModelShape | None:
    named = values.get("model") or values.get("base")
    if makes_bag(step):
        return None
    if isinstance(named, Mapping):
        return _new_shape(recipe, step, named)
    if isinstance(named, str):
        return _shape_of_student(named_shape(named), values.get("student"))
    given = [step.inputs[key] for key in ("init", "model", "teacher", "candidates") if key in step.inputs]
    asked = itertools.chain(*(given if step.stage.name == "evaluate" else given[:1]))
    # Beside transformers a bag of features takes next to nothing.
    shape = _largest_shape(model_shape(recipe, recipe.steps[name]) for name in asked if not makes_bag(recipe.steps[name]))
    return _shape_of_student(shape, values.get("student"))


def _new_shape(recipe: Recipe, step: Step, model: Mapping[str, Any]) -> ModelShape | None:
    tokens = recipe.steps[step.inputs["tokens"][0]].config.model_dump()
    tokenizer = tokens.get("tokenizer") or {}
    taken = named_shape(tokenizer["model"]) if tokenizer.get("model") else None
    vocabulary = taken.vocabulary if taken else tokenizer.get("vocab_size")
    if not vocabulary:
        return None
    width, layers = model["feed_forward"] or 4 * model["hidden"], model["layers"]
    rotary, decodes = model["architecture"] in ROTARY, model["architecture"] == "t5"
    return ModelShape(
        *(layers, model["hidden"], model["heads"], width, vocabulary),
        positions=0 if rotary or decodes else tokens["max_length"],
        decoder=layers if decodes else 0,
        gated=rotary,
    )


def named_shape(name: str) -> ModelShape | None:
    """A model from outside: a known name, a directory's own config, or what the hub's cache on this machine has."""
    if name in KNOWN:
        return KNOWN[name]
    settings = named_config(name)
    return None if settings is None else shape_of_config(settings)


def named_config(name: str) -> dict[str, Any] | None:
    """The config.json of a model from outside, where it is on this machine (in its directory or in the hub's cache) and can be
    read: what keeps it from that is told where the model is checked."""
    place = Path(name).expanduser() / "config.json"
    if not place.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json")
        except HFValidationError:
            return None  # No hub's name but a path, and nothing is there: the step's own check says so.
        if not isinstance(cached, str):
            return None
        place = Path(cached)
    try:
        settings = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _shape_of_student(shape: ModelShape | None, student: Mapping[str, Any] | None) -> ModelShape | None:
    """What training/student_initialisation.py and prune make of it."""
    if shape is None or not student:
        return shape

    def kept(depth: int) -> int:
        if student["layers"] is not None:
            return sum(layer < depth for layer in student["layers"])
        return depth if student["every"] is None else -(-depth // student["every"])

    width = kept_neurons(shape.feed_forward, student["feed_forward"]) if student["feed_forward"] else shape.feed_forward
    return replace(shape, layers=kept(shape.layers), decoder=kept(shape.decoder), feed_forward=width)


def _length(recipe: Recipe, step: Step) -> int:
    """The tokens of an example at the most."""
    own = step.config.model_dump().get("max_length") and _largest(step, "max_length", LENGTH)
    parents = [name for key in ("tokens", "init", "model", "teacher") for name in step.inputs.get(key, ())]
    return int(own) if own else _length(recipe, recipe.steps[parents[0]]) if parents else LENGTH


def _largest(step: Step, key: str, value: int) -> int:
    """The largest value of a key: its own (of several the highest), or the highest of its search space."""
    space = step.spaces.get(key)
    own = step.config.model_dump().get(key, value) if space is None else space.values
    return int(max(own) if isinstance(own, tuple | list) else own)
