"""Cards of bases: what pretraining writes, who reads it, and bases that have none. `pytest tests/jobs/test_base_cards.py`"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from cluster.store.artifact import Artifact, Kind
from jobs.architectures.models import learned_of, length_of, read_base
from jobs.compress import CompressConfig, _checked, _compress, _length
from jobs.compression.compress_language import compress_language
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs
from jobs.finetune import FinetuneConfig
from jobs.finetune import build as build_finetuned
from jobs.predict import SoftTokenSettings, _objective, _task
from jobs.pretrain import build
from jobs.tasks.heads import load_head
from jobs.training.ray_train import train_in_process
from serve.engines.card import CARD, EngineError, read_card
from serve.engines.engine import load_engine
from serve.generation import load_generator
from tests.jobs.language_runs import LENGTH, language_config, publish_language
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    classification,
    items_of,
    publish_classifier,
    publish_directory,
    publish_examples,
    tiny_classifier,
)

OBJECTIVES = ("masked", "causal", "span_corruption", "masked_sentence_order", "masked_next_sentence")


def pretrained(root: Path, objective: str) -> Artifact:
    """What one step of pretraining leaves."""
    tokens = publish_language(root / "tokens", objective)
    config = language_config(objective, max_steps=1, batch_size=4, evaluations=1, precision="fp32")
    directory = root / "base-draft"
    directory.mkdir()
    context = Context(str(root), "tiny", "base", str(root / "base"), "1", directory=directory)
    train_in_process(build, config, Inputs(tokens=[tokens]), context)
    return publish_directory(directory, root / "base", Kind.MODEL, "base", details={"max_length": LENGTH})


def older(model: Artifact, root: Path, card: Mapping[str, Any] | None = None) -> Artifact:
    """The same as older code left it, with its card or, of a base, with none."""
    draft = root / "older-draft"
    draft.mkdir()
    for path in model.files():
        if path != CARD:
            (draft / path).write_bytes((Path(model.uri) / path).read_bytes())
    if card is not None:
        (draft / CARD).write_text(json.dumps(card))
    return publish_directory(draft, root / "older", Kind.MODEL, "base", details=model.manifest.details)


@pytest.fixture(scope="module", params=OBJECTIVES)
def bases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Artifact, Artifact]:
    """An objective, a base that learned by it, and the same without a card."""
    root = tmp_path_factory.mktemp("bases")
    base = pretrained(root, request.param)
    return request.param, base, older(base, root)


def test_a_base_says_what_it_has_learned_and_how_long_its_rows_were(bases: tuple[str, Artifact, Artifact]) -> None:
    objective, base, _ = bases
    card = read_card(base.local())
    assert card.task is None and card.language is not None
    assert (card.language.objective, card.max_length, list(card.variants)) == (objective, LENGTH, ["torch"])
    assert card.language.writes == (objective in ("causal", "span_corruption"))
    assert ("token_type_ids" in card.inputs) == ("sentence" in objective)
    model = AutoModel.from_pretrained(base.local())
    assert card.parameters >= sum(weight.numel() for weight in model.parameters()) > 0
    assert len(AutoTokenizer.from_pretrained(base.local())) <= model.config.vocab_size


def test_with_a_card_and_without_one_a_base_is_the_same_to_all_that_read_it(bases: tuple[str, Artifact, Artifact]) -> None:
    objective, *both = bases
    for base in both:
        learned = learned_of(base)
        assert learned == read_base(base).learned and learned.task is None and learned.longest == LENGTH
        assert length_of(base, None) == LENGTH and length_of(base, 16) == 16
        # Of a pair's objective the architecture alone says nothing: it has two heads, and could be either.
        told = base is both[0] or "sentence" not in objective
        assert (learned.language.objective if learned.language is not None else None) == (objective if told else None)
        if objective in ("masked", "causal"):
            assert _objective(base, SoftTokenSettings()) == objective
        else:
            with pytest.raises(BadInput, match="neither fills in hidden tokens nor says the next one"):
                _objective(base, SoftTokenSettings())
        with pytest.raises(BadInput, match="a language model answers for no task"):
            _task(base, classification())
        writes, asked = Inputs(model=[base]), CompressConfig()
        if objective in ("causal", "span_corruption"):
            assert _checked(asked, writes) is compress_language
        else:
            with pytest.raises(BadInput, match="a model of a task is compressed on its rows"):
                _checked(asked, writes)
            assert _length(CompressConfig(max_length=LENGTH), base) == LENGTH


def test_a_base_is_fine_tuned_with_a_head_that_is_new(bases: tuple[str, Artifact, Artifact], tmp_path: Path) -> None:
    """Its weights are the base's, whether it has a card or none."""
    objective, *both = bases
    if objective == "span_corruption":
        return  # An encoder-decoder has a head of its own kind.
    examples = publish_examples(tmp_path, {"train": MESSAGES[:8], "validation": MESSAGES[8:16]})
    for base in both:
        config = FinetuneConfig.model_validate({"batch_size": 4, "epochs": 1})
        model, learner = build_finetuned(config, Inputs(examples=[examples], init=[base]))
        assert learner.size == 8
        assert isinstance(model, PreTrainedModel)
        stock: PreTrainedModel = AutoModel.from_pretrained(base.local())
        own, theirs = (one.get_input_embeddings().get_parameter("weight") for one in (model, stock))
        assert torch.equal(own, theirs)


def test_what_does_not_write_is_not_asked_to(bases: tuple[str, Artifact, Artifact]) -> None:
    objective, base, bare = bases
    reason = "written by onnx variants: none" if objective in ("causal", "span_corruption") else "does not write; fine-tune it"
    with pytest.raises(EngineError, match=reason):
        load_generator(base.local())
    with pytest.raises(EngineError, match="a language model, which answers for no task"):
        load_engine(base.local())
    with pytest.raises(EngineError, match="not there, so .* is no published model"):
        load_generator(bare.local())


def test_a_card_of_older_code_still_says_what_the_model_is(tmp_path: Path, tokenizer: Any) -> None:
    """Labels beside the task's name, a temperature beside the file: answered with, compressed, gone on from."""
    made = publish_classifier(tmp_path, tokenizer, fitted={"temperature": 2.0})
    wanted = np.asarray(load_engine(made.local()).settled(items_of(["see you", "win a prize"])))
    now = json.loads((made.local() / CARD).read_text())
    variants = {
        name: {**{key: value for key, value in variant.items() if key not in ("fitted", "files")}, "temperature": 2.0}
        for name, variant in now["variants"].items()
    }
    kept = {key: now[key] for key in ("max_length", "default", "parameters", "training")}
    model = older(made, tmp_path, {"task": "classification", "labels": list(LABELS), "variants": variants, **kept})
    assert np.array_equal(load_engine(model.local()).settled(items_of(["see you", "win a prize"])), wanted)
    examples = publish_examples(tmp_path, {"train": MESSAGES[:40], "validation": MESSAGES[40:60]})
    assert _task(model, classification()) == classification()
    config = CompressConfig.model_validate({"quantize": "none"})
    inputs = Inputs(model=[model], examples=[examples])
    assert _checked(config, inputs) is _compress
    context = Context(str(tmp_path), "tiny", "small", str(tmp_path / "small"), "1", directory=tmp_path)
    _compress(config, inputs, context)
    assert read_card(tmp_path / "small").task == classification()
    stock, _ = load_head(model, classification())
    head = stock.get_parameter("classifier.weight")
    assert (head == tiny_classifier("bert", 2, len(tokenizer)).get_parameter("classifier.weight")).all(), "its head is kept"
