"""compress for language models: exported with their cache, quantised, judged by their perplexity through ONNX Runtime.

    outcome = compress_language(config, inputs, context)        # decoders and encoder-decoders that pretrain made

What is published is written on with by serve.generation. No weight is taken out of a language model here.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store.artifact import upload
from jobs.architectures.language_models import AUTO_CLASSES
from jobs.architectures.models import learned_of
from jobs.architectures.positions import longest_text
from jobs.compression.export_language import data_of, encoder_of, export_language
from jobs.compression.forms import FROM_WEIGHTS, KEPT_IN, NAMES
from jobs.compression.graph import share_weights
from jobs.compression.perplexity import perplexity
from jobs.compression.settings import Quantization
from jobs.compression.variants import SOURCE
from jobs.core.config import BadInput, Problem
from jobs.core.spaces import QuantizeKind
from jobs.core.stage import Context, Inputs, Outcome
from serve.engines.card import Card, Language, Variant, write_card
from serve.engines.decoder import OnnxDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jobs.objectives.language import LanguageObjective

LONGEST = 512
"""Tokens of a prompt where neither model nor tokenizer says how many."""
CORRUPTED = 0.15
"""Share of a text that an encoder-decoder is to say, where it is judged."""


def check_language(config: Quantization, inputs: Inputs) -> list[Problem]:
    """What a recipe asks of a language model that cannot be done with one."""
    problems = [
        Problem("quantize", kind, "its scales come from examples of a task, which a language model has none of", remedy)
        for kind in config.quantize
        if kind not in FROM_WEIGHTS
        for remedy in [f"Use {', '.join(FROM_WEIGHTS)}."]
    ]
    reason, remedy = "it is trained and judged on examples of a task", "Leave it out for a language model."
    if config.allowed_loss is not None:
        problems.append(Problem("allowed_loss", config.allowed_loss, reason, remedy))
    for key, usual in (("embeddings", False), ("batching", "free")):
        if (value := getattr(config, key)) != usual:
            problems.append(Problem(key, value, "it is for models of a task", remedy))
    problems += [
        Problem(f"inputs.{name}", artifact.manifest.step, "a language model has no task", "Leave it out.")
        for name in ("examples", "teacher")
        for artifact in inputs.get(name, [])
    ]
    return problems


def compress_language(config: Quantization, inputs: Inputs, context: Context) -> Outcome:
    """Publish the model with an ONNX variant and one for each kind in `quantize`; each is judged on validation text."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(max(1, int(context.resources.cpus)))
    language, origin = learned_of(inputs.one("model")).language, inputs.one("model").local()
    assert language is not None, "the caller has looked"
    model = _load(origin, language)
    tokenizer = AutoTokenizer.from_pretrained(origin)
    judged = _objective(model, language, inputs)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        context.report(state="exporting")
        figures = {"export_difference": export_language(model, directory / SOURCE)}
        files = {"onnx": (directory / SOURCE, "fp32")}
        for asked in config.quantize:
            context.report(state=f"quantising: {asked}")
            files[NAMES[asked]] = _quantize(asked, directory / SOURCE)
        variants = {"torch": Variant(backend="torch", file="model.safetensors", precision="fp32")}
        for name, (file, precision) in files.items():
            variants[name] = _variant(directory, file, precision)
            figures[f"{name}_bytes"] = float(sum(one.stat().st_size for one in _files(file)))
            if judged is not None:
                context.report(state=f"judging {name}")
                encoder = variants[name].encoder
                decoder = OnnxDecoder(file, directory / encoder if encoder is not None else None)
                figures[f"{name}_perplexity"] = perplexity(decoder, judged, longest_text(model))
        parameters = sum(weight.numel() for weight in model.parameters())
        longest = longest_text(model) or min(tokenizer.model_max_length, LONGEST)
        default = next((NAMES[asked] for asked in config.quantize), "onnx")
        card = Card(
            language=language,
            max_length=longest,
            variants=variants,
            default=default,
            parameters=parameters,
        )
        write_card(directory, card)
        figures["parameters"] = float(parameters)
        return Outcome(metrics=figures, files=upload(directory, replace(context, directory=directory).output))


def _load(origin: Path, language: Language) -> "PreTrainedModel":
    import transformers

    loader: Any = getattr(transformers, AUTO_CLASSES[language.objective])
    model: PreTrainedModel = loader.from_pretrained(origin, dtype="float32", attn_implementation="eager")
    return model.eval()


def _objective(model: "PreTrainedModel", language: Language, inputs: Inputs) -> "LanguageObjective | None":
    """What the model learned, over the text that it is judged on."""
    from jobs.data.tokenizer import tokenizer_of
    from jobs.objectives.pretrained import objective_of

    tokens = inputs.maybe("tokens")
    if tokens is None:
        return None
    tokenizer = tokenizer_of(tokens)
    if len(tokenizer) > int(model.config.vocab_size):
        reason = f"its tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}"
        remedy = "Give the tokens that the model was trained on."
        raise BadInput([Problem("inputs.tokens", tokens.manifest.step, reason, remedy)])
    return objective_of(language.objective, tokens, tokenizer, model.config, CORRUPTED)


def _quantize(kind: QuantizeKind, source: Path) -> tuple[Path, str]:
    """Quantise each of the model's graphs; returns the decoder's, and the precision."""
    target = source.with_name(f"model.{NAMES[kind]}.onnx")
    made = []
    for graph, quantised in ((source, target), (encoder_of(source), encoder_of(target))):
        if graph.exists():
            FROM_WEIGHTS[kind](graph, quantised)
            made.append(quantised)
    share_weights(made, data_of(target))
    return target, KEPT_IN.get(kind, "int8")


def _files(file: Path) -> list[Path]:
    return [one for one in (file, encoder_of(file), data_of(file)) if one.exists()]


def _variant(directory: Path, file: Path, precision: str) -> Variant:
    encoder = encoder_of(file)
    return Variant(
        backend="onnx",
        file=file.relative_to(directory).as_posix(),
        encoder=encoder.relative_to(directory).as_posix() if encoder.exists() else None,
        precision=precision,
    )
