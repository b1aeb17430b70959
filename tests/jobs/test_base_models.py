"""Bases as they are published: no padding token, odd first positions. `pytest tests/jobs/test_base_models.py`"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from cluster.connection.connect import Cluster
from jobs.architectures.models import check_tokenizer, length_of, read_base
from jobs.architectures.new import NewModelConfig, new_model
from jobs.architectures.padding import give_padding
from jobs.architectures.positions import longest_of_config, longest_text
from jobs.core.config import BadInput
from jobs.core.recipe import parse_recipe
from jobs.objectives.pretrained import load_base
from jobs.running.execute import execute
from jobs.running.parents import parent_problems
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from tests.jobs.tiny import LABELS, MESSAGES, load_classifier, publish_examples, supervised

END = "<|endoftext|>"
SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LUKE = {"entity_vocab_size": 4, "entity_emb_size": 16}
COUNTED_ON = {
    "roberta": {}, "camembert": {}, "xlm-roberta": {}, "xlm-roberta-xl": {}, "mpnet": {}, "data2vec-text": {}, "ibert": {},
    "roberta-prelayernorm": {}, "longformer": {"attention_window": 4}, "luke": LUKE,
}  # fmt: skip
"""Those that count positions on from their padding token, with what a tiny one needs."""
FROM_ZERO = {"bert": {}, "electra": {"embedding_size": 16}, "albert": {"embedding_size": 16}, "xlm": {"emb_dim": 16,
    "n_layers": 1, "n_heads": 2}, "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2}, "distilbert": {"dim": 16, "n_layers": 1,
    "n_heads": 2, "hidden_dim": 16}}  # fmt: skip


def tokenizer_with(*more: str, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer over bytes with these special tokens and no others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys((*special.values(), *more)))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=names, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text for text, _ in MESSAGES], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def published(place: Path, tokenizer: PreTrainedTokenizerFast, kind: str, **sizes: Any) -> str:
    """A tiny base with random weights, as a directory."""
    torch.manual_seed(0)
    given = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **sizes}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **given))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def gpt2(place: Path, tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> str:
    return published(place, tokenizer, "gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=64, **sizes)


def changed(place: Path, file: str, **keys: Any) -> None:
    """Change keys of a JSON file; None takes one away."""
    made = json.loads((place / file).read_text()) | keys
    (place / file).write_text(json.dumps({key: value for key, value in made.items() if value is not None}))


# Positions


@pytest.mark.parametrize("kind", [*COUNTED_ON, *FROM_ZERO])
def test_a_text_has_as_many_tokens_as_the_embedding_of_positions_holds(kind: str, tmp_path: Path) -> None:
    """What is said is what the model does: so many tokens are read, one more is not."""
    tokenizer = tokenizer_with(bos_token="<s>", pad_token="<pad>", eos_token="</s>")
    rows = {"n_positions": 66} if kind == "gpt2" else {"max_position_embeddings": 66}
    sizes = (SMALL if kind not in ("xlm", "gpt2", "distilbert") else {}) | (COUNTED_ON | FROM_ZERO)[kind] | rows
    base = published(tmp_path, tokenizer, kind, **sizes)
    longest = longest_of_config(AutoConfig.from_pretrained(base))
    assert longest == (64 if kind in COUNTED_ON else 66)
    model = AutoModel.from_pretrained(base).eval()
    assert longest_text(model) == longest
    ids_BT = torch.full((1, longest + 1), 20)
    with torch.inference_mode():
        model(input_ids=ids_BT[:, 1:])
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids_BT)
    assert length_of(base, longest) == longest and length_of(base, None) == longest
    with pytest.raises(BadInput, match=rf"max_length = {longest + 1}: the base, .*, has {longest} positions.*{longest}"):
        length_of(base, longest + 1)


def test_a_recipe_is_told_of_positions_that_no_text_gets(tmp_path: Path) -> None:
    base = published(
        tmp_path, tokenizer_with(bos_token="<s>", pad_token="<pad>"), "camembert", **SMALL, max_position_embeddings=66
    )
    rows = {"stage": "prepare", "source": "rows.csv", "task": {"kind": "classification"}}
    for length, refused in ((64, False), (66, True)):
        teacher = {"stage": "finetune", "model": base, "inputs": {"examples": "rows"}, "max_length": length}
        recipe = parse_recipe({"name": "tiny", "steps": {"rows": rows, "teacher": teacher}})
        told = [problem for problem in parent_problems(recipe, recipe.steps) if "64 positions" in problem.reason]
        assert bool(told) == refused


def test_a_new_roberta_reads_whole_rows_whatever_its_padding_tokens_id(tmp_path: Path) -> None:
    others = {name: f"<{name}>" for name in ("bos_token", "eos_token", "unk_token", "mask_token")}
    tokenizer = tokenizer_with(**others, pad_token="<pad>")
    assert tokenizer.pad_token_id == 4
    model = new_model(NewModelConfig(architecture="roberta", layers=1, hidden=16, heads=2), "masked", tokenizer, 24)
    assert longest_text(model) == 24
    model(input_ids=torch.full((1, 24), 20))


# Padding


def llama(place: Path, tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> str:
    return published(place, tokenizer, "llama", **SMALL, num_key_value_heads=2, max_position_embeddings=64, **sizes)


BASES: dict[str, Any] = {
    "gpt2": lambda place: gpt2(place, tokenizer_with(bos_token=END, eos_token=END, unk_token=END)),
    "llama": lambda place: llama(place, tokenizer_with(bos_token="<s>", eos_token="</s>")),
    "begins": lambda place: gpt2(place, tokenizer_with(bos_token="<s>")),
    "outside": lambda place: outside(place),
    "named": lambda place: named_by_its_config(place),
}
"""Bases without a usable padding token; `outside`: one with an id that the embedding has no row for."""
TAKEN = {"gpt2": END, "llama": "</s>", "begins": "<s>", "outside": "</s>", "named": "<fill>"}


def outside(place: Path) -> str:
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>")
    base = llama(place, tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(place)
    changed(place, "config.json", pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.pad_token_id == AutoConfig.from_pretrained(place).vocab_size
    return base


def named_by_its_config(place: Path) -> str:
    """A RoBERTa whose tokenizer says nothing of padding: it must have the one that positions are counted from."""
    tokenizer = tokenizer_with("<fill>", bos_token="<s>", eos_token="</s>")
    return published(place, tokenizer, "roberta", **SMALL | {"pad_token_id": 2, "max_position_embeddings": 67})


@pytest.mark.parametrize("kind", BASES)
def test_short_rows_are_filled_with_another_token_and_nothing_depends_on_it(kind: str, tmp_path: Path) -> None:
    """Published, a text's answer is the same alone and beside longer ones, also where its characters are those of the token
    that pads."""
    base = BASES[kind](tmp_path / "base")
    assert not check_tokenizer(base, "model")
    assert read_base(base).padding == TAKEN[kind]
    model, tokenizer = load_classifier(base, LABELS)
    assert tokenizer.pad_token == TAKEN[kind] and tokenizer.model_max_length > 1e29
    end = tokenizer.eos_token or ""
    examples = publish_examples(tmp_path, {"train": [*MESSAGES[:20], (f"bye {end}", "ham")], "validation": MESSAGES[20:30]})
    objective = supervised(examples, tokenizer, max_length=length_of(base, 24))
    batch = objective.batch(np.arange(21), 0, 0)
    assert (batch["attention_mask"].sum(1) == torch.tensor(objective.train.lengths)).all(), "an end that is text stays text"
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    model.eval()
    objective.save(model, tmp_path / "model")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    texts = ["bye", f"bye{end}", "call this number to claim the cash that is yours", "六点见"]
    engine = load_engine(tmp_path / "model")
    together_NC = engine.outputs([Item((text,)) for text in texts])
    for text, row_C in zip(texts, together_NC, strict=True):
        with torch.inference_mode():
            cut = tokenizer(text, return_tensors="pt", truncation=True, max_length=24, split_special_tokens=True)
            alone_C = stock(**cut).logits[0].numpy()
        np.testing.assert_allclose(row_C, alone_C, atol=1e-4)
        np.testing.assert_allclose(engine.outputs([Item((text,))])[0], row_C, atol=1e-4)


def test_pretraining_goes_on_from_a_base_whose_padding_token_it_does_not_know(tmp_path: Path) -> None:
    """Its rows are packed and have no padding; without this, transformers cannot even build it."""
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>")
    base = llama(tmp_path, tokenizer)
    changed(tmp_path, "config.json", pad_token_id=len(tokenizer))
    made = load_base(base, "causal", tokenizer, 24)
    assert made.model.config.pad_token_id is None
    assert made.model(input_ids=torch.full((1, 24), 20)).logits.isfinite().all()


def test_a_base_with_nothing_to_fill_with_is_refused_by_name(tmp_path: Path) -> None:
    base = gpt2(tmp_path, tokenizer_with())
    told = check_tokenizer(base, "model")
    assert [problem.value for problem in told] == [base]
    assert "no padding token" in told[0].reason and "Set pad_token" in told[0].remedy
    with pytest.raises(BadInput, match="no padding token"):
        length_of(base, 24)


def test_a_padding_token_of_its_own_is_left_alone(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer))
    assert give_padding(tokenizer, config, "it") is None
    assert config.pad_token_id == tokenizer.pad_token_id == 2


def test_a_directory_without_a_tokenizer_is_told_beforehand(tmp_path: Path) -> None:
    base = Path(gpt2(tmp_path, tokenizer_with(eos_token=END)))
    for file in base.glob("tokenizer*"):
        file.unlink()
    assert "the directory has no tokenizer" in check_tokenizer(str(base), "model")[0].reason


def test_a_decoder_without_padding_goes_the_whole_road(
    tmp_path: Path, ray_driver: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuned, distilled, compressed and judged; no step says a length, and each takes its parent's."""
    base = BASES["gpt2"](tmp_path / "base")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in MESSAGES))
    learns = {"max_steps": 4, "batch_size": 8, "evaluations": 1, "optimizer": {"learning_rate": 1e-3}}
    steps: dict[str, Any] = {
        "rows": {"stage": "prepare", "source": str(rows), "task": {"kind": "classification"}, "split": {"test": 0.3}},
        "teacher": {"stage": "finetune", "model": base, "inputs": {"examples": "rows"}, "max_length": 48, **learns},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "student": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "init": "teacher"}, **learns},
        "small": {"stage": "compress", "inputs": {"model": "student", "examples": "rows"}, "quantize": "none"},
        "judged": {"stage": "evaluate", "latency_texts": 20, "resamples": 100}
        | {"inputs": {"examples": "rows", "teacher": "teacher", "candidates": ["small"]}},
    }
    recipe, storage = parse_recipe({"name": "tiny", "steps": steps}), str(tmp_path / "runs")
    assert not parent_problems(recipe, recipe.steps)
    made = {name: execute(recipe, name, storage) for name in recipe.steps}
    assert made["teacher"].manifest.details["padding"] == END
    assert f"has no padding token: short rows are filled with {END}" in capfd.readouterr().out
    assert made["student"].manifest.config["max_length"] is None
    for name in ("teacher", "student", "small"):
        engine = load_engine(made[name].local())
        assert engine.card.max_length == 48
    texts = ["bye", f"bye{END}", "call this number to claim the cash that is yours"]
    items = [Item((text,)) for text in texts]
    engine = load_engine(made["small"].local(), "onnx")
    wanted_NC = load_engine(made["small"].local(), "torch").outputs(items)
    np.testing.assert_allclose(engine.outputs(items), wanted_NC, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([engine.outputs([item]) for item in items]), wanted_NC, atol=1e-4)
