"""A published model's card: `raystill.json` beside the weights. What the model answers, and in which forms it is there.

    card = read_card(directory)
    card.variants[card.default].file                 # "onnx/model.int8.onnx"
    variant_files(directory, card, "int8")           # exactly the files that serving it needs

Everything that is wrong with a published model is an EngineError.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from serve.cleaning.cleaning import Cleaning
from serve.engines.processor import Products
from serve.tasks import task_of
from serve.tasks.protocol import Task

CARD = "raystill.json"
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
# What the engine itself reads; other tokenizer files (vocab.txt, merges.txt) say again what tokenizer.json says.
REQUIRED = (CARD, "config.json", "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "generation_config.json")
BAG_FILE, GRAMS_FILE, TOKENIZER_FILE = "bag.json", "grams.json", "tokenizer.json"
BAG_REQUIRED, BAG_OPTIONAL = (CARD, BAG_FILE), (GRAMS_FILE, TOKENIZER_FILE)
"""The same of bags: what they are, and what their features are listed in, where anything lists them."""

ObjectiveName = Literal["masked", "masked_next_sentence", "masked_sentence_order", "causal", "span_corruption"]
WRITING_OBJECTIVES = ("causal", "span_corruption")
"""The objectives by which a model learns to write."""
GENERATION = "generation"
"""How older cards named the task of language models that write."""


class EngineError(Exception):
    """A published model cannot be read or run; the message names the file, what is wrong and the remedy."""


class Variant(BaseModel):
    """One form of the model's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    backend: Literal["torch", "onnx", "numpy"]
    """What runs it: torch through transformers, ONNX Runtime, or numpy alone, where the model is a bag of features."""
    file: str
    """Path of its weights inside the model's directory: …model.safetensors, ….onnx, or of a bag bag….safetensors."""
    encoder: str | None = None
    """An encoder-decoder's encoder, a graph of its own beside that of the decoder; both have their weights in `file`.data."""
    precision: str
    """Numbers that the weights are kept in: fp32, bf16, fp16, int8 or int4."""
    batching: Literal["free", "alone"] = "free"
    """alone: texts are run one at a time, so that an answer never depends on what else is asked at the same time."""
    hidden_states: bool = False
    """Whether an onnx graph gives its last hidden states too; torch always does."""
    products: Products = "wide"
    """Of an int8 graph. wide: two products of unsigned with signed numbers may be more than the 16 bits hold in which x86
    without VNNI adds them up, so that an engine there turns the weights to unsigned ones; narrow: they never are; unsigned:
    its weights are unsigned already. The last two run everywhere as they are."""

    @property
    def embeds(self) -> bool:
        """Whether embeddings can be had of it."""
        return self.backend == "torch" or self.hidden_states

    fitted: dict[str, float] = {}
    """What was fitted for this variant on held-out texts, as its task names it: a temperature, a threshold."""
    files: tuple[str, ...] = ()
    """Paths of arrays that were fitted, inside the model's directory."""

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, given: Any) -> Any:
        """Cards of older code have the temperature beside the file."""
        if not isinstance(given, dict) or "temperature" not in given:
            return given
        rest = {key: value for key, value in given.items() if key != "temperature"}
        return {**rest, "fitted": {"temperature": given["temperature"]}}

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, precision: str) -> str:
        return _one_of(precision, PRECISIONS)

    @model_validator(mode="after")
    def _fitting_file(self) -> Self:
        path = PurePosixPath(self.file)
        for file in map(PurePosixPath, (self.file, *self.files, *([self.encoder] if self.encoder is not None else []))):
            if file.is_absolute() or ".." in file.parts:
                raise ValueError(f"{file} is not inside the model's directory; give a path relative to it")
        if self.backend == "torch" and path.name != "model.safetensors":
            raise ValueError(f"a torch variant's file is named model.safetensors, not {path.name}")
        if self.backend == "onnx" and path.suffix != ".onnx":
            raise ValueError(f"an onnx variant's file ends with .onnx, not {path.name}")
        if self.backend == "numpy" and not (path.name.startswith("bag.") and path.suffix == ".safetensors"):
            raise ValueError(f"a numpy variant's file is named bag.safetensors or bag.….safetensors, not {path.name}")
        return self


class TrainingData(BaseModel):
    """What the training texts were like, to see later whether those that are asked are like them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    labels: dict[str, float]
    """The share of what each answer would have been, as the task says it in a few words: a label, a range."""
    length_edges: tuple[int, ...]
    """Lengths in tokens, cut as in training: the last of each bin but the last."""
    length_shares: tuple[float, ...]
    """The share of texts in each bin."""

    @model_validator(mode="after")
    def _one_share_a_bin(self) -> Self:
        if len(self.length_shares) != len(self.length_edges) + 1:
            raise ValueError(f"{len(self.length_edges)} edges make one bin more, not {len(self.length_shares)}")
        return self


class Language(BaseModel):
    """What a language model has learned from raw text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    objective: ObjectiveName
    """What it predicts: hidden tokens (and how two segments belong together), the next token, spans taken out."""

    @property
    def writes(self) -> bool:
        """Whether it can go on with a text."""
        return self.objective in WRITING_OBJECTIVES


class Card(BaseModel):
    """What a published model is: one that answers for a task, or a language model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    task: Annotated[SerializeAsAny[Task], BeforeValidator(task_of)] | None = None
    """What its outputs mean, as `prepare` has written it beside the examples that it learned from."""
    language: Language | None = None
    """What it says of tokens, where it has no task."""
    cleaning: Cleaning | None = None
    """How the texts were cleaned that it learned from, and how those are that it answers for; None: not at all. Prompts of
    language models stay as they are."""
    max_length: int = Field(ge=1)
    """Tokens, special ones included, or characters where a bag's features are words and characters; a longer text is cut."""
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    """What it was trained to read of a text's tokens."""
    variants: dict[str, Variant] = Field(min_length=1)
    """The forms in which the weights are there, by name."""
    default: str
    """The variant that is served when none is asked for."""
    parameters: int = Field(ge=0)
    """Number of the model's parameters."""
    training: TrainingData | None = None
    """What the training texts were like."""

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, given: Any) -> Any:
        """Cards of older code name the task, and have the labels beside it; one that writes had no objective."""
        if not isinstance(given, dict) or not isinstance(given.get("task"), str):
            return given
        rest = {key: value for key, value in given.items() if key not in ("task", "labels")}
        if given["task"] == GENERATION:
            variants = given.get("variants")
            each = variants.values() if isinstance(variants, dict) else ()
            encoders = any(isinstance(variant, dict) and variant.get("encoder") for variant in each)
            return {**rest, "language": {"objective": "span_corruption" if encoders else "causal"}}
        return {**rest, "task": {"kind": given["task"], "labels": given.get("labels", ())}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default not in self.variants:
            raise ValueError(f"the default variant {self.default} is not one of {', '.join(self.variants)}")
        if (self.task is None) == (self.language is None):
            raise ValueError("a model answers for a task or is a language model; give one of task and language")
        if len({variant.backend == "numpy" for variant in self.variants.values()}) > 1:
            raise ValueError("numpy variants are of a bag of features, and others of a transformer: no model is both")
        for name, variant in self.variants.items():
            if self.task is not None and (wrong := self.task.wrong_fitted(variant.fitted)) is not None:
                raise ValueError(f"the variant {name}: {wrong}")
        return self

    @property
    def is_bag(self) -> bool:
        """Whether the model is a bag of features, and no transformer."""
        return self.variants[self.default].backend == "numpy"

    def variant(self, name: str | None) -> tuple[str, Variant]:
        """The variant of this name, or the default one, with its name; EngineError if there is none."""
        chosen = self.default if name is None else name
        if chosen not in self.variants:
            raise EngineError(f"the model has no variant {chosen}; it has {', '.join(sorted(self.variants))}")
        return chosen, self.variants[chosen]


def read_card(directory: Path) -> Card:
    """The card in a model's directory; EngineError if it is missing or damaged."""
    place = directory / CARD
    if not place.is_file():
        raise EngineError(f"{place}: not there, so {directory} is no published model; publish one, or mend the path")
    try:
        return Card.model_validate_json(place.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise EngineError(f"{place} is damaged: {where}: {first['msg']}; publish the model again") from error


def write_card(directory: Path, card: Card) -> None:
    """Write the card into a model's directory."""
    (directory / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def variant_names(card: Card, variant: str | None, available: Iterable[str]) -> list[str]:
    """The names, among those available in a model, of the files that serving a variant needs, sorted.

    EngineError names the first one that is needed and not available.
    """
    there = set(available)
    name, chosen = card.variant(variant)
    graphs = {chosen.file, *chosen.files, *([chosen.encoder] if chosen.encoder is not None else [])}
    required, optional = (BAG_REQUIRED, BAG_OPTIONAL) if card.is_bag else (REQUIRED, OPTIONAL)
    for needed in (*sorted(graphs), *required):
        if needed not in there:
            raise EngineError(f"{needed}: not there, and the variant {name} needs it; publish the model again")
    return sorted({*graphs, *required, *(there & set(optional)), *_external_data(chosen, there)})


def variant_files(directory: Path, card: Card, variant: str | None = None) -> list[Path]:
    """The files of a model's directory that serving a variant needs, and no others; EngineError if one is missing."""
    available = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    try:
        return [directory / name for name in variant_names(card, variant, available)]
    except EngineError as error:
        raise EngineError(f"{directory}: {error}") from error


def _external_data(variant: Variant, available: set[str]) -> set[str]:
    """ONNX exporters put large weights beside the graph, as model.onnx.data or model.onnx_data."""
    if variant.backend != "onnx":
        return set()
    return {name for name in available if name in (f"{variant.file}.data", f"{variant.file}_data")}


def _one_of(value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value} is not known; known are {', '.join(known)}")
    return value
