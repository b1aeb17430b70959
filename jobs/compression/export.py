"""ONNX export, checked against the torch model that it came from before anything else is measured on it.

    export_onnx(model, directory / "onnx/model.onnx", Signature.of(card))      # a model of a task

B batch, T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from transformers import PreTrainedModel

from jobs.architectures.models import READ
from jobs.architectures.positions import longest_text
from jobs.compression.graph import TOLERANCE, ExportError, write_graph
from serve.engines.backends import HIDDEN
from serve.engines.card import Card

CHECKED_SHAPES = ((1, 5), (3, 17), (8, 40))


@dataclass(frozen=True)
class Signature:
    """What the graph of a task's model takes and gives, by name. Inputs have the axes BT, outputs begin with B."""

    inputs: tuple[str, ...] = READ
    outputs: tuple[str, ...] = ("logits",)
    per_token: bool = False
    """Whether T is the second axis of what it gives."""
    parts: tuple[tuple[str, int], ...] = ()
    """Where it gives its only output in parts of the last axis: their names, and how many columns each has."""
    hidden_states: bool = False
    """Whether it gives its last hidden states too, which embeddings are made of."""

    @classmethod
    def of(cls, card: Card, hidden_states: bool = False) -> "Signature":
        """Of a model with this card, which answers for a task."""
        assert card.task is not None, "the caller has looked"
        task = card.task
        return cls(card.inputs, task.graph_outputs, task.per_token, task.graph_parts, hidden_states)

    @property
    def names(self) -> list[str]:
        """All that the graph gives."""
        own = [name for name, _ in self.parts] or list(self.outputs)
        return [*own, HIDDEN] if self.hidden_states else own

    def runs_over_tokens(self, name: str) -> bool:
        """Whether T is the second axis of an output: then what stands at padding is never used."""
        return self.per_token or name == HIDDEN


def export_onnx(model: PreTrainedModel, target: Path, signature: Signature | None = None) -> float:
    """Export with free batch and length; returns the largest difference of an output from torch.

    The check runs shapes that were not exported, with rows of different lengths in a batch and each alone; ExportError if
    any number differs by more than TOLERANCE. Language models that write: export_language.
    """
    model = model.float().cpu().eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    signature = signature or Signature()
    sample = _inputs(model, signature, (2, 8), torch.Generator().manual_seed(0))  # no full mask: that is folded away
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest_text(model))}
    write_graph(
        _Outputs(model, signature),
        f"a {type(model).__name__}",
        target,
        {name: (value_BT, free) for name, value_BT in sample.items()},
        signature.names,
    )
    return check_parity(model, target, signature)


class _Outputs(torch.nn.Module):
    """A model that takes the inputs of its signature by their places, and returns what the signature names."""

    def __init__(self, model: PreTrainedModel, signature: Signature) -> None:
        super().__init__()
        self.model, self.signature = model, signature

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids
        return tuple(_told(self.model, self.signature, given).values())


def _told(model: PreTrainedModel, signature: Signature, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What torch says, by the names of the signature."""
    told: Any = model(**given, output_hidden_states=signature.hidden_states)
    outputs = {name: told[name] for name in signature.outputs}
    if signature.parts:
        whole = torch.split(outputs[signature.outputs[0]], [columns for _, columns in signature.parts], dim=-1)
        outputs = {name: part for (name, _), part in zip(signature.parts, whole, strict=True)}
    return outputs | ({HIDDEN: told.hidden_states[-1]} if signature.hidden_states else {})


def check_parity(
    model: PreTrainedModel, target: Path, signature: Signature | None = None, tolerance: float = TOLERANCE
) -> float:
    """The largest difference between ONNX and torch, in any output; ExportError beyond the tolerance."""
    signature = signature or Signature()
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, length in CHECKED_SHAPES:
        length = min(length, (longest_text(model) or length + 4) - 4)
        given = _inputs(model, signature, (batch, length), generator)
        with torch.inference_mode():
            wanted = {name: value.numpy() for name, value in _told(model, signature, given).items()}
        feeds = {name: value_BT.numpy() for name, value_BT in given.items()}
        lengths = feeds["attention_mask"].sum(1).tolist()
        together = dict(zip(signature.names, session.run(signature.names, feeds), strict=True))
        for row, tokens in enumerate(lengths):
            one = {name: value_BT[row : row + 1, :tokens] for name, value_BT in feeds.items()}
            alone = dict(zip(signature.names, session.run(signature.names, one), strict=True))
            for name in signature.names:
                cut = slice(tokens) if signature.runs_over_tokens(name) else slice(None)
                found = np.stack([together[name][row][cut], alone[name][0]])
                worst = max(worst, float(np.abs(found - wanted[name][row][cut]).max(initial=0.0)))
    if worst > tolerance:
        raise ExportError(
            f"{target.name}: its outputs differ from torch by {worst:.2g}, allowed are {tolerance:g}; do not serve it"
        )
    return worst


def _inputs(
    model: PreTrainedModel, signature: Signature, shape: tuple[int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """Random tokens in rows of different lengths; where the model tells texts apart, each row has two."""
    batch, length = shape
    ids_BT = torch.randint(5, model.config.vocab_size, shape, generator=generator)
    mask_BT, types_BT = torch.ones_like(ids_BT), torch.zeros_like(ids_BT)
    for row in range(batch):
        tokens = max(2, length - 2 * row)
        mask_BT[row, tokens:] = 0
        types_BT[row, tokens // 2 : tokens] = 1
    # Decoders find the text's end by the padding id, not by the mask.
    ids_BT[mask_BT == 0] = model.config.pad_token_id or 0
    made = {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": types_BT}
    return {name: made[name] for name in signature.inputs}
