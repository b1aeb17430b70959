"""A small world for the stories: text, labelled messages, a tiny pretrained teacher, and a recipe over them."""

import csv
import random
from pathlib import Path
from typing import Any

import yaml

from tests.story.running import SERVING_PORT

SUBJECTS = ("the old river", "a small boat", "our neighbour", "the northern town", "her brother", "this narrow road")
VERBS = ("carried", "followed", "remembered", "left", "crossed", "painted", "watched", "repaired")
OBJECTS = ("the bridge", "a letter", "the morning train", "many songs", "the market", "an empty house", "the harbour")
OFFERS = ("win a free prize", "claim your cash bonus", "cheap loan approved", "urgent winner notice", "free phone offer")
TALK = ("see you at lunch", "running late again", "thanks for the book", "call mum tonight", "meeting moved to four")


def write_world(directory: Path) -> dict[str, str]:
    """Write corpus.txt, messages.csv and a teacher's base model; returns their paths by name."""
    draw = random.Random(0)
    lines = [f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {n}." for n in range(600)]
    (directory / "corpus.txt").write_text("\n".join(lines))
    with open(directory / "messages.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "kind"])
        for n in range(400):
            words = OFFERS if n % 3 == 0 else TALK
            writer.writerow([f"{draw.choice(words)} {draw.choice(words)} {n}", "spam" if words is OFFERS else "ham"])
    base = directory / "base"
    write_base(base, lines + [*OFFERS, *TALK])
    return {"corpus": str(directory / "corpus.txt"), "messages": str(directory / "messages.csv"), "base": str(base)}


def write_base(target: Path, lines: list[str]) -> None:
    """A tiny BERT with fresh weights and a tokenizer trained on the lines, as a Hugging Face directory."""
    import torch

    from jobs.architectures.new import NewModelConfig, new_model
    from jobs.data.tokenizer import Tokenizer, train_tokenizer

    torch.manual_seed(0)
    train_tokenizer(Tokenizer(train="wordpiece", vocab_size=400), lines, 64, target)
    from transformers import AutoTokenizer

    shape = NewModelConfig(layers=3, hidden=64, heads=2, dropout=0.0)
    new_model(shape, "masked", AutoTokenizer.from_pretrained(target), 64).save_pretrained(target)


def recipe(paths: dict[str, str], **changes: Any) -> dict[str, Any]:
    """A whole road at the smallest size; `changes` replaces keys of steps, e.g. winner={"minimum_kept": 2}."""
    rate = {"loguniform": [5e-4, 3e-3]}
    steps: dict[str, Any] = {
        "corpus": {"stage": "prepare", "source": paths["corpus"], "tokenizer": {"train": "wordpiece", "vocab_size": 400}}
        | {"max_length": 32},
        "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "max_steps": 20, "epochs": 50, "evaluations": 2}
        | {"model": {"layers": 1, "hidden": 32, "heads": 2, "dropout": 0.0}, "resources": {"workers": 2}},
        "messages": {"stage": "prepare", "source": paths["messages"], "text": "body", "clean": {"strip_tags": True}}
        | {"task": {"kind": "classification", "label": "kind"}, "split": {"validation": 0.15, "test": 0.25}},
        "teacher": {"stage": "finetune", "inputs": {"examples": "messages"}, "model": paths["base"], "max_length": 32}
        | {"optimizer": {"learning_rate": rate}, "epochs": 6, "batch_size": 16, "evaluations": 2, "tune": {"trials": 2}},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "messages"}},
        "student": {
            "stage": "distill",
            "inputs": {"examples": "messages", "teacher": "soft", "init": "base"},
            "max_length": 32,
        }
        | {"optimizer": {"learning_rate": 3e-3}, "temperature": {"uniform": [1, 4]}, "epochs": 12, "batch_size": 16}
        | {"tune": {"trials": 2, "scheduler": "none"}},
        "undistilled": {"stage": "finetune", "inputs": {"examples": "messages", "init": "base"}, "max_length": 32}
        | {"optimizer": {"learning_rate": 3e-3}, "epochs": 12, "batch_size": 16},
        "small": {"stage": "compress", "inputs": {"model": "student", "examples": "messages", "teacher": "soft"}}
        | {"prune": {"feed_forward": 0.5}, "heal": {"optimizer": {"learning_rate": 1e-3}, "evaluations": 1}, "max_length": 32},
        "judged": {"stage": "evaluate", "latency_texts": 20, "cascade": 0.99}
        | {"inputs": {"examples": "messages", "teacher": "teacher", "candidates": ["student", "undistilled", "small"]}},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.9},
        "served": {"stage": "deploy", "inputs": {"winner": "winner", "examples": "messages"}, "port": SERVING_PORT, "cpus": 0},
    }
    for name, keys in changes.items():
        steps[name] = steps[name] | keys
    return {"name": "tiny", "steps": steps}


def write_recipe(target: Path, tree: dict[str, Any]) -> str:
    """Write a recipe as YAML; returns its path."""
    target.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(target)
