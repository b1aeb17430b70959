"""Going on from a base: its weights, what does not fit it, and the real MiniLM. `pytest tests/jobs/test_objectives_base.py`"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.core.config import BadInput
from jobs.core.stage import Inputs
from jobs.pretrain import STAGE, PretrainConfig, build, check, origin
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.language_runs import LENGTH, language_model, language_tokenizer, publish_language
from tests.jobs.tiny import publish_directory
from tests.jobs.training_runs import QUICK, Recorded


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return language_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def saved(objective: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> str:
    """A tiny model as another program would leave it."""
    language_model(objective, tokenizer, 0.0).model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def begun(objective: str, tokens: Artifact, base: str | Artifact, **settings: Any) -> tuple[Any, Any]:
    config = PretrainConfig.model_validate(
        {"objective": objective, **({"base": base} if isinstance(base, str) else {})} | settings
    )
    inputs = Inputs(tokens=[tokens])
    if isinstance(base, Artifact):
        inputs["init"] = [base]
    return build(config, inputs)


@pytest.mark.parametrize("objective", ["masked", "causal", "span_corruption", "masked_sentence_order"])
def test_it_begins_with_the_bases_weights(objective: str, own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    base = saved(objective, own, tmp_path / "base")
    model, learner = begun(objective, publish_language(tmp_path, objective, own), base)
    wanted = language_model(objective, own, 0.0).model.state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in model.model.state_dict().items())
    assert model.new_parameters == 0 and model.model.dtype == torch.float32
    draft = tmp_path / "step"
    learner.save(model, draft)
    step = publish_directory(draft, tmp_path / "published", Kind.MODEL, step="general")
    again, _ = begun(objective, learner_tokens(tmp_path), step)
    assert all(torch.equal(weight, wanted[name]) for name, weight in again.model.state_dict().items()), "also from a step"


def learner_tokens(root: Path) -> Artifact:
    from cluster.store.artifact import open_artifact

    return open_artifact(str(root / "tokens"))


def test_minilm_gets_a_new_head_says_so_and_learns_the_domain(tmp_path: Path) -> None:
    """The real weights: an encoder without a vocabulary head, adapted to the tiny documents in a few steps."""
    from jobs.data.sources import model_directory

    place = model_directory("sample:minilm_l6")
    tokens = publish_language(tmp_path, "masked", AutoTokenizer.from_pretrained(place))
    model, learner = begun("masked", tokens, "sample:minilm_l6")
    encoder = AutoModel.from_pretrained(place, dtype="float32").state_dict()
    mine = model.model.base_model.state_dict()
    assert all(torch.equal(weight, encoder[name]) for name, weight in mine.items())
    # Dense 384 × 384 and its bias, a norm, and a bias for each of the 30,522 tokens; the decoder is the embedding.
    assert model.new_parameters == 384 * 384 + 384 + 2 * 384 + 30522
    settings = Training.model_validate(
        {**QUICK, "max_steps": 8, "epochs": 99, "evaluations": 1, "batch_size": 4} | {"optimizer": {"learning_rate": 5e-4}}
    )
    fitted = fit(model, learner, settings, Recorded())
    first, last = (point["loss"] for point in (fitted.curve[0], fitted.curve[-1]))
    assert last < 0.6 * first
    figures = learner.save(model, tmp_path / "adapted")
    assert figures["new_parameters"] == model.new_parameters
    adapted = AutoModelForMaskedLM.from_pretrained(tmp_path / "adapted")
    assert torch.equal(adapted.bert.embeddings.word_embeddings.weight, model.model.bert.embeddings.word_embeddings.weight)


def refused(objective: str, tokens: Artifact, base: str | Artifact, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as told:
        begun(objective, tokens, base)
    assert all(problem.path == "base" and problem.remedy for problem in told.value.problems)


def test_another_tokenizer_is_refused_with_its_first_difference(own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    base = saved("masked", own, tmp_path / "base")
    other = language_tokenizer(tmp_path / "other", vocab_size=120)
    tokens = publish_language(tmp_path, "masked", other)
    number = next(
        n
        for n in range(len(own))
        if own.convert_ids_to_tokens(n) != (other.convert_ids_to_tokens(n) if n < len(other) else None)
    )
    left = repr(own.convert_ids_to_tokens(number))
    refused(
        "masked", tokens, base, f"id {number} is {left} in the base, .* in the tokens. Prepare the text with tokenizer.model"
    )


def test_rows_longer_than_the_bases_positions_are_refused(own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    base = saved("masked", own, tmp_path / "base")
    tokens = publish_language(tmp_path, "masked", own, length=LENGTH + 8)
    refused("masked", tokens, base, f"it has {LENGTH} positions, and the rows of tokens are {LENGTH + 8} long")


@pytest.mark.parametrize(
    ("saved_as", "objective", "reason"),
    [
        ("masked", "causal", "a bert model cannot learn by causal, which is for a decoder"),
        ("causal", "masked", "a gpt2 model cannot learn by masked, which is for an encoder"),
        ("masked", "span_corruption", "which is for an encoder-decoder"),
        ("span_corruption", "masked", "a t5 model cannot learn by masked"),
    ],
)
def test_bases_of_another_kind_are_refused(
    saved_as: str, objective: str, reason: str, own: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = saved(saved_as, own, tmp_path / "base")
    refused(objective, publish_language(tmp_path, objective, own), base, reason)


def test_a_base_without_a_head_for_pairs_is_refused_by_name(own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": len(own), "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 32}
    AutoModel.from_config(AutoConfig.for_model("electra", **sizes)).save_pretrained(tmp_path / "base")
    own.save_pretrained(tmp_path / "base")
    tokens = publish_language(tmp_path, "masked_sentence_order", own)
    refused(
        "masked_sentence_order", tokens, str(tmp_path / "base"), "ElectraForPreTraining has no head that tells two segments"
    )


def test_a_base_with_fewer_embeddings_than_tokens_is_refused(own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    base = saved("masked", own, tmp_path / "base")
    small = AutoModelForMaskedLM.from_pretrained(base)
    small.resize_token_embeddings(100)
    small.save_pretrained(base)
    refused(
        "masked", publish_language(tmp_path, "masked", own), base, f"it has 100 embeddings, its tokenizer {len(own)} tokens"
    )


def test_a_model_comes_from_exactly_one_place(own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokens = publish_language(tmp_path, "masked", own)
    with pytest.raises(BadInput, match="one of model .*, base and inputs.init, and 0 are given. Give exactly one"):
        origin(PretrainConfig(), Inputs(tokens=[tokens]))
    step = publish_directory(Path(saved("masked", own, tmp_path / "base")), tmp_path / "step", Kind.MODEL)
    with pytest.raises(BadInput, match="and 2 are given"):
        origin(PretrainConfig(base="sample:minilm_l6"), Inputs(tokens=[tokens], init=[step]))


def test_a_base_is_checked_before_anything_runs_and_is_part_of_the_identity(
    own: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = saved("masked", own, tmp_path / "base")
    config = PretrainConfig(base=base)
    assert check(config) == [] and check(PretrainConfig()) == [] and STAGE.preflight.sources(PretrainConfig()) == {}
    before = STAGE.preflight.sources(config)
    settings = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(settings | {"note": 1}))
    assert STAGE.preflight.sources(config) != before
    (problem,) = check(PretrainConfig(base=str(tmp_path / "none")))
    assert (problem.path, problem.reason) == ("base", "no such directory")
    (problem,) = check(PretrainConfig(base="sample:minilm"))
    assert problem.path == "base"
