"""Spotting: which word of a passage answers a question? How it is learned and judged: each token by itself, mean rank.

    text: question                                              # the column of the question
    task: {kind: spotting, passage: context, answer: place}     # of the passage, and of the number of the right word, from 1
    loss: {others: 0.1}

B batch, K teachers, N items, S words of a passage, T tokens of a window.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from jobs.contracts.learning import MISSING, Batch, Blocks, Columns, Learning, Statistics, Targets, TaskSettings, Truth
from jobs.core.config import BadInput, Config, Problem
from jobs.core.metric import Metric
from jobs.data.clean import value_name
from serve.tasks.protocol import Fitted, Item, Output, Outputs

from .answer import SHARPNESS, Spotting, owners, reach, softmax, words_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from tokenizers import Encoding
    from torch import Tensor

    from jobs.report.html import Html

ANSWER = "answer"
HIGHEST = 20.0
"""Sharpnesses are sought between 1 / HIGHEST and HIGHEST."""
HALVINGS = 50


class Settings(TaskSettings):
    """What the rows are for: spotting, the word of a passage that answers a question, which is the recipe's `text`."""

    kind: Literal["spotting"]
    """spotting: the word of a passage that answers a question."""
    passage: str = "passage"
    """The column of the passage."""
    answer: str = "answer"
    """The column of the number of the word that answers, from 1; words are what whitespace parts."""


class Loss(Config):
    """What may be set of the loss."""

    others: float = Field(0.1, gt=0)
    """What a token of a wrong word counts, where one of the right word counts 1: there are so many more of them."""


class EachToken:
    """Whether a token is one of the right word: a decision a token, summed."""

    splits = True

    def __init__(self, others: float) -> None:
        self.others = others

    def loss(self, outputs: "Tensor", batch: Batch) -> "Tensor":
        """Binary cross-entropy; tokens outside of the passage have none."""
        import torch
        from torch.nn import functional

        logits_BT, labels_BT = outputs.squeeze(-1).float(), batch["labels"]
        weights_BT = torch.where(labels_BT == 1, 1.0, self.others) * (labels_BT != MISSING)
        wanted_BT = labels_BT.clamp(min=0)
        return functional.binary_cross_entropy_with_logits(logits_BT, wanted_BT, weights_BT, reduction="sum")

    def count(self, batch: Batch) -> float:
        """One a window, with an answer or without: a long passage counts more than a short one."""
        return len(batch["labels"])


class Listwise:
    """How far the student's order of the tokens in a window is from the teachers': KL of the softmaxes over them (Cao et al.
    2007, ListNet)."""

    def __init__(self, weights_K: "Tensor") -> None:
        self.weights_K = weights_K

    def loss(self, outputs: "Tensor", batch: Batch, temperature: "Tensor") -> "Tensor":
        """KL(teachers ‖ student) · T², summed; `teacher` has each token's score, and whether it is one of the passage."""
        scores_BKT, shown_BKT = batch["teacher"].unbind(-1)
        shown_BT = shown_BKT[:, 0] > 0
        each_BKT = _log_softmax(scores_BKT / temperature, shown_BT[:, None])
        teacher_BT = (each_BKT + self.weights_K.to(outputs.device).log()[:, None]).logsumexp(1)
        student_BT = _log_softmax(outputs.squeeze(-1).float() / temperature, shown_BT)
        apart_BT = teacher_BT.exp() * (teacher_BT - student_BT)
        return apart_BT.masked_fill(~shown_BT, 0).sum() * temperature**2


class Judged:
    """Where the right word stands among all words of its passage, by their scores."""

    def __init__(self, outputs: Outputs, truth: Truth) -> None:
        pairs = list(zip(outputs, truth, strict=True))
        self.rank_N = np.array([_rank(scores_S, word) for scores_S, word in pairs], dtype=np.float64)
        self.first_N = np.array([scores_S.argmax() == word for scores_S, word in pairs], dtype=np.float64)
        self.goodness_N = 1 / self.rank_N

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """mean_rank or first."""
        of_N = {"mean_rank": self.rank_N, "first": self.first_N}[metric]
        return float(np.average(of_N, weights=weights_N)) if len(of_N) else 0.0


class SpottingLearning(Learning):
    """The jobs half."""

    kind: ClassVar = "spotting"
    Settings: ClassVar = Settings
    Loss: ClassVar = Loss
    metrics: ClassVar = (Metric("mean_rank", mode="min", short="rank"), Metric("first", highest=1.0))
    soft_losses: ClassVar = ("listwise",)
    augments: ClassVar = False

    def fields(self, settings: Any, text: str) -> dict[str, str]:
        """The question is the recipe's text."""
        return {"question": text, "passage": settings.passage}

    def paths(self, settings: Any) -> dict[str, str]:
        """The passage's column, and that of the word's number."""
        return {"task.passage": settings.passage, "task.answer": settings.answer}

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """The number of a word."""
        import pyarrow as pa

        return {ANSWER: pa.int64()}

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """Numbers of words, from 1; an empty one is none."""
        made = Targets({ANSWER: []})
        for place, (value, passage) in enumerate(zip(frame[settings.answer], frame[settings.passage], strict=True)):
            name, words = value_name(value), len(str(passage).split())
            number = int(name) if name.isdecimal() else None
            made.columns[ANSWER].append(number)
            if name and number is None:
                made.wrong[place] = f"{name} is no number of a word; words are numbered from 1"
            elif number is not None and not 1 <= number <= words:
                made.wrong[place] = f"there is no word {number} in a passage of {words}"
        return made

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """How many rows have an answer."""
        return {"answers": sum(answer is not None for answer in columns[ANSWER])}

    def spec(self, settings: Any, statistics: Statistics) -> Spotting:
        """There is but one such task."""
        if not statistics.get("train", {}).get("answers"):
            raise BadInput(
                [Problem("task.answer", settings.answer, "no row of the training split has an answer", "Give more.")]
            )
        return Spotting()

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """The place of the right word, from 0; MISSING without one."""
        return np.array([MISSING if answer is None else answer - 1 for answer in columns[ANSWER]], dtype=np.int64)

    def head(self, spec: Any) -> dict[str, Any]:
        """One label."""
        return {"id2label": {0: "right"}, "label2id": {"right": 0}}

    def window_targets(self, spec: Any, target: Any, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """1 for each token of the right word, 0 for those of others; MISSING outside of the passage."""
        made, words_S2 = [], words_of(item)
        for window in windows:
            owners_T = owners(window, words_S2)
            known_T = (owners_T >= 0) & (target != MISSING)
            made.append(np.where(known_T, owners_T == target, MISSING).astype(np.float32))
        return made

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> EachToken:
        """A decision a token."""
        return EachToken(settings.others)

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> Listwise:
        """The order of the tokens."""
        return Listwise(weights_K)

    def window_soft(self, spec: Any, output: Output, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """Of each token its word's score, and 1; of those outside of the passage 0 and 0."""
        made, words_S2 = [], words_of(item)
        for window in windows:
            owners_T = owners(window, words_S2)
            shown_T = owners_T >= 0
            made.append(np.stack([np.where(shown_T, output[owners_T], 0), shown_T], axis=-1).astype(np.float32))
        return made

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> Judged:
        """The right words' ranks."""
        return Judged(outputs, truth)

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """Surprise at the right word."""
        pairs = zip(outputs, truth, strict=True)
        return np.array([-np.log(max(softmax(scores_S)[word], 1e-12)) for scores_S, word in pairs], dtype=np.float64)

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """The sharpness with the least surprise at the right words."""
        sharpness = _sharpness(outputs, truth)
        return {SHARPNESS: sharpness}, {SHARPNESS: sharpness}

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """The mean rank by chance: that of the middle word."""
        return {"chance": float(np.mean([(len(scores_S) + 1) / 2 for scores_S in raw])) if len(raw) else 0.0}

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Items by the stretch that the right word stands in."""
        reached = np.array([reach(int(word)) for word in truth])
        return {f"words {name}": reached == name for name in spec.sayings if (reached == name).any()}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """The stretches that the right words stand in."""
        return [reach(int(word)) for word in truth if word != MISSING]

    def expected(self, spec: Any, target: Any) -> str:
        """The number of the word."""
        return f"word {int(target) + 1}"

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether it is the word."""
        return bool(answer["value"] == int(target) + 1)

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """The mean rank beside that by chance."""
        rows = [[row["candidate"], f"{row['score']:.2f}", f"{row['chance']:.2f}"] for row in report["rows"] if "chance" in row]
        return [blocks.figures("Where the right word stands", ["candidate", "mean rank", "by chance"], rows)]


LEARNING = SpottingLearning()


def _rank(scores_S: np.ndarray, word: int) -> float:
    """The place of a word by its score, from 1; equals share the middle of their places."""
    return 1 + float((scores_S > scores_S[word]).sum()) + float((scores_S == scores_S[word]).sum() - 1) / 2


def _log_softmax(scores: "Tensor", shown: "Tensor") -> "Tensor":
    """Over the shown of the last axis; the others, and rows that show nothing, come out as the least number."""
    import torch

    least = torch.finfo(scores.dtype).min
    return scores.masked_fill(~shown, least).log_softmax(-1).masked_fill(~shown, least)


def _sharpness(outputs: Outputs, truth: Truth) -> float:
    """1 where there is nothing to fit it on. Each target keeps a little for all words, or what is always right would have no
    bound (Platt 1999)."""
    kept = 1 / (len(outputs) + 1)

    def slope(sharpness: float) -> float:
        """Of the mean surprise, which is convex in the sharpness."""
        total = 0.0
        for scores_S, word in zip(outputs, truth, strict=True):
            wanted = (1 - kept) * scores_S[word] + kept * scores_S.mean()
            total += float(softmax(scores_S * sharpness) @ scores_S - wanted)
        return total

    low, high = -np.log(HIGHEST), np.log(HIGHEST)
    for _ in range(HALVINGS if len(outputs) else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(float(np.exp(middle))) > 0 else (middle, high)
    return float(np.exp((low + high) / 2))
