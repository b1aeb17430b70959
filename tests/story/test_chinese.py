"""The shipped Chinese recipe end to end on real reviews, at small size."""

from pathlib import Path

import pytest
import requests
from transformers import AutoTokenizer

from cluster.connection.connect import Cluster
from jobs.core.recipe import load_recipe
from jobs.running.execute import execute
from jobs.running.preflight import preflight
from tests.story.running import SERVING_PORT

RECIPE = "jobs/recipes/reviews_zh.yaml"
SMALLER = [
    "steps.corpus.limit=3000",
    "steps.reviews.limit=1500",
    "steps.corpus.split={validation: 0.1, test: 0.2}",
    "steps.reviews.split={validation: 0.1, test: 0.2}",
    "steps.teacher_base.model={layers: 2, hidden: 96, heads: 2, dropout: 0.0}",
    "steps.teacher_base.max_steps=40",
    "steps.teacher_base.resources={workers: 1}",
    "steps.base.model={layers: 1, hidden: 64, heads: 2, dropout: 0.0}",
    "steps.base.max_steps=40",
    "steps.base.resources={workers: 1}",
    "steps.teacher.optimizer={learning_rate: {loguniform: [5.0e-4, 3.0e-3]}}",
    "steps.teacher.tune={trials: 2}",
    "steps.student.optimizer={learning_rate: {loguniform: [1.0e-3, 4.0e-3]}}",
    "steps.student.tune={trials: 2}",
    "steps.undistilled.optimizer={learning_rate: 2.0e-3}",
    "steps.winner.minimum_kept=0.9",
    "steps.served={stage: deploy, route: /zh, cpus: 0, inputs: {winner: winner, examples: reviews}}",
    f"steps.served.port={SERVING_PORT}",
]


def test_chinese_reviews_from_raw_text_to_answers(serving_cluster: Cluster, ray_driver: Cluster, tmp_path: Path) -> None:
    """Step by step in this process: that each is a job of its own is the English story's to show, and takes twice as long."""
    recipe, storage = load_recipe(RECIPE, SMALLER), str(tmp_path)
    preflight(recipe, storage)
    made = {name: execute(recipe, name, storage) for name in recipe.steps}
    corpus, teacher = made["corpus"], made["teacher"]
    assert corpus.manifest.metrics["rows_duplicate"] > 10_000, "half the raw lines are duplicates"
    tokenizer = AutoTokenizer.from_pretrained(corpus.local() / "tokenizer")
    assert tokenizer.tokenize("质量很好") == ["质", "量", "很", "好"]
    assert teacher.manifest.metrics["macro_f1"] > 0.6, "far above the 0.33 of always saying one label"
    url = made["served"].manifest.details["url"]
    reply = requests.post(url, json={"inputs": "质量很好，非常喜欢"}, timeout=30).json()
    assert reply["answers"][0]["label"] in ("positive", "negative")
    assert url.endswith("/zh/v1/predict")


@pytest.mark.parametrize("text", ["质量很差，非常失望", "，。！"])
def test_characters_are_tokens_whatever_stands_between(text: str, tmp_path: Path) -> None:
    from jobs.data.tokenizer import Tokenizer, train_tokenizer

    train_tokenizer(Tokenizer(train="characters", vocab_size=100), [text], 32, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize(text) == list(text)
