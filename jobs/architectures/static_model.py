"""A static model in torch, to be trained: a vector a feature, their weighted mean, a small head. numpy answers for it.

    model = StaticModel(vectors_VD, weights_V, StaticShape(texts=1, sorts=1, outputs=2))
    model(input_ids=ids_BT, attention_mask=mask_BT).logits                   # BK

Of two texts the head reads u, v, |u − v| and u · v (Conneau et al. 2017). Where features are of several sorts (words,
characters), a text's vector is the sum of each sort's mean. B batch, T features, V vocabulary, D dimension, K outputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

ACTIVATION = "relu"


@dataclass(frozen=True)
class StaticShape:
    """What stands behind the vectors."""

    texts: int
    """Texts of an item."""
    sorts: int
    """Sorts of features of a text."""
    outputs: int
    hidden: int | None = None
    """Neurons of a layer before the outputs."""
    learned: bool = True
    """Whether features learn what they count."""
    token_dropout: float = 0.0
    """Share of the features that a training step does not see."""


class StaticModel(nn.Module):
    """Looks features up, and reads their means."""

    def __init__(self, vectors_VD: Tensor, weights_V: Tensor, shape: StaticShape) -> None:
        super().__init__()
        self.shape = shape
        self.vectors = nn.Parameter(vectors_VD.clone())
        # A weight is above 0 whatever is learned: else means would be divided by nothing.
        self.log_weights = nn.Parameter(weights_V.log(), requires_grad=shape.learned)
        width = vectors_VD.shape[1] * (1 if shape.texts == 1 else 4)
        widths = [width, *([] if shape.hidden is None else [shape.hidden]), shape.outputs]
        self.layers = nn.ModuleList(nn.Linear(*two) for two in zip(widths, widths[1:], strict=False))

    @property
    def linear(self) -> list[nn.Linear]:
        """Its dense layers, the outputs' last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.vectors.device

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Logits of features; the type of each says of which text it is, and of which sort: text × sorts + sort."""
        if not input_ids.shape[1]:
            # Texts without a feature: embedding_bag refuses rows of none.
            input_ids, attention_mask = (functional.pad(one, (0, 1)) for one in (input_ids, attention_mask))
            token_type_ids = None if token_type_ids is None else functional.pad(token_type_ids, (0, 1))
        weights_BT = self.log_weights[input_ids].exp() * attention_mask
        if self.training and self.shape.token_dropout:
            weights_BT = weights_BT * (torch.rand_like(weights_BT) >= self.shape.token_dropout)
        texts = [self._text(input_ids, weights_BT, token_type_ids, text) for text in range(self.shape.texts)]
        values = texts[0] if len(texts) == 1 else _side_by_side(*texts)
        for layer in self.layers[:-1]:
            values = functional.relu(layer(values))
        return SequenceClassifierOutput(logits=self.layers[-1](values))

    def _text(self, ids_BT: Tensor, weights_BT: Tensor, types_BT: Tensor | None, text: int) -> Tensor:
        """A text's vector_BD."""
        found = torch.zeros((), device=ids_BT.device)
        for sort in range(self.shape.sorts):
            own_BT = weights_BT if types_BT is None else weights_BT * (types_BT == text * self.shape.sorts + sort)
            shares_BT = own_BT / own_BT.sum(dim=1, keepdim=True).clamp(min=1e-12)
            found = found + functional.embedding_bag(ids_BT, self.vectors, mode="sum", per_sample_weights=shares_BT)
        return found


def _side_by_side(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    return torch.cat([first_BD, second_BD, (first_BD - second_BD).abs(), first_BD * second_BD], dim=1)
