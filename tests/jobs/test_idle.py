"""Keys that would do nothing beside what else a step says are refused by name, before anything runs.

pytest tests/jobs/test_idle.py
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.core.config import describe_config
from jobs.core.recipe import parse_recipe
from jobs.core.spaces import TUNE_RULES
from jobs.core.stage import load_stage
from jobs.running.preflight import recipe_problems

ROOT = Path(__file__).parents[2]
WORLD: dict[str, Any] = {
    "corpus": {"stage": "prepare", "source": "sample:wikitext2", "tokenizer": {"train": "wordpiece"}},
    "rows": {"stage": "prepare", "source": "sample:sms_spam", "task": {"kind": "classification"}},
    "topics": {"stage": "prepare", "source": "sample:reuters_r8", "task": {"kind": "classification"}},
    "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "model": {}},
    "large": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6"},
    "answers": {"stage": "predict", "inputs": {"model": "large", "examples": "rows"}},
    "likely": {"stage": "predict", "inputs": {"model": "base", "tokens": "corpus"}},
}
PLAIN: dict[str, dict[str, Any]] = {
    "finetune": {"inputs": {"examples": "rows"}, "model": "sample:minilm_l6"},
    "distill": {"inputs": {"examples": "rows", "teacher": "answers"}, "model": "sample:minilm_l6"},
    "pretrain": {"inputs": {"tokens": "corpus"}, "model": {}},
    "compress": {"inputs": {"model": "large", "examples": "rows"}},
}
RATE: dict[str, Any] = {"optimizer": {"learning_rate": {"loguniform": [1e-5, 1e-3]}}}
LIKELY: dict[str, Any] = {"inputs": {"teacher": "likely"}}
MATCH: dict[str, Any] = {"match": {"last": {"what": "hidden"}}}
BY_TEACHER: dict[str, Any] = {"inputs": {"teacher": "answers"}}
LANGUAGE: dict[str, Any] = {"inputs": {"model": "base", "examples": None}}
STATIC: dict[str, Any] = {"student": {"kind": "static"}}
GRAMS: dict[str, Any] = {"student": {"kind": "static", "features": "grams"}, "model": None}

IDLE: list[tuple[str, str, Any, dict[str, Any], dict[str, Any], str]] = [
    # stage, key, its value, what else is said that makes it idle, what makes it do something, the reason
    (
        "finetune",
        "optimizer.beta1",
        0.8,
        {"optimizer": {"name": "sgd"}},
        {"optimizer": {"name": "adam"}},
        "only adamw and adam",
    ),
    ("finetune", "optimizer.beta2", 0.8, {"optimizer": {"name": "adagrad"}}, {}, "only adamw and adam"),
    ("distill", "optimizer.momentum", 0.8, {}, {"optimizer": {"name": "sgd"}}, "only sgd"),
    ("finetune", "stability.window", 20, {}, {"stability": {"spike": 3.0}}, "unless spike says"),
    ("pretrain", "checkpoint_seconds", 20, {"checkpoint_steps": 5}, {}, "checkpoint_steps takes its place"),
    ("finetune", "patience", 3, {"evaluations": 4}, {"evaluations": 5}, "the run is over before"),
    ("pretrain", "monitor", "perplexity", {"keep": "last"}, {}, "the last weights are published"),
    ("finetune", "model", "sample:minilm_l6", {"inputs": {"init": "large"}}, {}, "names the base already"),
    ("finetune", "sampling_temperature", 3.0, {}, {"inputs": {"auxiliary": "topics"}}, "there is one task"),
    ("distill", "skew", 0.2, {}, {"loss": "skewed_kl"}, "only skewed_kl"),
    ("distill", "temperature", 3.0, {"loss": "mse"}, {"loss": "reverse_kl"}, "whatever the temperature"),
    ("distill", "temperature_end", 3.0, {"loss": "mse"}, {}, "whatever the temperature"),
    ("distill", "annealing", "cosine", {}, {"alpha_end": 0.1}, "nothing moves"),
    ("distill", "teacher_weights", [2.0], {}, {"teacher_weights": [2.0, 1.0]}, "one teacher's answers"),
    ("distill", "match", MATCH["match"], {}, {"inputs": {"teacher_model": "large"}}, "looks into the teacher"),
    ("distill", "inputs.teacher_model", "large", {}, MATCH, "nothing is to match"),
    ("distill", "optimizer.layer_decay", 0.9, STATIC, {}, "no layers whose rates"),
    ("distill", "student.vocabulary", "all", {"student": {"kind": "static", "features": "words"}}, STATIC, "features: tokens"),
    ("distill", "student.rows", 64, STATIC, GRAMS, "features: grams"),
    ("distill", "student.weights", "random", GRAMS, STATIC, "share rows by their hash"),
    ("distill", "student.smoothing", 0.1, {"student": {"kind": "static", "mean": "plain"}}, STATIC, "all count alike"),
    ("pretrain", "model", {"layers": 2}, {"inputs": {"init": "base"}}, {}, "names a base already"),
    ("pretrain", "base", "sample:minilm_l6", {"model": None, "inputs": {"init": "base"}}, {"model": None}, "names a base"),
    ("pretrain", "mask_probability", 0.3, {"objective": "causal", "model": {"architecture": "gpt2"}}, {}, "hides nothing"),
    ("pretrain", "mix.alpha", 0.3, {}, LIKELY, "no teacher to weigh"),
    ("pretrain", "mix.annealing", "cosine", LIKELY, LIKELY | {"mix": {"alpha_end": 0.1}}, "alpha stays"),
    ("compress", "heal.optimizer.momentum", 0.8, {}, {"heal": {"optimizer": {"name": "sgd"}}}, "only sgd"),
    ("compress", "heal.loss", "reverse_kl", {}, BY_TEACHER, "the labels alone heal"),
    ("compress", "heal.skew", 0.2, BY_TEACHER, BY_TEACHER | {"heal": {"loss": "skewed_kl"}}, "only skewed_kl"),
    ("compress", "calibration.method", "entropy", {}, {"quantize": ["static"]}, "fixed scales"),
    ("compress", "calibration.examples", 20, {}, {"allowed_loss": 0.5}, "fixed scales"),
    ("compress", "prune.importance", "magnitude", {"prune": {"weights": 0.5}}, {"prune": {"heads": 0.5}}, "by magnitude"),
    (
        "compress",
        "prune.calibration_batches",
        2,
        {"prune": {"layers": 1, "importance": "magnitude"}},
        {"prune": {"layers": 1}},
        "over batches",
    ),
    ("compress", "max_length", 64, LANGUAGE, {}, "this is a language model"),
    ("compress", "heal.epochs", 2, LANGUAGE, {}, "this is a language model"),
    ("compress", "inputs.tokens", "corpus", {}, LANGUAGE, "judged on its own rows"),
    ("finetune", "tune.reduction_factor", 2, RATE | {"tune": {"scheduler": "none"}}, RATE, "only asha and halving"),
    (
        "finetune",
        "tune.grace_reports",
        2,
        RATE | {"tune": {"scheduler": "pbt"}, "evaluations": 9},
        RATE,
        "only asha and halving",
    ),
    ("finetune", "tune.perturb_every", 2, RATE, RATE | {"tune": {"scheduler": "pbt"}, "evaluations": 9}, "only pbt"),
    ("finetune", "tune.quantile_fraction", 0.3, RATE, RATE | {"tune": {"scheduler": "pbt"}, "evaluations": 9}, "only pbt"),
    ("finetune", "tune.resample_probability", 0.3, RATE, RATE | {"tune": {"scheduler": "pbt"}, "evaluations": 9}, "only pbt"),
]


def merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the right one's values where they differ; null takes a key out."""
    both = {key: merged(left.get(key, {}), value) if isinstance(value, Mapping) else value for key, value in right.items()}
    return {key: value for key, value in {**left, **both}.items() if value is not None}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def problems(stage: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """What is said of a step of this stage that is as the settings say, by path."""
    recipe = parse_recipe({"name": "tiny", "steps": {**WORLD, "it": {"stage": stage, **settings}}})
    return {problem.path: str(problem) for problem in recipe_problems([recipe.steps["it"]])}


@pytest.mark.parametrize(
    ("stage", "key", "value", "idle", "works", "reason"), IDLE, ids=[f"{row[0]}-{row[1]}" for row in IDLE]
)
def test_a_key_that_does_nothing_is_refused_by_name(
    stage: str, key: str, value: Any, idle: dict[str, Any], works: dict[str, Any], reason: str
) -> None:
    """And taken where what it needs is there."""
    where = f"steps.it.{'mix' if key == 'mix.alpha' else 'heal' if key == 'heal.epochs' else key}"
    said = merged(merged(PLAIN[stage], nested(key, value)), idle)
    found = problems(stage, said)
    assert found.keys() == {where} and reason in found[where]
    if works != idle:
        good = merged(merged(PLAIN[stage], nested(key, value)), works)
        assert problems(stage, good) == {}


TRAINING: dict[str, Any] = {
    "model": "sample:minilm_l6",
    "max_length": 64,
    "dropout": 0.2,
    "adapter": {"rank": 2},
    "freeze": {"layers": 1},
    "optimizer": {"learning_rate": 1e-3},
    "schedule": {"name": "cosine"},
    "stability": {"limit": 3},
    "clip_norm": 2.0,
    "epochs": 2,
    "max_steps": 5,
    "batch_size": 8,
    "gradient_accumulation": 2,
    "average": 0.9,
    "compile": True,
    "activation_checkpointing": True,
    "precision": "fp32",
    "seed": 1,
    "evaluations": 4,
    "monitor": "accuracy",
    "patience": 1,
    "keep": "last",
    "checkpoint_seconds": 5.0,
    "checkpoint_steps": 5,
    "match": MATCH["match"],
    "temperature_end": 1.0,
    "alpha_end": 0.5,
    "annealing": "cosine",
    "inputs.init": "large",
    "inputs.teacher_model": "large",
}
"""A value of each key that is of no use to what is no transformer."""


@pytest.mark.parametrize("key", TRAINING)
def test_a_linear_student_has_no_use_for_what_trains_layers(key: str) -> None:
    plain = {"inputs": PLAIN["distill"]["inputs"], "student": {"kind": "linear"}, "alpha": 0.5}
    assert problems("distill", plain) == {}
    given = {"stage": "distill", **merged(plain, nested(key, TRAINING[key]))}
    recipe = parse_recipe({"name": "tiny", "steps": {**WORLD, "it": given}})
    told = [problem.reason for problem in recipe_problems([recipe.steps["it"]]) if problem.path == f"steps.it.{key}"]
    assert any("a linear student has neither a base nor layers" in reason for reason in told)


def test_every_rule_is_tried() -> None:
    """By its key, where it is one of a section's that healing shares by that of training or distilling."""
    tried = {(stage, key) for stage, key, *_ in IDLE} | {("pretrain", "mix"), ("compress", "heal")}
    keys = {key for _, key in tried} | {f"heal.{key}" for _, key in tried}
    keys |= {f"heal.{key}" for key in ("alpha", "alpha_end")}  # as heal.loss
    keys |= TRAINING.keys()
    for stage in PLAIN:
        assert {rule.key for rule in load_stage(stage).preflight.rules} <= keys
    assert {f"tune.{rule.key}" for rule in TUNE_RULES} <= keys


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("distill", {"loss": {"choice": ["mse", "forward_kl"]}, "temperature": {"uniform": [1.0, 8.0]}}),
        ("finetune", {"optimizer": {"name": {"choice": ["adamw", "sgd"]}, "momentum": 0.8, "beta1": 0.8}}),
        (
            "distill",
            {
                "match": {"last": {"what": "hidden", "weight_end": 0.0}},
                "annealing": "cosine",
                **nested("inputs.teacher_model", "large"),
            },
        ),
        ("compress", {"prune": {"feed_forward": 0.0, "importance": "magnitude"}}),
        ("distill", {"alpha": 0.0, "temperature": 4.0}),
        ("pretrain", {"stability": {"spike": None, "window": 20}}),
        ("pretrain", {"stability": {"window": 20}}),
    ],
)
def test_what_counts_in_some_trials_or_is_turned_off_is_not_refused(stage: str, settings: dict[str, Any]) -> None:
    """A control is its step with one thing turned off."""
    said = {**PLAIN[stage], **settings}
    said["inputs"] = {**PLAIN[stage]["inputs"], **settings.get("inputs", {})}
    assert problems(stage, said) == {}


def test_a_whole_number_that_is_searched_as_a_fraction_is_refused() -> None:
    """Trial after trial would fail on what it draws."""
    with pytest.raises(Exception, match=r"steps\.it\.batch_size = 4[45]\..*integer"):
        problems("finetune", {**PLAIN["finetune"], "batch_size": {"uniform": [8, 67]}})
    assert problems("finetune", {**PLAIN["finetune"], "batch_size": {"randint": [8, 64]}, "epochs": {"uniform": [1, 3]}}) == {}


def test_the_plan_refuses_it_with_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.pipeline", "jobs/recipes/spam.yaml", "--plan", "--storage", str(tmp_path)]
    asked = ["steps.teacher.optimizer.momentum=0.5", "steps.small.calibration.examples=9"]
    ran = subprocess.run([*command, *asked], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert "steps.teacher.optimizer.momentum = 0.5: only sgd has it. Leave it out, or use sgd." in ran.stderr
    assert "steps.small.calibration.examples = 9: only static int8 has fixed scales." in ran.stderr


def test_a_section_of_which_one_key_is_given_keeps_its_stages_defaults_for_the_others() -> None:
    """Healing's learning rate is lower than training's, and pretraining skips spikes: whatever else of them is said."""
    pretrain, compress = load_stage("pretrain").config, load_stage("compress").config
    said = {"prune": {"heads": 0.5}, "heal": {"optimizer": {"weight_decay": 0.0}}}
    assert compress.model_validate(said).model_dump()["heal"]["optimizer"]["learning_rate"] == 5e-5
    assert compress.model_validate({}).model_dump()["heal"]["optimizer"]["learning_rate"] == 5e-5
    assert pretrain.model_validate({"stability": {"limit": 5}}).model_dump()["stability"]["spike"] == 3.0
    assert pretrain.model_validate({"stability": {"spike": None}}).model_dump()["stability"]["spike"] is None
    told = {key: default for key, _, default, _ in describe_config(pretrain)} | {
        key: default for key, _, default, _ in describe_config(compress)
    }
    assert told["stability.spike"] == "3.0" and told["heal.optimizer.learning_rate"] == "5e-05"


@pytest.mark.parametrize("values", [[1, 4], [4, 1]])
def test_a_patience_that_is_searched_may_begin_with_any_value(values: list[int]) -> None:
    search = {"stage": "finetune", **PLAIN["finetune"], "evaluations": 5, "patience": {"choice": values}}
    made = parse_recipe({"name": "tiny", "steps": {**WORLD, "searched": search}})
    assert not recipe_problems([made.steps["searched"]])
