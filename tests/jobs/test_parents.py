"""What a step would refuse of its parents' results is told before any step runs. `pytest tests/jobs/test_parents.py`"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase

from jobs.core.config import Problem
from jobs.core.recipe import Recipe, load_recipe, parse_recipe
from jobs.running.max_length import reach_of
from jobs.running.parents import parent_problems
from jobs.running.preflight import recipe_problems

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))


def steps(**changes: dict[str, Any]) -> dict[str, Any]:
    """A whole road whose base has rows of 64 tokens; `changes` are keys of steps, or further steps."""
    made: dict[str, Any] = {
        "corpus": {"stage": "prepare", "source": "corpus.txt", "tokenizer": {"train": "bpe"}, "max_length": 64},
        "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "model": {"layers": 3}},
        "rows": {"stage": "prepare", "source": "rows.csv", "task": {"kind": "classification"}, "split": {"test": 0.1}},
        "teacher": {"stage": "finetune", "inputs": {"examples": "rows", "init": "base"}},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "student": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "init": "base"}},
        "small": {"stage": "compress", "inputs": {"model": "student", "examples": "rows", "teacher": "soft"}},
        "judged": {"stage": "evaluate", "inputs": {"examples": "rows", "teacher": "teacher", "candidates": ["small"]}},
        "winner": {"stage": "select", "inputs": {"report": "judged"}},
        "served": {"stage": "deploy", "inputs": {"winner": "winner", "examples": "rows"}},
    }
    for name, keys in changes.items():
        made[name] = {**made.get(name, {}), **keys}
        if "inputs" in keys and keys.get("stage") is None:
            made[name]["inputs"] = {**steps()[name]["inputs"], **keys["inputs"]}
        made[name] = {key: value for key, value in made[name].items() if value is not None}
    return made


def recipe(**changes: dict[str, Any]) -> Recipe:
    return parse_recipe({"name": "tiny", "steps": steps(**changes)})


def problems(**changes: dict[str, Any]) -> list[Problem]:
    made = recipe(**changes)
    return parent_problems(made, made.steps)


def test_figures_by_request_are_compared_by_and_costs_are_watched() -> None:
    assert not problems(judged={"metric": "recall a"}) and not problems(judged={"metric": "log_loss"})
    costs = {"kind": "classification", "costs": {"a": {"b": 2}}}
    assert not problems(rows={"task": costs}, teacher={"monitor": "cost"}, judged={"metric": "cost"})


def test_no_default_contradicts_a_parent() -> None:
    """A base of 64 positions: everything that comes of it takes its length from it, and nobody has to say so."""
    made = recipe()
    assert not parent_problems(made, made.steps)
    assert [reach_of(made, made.steps[name]).usual for name in ("base", "teacher", "student", "small")] == [64] * 4
    shorter = recipe(student={"max_length": 32})
    assert reach_of(shorter, shorter.steps["small"]).usual == 32


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_need_name_no_length_twice(path: Path) -> None:
    made = load_recipe(str(path))
    assert not parent_problems(made, made.steps)


@pytest.mark.parametrize("step", ["teacher", "student", "small"])
def test_texts_longer_than_the_model_can_read_are_refused_for_every_step_at_once(step: str) -> None:
    told = problems(**{step: {"max_length": 128}})
    assert told[0].path == f"steps.{step}.max_length" and told[0].value == 128
    assert "64 positions" in told[0].reason and "Lower it to 64" in told[0].remedy
    assert [problem.path for problem in told] == [told[0].path]


def test_a_search_may_not_come_to_a_length_that_does_not_fit() -> None:
    told = problems(teacher={"max_length": {"choice": [32, 64, 96]}})
    assert [(problem.path, problem.value) for problem in told] == [("steps.teacher.max_length", 96)]


def test_a_model_is_not_served_for_longer_texts_than_it_was_trained_on() -> None:
    """Its base has the positions; what was trained has not."""
    told = problems(corpus={"max_length": 128}, student={"max_length": 64}, small={"max_length": 128})
    assert [(problem.path, problem.value) for problem in told] == [("steps.small.max_length", 128)]
    assert "student was trained on texts of 64 tokens" in told[0].reason
    assert not problems(corpus={"max_length": 128}, student={"max_length": 64}, small={"max_length": 32})


def test_models_from_outside_are_looked_into(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    base = saved(tmp_path, tokenizer, "bert", max_position_embeddings=24)
    made = recipe(teacher={"stage": "finetune", "inputs": {"examples": "rows"}, "model": base})
    assert reach_of(made, made.steps["teacher"]).usual == 24
    told = problems(teacher={"stage": "finetune", "inputs": {"examples": "rows"}, "model": base, "max_length": 25})
    assert [problem.path for problem in told] == ["steps.teacher.max_length"] and "24 positions" in told[0].reason
    known = {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6", "max_length": 600}
    assert "512 positions" in problems(teacher=known)[0].reason


def test_positions_that_are_in_no_table_bound_no_text() -> None:
    known = {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "answerdotai/ModernBERT-base"}
    made = recipe(teacher=known)
    assert reach_of(made, made.steps["teacher"]).usual == 128
    assert not problems(teacher={**known, "max_length": 256})


def test_a_base_of_an_earlier_run_may_go_on_over_its_text(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    base = saved(tmp_path, tokenizer, "bert", max_position_embeddings=64)
    assert not problems(base={"model": None, "base": base})


def test_a_teacher_that_is_looked_into_reads_as_long_texts_as_its_student() -> None:
    """Though nobody says how long: the student's base was made for more tokens than the teacher's."""
    beside = {"model": "sample:minilm_l6", "match": {"last": {"what": "hidden"}}}
    inputs = {"examples": "rows", "teacher": "soft", "teacher_model": "teacher"}
    student = {"stage": "distill", "inputs": inputs, **beside}
    told = problems(student=student)
    assert [(problem.path, problem.value) for problem in told] == [("steps.student.max_length", 128)]
    assert "teacher, has 64 positions" in told[0].reason
    assert not problems(student={**student, "max_length": 64})


@pytest.mark.parametrize(
    "changes",
    [
        {"student": {"student": {"every": {"choice": [2, None]}, "feed_forward": {"choice": [0, 0.5]}}}},
        {"teacher": {"adapter": {"choice": [None, {"rank": 8}]}, "freeze": {"layers": {"choice": [1, 0]}}}},
        {"base": {"objective": {"choice": ["masked", "causal"]}, "model": {"architecture": {"choice": ["bert", "gpt2"]}}}},
    ],
)
def test_a_search_may_hold_values_that_do_not_all_go_together(changes: dict[str, Any]) -> None:
    made = recipe(**changes)
    step = made.steps[next(iter(changes))]
    assert len(step.variants()) < 1 + sum(len(space.examples()) - 1 for space in step.spaces.values())
    assert step.named()[0] == step.config and not parent_problems(made, [step.name])


@pytest.mark.parametrize("told", ["not json", "[]", '{"model_type": "bert", "max_position_embeddings": "many"}'])
@pytest.mark.parametrize("damaged", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_damaged_files_of_a_base_are_told_in_words(
    damaged: str, told: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    base = saved(tmp_path, tokenizer, "bert")
    (tmp_path / damaged).write_text(told)
    outside = {"stage": "finetune", "inputs": {"examples": "rows"}, "model": base, "freeze": {"layers": 1}, "max_length": 64}
    made = recipe(teacher=outside, base={"model": None, "base": base})
    found = recipe_problems([made.steps["teacher"]]) + parent_problems(made, ["base", "teacher"])
    if (damaged, told[:1]) != ("tokenizer_config.json", "{"):  # Which has none of these keys, and needs none.
        assert any(problem.path == "steps.teacher.model" and "cannot be read" in problem.reason for problem in found), found


def saved(place: Path, tokenizer: PreTrainedTokenizerBase, kind: str, **sizes: Any) -> str:
    """A directory of a tiny base."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **small | sizes)
    AutoModel.from_config(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


LANGUAGE: dict[str, Any] = {
    "text": {"stage": "prepare", "source": "text.txt", "tokenizer": {"train": "bpe", "vocab_size": 900}, "max_length": 64},
    "writer": {"stage": "pretrain", "inputs": {"tokens": "text"}, "objective": "causal", "model": {"architecture": "gpt2"}},
    "answers": {"stage": "predict", "inputs": {"model": "writer", "tokens": "text"}},
    "heir": {
        "stage": "pretrain",
        "objective": "causal",
        "model": {"architecture": "gpt2", "layers": 2},
        "inputs": {"tokens": "text", "teacher": "answers"},
    },
    "written": {"stage": "compress", "inputs": {"model": "heir", "tokens": "text"}},
}


def language(**changes: dict[str, Any]) -> list[Problem]:
    made = {name: {**step, **changes.get(name, {})} for name, step in LANGUAGE.items()}
    parsed = parse_recipe({"name": "tiny", "steps": made | {name: changes[name] for name in changes if name not in LANGUAGE}})
    return parent_problems(parsed, parsed.steps)


def test_a_road_of_language_models_is_right() -> None:
    assert not language()


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"base": {"model": None}}, "base.model", "and 0 are given"),
        ({"base": {"objective": "masked_next_sentence"}}, "base.objective", "reads segments: pairs, and corpus"),
        ({"base": {"mix": {"alpha": 0.2}}}, "base.mix", "no teacher to weigh"),
        ({"base": {"monitor": "accuracy"}}, "base.monitor", "no such figure"),
        ({"base": {"model": None, "base": "sample:minilm_l6"}}, "base.base", "its tokenizer is not the one"),
        ({"base": {"batch_size": 2, "resources": {"workers": 3}}}, "base.batch_size", "divided among 3 workers"),
        ({"teacher": {"precision": "fp16"}}, "teacher.precision", "asks for no GPU"),
        ({"teacher": {"model": "sample:minilm_l6"}}, "teacher.model", "and 2 are given"),
        ({"teacher": {"freeze": {"layers": 4}}}, "teacher.freeze.layers", "only 3 layers"),
        ({"student": {"student": {"layers": [0, 3]}}}, "student.student.layers", "3 layers, 0 to 2"),
        ({"student": {"teacher_weights": [1, 2]}}, "student.teacher_weights", "2 weights for 1 teachers"),
        ({"student": {"match": {"last": {"what": "hidden"}}}}, "student.inputs.teacher_model", "looks into the teacher"),
        ({"student": {"inputs": {"teacher_model": "teacher"}}}, "student.inputs.teacher_model", "nothing is to match"),
        ({"soft": {"splits": ["validation"]}}, "student.inputs.teacher", "answers for validation alone"),
        (
            {
                "more": {
                    "stage": "prepare",
                    "source": "rows.csv",
                    "task": {"kind": "classification"},
                    "augment": {"copies": 2},
                },
                "student": {"inputs": {"examples": "more"}},
            },
            "student.inputs.teacher",
            "more makes others from them",
        ),
        ({"soft": {"inputs": {"model": "base"}}}, "soft.inputs.model", "it has learned masked, and no task"),
        ({"soft": {"inputs": {"tokens": "corpus"}}}, "soft.inputs", "2 of them are given"),
        (
            {"small": {"stage": "compress", "inputs": {"model": "student"}}},
            "small.inputs.examples",
            "on its rows",
        ),
        ({"rows": {"split": {}}}, "judged.split", "rows has no such split"),
        ({"judged": {"metric": "top_0"}}, "judged.metric", "at least one label"),
        ({"judged": {"metric": "f-1"}}, "judged.metric", "no such figure"),
        ({"judged": {"metric": "cost"}}, "judged.metric", "no such figure"),
        ({"teacher": {"monitor": "auc"}}, "teacher.monitor", "no such figure"),
        (
            {"rows": {"task": {"require": {"a": {"recall": 0.9}}}, "split": {"test": 0.1, "validation": 0}}},
            "rows.task.require",
            "fitted on the validation split",
        ),
        ({"judged": {"inputs": {"candidates": ["base"]}}}, "judged.inputs.candidates", "base has learned masked"),
        ({"served": {"cascade": True}}, "served.cascade", "judged fits no threshold"),
        ({"served": {"inputs": {"winner": "judged"}}}, "served.inputs.winner", "selects no winner"),
    ],
)
def test_what_a_step_would_refuse_is_told_before(changes: dict[str, Any], path: str, reason: str) -> None:
    told = {problem.path: problem for problem in problems(**changes)}
    assert f"steps.{path}" in told, told
    assert reason in told[f"steps.{path}"].reason and told[f"steps.{path}"].remedy


@pytest.mark.parametrize(
    ("split", "changes", "path"),
    [
        ({"validation": 0, "test": 0.1}, {"small": {"allowed_loss": 1.0}}, "small.allowed_loss"),
        ({"validation": 0, "test": 0.1}, {"judged": {"cascade": 0.99}}, "judged.cascade"),
        (
            {"validation": 0, "test": 0.1},
            {"teacher": {"optimizer": {"learning_rate": {"choice": [1e-4, 1e-3]}}}},
            "teacher.tune",
        ),
        ({"validation": 0, "test": 0.1}, {"soft": {"splits": ["validation"]}}, "soft.splits"),
    ],
)
def test_splits_that_are_asked_for_and_not_there(split: dict[str, float], changes: dict[str, Any], path: str) -> None:
    assert f"steps.{path}" in {problem.path for problem in problems(rows={"split": split}, **changes)}
    assert f"steps.{path}" not in {
        problem.path for problem in problems(rows={"split": {**split, "validation": 0.1}}, **changes)
    }


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"heir": {"objective": "masked", "model": {}}}, "heir.objective", "the teacher answers by causal"),
        ({"answers": {"language": {"top_k": 1000}}}, "answers.language.top_k", "knows 900 tokens"),
        ({"written": {"vocabulary": "used"}}, "written.vocabulary", "nothing is taken out"),
        ({"written": {"quantize": ["static"]}}, "written.quantize", "examples of a task"),
        ({"written": {"allowed_loss": 1.0}}, "written.allowed_loss", "models of a task"),
        (
            {"writer": {"objective": "span_corruption", "model": {"architecture": "t5"}}},
            "writer.objective",
            "has no sentinel tokens",
        ),
        (
            {
                "other": {"stage": "prepare", "source": "other.txt", "tokenizer": {"train": "bpe"}, "max_length": 96},
                "heir": {"inputs": {"tokens": "other", "init": "writer"}, "model": None},
            },
            "heir.inputs.init",
            "is not the one that other is cut with",
        ),
        (
            {
                "rows": {"stage": "prepare", "source": "rows.csv", "task": {}},
                "fewer": {
                    "stage": "prepare",
                    "source": "text.txt",
                    "tokenizer": {"train": "bpe", "vocab_size": 900},
                    "inputs": {"exclude": "rows"},
                },
                "heir": {"inputs": {"tokens": "fewer", "init": "writer"}, "model": None},
            },
            "heir.inputs.init",
            "is not the one that fewer is cut with",
        ),
    ],
)
def test_what_language_models_would_refuse_is_told_before(changes: dict[str, Any], path: str, reason: str) -> None:
    told = [problem for problem in language(**changes) if problem.path == f"steps.{path}"]
    assert told and any(reason in problem.reason for problem in told), language(**changes)


def test_rows_longer_than_the_base_that_goes_on_can_read() -> None:
    longer = {"stage": "prepare", "source": "text.txt", "tokenizer": {"train": "bpe", "vocab_size": 900}, "max_length": 96}
    told = language(longer=longer, heir={"inputs": {"tokens": "longer", "init": "writer"}, "model": None})
    assert [problem.path for problem in told] == ["steps.heir.inputs.init"]
    assert "64 positions, and the rows of longer are 96 tokens long" in told[0].reason


def test_rows_longer_than_the_teacher_that_answers_for_them_can_read() -> None:
    longer = {"stage": "prepare", "source": "text.txt", "tokenizer": {"train": "bpe", "vocab_size": 900}, "max_length": 96}
    heir = {"inputs": {"tokens": "longer", "teacher": "answers"}}
    told = language(longer=longer, answers={"inputs": {"model": "writer", "tokens": "longer"}}, heir=heir)
    assert [problem.path for problem in told] == ["steps.answers.inputs.model"]
    assert "64 positions, and the rows of longer are 96 tokens long" in told[0].reason


def test_masks_that_the_teacher_did_not_see() -> None:
    masked = {"objective": "masked", "model": {}}
    told = language(writer=masked, heir={**masked, "mask_probability": 0.3})
    assert "steps.heir.mask_probability" in {problem.path for problem in told}


@pytest.mark.parametrize("arguments", [["-m", "jobs.pipeline", "--plan"], ["-m", "jobs.compress"]])
def test_command_lines_refuse_with_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a text\n" * 9)
    (tmp_path / "rows.csv").write_text("text,label\nhello,a\nbye,b\n")
    file = tmp_path / "recipe.yaml"
    changes = {name: {"source": str(tmp_path / source)} for name, source in (("corpus", "corpus.txt"), ("rows", "rows.csv"))}
    file.write_text(yaml.safe_dump({"name": "tiny", "steps": steps(**changes, small={"max_length": 128})}))
    command = [sys.executable, *arguments[:2], str(file), *arguments[2:], "--storage", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "steps.small.max_length = 128: the base, student, has 64 positions. Lower it to 64" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_length_that_surely_fits_is_checked_without_torch(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    base = saved(tmp_path / "base", tokenizer, "roberta", max_position_embeddings=66)
    steps = {
        "rows": {"stage": "prepare", "source": "rows.csv", "task": {"kind": "classification"}},
        "teacher": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": base, "max_length": 32},
        "small": {"stage": "compress", "inputs": {"model": "teacher", "examples": "rows"}, "max_length": 32},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "tiny", "steps": steps}))
    code = (
        "import sys; from jobs.core.recipe import load_recipe; from jobs.running.parents import parent_problems; "
        "from jobs.training.task_config import check; made = load_recipe(sys.argv[1]); "
        "told = parent_problems(made, made.steps); "
        "sys.exit('torch' in sys.modules or len(told + check(made.steps['teacher'].config)))"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, check=True)


FLOOR: dict[str, Any] = {"stage": "floor", "inputs": {"examples": "rows"}}
LINEAR: dict[str, Any] = {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft"}, "student": {"kind": "linear"}}


def test_a_linear_student_and_a_floor_are_judged_beside_the_others_and_are_teachers() -> None:
    candidates = {"candidates": ["small", "cheap", "words"]}
    assert not problems(cheap=FLOOR, words=LINEAR, judged={"inputs": candidates})
    asked = {"stage": "predict", "inputs": {"model": "cheap", "examples": "rows"}}
    assert not problems(cheap=FLOOR, said=asked, student={"inputs": {"teacher": "said"}})


@pytest.mark.parametrize("bag", [FLOOR, LINEAR], ids=["floor", "linear"])
@pytest.mark.parametrize(
    ("changed", "key", "reason"),
    [
        ({"late": {"stage": "finetune", "inputs": {"examples": "rows", "init": "bag"}}}, "late.inputs.init", "no layers"),
        ({"small": {"inputs": {"model": "bag"}}}, "small.inputs.model", "nothing in it to prune or to export"),
        (
            {"late": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "init": "bag"}}},
            "late.inputs.init",
            "no layers to make a student of",
        ),
        (
            {"student": {"inputs": {"teacher_model": "bag"}, "match": {"last": {"what": "hidden"}}}},
            "student.inputs.teacher_model",
            "no inner states to match",
        ),
    ],
)
def test_a_model_of_words_is_no_base(bag: dict[str, Any], changed: dict[str, Any], key: str, reason: str) -> None:
    told = problems(bag=bag, **changed)
    assert [problem.path for problem in told] == [f"steps.{key}"]
    assert reason in told[0].reason and "Name a step that makes a transformer." in told[0].remedy
