"""Language models through compress: exported with their cache, quantised, written with.

`pytest tests/jobs/test_compress_language.py`
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.compress import CompressConfig, _checked
from jobs.compression import graph
from jobs.compression.compress_language import compress_language
from jobs.compression.export_language import data_of, encoder_of, export_language
from jobs.compression.graph import share_weights
from jobs.compression.quantize import quantize_dynamic_int8, quantize_int4
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data.tokenizer import tokenizer_of
from jobs.objectives.causal import CausalObjective
from jobs.objectives.pretrained import load_base
from serve.engines.backends import open_session
from serve.engines.card import EngineError, read_card, variant_files
from serve.engines.decoder import OnnxDecoder
from serve.engines.engine import load_engine
from serve.generation import Sampling, load_generator
from tests.jobs.language_runs import DOCUMENTS, publish_language
from tests.jobs.small_models import small_model
from tests.jobs.tiny import publish_directory

ARCHITECTURES = ("gpt2", "qwen3", "t5")
"""Learned positions and Conv1D; rotary positions, shared keys, windows; an encoder-decoder. GPT-2 and T5 have tied tables."""
KINDS = ("dynamic", "rowwise", "blockwise", "int4", "power_of_two", "fp16")
PROMPTS = [[5, 9, 17, 33, 8, 70, 41], [12], [60, 61, 62, 63]]


def language_model(architecture: str, vocabulary: int) -> PreTrainedModel:
    """Random weights, large enough that what is written differs from token to token."""
    tied = {} if architecture == "qwen3" else {"tie_word_embeddings": True}
    # More tokens than the tokenizer has: the exporter treats large tables otherwise than small ones.
    model = small_model(architecture, "CausalLM", vocab_size=max(vocabulary, 544), **tied)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return publish_language(tmp_path_factory.mktemp("tokens"), "causal")


@pytest.fixture(scope="module")
def words(tokens: Artifact) -> PreTrainedTokenizerBase:
    return tokenizer_of(tokens)


def published(root: Path, model: PreTrainedModel, words: PreTrainedTokenizerBase) -> Artifact:
    model.save_pretrained(root / "draft")
    words.save_pretrained(root / "draft")
    return publish_directory(root / "draft", root / "model", Kind.MODEL, "base")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def compressed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokens: Artifact, words: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, Path, Outcome]:
    """A language model, where the stage put what it made of it, and what it says."""
    root, model = tmp_path_factory.mktemp(request.param), language_model(request.param, len(words))
    config = CompressConfig.model_validate({"quantize": list(KINDS)})
    inputs = Inputs(model=[published(root, model, words)], tokens=[tokens])
    assert _checked(config, inputs) is compress_language
    context = Context(str(root), "story", "small", str(root / "small"), "1")
    return model, root / "small", compress_language(config, inputs, context)


def written_by_torch(model: PreTrainedModel, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What transformers' own greedy generation writes after each prompt, up to the end of the text."""
    written = []
    for prompt in prompts:
        generation: Any = model
        ids_T = generation.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=count, do_sample=False
        )[0].tolist()
        new = ids_T[1:] if model.config.is_encoder_decoder else ids_T[len(prompt) :]
        end = model.config.eos_token_id
        written.append(new[: new.index(end)] if end in new else new)
    return written


def test_onnx_writes_what_torch_writes_token_for_token(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    """Alone and in a padded batch, at lengths that were not exported."""
    model, place, outcome = compressed
    assert outcome.metrics["export_difference"] < 1e-5
    generator, wanted = load_generator(place, "onnx"), written_by_torch(model, PROMPTS, 24)
    assert len({token for ids in wanted for token in ids}) > 5 and max(map(len, wanted)) == 24, (
        "there is something to get wrong"
    )
    greedy = Sampling(max_new_tokens=24)
    assert generator.tokens(PROMPTS, greedy) == wanted
    assert [generator.tokens([prompt], greedy)[0] for prompt in PROMPTS] == wanted


def test_every_weight_is_on_disk_once(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    """Prompt and next token are one graph, encoder and decoder share a file, and a tied table is not there transposed too."""
    model, place, _ = compressed
    names = {path.relative_to(place).as_posix() for path in variant_files(place, read_card(place), "onnx")}
    assert {"onnx/model.onnx", "onnx/model.onnx.data"} < names
    assert ("onnx/encoder.onnx" in names) == model.config.is_encoder_decoder
    weights = sum(weight.numel() for weight in model.parameters()) * 4
    # Room for where weights begin, and for rotary tables.
    assert (place / "onnx/model.onnx.data").stat().st_size < weights + 4096 * len(list(model.parameters()))
    tables = sum(weight.numel() for weight in model.parameters() if model.config.vocab_size in weight.shape) * 4
    assert (place / "onnx/model.onnx.data").stat().st_size - weights < tables, "a second copy of the table would be more"


@pytest.mark.parametrize("kind", ("int8", "int8_row", "int8_block", "int4", "pow2", "fp16"))
def test_each_kind_is_smaller_and_says_nearly_the_same(compressed: tuple[PreTrainedModel, Path, Outcome], kind: str) -> None:
    _, place, outcome = compressed
    figures = outcome.metrics
    assert figures[f"{kind}_bytes"] < figures["onnx_bytes"]
    shift = abs(math.log(figures[f"{kind}_perplexity"] / figures["onnx_perplexity"]))
    assert 0 < shift < {"int8_block": 0.1, "int4": 0.6, "pow2": 2.0, "fp16": 0.01}.get(kind, 0.2)
    assert load_generator(place, kind).tokens(PROMPTS, Sampling(max_new_tokens=4))


def test_no_matrix_stays_float(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    """GPT-2 has Gemms where others have MatMuls, and its table is the output's too: nothing is passed over in silence."""
    import onnx

    _, place, _ = compressed
    for kind in ("int8", "int8_block", "int4"):
        for file in (place / f"onnx/model.{kind}.onnx", place / f"onnx/encoder.{kind}.onnx"):
            if file.exists():
                floats = [t for t in onnx.load(str(file)).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
                assert not [t.name for t in floats if len(t.dims) == 2 and min(t.dims) >= 32], "matrices left in float"


def test_the_perplexity_is_that_of_training(
    compressed: tuple[PreTrainedModel, Path, Outcome], tokens: Artifact, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Each document alone through ONNX Runtime, against packed rows through torch."""
    model, _, outcome = compressed
    if model.config.is_encoder_decoder:
        pytest.skip("which spans are taken out is drawn for a row there, for a document here")
    objective = CausalObjective(tokens, words)
    base = load_base(published(tmp_path, model, words), "causal", words, 32)
    with torch.inference_mode():
        part = objective.evaluate(base.eval(), np.arange(objective.validation_size), torch.device("cpu"))
    assert outcome.metrics["onnx_perplexity"] == pytest.approx(objective.measure([part])["perplexity"], rel=1e-4)


def test_documents_longer_than_the_model_can_number_are_read_as_far_as_it_can(
    words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """The text may have been cut into longer rows than those that the model has learned from."""
    model = small_model("gpt2", "CausalLM", vocab_size=544)
    whole = " ".join(DOCUMENTS)
    longer = publish_language(tmp_path / "tokens", "causal", words, 128, [whole] * 24)
    assert len(words.encode(whole)) > 128 > model.config.n_positions
    inputs = Inputs(model=[published(tmp_path, model, words)], tokens=[longer])
    context = Context(str(tmp_path), "story", "small", str(tmp_path / "small"), "1")
    figures = compress_language(CompressConfig.model_validate({"quantize": "none"}), inputs, context).metrics
    assert 1 < figures["onnx_perplexity"] < 5000


def test_how_tokens_are_chosen(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    _, place, _ = compressed
    generator = load_generator(place, "onnx")
    greedy = generator.tokens(PROMPTS, Sampling(max_new_tokens=8))
    assert generator.tokens(PROMPTS, Sampling(max_new_tokens=8, temperature=5, top_k=1)) == greedy
    bold = Sampling(max_new_tokens=8, temperature=3, seed=1)
    drawn = generator.tokens(PROMPTS, bold)
    assert drawn == generator.tokens(PROMPTS, bold) != greedy
    assert drawn != generator.tokens(PROMPTS, Sampling(max_new_tokens=8, temperature=3, seed=2))
    assert drawn[1] == generator.tokens([PROMPTS[1]], bold, first=1)[0], "its batch mates change nothing"
    texts = ["the cat sleeps", "a dog"]
    assert generator.generate(texts, bold, max_batch=1) == generator.generate(texts, bold)
    with pytest.raises(ValueError, match="temperature is 0 or more"):
        Sampling(temperature=-1)


def test_long_prompts_lose_their_beginning_and_too_much_is_refused(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    model, place, _ = compressed
    generator = load_generator(place, "onnx")
    long = " ".join(DOCUMENTS)
    assert len(generator.tokenizer.encode(long).ids) > generator.card.max_length
    assert isinstance(generator.generate([long], Sampling(max_new_tokens=5))[0], str)
    ends = {number: generator.tokenizer.id_to_token(number) for number in generator.special.ends}
    read = generator.tokenizer.encode(f"the {' '.join(map(str, ends.values()))} cat", add_special_tokens=False).ids
    assert ends
    if not model.config.is_encoder_decoder:
        assert not set(ends) & set(read), "no prompt ends itself"
        with pytest.raises(ValueError, match=f"no room for a prompt: the model holds {generator.card.max_length} tokens"):
            generator.generate(["the cat"], Sampling(max_new_tokens=generator.card.max_length))


def test_a_model_is_loaded_by_what_it_is_for(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    model, place, _ = compressed
    card = read_card(place)
    assert card.task is None and card.language is not None and card.language.writes
    assert card.language.objective == ("span_corruption" if model.config.is_encoder_decoder else "causal")
    with pytest.raises(EngineError, match=r"a language model, which answers for no task; ask it with serve\.generation"):
        load_engine(place)
    with pytest.raises(EngineError, match="written by onnx variants: onnx, int8, int8_row, int8_block, int4, pow2, fp16"):
        load_generator(place, "torch")


def test_what_a_language_model_cannot_have_done_is_refused_together(
    tmp_path: Path, tokens: Artifact, words: PreTrainedTokenizerBase
) -> None:
    model = published(tmp_path, language_model("gpt2", len(words)), words)
    asked = {"prune": {"layers": 1}, "vocabulary": "used", "quantize": ["static", "int4"], "embeddings": True}
    with pytest.raises(BadInput) as caught:
        _checked(CompressConfig.model_validate(asked), Inputs(model=[model], examples=[tokens]))
    assert {problem.path for problem in caught.value.problems} == {
        "prune",
        "vocabulary",
        "quantize",
        "embeddings",
        "inputs.examples",
    }


def test_weights_too_large_for_the_graph_lie_beside_it(
    tmp_path: Path, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGE", 0)
    model = language_model("gpt2", len(words))
    target = tmp_path / "model.onnx"
    assert export_language(model, target) < 1e-5
    assert target.stat().st_size < 60_000 < target.with_name("model.onnx.data").stat().st_size
    for make, size in ((quantize_dynamic_int8, 0.6), (quantize_int4, 0.5)):
        quantised = tmp_path / f"model.{make.__name__}.onnx"
        make(target, quantised)
        share_weights([quantised], data_of(quantised))
        assert data_of(quantised).stat().st_size < size * data_of(target).stat().st_size
        decoder = OnnxDecoder(quantised)
        assert np.isfinite(decoder.read(decoder.begin(np.ones((1, 3))), np.array([[5, 6, 7]]), [-1])).all()
    assert not encoder_of(target).exists() and open_session(target, 1, "cpu").get_inputs()[0].name == "input_ids"


def test_stock_transformers_loads_what_is_published(compressed: tuple[PreTrainedModel, Path, Outcome]) -> None:
    model, place, _ = compressed
    if not model.config.is_encoder_decoder:
        loaded = AutoModelForCausalLM.from_pretrained(place)
        ids_BT = torch.tensor([PROMPTS[0]])
        assert torch.allclose(loaded(ids_BT).logits, model(ids_BT).logits, atol=1e-5)
