"""What pretraining begins with: a model, new from a shape or a base to go on from (Gururangan et al. 2020), and an objective.

model = load_base("sample:minilm_l6", "masked", tokenizer, max_length=128)
objective = objective_of("masked", tokens, tokenizer, model.model.config, mask_probability=0.15)
"""

from typing import TYPE_CHECKING, Any

from cluster.store.artifact import Artifact
from jobs.architectures.language_models import AUTO_CLASSES, PAIR_OBJECTIVES, can_learn
from jobs.architectures.models import training_attention
from jobs.core.config import BadInput, Problem
from jobs.data.sources import model_directory
from serve.engines.card import ObjectiveName

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from jobs.objectives.language import LanguageObjective
    from jobs.objectives.masked import Masking
    from jobs.objectives.target_head import HeadAtTargets


def load_base(
    origin: str | Artifact, objective: ObjectiveName, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> "HeadAtTargets":
    """A base in float32 with the objective's head, which is new where the base has none; BadInput where it cannot serve."""
    import transformers

    named = origin.manifest.step if isinstance(origin, Artifact) else origin
    directory = str(origin.local()) if isinstance(origin, Artifact) else model_directory(origin)
    config = transformers.AutoConfig.from_pretrained(directory)
    _check_kind(config, objective, named)
    _check_vocabulary(transformers.AutoTokenizer.from_pretrained(directory), tokenizer, named)
    model, loading = getattr(transformers, AUTO_CLASSES[objective]).from_pretrained(
        directory,
        dtype="float32",
        attn_implementation=training_attention(),
        output_loading_info=True,
        **_without_padding(config),
    )
    if objective in PAIR_OBJECTIVES and not _answers_pairs(model):
        reason = f"{type(model).__name__} has no head that tells two segments' relation"
        raise BadInput([Problem("base", named, reason, "Take a bert or albert model, or objective: masked.")])
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        reason = f"it has {model.get_input_embeddings().num_embeddings} embeddings, its tokenizer {len(tokenizer)} tokens"
        raise BadInput([Problem("base", named, reason, "Resize its embeddings, or prepare with another tokenizer.")])
    new = set(loading["missing_keys"])
    return wrapped(model, objective, max_length, named, sum(w.numel() for name, w in model.named_parameters() if name in new))


def wrapped(
    model: "PreTrainedModel", objective: ObjectiveName, max_length: int, named: str | None = None, new: int = 0
) -> "HeadAtTargets":
    """The model as the objective's batches call it. A base is `named`, and tried: it must keep documents apart."""
    from jobs.objectives.documents import check_documents_part
    from jobs.objectives.target_head import HeadAtTargets, LanguageModel, PairModel, SpanModel

    if objective in PAIR_OBJECTIVES:
        made: HeadAtTargets = PairModel(model, new_parameters=new)
    elif objective == "span_corruption":
        made = SpanModel(model, new_parameters=new)
    else:
        made = LanguageModel(model, objective == "causal", new)
    positions = made.reader.positions()
    if named is not None and positions is not None and max_length > positions:
        reason = f"it has {positions} positions, and the rows of tokens are {max_length} long"
        raise BadInput([Problem("base", named, reason, f"Prepare tokens with max_length {positions} at most.")])
    if named is not None and objective not in PAIR_OBJECTIVES:
        check_documents_part(model, made.reader, max_length, named)
    return made


def objective_of(
    name: ObjectiveName,
    tokens: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    config: "PreTrainedConfig",
    mask_probability: float,
    masking: "Masking" = "tokens",
) -> "LanguageObjective":
    """What a model of this config learns from TOKENS by the objective of this name."""
    from jobs.objectives.causal import CausalObjective
    from jobs.objectives.corruption import SpanCorruption
    from jobs.objectives.masked import MaskedObjective
    from jobs.objectives.pairs import PairObjective

    if name == "causal":
        return CausalObjective(tokens, tokenizer)
    if name == "span_corruption":
        return SpanCorruption(tokens, tokenizer, mask_probability, int(config.decoder_start_token_id))
    if name == "masked":
        return MaskedObjective(tokens, tokenizer, mask_probability, masking)
    return PairObjective(tokens, tokenizer, mask_probability, masking, name == "masked_sentence_order")


def _check_kind(config: Any, objective: ObjectiveName, named: str) -> None:
    """BadInput for a model that cannot learn so."""
    if not can_learn(config, objective):
        other = {"causal": "a decoder", "span_corruption": "an encoder-decoder"}.get(objective, "an encoder")
        reason = f"a {config.model_type} model cannot learn by {objective}, which is for {other}"
        raise BadInput([Problem("base", named, reason, "Take another base or another objective.")])


def _without_padding(config: Any) -> dict[str, Any]:
    """The config in place of the base's own, where that names a padding token that there is no embedding of."""
    if config.pad_token_id is None or config.pad_token_id < config.get_text_config().vocab_size:
        return {}
    config.pad_token_id = None
    return {"config": config}


def _answers_pairs(model: "PreTrainedModel") -> bool:
    return hasattr(model, "sop_classifier") or hasattr(getattr(model, "cls", None), "seq_relationship")


def _check_vocabulary(own: "PreTrainedTokenizerBase", given: "PreTrainedTokenizerBase", named: str) -> None:
    """BadInput with the first id that is another token for the base than for TOKENS."""
    left = {number: token for token, number in own.get_vocab().items()}
    right = {number: token for token, number in given.get_vocab().items()}
    number = next((n for n in range(max([-1, *left, *right]) + 1) if left.get(n) != right.get(n)), None)
    if number is not None:
        tokens = (repr(side[number]) if number in side else "not there" for side in (left, right))
        reason = "its tokenizer is not the one that the text was cut with: id {} is {} in the base, {} in the tokens".format(
            number, *tokens
        )
        remedy = "Prepare the text with tokenizer.model set to the base."
        raise BadInput([Problem("base", named, reason, remedy)])
