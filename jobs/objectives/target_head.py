"""Stock language models whose head runs only where there is a target.

    model = LanguageModel(AutoModelForMaskedLM.from_pretrained(directory))
    loss = model(input_ids, documents, labels)          # summed cross-entropy of the targets

A hook on the transformer puts the hidden states at the targets in place of all of them, so that any architecture's own
forward pass goes on with these alone; no head is known here by name, only that it treats each position by itself.

B batch, T tokens, S tokens of an encoder, M targets, V vocabulary, D hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from jobs.contracts.learning import MISSING
from jobs.objectives.documents import PADDING, DocumentReader, causal, same_document


class HeadAtTargets(nn.Module):
    """A stock model that computes its head on the targets alone; labels stand where their states are.

    `new_parameters` is how many of its weights no base has given.
    """

    def __init__(self, model: PreTrainedModel, is_causal: bool = False, new_parameters: int = 0) -> None:
        super().__init__()
        self.model, self.new_parameters = model, new_parameters
        self.reader = DocumentReader(model, is_causal)
        self.targets: Tensor | None = None
        body = model.get_decoder() if model.config.is_encoder_decoder else model.base_model
        body.register_forward_hook(self._keep_targets)

    def _keep_targets(self, body: nn.Module, given: Any, output: Any) -> Any:
        """The body's output with hidden_1MD in place of hidden_BTD."""
        if self.targets is None:
            return output
        output["last_hidden_state"] = output["last_hidden_state"][self.targets][None]
        return output

    def run(self, labels: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
        """The summed cross-entropy of the targets, in float32, and all of the model's output."""
        chosen_BT = labels != MISSING
        self.targets = chosen_BT
        try:
            output = self.model(**inputs, return_dict=True)
        finally:
            self.targets = None
        logits_1MV = output.logits if "logits" in output else output.prediction_logits
        return functional.cross_entropy(logits_1MV[0].float(), labels[chosen_BT], reduction="sum"), output


class LanguageModel(HeadAtTargets):
    """A masked or causal language model over packed rows."""

    def forward(self, input_ids: Tensor, documents: Tensor, labels: Tensor, answers: bool = False) -> Any:
        """The summed cross-entropy of the targets; with `answers` also the logits_MV at them, row by row."""
        cached = {"use_cache": False} if self.reader.causal else {}
        loss, output = self.run(labels, input_ids=input_ids, **self.reader.inputs(documents), **cached)
        return (loss, output.logits[0]) if answers else loss


class PairModel(HeadAtTargets):
    """A masked language model with a head for the pair: `[CLS] A [SEP] B [SEP]` in every row."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        labels: Tensor,
        pair_labels: Tensor,
        pair_weights: Tensor,
    ) -> Tensor:
        """sums_3: cross-entropy of the masked tokens, weighted cross-entropy of the pairs, pairs that are right."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        masked, output = self.run(labels, **inputs)
        logits_B2 = (output.seq_relationship_logits if "seq_relationship_logits" in output else output.sop_logits).float()
        pair_B = functional.cross_entropy(logits_B2, pair_labels, reduction="none")
        right = (logits_B2.argmax(1) == pair_labels).sum()
        return torch.stack([masked, (pair_B * pair_weights).sum(), right.float()])


class SpanModel(HeadAtTargets):
    """An encoder-decoder over packed documents: a decoder's token sees its own document, there and in the encoder."""

    def forward(
        self, input_ids: Tensor, documents: Tensor, decoder_input_ids: Tensor, decoder_documents: Tensor, labels: Tensor
    ) -> Tensor:
        """The summed cross-entropy of the targets."""
        reader, encoder = self.reader, self.model.get_encoder()
        # Called by itself: the stock forward would give the decoder the encoder's own mask.
        hidden_BSD = encoder(input_ids=input_ids, attention_mask=reader.mask(same_document(documents))).last_hidden_state
        across_BTS = same_document(decoder_documents, documents) | (decoder_documents == PADDING)[:, :, None]
        return self.run(
            labels,
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_BSD),
            attention_mask=reader.mask(across_BTS),
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=reader.mask(causal(same_document(decoder_documents))),
            use_cache=False,
        )[0]
