"""Language models by the objective that they learn by: which class of transformers has its head, what can learn by it.

language_of(config)                        # of a model without a card, as far as its architecture says
can_learn(config, "causal")

Importing it needs no torch: recipes are checked by it.
"""

from typing import TYPE_CHECKING

from serve.engines.card import Language, ObjectiveName

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

AUTO_CLASSES: dict[ObjectiveName, str] = {
    "masked": "AutoModelForMaskedLM",
    "masked_next_sentence": "AutoModelForPreTraining",
    "masked_sentence_order": "AutoModelForPreTraining",
    "causal": "AutoModelForCausalLM",
    "span_corruption": "AutoModelForSeq2SeqLM",
}
"""The class of transformers that has the objective's head."""
PAIR_OBJECTIVES = ("masked_next_sentence", "masked_sentence_order")
"""The objectives over pairs of segments."""
ANSWERING_OBJECTIVES = ("masked", "causal")
"""The objectives whose models say which tokens are likely at a place, which is what soft labels of tokens are."""


def language_of(config: "PreTrainedConfig") -> Language | None:
    """What a model of this config has learned, by the class that it was saved as; None where that is no language model, or one
    of several objectives."""
    from transformers.models.auto import modeling_auto as auto

    made = list(getattr(config, "architectures", None) or ())
    if set(made) & set(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()):
        return Language(objective="span_corruption")
    if set(made) & set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        return Language(objective="causal")
    return Language(objective="masked") if made and made[0].endswith("ForMaskedLM") else None


def can_learn(config: "PreTrainedConfig", objective: ObjectiveName) -> bool:
    """Whether a model of this config is of the kind that learns by the objective. Encoders load as causal models too, and
    would read what they are to predict."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    encoder = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if objective == "causal":
        return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not encoder
    if objective == "span_corruption":
        return kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return encoder and not config.is_encoder_decoder
