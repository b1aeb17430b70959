"""The model and tokenizer that both sides of the masked pretraining benchmark train."""

from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jobs.data.tokenizer import SPECIAL_TOKENS
from jobs.objectives.architectures import Shape, new_model
from tests.benchmarks.train import LENGTH, VOCABULARY


def make() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A 4×256 BERT with a 30k vocabulary, dropout as usual."""
    words = [*SPECIAL_TOKENS.values(), *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL_TOKENS)))]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL_TOKENS)
    return new_model(Shape(layers=4, hidden=256, heads=4), "masked", tokenizer, LENGTH), tokenizer
