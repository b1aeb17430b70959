"""Documents in packed rows: which token is whose, and a model that reads each one as if it stood alone.

    documents_BT = document_numbers(ids_BT, bounds)
    reader.inputs(torch.from_numpy(documents_BT))       # a block-diagonal mask, positions that begin anew

Tokens attend within their own document (Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination").

B batch, T tokens, S tokens that are looked at, D hidden.
"""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from jobs.architectures.positions import first_position, named_positions
from jobs.core.config import BadInput, Problem
from jobs.data.pack import Bounds

PADDING = 0
"""The number of no document: padding attends to padding, so that no token is left without any."""
ISOLATION_TOLERANCE = 1e-4


def document_numbers(ids_BT: np.ndarray, bounds: Bounds | None) -> np.ndarray:
    """documents_BT: 1, 2, … along each row, 0 for padding; without bounds a row is one document."""
    if bounds is None:
        return np.ones_like(ids_BT)
    if bounds.begin is not None:
        documents_BT = 1 + (ids_BT == bounds.begin).cumsum(1)
    else:
        ends_BT = ids_BT == bounds.end
        documents_BT = 1 + ends_BT.cumsum(1) - ends_BT
    # Where padding is also what ends a document, each of its tokens is a document of one token, which no one predicts.
    if bounds.pad not in (bounds.begin, bounds.end):
        documents_BT = np.where(ids_BT == bounds.pad, PADDING, documents_BT)
    return documents_BT.astype(np.int64)


def same_document(documents_BT: Tensor, others_BS: Tensor | None = None) -> Tensor:
    """visible_BTS: whether a token and another are of one document."""
    others_BS = documents_BT if others_BS is None else others_BS
    return documents_BT[:, :, None] == others_BS[:, None, :]


def causal(visible_BTT: Tensor) -> Tensor:
    """What is visible, without what comes later."""
    return visible_BTT.tril()


def positions_of(documents_BT: Tensor, first: int = 0) -> Tensor:
    """positions_BT that begin anew in each document."""
    places_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    changed_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    changed_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts_BT = torch.where(changed_BT, places_T, 0).cummax(1).values
    return places_T - starts_BT + first


class DocumentReader:
    """How one model is told of documents: the form of its masks, whether it takes positions, which one is the first."""

    def __init__(self, model: PreTrainedModel, is_causal: bool) -> None:
        self.config, self.causal = model.config, is_causal
        base = model.base_model
        self.takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        self.first = first_position(model)
        self.windowed = "sliding_attention" in (getattr(model.config, "layer_types", None) or ())

    def positions(self) -> int | None:
        """How many tokens the model can number; None where it needs no table of positions."""
        named = named_positions(self.config)
        return None if named is None or not self.takes_positions else named - self.first

    def inputs(self, documents_BT: Tensor) -> dict[str, Any]:
        """attention_mask and position_ids for a forward pass."""
        visible_BTT = same_document(documents_BT)
        if self.causal:
            visible_BTT = causal(visible_BTT)
        given: dict[str, Any] = {"attention_mask": self.mask(visible_BTT)}
        if self.windowed:
            window_TT = self._window(documents_BT.shape[1], documents_BT.device)
            given["attention_mask"] = {
                "full_attention": given["attention_mask"],
                "sliding_attention": self.mask(visible_BTT & window_TT),
            }
        if self.takes_positions:
            given["position_ids"] = positions_of(documents_BT, self.first)
        return given

    def mask(self, visible_BTS: Tensor) -> Tensor:
        """The 4-D mask of what is visible, which every architecture hands on to its attention as it is.

        Eager attention adds it to the scores; the fused one takes it as it stands, in a byte a pair.
        """
        visible_B1TS = visible_BTS[:, None]
        if self.config._attn_implementation == "sdpa":
            return visible_B1TS
        zero = torch.zeros((), device=visible_BTS.device)
        return torch.where(visible_B1TS, zero, torch.finfo(torch.float32).min)

    def _window(self, length: int, device: torch.device) -> Tensor:
        """near_TT: what a layer with a sliding window sees (transformers takes our mask in place of its own)."""
        places_T = torch.arange(length, device=device)
        distance_TT = places_T[:, None] - places_T
        window = int(self.config.sliding_window)
        return distance_TT < window if self.causal else distance_TT.abs() <= window


def check_documents_part(model: PreTrainedModel, reader: DocumentReader, max_length: int, named: str) -> None:
    """BadInput for a model that is not known to keep packed documents apart: it is tried with two.

    Some models take no 4-D mask, or take it and do otherwise; then tokens would silently attend across documents.
    """
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < max_length and not reader.windowed:
        reason = f"its attention has a window of {window} tokens, which packed rows of {max_length} would lose"
        raise BadInput([Problem("base", named, reason, f"Prepare tokens with max_length {window} at most.")])
    base = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    # From the upper half of the vocabulary: special tokens are mostly at its beginning.
    size = int(model.config.vocab_size)
    ids_BT = torch.randint(size // 2, size, (1, 8), generator=torch.Generator().manual_seed(0))
    documents_BT = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2]])
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            alone_BTD = base(input_ids=ids_BT[:, 3:]).last_hidden_state
            packed_BTD = base(input_ids=ids_BT, **reader.inputs(documents_BT)).last_hidden_state[:, 3:]
        apart = float((alone_BTD - packed_BTD).abs().max()) / max(1.0, float(alone_BTD.abs().max()))
        reason = "" if apart < ISOLATION_TOLERANCE else "it does not read a document in packed rows as it does alone"
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = f"it takes no mask of documents ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    finally:
        model.train(training)
    if reason:
        name = type(model).__name__
        raise BadInput([Problem("base", named, f"{name}: {reason}", "Take a base of another architecture.")])
