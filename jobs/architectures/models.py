"""Existing models, from a name, a directory or a step (new ones: jobs/architectures/new.py).

learned_of(model)                      # a task or a language, and how long its texts were
read_base(origin).reach                # how far it can read; its config and tokenizer
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.store import storage
from cluster.store.artifact import Artifact
from jobs.architectures.language_models import language_of
from jobs.architectures.padding import give_padding, plainly_padded
from jobs.architectures.positions import Reach, longest_of_config
from jobs.core.config import BadInput, Problem
from jobs.data.samples import find_sample
from jobs.data.sources import model_directory
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import BAG_FILE, CARD, Card, Language, read_card
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

READ = ("input_ids", "attention_mask")
"""What every model reads of its tokens."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer", "vocab", "spiece", "sentencepiece", "merges", "bpe")
"""What the names of files begin with that hold tokenizers; without any, transformers makes an empty one of its own."""
HEAVY = (".safetensors", ".onnx", ".data", ".onnx_data")
"""What the names of files end with that hold weights."""


def training_attention() -> str:
    """The attention that trains fastest here: on CPUs the fused one's backward pass is the slower of the two."""
    import torch

    return "sdpa" if torch.cuda.is_available() else "eager"


def directory_of(origin: str | Artifact) -> str:
    return str(origin.local()) if isinstance(origin, Artifact) else model_directory(origin)


@dataclass(frozen=True)
class Learned:
    """What a model is: a task's, a language model, or neither, as far as its files say."""

    task: Task | None = None
    """What it answers."""
    language: Language | None = None
    """What it says of tokens, where it has no task."""
    cleaning: Cleaning | None = None
    """How the texts were cleaned that it learned from, where that is known."""
    longest: int | None = None
    """Tokens of the longest texts that it was trained on."""


@dataclass(frozen=True)
class Base:
    """What is known of a model without its weights; config and tokenizer agree on what pads."""

    named: str
    learned: Learned
    config: "PreTrainedConfig"
    tokenizer: "PreTrainedTokenizerBase"
    padding: str | None
    """The token that pads, where the model has none of its own for it."""

    @cached_property
    def reach(self) -> Reach:
        """How long its texts may be."""
        longest, answers = self.learned.longest, self.learned.task is not None
        return Reach(self.named, longest_of_config(self.config), longest, answers)


def read_base(origin: str | Artifact) -> Base:
    """What a model's files say of it; no weights are fetched."""
    if not isinstance(origin, Artifact):
        return base_in(origin, model_directory(origin))
    return base_in(origin, str(origin.local([name for name in origin.manifest.files if not name.endswith(HEAVY)])))


def base_in(origin: str | Artifact, directory: str) -> Base:
    from transformers import AutoConfig, AutoTokenizer

    named = origin.manifest.step if isinstance(origin, Artifact) else origin
    if (Path(directory) / BAG_FILE).is_file():
        reason = "it is a bag of features, no transformer: nothing can be trained on in it, taken out of it or looked into"
        raise BadInput([Problem("model", named, reason, "Name a transformer.")])
    config, tokenizer = AutoConfig.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    learned = _learned(origin, directory, config)
    return Base(named, learned, config, tokenizer, give_padding(tokenizer, config, named))


def learned_of(model: Artifact) -> Learned:
    """What a step's model is; only the file that says it is fetched."""
    return _learned(model, str(model.local([CARD if CARD in model.manifest.files else "config.json"])))


def _learned(origin: str | Artifact, directory: str, config: "PreTrainedConfig | None" = None) -> Learned:
    """By its card; where it has none, being from outside or of an older run, by its config and what its step noted."""
    from transformers import AutoConfig

    if (card := card_in(directory)) is not None:
        return Learned(card.task, card.language, card.cleaning, card.max_length)
    noted = origin.manifest.details.get("max_length") if isinstance(origin, Artifact) else None
    config = AutoConfig.from_pretrained(directory) if config is None else config
    return Learned(language=language_of(config), longest=noted)


def card_in(directory: str) -> Card | None:
    """The card of the model in a directory, where it has one; EngineError if it is damaged."""
    return read_card(Path(directory)) if (Path(directory) / CARD).is_file() else None


def set_dropout(config: "PreTrainedConfig", dropout: float) -> None:
    """The same dropout for each kind of it that the architecture has, whatever its key is called."""
    for key, value in config.to_dict().items():
        if "drop" in key and "layer" not in key and "path" not in key and isinstance(value, int | float):
            setattr(config, key, dropout)


def length_of(origin: str | Artifact, asked: int | None) -> int:
    """Tokens at which texts for this base are cut: as many as asked, else as it was trained with (of a model from outside that
    is not known: 128 at most). BadInput where it has fewer positions."""
    return read_base(origin).reach.length(asked)


def padding_told(origin: str | Artifact) -> dict[str, str]:
    """For the manifest, and said here: what pads, where the base has no token of its own for it."""
    base = read_base(origin)
    if base.padding is None:
        return {}
    print(f"{base.named} has no padding token: short rows are filled with {base.padding}, which is masked", flush=True)
    return {"padding": base.padding}


def check_model(model: str, path: str) -> list[Problem]:
    """What is wrong with a model named in a recipe; a hub's name is only known when it is fetched."""
    if model.startswith("sample:"):
        try:
            find_sample(model.removeprefix("sample:"))
        except BadInput as error:
            return [Problem(path, model, p.reason, p.remedy) for p in error.problems]
        return []
    if not _is_directory_name(model):
        return []
    if not storage.is_local(model):
        return [Problem(path, model, "a model is loaded from a local directory or a hub", "Copy it to the nodes' disks.")]
    if not storage.exists(model):
        return [Problem(path, model, "no such directory", "Check the path, or give a hub's name or sample:NAME.")]
    names = {stat.path for stat in storage.list_files(model)}
    if "config.json" not in names:
        return [Problem(path, model, "the directory has no config.json", "Give a directory that save_pretrained wrote.")]
    if not names & set(WEIGHTS):
        return [Problem(path, model, f"the directory has no weights ({WEIGHTS[0]})", "Save the model with its weights.")]
    return []


def unreadable() -> tuple[type[Exception], ...]:
    """What transformers raises for a model's files that are damaged, or of a kind that it does not know."""
    from huggingface_hub.errors import StrictDataclassError

    return (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, StrictDataclassError)


def check_tokenizer(model: str, path: str) -> list[Problem]:
    """What keeps texts from being cut and put into batches for a model named in a recipe, where its files are here."""
    if model.startswith("sample:") or not _is_directory_name(model) or plainly_padded(Path(model)):
        return []
    remedy = "Save its tokenizer beside it with save_pretrained."
    if not any(stat.path.startswith(TOKENIZERS) for stat in storage.list_files(model)):
        return [Problem(path, model, "the directory has no tokenizer", remedy)]
    try:
        read_base(model)
    except BadInput as error:
        return [Problem(path, model, problem.reason, problem.remedy) for problem in error.problems]
    except unreadable() as error:
        reason = f"its config or tokenizer cannot be read ({type(error).__name__}: {str(error).strip().splitlines()[0][:120]})"
        return [Problem(path, model, reason, remedy)]
    return []


def _is_directory_name(model: str) -> bool:
    """Hub names are `name` or `owner/name`; everything else, and whatever exists here, is a path."""
    return model.startswith((".", "/", "~")) or "://" in model or model.count("/") > 1 or Path(model).exists()
