"""The rows of a split as a model reads them: items, their targets, and the windows that their texts are cut into.

    train = Windows(examples, "train", learning, spec, reader(tokenizer, spec, max_length=128), tokenizer.pad_token_id)
    train.batch(np.array([0, 1]), inputs)              # token tensors and targets of these windows

What a model is trained on are windows; what it is judged on are items. Tokens are those that the serving engine makes.
W windows, T tokens.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.contracts.learning import MISSING, Batch, Learning
from jobs.core.config import BadInput, Problem
from jobs.data.tokenizer import served
from jobs.tasks.learned_items import learned_items
from serve.tasks.protocol import Item, Task
from serve.tasks.shared.cutting import cut_short


class ReadWindow(Protocol):
    """What is read of a text at once: an Encoding, or what a model that is no transformer reads in its place."""

    @property
    def ids(self) -> list[int]:
        """Rows of the model's table."""
        ...

    @property
    def type_ids(self) -> list[int]:
        """Which text each is of."""
        ...

    @property
    def overflowing(self) -> Any:
        """True where the text was cut."""
        ...

    def __len__(self) -> int: ...


ReadItems = Callable[[Sequence[Item]], Sequence[Sequence[ReadWindow]]]
"""The windows of each item."""
FEEDS = {"input_ids": "ids", "token_type_ids": "type_ids"}
"""Of a window's tokens, what each of a model's inputs reads; the attention mask is 1 for all of them."""


class Windows:
    """One split of EXAMPLES; rows without a target only where asked for."""

    def __init__(
        self,
        examples: Artifact,
        split: str,
        learning: Learning,
        spec: Task,
        read: ReadItems,
        pad: int,
        unlabelled: bool = False,
    ) -> None:
        self.learning, self.spec, self.pad = learning, spec, pad
        self.keys, self.items, self.truth = learned_items(examples, split, learning, spec, unlabelled)
        self._take(read(self.items) if self.items else [])

    def _take(self, encoded: Sequence[Sequence[ReadWindow]]) -> None:
        flat = [window for windows in encoded for window in windows]
        self.cut = float(cut_short(self.spec, cast(Any, encoded)).mean()) if encoded else 0.0
        """The share of the items that are not read to their end."""
        self.feeds = {name: [getattr(window, read) for window in flat] for name, read in FEEDS.items()}
        self.lengths = [len(window) for window in flat]
        self.starts = np.concatenate([[0], np.cumsum([len(windows) for windows in encoded], dtype=np.int64)])
        """Where the windows of each item begin."""
        self.owners = np.repeat(np.arange(len(self.items)), np.diff(self.starts))
        """The item of each window."""
        # Windows are joined again only where that takes more than the one there is; they are many times as large as ids.
        self.encodings: Any = encoded if not self.spec.dense or self.spec.windows else None
        cut = zip(self.truth, self.items, cast(Any, encoded), strict=True)
        self.targets = [target for each in cut for target in self.learning.window_targets(self.spec, *each)]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def item_lengths(self) -> list[int]:
        """The tokens of each item, in all its windows."""
        return np.add.reduceat(self.lengths, self.starts[:-1]).tolist() if self.items else []

    def batch(self, indices: np.ndarray, inputs: Sequence[str]) -> Batch:
        """What the model reads of these windows, BT each, padded to the longest, and their targets as `labels`."""
        longest = max(self.lengths[index] for index in indices)
        fills = {"input_ids": self.pad, "token_type_ids": 0}
        mask_BT = torch.zeros((len(indices), longest), dtype=torch.long)
        for row, index in enumerate(indices):
            mask_BT[row, : self.lengths[index]] = 1
        made: Batch = {}
        for name in inputs:
            rows = [self.feeds[name][index] for index in indices] if name in FEEDS else None
            made[name] = mask_BT if rows is None else _filled(rows, longest, fills[name])
        targets = [self.targets[index] for index in indices]
        return {**made, "labels": stacked_targets(targets, longest if self.spec.per_token else None)}

    def windows_of(self, items: np.ndarray) -> np.ndarray:
        """The windows of these items."""
        return np.concatenate([np.arange(self.starts[item], self.starts[item + 1]) for item in items] or [np.zeros(0, int)])


def reader(tokenizer: PreTrainedTokenizerBase, spec: Task, max_length: int) -> ReadItems:
    """How the engine will cut items for a transformer."""
    return cast(ReadItems, partial(spec.encode, engine_tokenizer(tokenizer, spec, max_length)))


def engine_tokenizer(tokenizer: PreTrainedTokenizerBase, spec: Task, max_length: int) -> Tokenizer:
    """The tokenizer as the engine will load it; BadInput where there is none that it can load."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        reason = f"{type(tokenizer).__name__} has no tokenizer.json, which serving reads"
        raise BadInput([Problem("model", None, reason, "Take a model with a fast tokenizer.")])
    if len(spec.fields) > 1 and tokenizer.num_special_tokens_to_add(True) <= tokenizer.num_special_tokens_to_add(False):
        reason = f"its tokenizer ({type(tokenizer).__name__}) puts nothing between two texts: none could tell them apart"
        raise BadInput([Problem("model", None, reason, "Take a base whose tokenizer does: of the BERT family, T5.")])
    made = served(backend)
    spec.cut(made, max_length, tokenizer.truncation_side)
    return made


def _filled(rows: Sequence[Sequence[int]], longest: int, fill: int) -> Tensor:
    made_BT = torch.full((len(rows), longest), fill)
    for row, values in enumerate(rows):
        made_BT[row, : len(values)] = torch.tensor(values)
    return made_BT


def stacked_targets(targets: Sequence[np.ndarray], longest: int | None, missing: float = MISSING) -> Tensor:
    """Targets of windows side by side: of one shape each; or one a token, filled up with MISSING to the longest window."""
    if longest is None or targets[0].ndim == 0:
        return torch.from_numpy(np.stack(targets))
    made = np.full((len(targets), longest, *targets[0].shape[1:]), missing, dtype=targets[0].dtype)
    for row, values in enumerate(targets):
        made[row, : len(values)] = values
    return torch.from_numpy(made)
