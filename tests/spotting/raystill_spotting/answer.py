"""Spotting: which word of a passage answers a question? How it answers: a score for each word → the most probable ones.

    task = Spotting()
    task.answers(task.settled([scores_S], {"sharpness": 3.0}), items, Options(most=1))[0].value       # a word's number, from 1

Words are what whitespace parts, so they do not depend on how a model cuts texts into tokens, nor a long passage into windows.
What is fitted is a sharpness: scores are multiplied by it so that their softmax holds.

S words of a passage, T tokens of a window.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Encoding, Tokenizer

from serve.tasks import protocol
from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs, Part, Task, View
from serve.tasks.shared.explain import NOTHING_LEFT

SHARPNESS = "sharpness"
PASSAGE = 1
"""The place of the passage among an item's texts, and the number of its sequence among a window's."""
LEAST_PROBABILITY = 1e-9
REACHES = {"1–4": 4, "5–16": 16}
"""The number of the last word in each stretch of a passage that answers are counted by."""
BEYOND = "17 and on"
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a passage by its number, from 1."""

    value: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The number of the word that answers (from 1), the word, and the most probable ones, the first first."""

    value: int
    text: str
    probability: float
    words: tuple[Word, ...]


class Options(BaseModel):
    """What may be asked of the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    most: Annotated[int, Field(strict=True, ge=1)] = 3
    """How many words to list for each passage, the most probable first; all where it has fewer."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The number of the word that is explained, and its probability."""

    value: int
    probability: float


@dataclass(frozen=True, slots=True)
class Evidence(protocol.Evidence):
    """What a part does for the word: by how much its log-odds fall without it."""

    probability_without: float
    """The word's probability without it."""


class Spotting(Task):
    """The word of a passage that answers a question."""

    kind: Literal["spotting"] = "spotting"

    Options: ClassVar = Options
    Answer: ClassVar = Answer
    Whole: ClassVar = Whole
    Evidence: ClassVar = Evidence
    view: ClassVar[View] = "number"
    summary: ClassVar[str] = "Find the word that answers"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    per_token: ClassVar[bool] = True
    dense: ClassVar[bool] = False
    windows: ClassVar[bool] = True
    offsets: ClassVar[bool] = True

    @property
    def fields(self) -> tuple[str, ...]:
        """question, passage."""
        return ("question", "passage")

    def cut(self, tokenizer: Tokenizer, max_length: int, direction: str) -> None:
        """The passage alone is cut, into windows that overlap; nothing of it is lost, from whichever end one begins."""
        tokenizer.enable_truncation(max_length, stride=max_length // 8, strategy="only_second", direction=direction)

    def encode(self, tokenizer: Tokenizer, items: Sequence[Item]) -> list[list[Encoding]]:
        """A window, and those into which the rest of the passage goes; the question stands in each of them."""
        questions = _shortened(tokenizer, [item.values[0] for item in items])
        pairs = [(question, item.values[PASSAGE]) for question, item in zip(questions, items, strict=True)]
        return [[encoding, *encoding.overflowing] for encoding in tokenizer.encode_batch(pairs)]

    def combine(self, windows: Sequence[Encoding], outputs: Sequence[Output], item: Item) -> Output:
        """scores_S: the highest of each word's tokens in all windows; a word without a token has the lowest of the others."""
        words_S2 = words_of(item)
        scores_S = np.full(len(words_S2), -np.inf, dtype=np.float32)
        for window, logits_T1 in zip(windows, outputs, strict=True):
            owners_T = owners(window, words_S2)
            own_T = owners_T >= 0
            np.maximum.at(scores_S, owners_T[own_T], np.asarray(logits_T1, dtype=np.float32)[own_T, 0])
        seen_S = scores_S > -np.inf
        return np.where(seen_S, scores_S, scores_S[seen_S].min() if seen_S.any() else np.float32(0))

    def wrong_output(self, output: Output) -> str | None:
        """Words have a score each, and every passage has words."""
        if output.ndim != 1 or not len(output):
            return f"it has the shape {output.shape}, and a passage has one score a word"
        return None

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """A sharpness above 0 may be."""
        if unknown := sorted(set(fitted) - {SHARPNESS}):
            return f"{unknown[0]} is none of what is fitted for it: {SHARPNESS}"
        return None if fitted.get(SHARPNESS, 1.0) > 0 else f"its sharpness is {fitted[SHARPNESS]:g}, which is not above 0"

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """Scores whose softmax is what is answered."""
        return [scores_S * np.float32(fitted.get(SHARPNESS, 1.0)) for scores_S in outputs]

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The most probable word of each; of equals the first one."""
        most = options.most if isinstance(options, Options) else None
        return [_answer(softmax(scores_S), item, most) for scores_S, item in zip(outputs, items, strict=True)]

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """The highest probability."""
        return np.array([softmax(scores_S).max() for scores_S in outputs], dtype=np.float64)

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether the most probable word is the same."""
        return np.array([one.argmax() == other.argmax() for one, other in zip(left, right, strict=True)], dtype=bool)

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The largest change of a probability."""
        pairs = zip(left, right, strict=True)
        return np.array([np.abs(softmax(one) - softmax(other)).max() for one, other in pairs], dtype=np.float64)

    def said(self, outputs: Outputs) -> list[str]:
        """The stretch of the passage that the most probable word stands in."""
        return [reach(int(scores_S.argmax())) for scores_S in outputs]

    @property
    def sayings(self) -> tuple[str, ...]:
        """The stretches."""
        return (*REACHES, BEYOND)

    def without(self, item: Item, parts: Sequence[Part]) -> list[Item]:
        """A word of the passage leaves a sign where it stood, so that the others keep their numbers."""
        usual = super().without(item, parts)
        pairs = zip(usual, parts, strict=True)
        return [_emptied(item, part) if part.field == PASSAGE else shorter for shorter, part in pairs]

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the log-odds of the most probable word fall where a part is left out."""
        word = int(outputs[0].argmax())
        probability_N = np.array([softmax(scores_S)[word] for scores_S in outputs])
        bounded_N = probability_N.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        odds_N = np.log(bounded_N / (1 - bounded_N))
        fell_N = odds_N[0] - odds_N[1:]
        parts = [Evidence(float(fell), float(left)) for fell, left in zip(fell_N, probability_N[1:], strict=True)]
        return Explained({"value": word + 1, "probability": float(probability_N[0])}, parts)

    def columns(self, wide: bool) -> dict[str, type]:
        """The word's number, the word and its probability; with `wide` all words."""
        return {"predicted": int, "word": str, "probability": float} | ({"words": list} if wide else {})

    def cells(self, answer: Any, wide: bool) -> dict[str, Any]:
        """As the columns say."""
        words = {"words": [{"value": one.value, "probability": one.probability} for one in answer.words]} if wide else {}
        return {"predicted": answer.value, "word": answer.text, "probability": answer.probability, **words}

    def examples(self) -> list[Item]:
        """Two questions to one passage."""
        passage = "Anna lent the red boat to Bruno in the spring."
        return [Item((question, passage)) for question in ("Who has the boat?", "When did he get it?")]


TASK = Spotting


def words_of(item: Item) -> np.ndarray:
    """Where each word of the passage begins and ends, in characters: S2."""
    return np.array([found.span() for found in _WORD.finditer(item.values[PASSAGE])], dtype=np.int64).reshape(-1, 2)


def owners(window: Encoding, words_S2: np.ndarray) -> np.ndarray:
    """Of each token of a window the place of its word in the passage; -1 where it stands in no word of it."""
    starts_S, ends_S = words_S2.T
    starts_T, ends_T = np.array(window.offsets, dtype=np.int64).reshape(-1, 2).T
    # Some tokenizers count the space before a word to its first token: the word is the first one that ends behind its start.
    owners_T = np.searchsorted(ends_S, starts_T, side="right")
    inside_T = np.array([sequence == PASSAGE for sequence in window.sequence_ids], dtype=bool) & (owners_T < len(ends_S))
    inside_T &= ends_T > starts_S[np.minimum(owners_T, len(ends_S) - 1)]
    return np.where(inside_T, owners_T, -1)


def softmax(scores_S: np.ndarray) -> np.ndarray:
    """Probabilities of the words of one passage, float64, summing to 1."""
    powers_S = np.exp(scores_S.astype(np.float64) - scores_S.max())
    return np.asarray(powers_S / powers_S.sum())


def reach(word: int) -> str:
    """The stretch of a passage that a word stands in, by its place from 0."""
    return next((name for name, last in REACHES.items() if word < last), BEYOND)


def _answer(probability_S: np.ndarray, item: Item, most: int | None) -> Answer:
    spans, passage = words_of(item).tolist(), item.values[PASSAGE]
    ranked = [
        Word(place + 1, passage[slice(*spans[place])], float(probability_S[place]))
        for place in np.argsort(-probability_S, kind="stable")[:most].tolist()
    ]
    return Answer(ranked[0].value, ranked[0].text, ranked[0].probability, tuple(ranked))


def _emptied(item: Item, part: Part) -> Item:
    text = item.values[PASSAGE]
    left = _WORD.sub(NOTHING_LEFT, text[part.start : part.end])
    return Item((item.values[0], text[: part.start] + left + text[part.end :]), item.options)


def _shortened(tokenizer: Tokenizer, questions: Sequence[str]) -> list[str]:
    """The questions, at most half as long as a window: nothing cuts them later, and the passage needs room."""
    assert tokenizer.truncation is not None, "it was told where to cut"
    room = (tokenizer.truncation["max_length"] - tokenizer.num_special_tokens_to_add(True)) // 2
    # As the second text of a pair they are cut and not refused.
    encoded = tokenizer.encode_batch([("", question) for question in questions], add_special_tokens=False)
    return [
        question if len(encoding) <= room else question[: encoding.offsets[room - 1][1]]
        for question, encoding in zip(questions, encoded, strict=True)
    ]
