"""What a static model begins with: a vector a feature from an encoder that reads each alone, and what each counts.

    vectors_VH = encoded(origin, sequences, pad)                 # sequences: framed token ids of each feature
    vectors_VD = principal(vectors_VH, 256)
    weights_V = frequency_weights(counts_V, 1e-3)

So begin Model2Vec's models (Tulkens & van Dongen 2024). V features, H the encoder's width, D dimension, B batch, T tokens.
"""

from collections.abc import Sequence

import numpy as np

from cluster.store.artifact import Artifact
from jobs.architectures.models import directory_of

TOGETHER = 256
"""Sequences that the encoder reads at once."""


def encoded(origin: str | Artifact, sequences: Sequence[Sequence[int]], pad: int) -> np.ndarray:
    """float32 vectors_VH: the mean of the encoder's last hidden states of each sequence."""
    import torch
    from transformers import AutoModel

    loaded = AutoModel.from_pretrained(directory_of(origin), dtype="float32")
    encoder = loaded.get_encoder() if loaded.config.is_encoder_decoder else loaded
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.eval().to(device)
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    made: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(order), TOGETHER):
            own = [sequences[place] for place in order[start : start + TOGETHER]]
            longest = max(1, *map(len, own))
            ids_BT = torch.tensor([[*one, *[pad] * (longest - len(one))] for one in own], device=device)
            mask_BT = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in own], device=device)
            states_BTH = encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            sums_BH = (states_BTH * mask_BT[:, :, None]).sum(dim=1)
            made.append((sums_BH / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)).float().cpu().numpy())
    vectors_VH = np.empty((len(sequences), made[0].shape[1]), dtype=np.float32)
    vectors_VH[order] = np.concatenate(made)
    return vectors_VH


def principal(vectors_VH: np.ndarray, dimension: int) -> np.ndarray:
    """float32 vectors_VD: the first principal components, with a mean square of 1. The same vectors give the same ones."""
    centred_VH = vectors_VH.astype(np.float64) - vectors_VH.mean(axis=0, dtype=np.float64)
    _, axes_HH = np.linalg.eigh(centred_VH.T @ centred_VH)
    axes_HD = axes_HH[:, ::-1][:, :dimension]
    # An axis may point either way: its largest part is made positive.
    axes_HD = axes_HD * np.sign(axes_HD[np.abs(axes_HD).argmax(axis=0), np.arange(axes_HD.shape[1])])
    vectors_VD = centred_VH @ axes_HD
    return (vectors_VD / max(float(np.sqrt(np.mean(vectors_VD**2))), 1e-12)).astype(np.float32)


def chance(features: int, dimension: int, seed: int) -> np.ndarray:
    """float32 vectors_VD of chance, with a mean square of 1."""
    return np.random.default_rng((seed, features, dimension)).standard_normal((features, dimension), dtype=np.float32)


def frequency_weights(counts_V: np.ndarray, smoothing: float) -> np.ndarray:
    """float32 weights_V: a / (a + p), p the share of all occurrences (smooth inverse frequency, Arora et al. 2017)."""
    shares_V = counts_V / max(1.0, float(counts_V.sum()))
    return (smoothing / (smoothing + shares_V)).astype(np.float32)
