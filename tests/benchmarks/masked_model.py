"""The model and tokenizer that both sides of the masked pretraining benchmark train."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jobs.architectures.new import NewModelConfig, new_model
from tests.benchmarks.masked_rows import LENGTH, make_tokenizer


def make() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A 4×256 BERT with a 30k vocabulary, dropout as usual."""
    tokenizer = make_tokenizer()
    return new_model(NewModelConfig(layers=4, hidden=256, heads=4), "masked", tokenizer, LENGTH), tokenizer
