"""What a plan knows of a model's size, held to the models that are really built; and no recipe that is valid breaks a plan."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from cluster.store.artifact import open_artifact
from jobs.architectures.new import ARCHITECTURES_BY_OBJECTIVE, NewModelConfig, new_model
from jobs.core.config import BadInput
from jobs.core.recipe import Recipe, parse_recipe
from jobs.core.stage import Inputs
from jobs.distill import DistillConfig
from jobs.distill import shape as distill_shape
from jobs.running.sizing import KNOWN, model_shape, recipe_demands, shape_of_config
from tests.jobs.small_models import SIZES
from tests.jobs.tiny import MAX_LENGTH, publish_examples, tiny_tokenizer

UNCOUNTED = ("pooler", "token_type", "relative_attention_bias")
"""Small beside a model's layers and its tables of tokens and positions."""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of models by their architectures, with config and tokenizer, and examples."""
    root = tmp_path_factory.mktemp("outside")
    tokenizer = tiny_tokenizer(root / "tokenizer")
    for architecture, sizes in SIZES.items():
        told = {**sizes, "vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 2}
        config = AutoConfig.for_model(architecture.removesuffix("-gated"), **told)
        config.save_pretrained(root / architecture)
        tokenizer.save_pretrained(root / architecture)
    publish_examples(root, {"train": [("one", "ham"), ("two", "spam")]})
    return root


def recipe_of(model: str, student: Any, more: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> dict[str, Any]:
    """A recipe with one step of each stage that has a model; `more` are further keys of its steps."""
    steps: dict[str, dict[str, Any]] = {
        "messages": {"stage": "prepare", "source": "sample:sms_spam", "task": {"kind": "classification", "label": "spam"}},
        "teacher": {"stage": "finetune", "inputs": {"examples": "messages"}, "model": model},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "messages"}},
        "student": {
            "stage": "distill", "inputs": {"examples": "messages", "teacher": "soft", "init": "teacher"}, "student": student,
        },
        "small": {"stage": "compress", "inputs": {"model": ["teacher", "student"], "examples": "messages", "teacher": "soft"}},
        "judged": {
            "stage": "evaluate", "inputs": {"examples": "messages", "teacher": "teacher", "candidates": ["student", "small"]},
        },
        "winner": {"stage": "select", "inputs": {"report": "judged"}},
    }  # fmt: skip
    return {"name": "sized", "steps": {name: {**step, **more.get(name, {})} for name, step in steps.items()}}


SHARE = st.sampled_from([0.0, 0.1, 0.5, 0.9])
STUDENTS = st.fixed_dictionaries(
    {},
    optional={
        "every": st.integers(2, 5),
        "layers": st.sets(st.integers(0, 3), min_size=1).map(sorted),
        "feed_forward": SHARE,
        "weights": st.sampled_from(["copied", "random"]),
    },
)
"""All forms of `student`, and some that are none."""
MANY = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def matrices(model: PreTrainedModel) -> int:
    """The weights of its layers and embeddings; heads, norms and biases are not counted."""
    named = model.base_model.named_parameters()
    return sum(one.numel() for name, one in named if one.ndim == 2 and not any(part in name for part in UNCOUNTED))


def accepted(tree: Mapping[str, Any]) -> Recipe | None:
    try:
        return parse_recipe(tree)
    except BadInput:
        return None


@pytest.mark.parametrize("architecture", [name for name in SIZES if name != "xlm-roberta"])
def test_the_plan_sizes_a_student_as_it_is_built(architecture: str, outside: Path) -> None:
    inputs, built = Inputs(examples=[open_artifact(str(outside / "examples"))]), 0

    @MANY
    @given(student=STUDENTS)
    def check(student: dict[str, Any]) -> None:
        nonlocal built
        recipe = accepted(recipe_of(str(outside / architecture), student))
        if recipe is None:
            return
        assert recipe_demands(recipe)["student"].memory is not None
        planned = model_shape(recipe, recipe.steps["student"])
        assert planned is not None
        config = DistillConfig.model_validate({"model": str(outside / architecture), "student": student})
        try:
            model, _ = distill_shape(config, inputs)
        except BadInput:
            return  # ModernBERT's first layer stays; no neurons would go.
        assert planned == shape_of_config(model.config.to_dict())
        assert planned.parameters == matrices(model)
        built += 1

    check()
    assert built > 5


def _space(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value, or a search over several."""
    kinds = st.sampled_from(["choice", "grid"])
    return values | st.builds(lambda kind, some: {kind: some}, kinds, st.lists(values, min_size=1, max_size=3))


SEARCHED = st.fixed_dictionaries(
    {},
    optional={
        "every": _space(st.integers(2, 5)),
        "layers": _space(st.sets(st.integers(0, 3), min_size=1).map(sorted)),
        "feed_forward": _space(SHARE) | st.just({"uniform": [0.1, 0.9]}),
        "weights": _space(st.sampled_from(["copied", "random"])),
    },
)
TRAINED = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.sampled_from([1, 3, 64]),
        "gradient_accumulation": st.sampled_from([1, 4]),
        "activation_checkpointing": st.booleans(),
        "average": st.sampled_from([None, 0.99]),
        "precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
        "optimizer": st.builds(lambda name: {"name": name}, st.sampled_from(["adamw", "adam", "sgd", "adagrad"])),
    },
)
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "workers": st.integers(1, 3),
        "gpus": st.sampled_from([0, 1]),
        "parallel": st.sampled_from(["ddp", "fsdp", "tensor"]),
    },
)
LEARNED = st.builds(
    lambda trained, more, resources: {**trained, **more, **({"resources": resources} if resources else {})},
    TRAINED,
    st.fixed_dictionaries(
        {},
        optional={
            "max_length": _space(st.sampled_from([8, 200])),
            "adapter": st.sampled_from([None, {}, {"rank": 2, "targets": "all"}]),
            "model": st.sampled_from([*KNOWN, "no/such", "not/a/hub\u2019s/name", "./nowhere"]),
        },
    ),
    RESOURCES,
)
COMPRESSED = st.fixed_dictionaries(
    {},
    optional={
        "prune": st.fixed_dictionaries(
            {},
            optional={
                "feed_forward": SHARE, "heads": SHARE, "weights": SHARE, "layers": st.sampled_from([0, 0.5, 2]),
                "steps": st.integers(1, 3), "importance": st.sampled_from(["taylor", "magnitude"]),
            },
        ),
        "factorize": st.sampled_from([None, {}, {"energy": 0.5}]),
        "vocabulary": st.sampled_from([None, "used"]),
        "heal": TRAINED,
        "max_length": st.sampled_from([8, 500]),
        "quantize": st.sampled_from([["dynamic"], ["static", "int4"], []]),
    },
)  # fmt: skip
EVALUATED = st.fixed_dictionaries(
    {}, optional={"batch_size": st.sampled_from([1, [8, 64]]), "threads": st.sampled_from([1, [1, 2]])}
)


@settings(MANY, max_examples=300)
@given(st.none() | STUDENTS | SEARCHED | _space(st.none() | STUDENTS), LEARNED, LEARNED, COMPRESSED, EVALUATED)
def test_no_recipe_that_is_valid_breaks_the_plan(
    student: Any, teacher: dict[str, Any], learned: dict[str, Any], compressed: dict[str, Any], evaluated: dict[str, Any]
) -> None:
    learned.pop("model", None)  # Its base is the teacher.
    more = {"teacher": teacher, "student": learned, "small": compressed, "judged": evaluated}
    recipe = accepted(recipe_of("sample:minilm_l6", student, more))
    if recipe is None:
        return
    demands = recipe_demands(recipe)
    assert set(demands) == set(recipe.steps)
    assert all(demand.memory is None or demand.memory > 0 for demand in demands.values())
    if recipe.steps["teacher"].config.model_dump()["model"] in KNOWN:
        assert all(demands[name].memory for name in ("teacher", "soft", "student", "small", "judged"))


ARCHITECTURES = sorted({one for fitting in ARCHITECTURES_BY_OBJECTIVE.values() for one in fitting})
SHAPES = st.fixed_dictionaries(
    {},
    optional={
        "architecture": st.sampled_from(ARCHITECTURES),
        "layers": _space(st.integers(1, 4)),
        "hidden": st.sampled_from([64, 128]),
        "heads": st.sampled_from([1, 2, 3]),
        "feed_forward": st.sampled_from([None, 64, 256]),
    },
)


@settings(MANY, max_examples=100)
@given(SHAPES, st.sampled_from(sorted(ARCHITECTURES_BY_OBJECTIVE)), TRAINED, RESOURCES)
def test_no_new_model_that_is_valid_breaks_the_plan(
    model: dict[str, Any], objective: str, trained: dict[str, Any], resources: dict[str, Any]
) -> None:
    tokens = {"stage": "prepare", "source": "sample:wikitext2", "tokenizer": {"train": "wordpiece", "vocab_size": 500}}
    base = {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "objective": objective, "model": model, **trained}
    more = {"resources": resources} if resources else {}
    recipe = accepted({"name": "new", "steps": {"corpus": tokens, "base": {**base, **more}}})
    assert recipe is None or recipe_demands(recipe)["base"].memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_plan_sizes_a_new_model_as_it_is_built(architecture: str, outside: Path) -> None:
    objective = next(name for name, fitting in ARCHITECTURES_BY_OBJECTIVE.items() if architecture in fitting)
    tokenizer = AutoTokenizer.from_pretrained(outside / "bert")
    shape = {"architecture": architecture, "layers": 3, "hidden": 128, "heads": 4, "feed_forward": 384}
    words = {"train": "wordpiece", "vocab_size": len(tokenizer)}
    tokens = {"stage": "prepare", "source": "sample:wikitext2", "tokenizer": words, "max_length": MAX_LENGTH}
    base = {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "objective": objective, "model": shape}
    recipe = parse_recipe({"name": "new", "steps": {"corpus": tokens, "base": base}})
    planned = model_shape(recipe, recipe.steps["base"])
    assert planned is not None
    model = new_model(NewModelConfig.model_validate(shape), cast(Any, objective), tokenizer, MAX_LENGTH)
    assert planned.parameters == pytest.approx(matrices(model), rel=1e-3), "RoBERTa has two positions more"


def test_a_search_over_shapes_is_sized_by_the_largest() -> None:
    searched = {"layers": {"grid": [[0], [0, 1, 2, 3]]}, "feed_forward": {"grid": [0.5, 0.0]}}
    recipe = parse_recipe(recipe_of("sample:minilm_l6", searched))
    found = model_shape(recipe, recipe.steps["student"])
    assert found is not None and (found.layers, found.feed_forward) == (4, 1536)
    one = parse_recipe(recipe_of("sample:minilm_l6", {"layers": [0, 1, 2, 3]}))
    assert recipe_demands(recipe)["student"].memory == recipe_demands(one)["student"].memory
    judged = model_shape(recipe, recipe.steps["judged"])
    assert judged == KNOWN["sample:minilm_l6"], "the teacher is the largest that is judged"
