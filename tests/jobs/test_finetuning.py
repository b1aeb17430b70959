"""Adapters, heads, dropout, weights of labels, several tasks at once. `pytest tests/jobs/test_finetuning.py`"""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.architectures.adapter import add_adapter, merged
from jobs.architectures.models import set_dropout
from jobs.architectures.settings import Adapter
from jobs.core.config import BadInput
from jobs.core.recipe import parse_recipe
from jobs.core.stage import Context, Inputs
from jobs.finetune import FinetuneConfig, build, run
from jobs.tasks.classification import CrossEntropy
from jobs.tasks.multitask import Multitask, MultitaskModel
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    load_classifier,
    publish_directory,
    publish_examples,
    random_ids,
    supervised,
    tiny_classifier,
)
from tests.jobs.training_runs import QUICK, Recorded

# Adapters


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "gpt2"])
def test_adapters_and_head_train_and_are_merged(architecture: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """What is published is the stock architecture with what the adapters learned in it."""
    names = {
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    }
    if architecture in names:
        torch.manual_seed(0)
        shape = {**names[architecture], "pad_token_id": 0, "num_labels": 2, "initializer_range": 0.2}
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **shape)
        )
    else:
        model = tiny_classifier(architecture, 2, len(tokenizer))
    before = copy.deepcopy(model.state_dict())
    adapted = add_adapter(model, Adapter(rank=2))
    free = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in free) and any("lora_B" in name for name in free)
    assert sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad) < 0.2 * sum(
        v.numel() for v in before.values()
    )

    examples = publish_examples(tmp_path, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    objective = supervised(examples, tokenizer)
    fitted = fit(
        adapted, objective, Training.model_validate({**QUICK, "epochs": 12, "optimizer": {"learning_rate": 1e-2}}), Recorded()
    )
    losses = [point["loss"] for point in fitted.curve if "loss" in point]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    adapted.eval()
    ids_BT = random_ids(4, 9, len(tokenizer))
    with torch.no_grad():
        wanted = adapted(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits
    objective.save(adapted, tmp_path / "model")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            stock(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits, wanted, atol=1e-4, rtol=0
        )
    after = stock.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    heads = {name for name in before if "classif" in name or "score" in name}
    assert changed > heads & changed and not [name for name in changed if "embed" in name or "Norm" in name]


def test_targets_that_are_not_there_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(BadInput, match=r"adapter\.targets = \('q_proj',\).*dense.*query"):
        add_adapter(tiny_classifier("bert", 2, len(tokenizer)), Adapter(targets=("q_proj",)))
    with pytest.raises(ValidationError, match="leave out freeze"):
        FinetuneConfig.model_validate({"adapter": {}, "freeze": {"layers": 1}})


@pytest.mark.parametrize("alpha", [0.5, 3.7])
def test_alpha_scales_what_adapters_learn_whatever_number_it_is(alpha: float, tokenizer: PreTrainedTokenizerBase) -> None:
    """As a search draws it: the published difference is alpha / rank times the product of the two matrices."""
    model = tiny_classifier("bert", 2, len(tokenizer))
    before = copy.deepcopy(model.state_dict())
    raw = {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6"}
    rows = {"stage": "prepare", "source": "sample:sms_spam", "task": {"kind": "classification"}}
    searching = {"adapter": {"rank": 2, "alpha": {"uniform": [0.1, 9.0]}}, "tune": {"trials": 2}}
    step = parse_recipe({"name": "tiny", "steps": {"rows": rows, "teacher": {**raw, **searching}}}).steps["teacher"]
    config = step.configure({"adapter.alpha": alpha})
    assert isinstance(config, FinetuneConfig) and config.adapter is not None
    adapted = add_adapter(model, config.adapter)
    learned = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name}
    for weight in learned.values():
        nn.init.normal_(weight)
    name = "bert.encoder.layer.1.attention.self.query"
    low, high = (learned[f"base_model.model.{name}.lora_{side}.default.weight"].detach().clone() for side in "AB")
    published = merged(adapted).state_dict()
    torch.testing.assert_close(published[f"{name}.weight"] - before[f"{name}.weight"], alpha / 2 * high @ low)


# Bases and heads


def saved(directory: Path, labels: list[str], tokenizer: PreTrainedTokenizerBase) -> str:
    model = tiny_classifier("bert", len(labels), len(tokenizer))
    model.config.id2label = dict(enumerate(labels))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def test_a_base_of_another_task_gives_its_encoder_and_not_its_head(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    place = saved(tmp_path, LABELS_LIST, tokenizer)
    base = AutoModelForSequenceClassification.from_pretrained(place).state_dict()
    same = load_classifier(place, LABELS_LIST)[0]
    other = load_classifier(place, ["good", "bad"])[0]
    more = load_classifier(place, ["good", "bad", "没有"])[0]
    assert all(torch.equal(value, base[name]) for name, value in same.state_dict().items())
    for model in (other, more):
        encoder = {name: value for name, value in model.state_dict().items() if name.startswith("bert.")}
        assert len(encoder) > 30 and all(torch.equal(value, base[name]) for name, value in encoder.items())
        assert model.state_dict()["classifier.bias"].abs().sum() == 0
    assert not torch.equal(other.state_dict()["classifier.weight"], base["classifier.weight"]), (
        "two other labels are not these two"
    )
    assert other.config.id2label == {0: "good", 1: "bad"} and more.config.num_labels == 3


LABELS_LIST = list(LABELS)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "gpt2", "t5", "electra"])
def test_dropout_reaches_every_part_whatever_its_key(architecture: str) -> None:
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
    small |= {"distilbert": {"dim": 32, "n_heads": 2, "n_layers": 1}, "modernbert": {"pad_token_id": 0}}.get(architecture, {})
    config = AutoConfig.for_model(architecture, **small)
    set_dropout(config, 0.37)
    model = AutoModelForSequenceClassification.from_config(config)
    found = [part.p for part in model.modules() if isinstance(part, nn.Dropout)]
    assert len(found) >= 3 and set(found) == {0.37}


# Labels


def test_smoothing_and_weights_by_hand(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Three ham to one spam: balanced weights 4/6 and 4/2."""
    rows = [("hello you", "ham"), ("at six", "ham"), ("come home", "ham"), ("win a prize", "spam")]
    examples = publish_examples(tmp_path, {"train": rows, "validation": rows})
    objective = supervised(examples, tokenizer, label_smoothing=0.2, class_weights="balanced")
    logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    batch = objective.batch(np.arange(4), 0, 0)

    class Fixed(nn.Module):
        def forward(self, **_: Any) -> Any:
            return type("Output", (), {"logits": logits})

    good, bad = -functional.log_softmax(logits[0], dim=-1)
    weight = {0: 4 / 6, 1: 4 / 2}
    smooth = 0.1 * weight[0] * good + 0.1 * weight[1] * bad
    wanted = 3 * (0.8 * weight[0] * good + smooth) + 0.8 * weight[1] * bad + smooth
    assert float(objective.loss(Fixed(), batch)) == pytest.approx(float(wanted), abs=1e-5)
    assert objective.count(batch) == pytest.approx(3 * weight[0] + weight[1])
    named = supervised(examples, tokenizer, class_weights={"spam": 3.0})
    assert named.count(batch) == 6.0
    assert float(named.loss(Fixed(), batch)) == pytest.approx(float(3 * good + 3 * bad), abs=1e-5)
    with pytest.raises(BadInput, match=r"class_weights\.eggs: no such label\. Labels: ham, spam"):
        supervised(examples, tokenizer, class_weights={"eggs": 1.0})


def weights_of(task: Supervised) -> torch.Tensor | None:
    assert isinstance(task.criterion, CrossEntropy)
    return task.criterion.weights_C


def test_each_task_takes_the_weights_of_its_own_labels(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    examples, other = tasks(tmp_path)
    inputs = Inputs(examples=[examples], auxiliary=[other], init=[published_base(tmp_path, tokenizer)])
    weights = {"spam": 3.0, "anna": 0.5, "妈妈": 2.0}
    config = FinetuneConfig.model_validate({"max_length": MAX_LENGTH, "class_weights": weights})
    learner = build(config, inputs)[1]
    assert isinstance(learner, Multitask)
    found = [own.tolist() for task in learner.tasks if (own := weights_of(task)) is not None]
    assert found == [[1.0, 3.0], [0.5, 1.0, 2.0]]
    one = build(config.model_copy(update={"class_weights": {"spam": 3.0}}), inputs)[1]
    assert isinstance(one, Multitask) and weights_of(one.tasks[1]) is None
    context = Context(str(tmp_path), "tiny", "teacher", str(tmp_path / "teacher"), "a", directory=tmp_path)
    with pytest.raises(
        BadInput, match=r"^class_weights\.eggs = 2\.0: no such label\. Labels: anna, boris, ham, spam, 妈妈\.$"
    ):
        run(
            FinetuneConfig.model_validate({"max_length": MAX_LENGTH, "class_weights": {**weights, "eggs": 2.0}}),
            inputs,
            context,
        )


# Several tasks


def tasks(root: Path) -> tuple[Artifact, Artifact]:
    """Ham or spam (58 rows), and with other words who is asked (24 rows, three labels)."""
    who = [
        (f"{name} {verb}", name)
        for name in ("anna", "boris", "妈妈")
        for verb in ("comes", "goes", "is late", "calls", "sleeps", "reads", "来了", "走了")
    ]
    (root / "other").mkdir()
    examples = publish_examples(root, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    return examples, publish_examples(root / "other", {"train": who, "validation": who[::3]}, ["anna", "boris", "妈妈"])


def published_base(root: Path, tokenizer: PreTrainedTokenizerBase) -> Artifact:
    saved(root / "base-draft", LABELS_LIST, tokenizer)
    return publish_directory(root / "base-draft", root / "base", Kind.MODEL, step="base")


def multitask(root: Path, tokenizer: PreTrainedTokenizerBase, temperature: float) -> tuple[MultitaskModel, Multitask]:
    examples, other = tasks(root)
    place = saved(root / "base", LABELS_LIST, tokenizer)
    config = FinetuneConfig.model_validate({"model": place, "max_length": MAX_LENGTH, "sampling_temperature": temperature})
    model, learner = build(config, Inputs(examples=[examples], auxiliary=[other]))
    assert isinstance(model, MultitaskModel) and isinstance(learner, Multitask)
    return model, learner


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 58 / 82), (2.0, math.sqrt(58) / (math.sqrt(58) + math.sqrt(24)))])
def test_tasks_are_drawn_by_size_and_temperature(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, temperature: float, share: float
) -> None:
    _, learner = multitask(tmp_path, tokenizer, temperature)
    epochs = [list(learner.epoch(number, 8, 0)) for number in range(200)]
    batches = [batch for epoch in epochs for batch in epoch]
    assert {len(epoch) for epoch in epochs} == {58 // 8 + 24 // 8} == {learner.steps_per_epoch(8)}
    main = [batch for batch in batches if (batch < 58).all()]
    other = [batch - 58 for batch in batches if (batch >= 58).all()]
    assert len(main) + len(other) == len(batches), "a step belongs to one task"
    assert len(main) / len(batches) == pytest.approx(share, abs=0.03)
    rounds = [np.sort(np.concatenate(other[start : start + 3])) for start in range(0, len(other) - 3, 3)]
    assert all((seen == np.arange(24)).all() for seen in rounds), (
        "each task goes through its own examples before any comes again"
    )
    again = list(learner.epoch(3, 8, 0))
    assert all((left == right).all() for left, right in zip(again, epochs[3], strict=True))


def test_tasks_share_an_encoder_and_keep_their_heads(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model, learner = multitask(tmp_path, tokenizer, 2.0)
    assert model.tasks[0].base_model is model.tasks[1].base_model
    before = copy.deepcopy(model.state_dict())
    settings = Training.model_validate({**QUICK, "batch_size": 8, "epochs": 12, "monitor": "accuracy"})
    fitted = fit(model, learner, settings, Recorded())
    assert fitted.metrics["accuracy"] > 0.85 and fitted.metrics["accuracy.made"] > 0.85
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"tasks.0.classifier.weight", "tasks.1.classifier.weight"} <= moved
    learner.save(model, tmp_path / "model")
    published = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert published.config.id2label == {0: "ham", 1: "spam"}
    assert torch.equal(published.state_dict()["classifier.weight"], model.state_dict()["tasks.0.classifier.weight"])


def test_tasks_share_the_adapters_of_an_encoder_that_stays_as_it_is(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """What learns are the adapters, under all heads, and the heads; the main task's model is published with both in it."""
    examples, other = tasks(tmp_path)
    inputs = Inputs(examples=[examples], auxiliary=[other], init=[published_base(tmp_path, tokenizer)])
    asked = {**QUICK, "optimizer": {"learning_rate": 1e-2}, "max_length": MAX_LENGTH, "batch_size": 8, "epochs": 16}
    config = FinetuneConfig.model_validate({**asked, "monitor": "accuracy", "dropout": 0.0, "adapter": {"rank": 4}})
    model, learner = build(config, inputs)
    assert isinstance(model, MultitaskModel)
    before = copy.deepcopy(model.state_dict())
    fitted = fit(model, learner, config, Recorded())
    assert fitted.metrics["accuracy"] > 0.8 and fitted.metrics["accuracy.made"] > 0.8
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    learned = {name for name in moved if "lora_" not in name}
    assert learned == {name for name in before if "classifier" in name and "original_module" not in name}
    assert {name.split(".")[1] for name in moved - learned} == {"0", "1"}, "both tasks go through the same adapters"
    ids_BT = random_ids(4, 9, len(tokenizer))
    read = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    model.eval()
    with torch.no_grad():
        wanted = model(0, **read).logits
        learner.save(model, tmp_path / "model")
        stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
        torch.testing.assert_close(stock(**read).logits, wanted, atol=1e-4, rtol=0)
    assert stock.config.id2label == {0: "ham", 1: "spam"}


def test_a_main_task_without_rows_to_judge_it_on_keeps_the_last_weights(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The other task's figures cannot say which weights of it are best."""
    (tmp_path / "other").mkdir()
    examples = publish_examples(tmp_path, {"train": MESSAGES[:24]})
    other = publish_examples(tmp_path / "other", {"train": MESSAGES[:24], "validation": MESSAGES[24:32]})
    inputs = Inputs(examples=[examples], auxiliary=[other], init=[published_base(tmp_path, tokenizer)])
    config = FinetuneConfig.model_validate({**QUICK, "max_length": MAX_LENGTH, "max_steps": 3})
    fitted = fit(*build(config, inputs), config, hooks := Recorded())
    assert fitted.metrics["steps"] == 3 and hooks.scores == []
