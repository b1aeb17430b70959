"""ONNX export, checked against the torch model that it came from before anything else is measured on it.

    export_onnx(model, directory / "onnx/model.onnx")      # a classifier, a decoder, an encoder-decoder

B batch, T tokens, C classes, D hidden units.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import PreTrainedModel

from jobs.compression.export_language import export_language
from jobs.compression.graph import TOLERANCE, ExportError, write_graph
from jobs.training.models import language_kind
from jobs.training.positions import longest_text
from serve.backends import HIDDEN

CHECKED_SHAPES = ((1, 5), (3, 17), (8, 40))


def export_onnx(model: PreTrainedModel, target: Path, hidden_states: bool = False) -> float:
    """Export with free batch and length; returns the largest difference of a logit from torch.

    With `hidden_states` the last ones are a second output, which embeddings are made of. The check runs shapes that were
    not exported, with rows of different lengths in a batch and each alone; ExportError if any
    number differs by more than TOLERANCE.
    """
    model = model.float().cpu().eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    if language_kind(model.config) is not None:
        return export_language(model, target)
    return _export_classifier(model, target, hidden_states)


def _export_classifier(model: PreTrainedModel, target: Path, hidden_states: bool) -> float:
    ids_BT = torch.randint(5, model.config.vocab_size, (2, 8))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 6:] = 0  # all-ones masks are folded away by the exporter
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest_text(model))}
    write_graph(
        _Outputs(model, hidden_states),
        f"a {model.config.model_type} classifier",
        target,
        {"input_ids": (ids_BT, free), "attention_mask": (mask_BT, free)},
        ["logits", HIDDEN] if hidden_states else ["logits"],
    )
    return check_parity(model, target)


class _Outputs(torch.nn.Module):
    """A classifier that takes ids and mask and returns its logits, and its last hidden states where they are asked for."""

    def __init__(self, model: PreTrainedModel, hidden_states: bool) -> None:
        super().__init__()
        self.model = model
        self.hidden_states = hidden_states

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=self.hidden_states)
        return (output.logits, output.hidden_states[-1]) if self.hidden_states else (output.logits,)


def check_parity(model: PreTrainedModel, target: Path, tolerance: float = TOLERANCE) -> float:
    """The largest difference between ONNX and torch, in any output; ExportError beyond the tolerance."""
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    outputs = {node.name for node in session.get_outputs()}
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, length in CHECKED_SHAPES:
        length = min(length, (longest_text(model) or length + 4) - 4)
        ids_BT = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator)
        mask_BT = torch.ones_like(ids_BT)
        for row in range(1, batch):
            mask_BT[row, max(2, length - 2 * row) :] = 0
        # Decoders find the text's end by the padding id, not by the mask.
        ids_BT[mask_BT == 0] = model.config.pad_token_id or 0
        with torch.inference_mode():
            told = model(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=HIDDEN in outputs)
        wanted_BC = told.logits.numpy()
        got_BC = session.run(["logits"], {"input_ids": ids_BT.numpy(), "attention_mask": mask_BT.numpy()})[0]
        alone_BC = [
            session.run(["logits"], {"input_ids": ids[None, : mask.sum()], "attention_mask": mask[None, : mask.sum()]})[0][0]
            for ids, mask in zip(ids_BT.numpy(), mask_BT.numpy(), strict=True)
        ]
        if HIDDEN in outputs:
            states_BTD = session.run([HIDDEN], {"input_ids": ids_BT.numpy(), "attention_mask": mask_BT.numpy()})[0]
            read = mask_BT.numpy() == 1  # what stands at padding is never used
            worst = max(worst, float(np.abs(states_BTD - told.hidden_states[-1].numpy())[read].max()))
        worst = max(worst, float(np.abs(got_BC - wanted_BC).max()), float(np.abs(np.stack(alone_BC) - wanted_BC).max()))
    if worst > tolerance:
        raise ExportError(
            f"{target.name}: its outputs differ from torch by {worst:.2g}, allowed are {tolerance:g}; do not serve it"
        )
    return worst
